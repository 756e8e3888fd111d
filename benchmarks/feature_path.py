"""Claim: from a small stream straight to a detector's features takes a fifth of the time of drawing
the picture at full width and detecting in it.

    python benchmarks/feature_path.py --detector FastestDet.onnx [--image FILE] [--model BUNDLE]
        [--quality Q] [--rounds N] [--threads N] [--cold] [--json F] [--markdown F]

The picture is first made as large as the detector's input. Contestants, from a stream in memory to
what the detector says, in rounds that have each of them once, in random order:

    features   the small stream, of the feature head's task and width: Decoder.features, and what
               the detector has behind those layers
    picture    a full-width stream of the base task, of the quality that comes nearest in bytes:
               Decoder.decode, and the whole detector
    adapted    the same of the head's task, whose adapters take time too

and what encoding takes, of the small stream and of the full-width ones. As in `icmh profile` a turn
begins with an untimed call and repeats short ones for 50 ms: a machine that watches does nothing
else in between. --cold times single calls, which find the caches full of the others' data. The
detector runs in onnxruntime, on as many threads as the codec; its remainder on one. Prints medians
with their 95 % bootstrap intervals and the ratios within rounds. Exit code 1 if "features" is less
than 5 times as fast as "picture", the bar. What it costs in accuracy at equal bytes: `icmh eval
task --reduce --features`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from command import run, set_threads

RATIO_BAR = 5.0
TURN_SECONDS = 0.05
SCHEMA, SCHEMA_VERSION = "icmh_rt.feature_path", 1
PHOTOGRAPH = Path(__file__).resolve().parent.parent / "examples" / "kodim23.png"
QUALITIES = range(1, 101)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    set_threads(options.threads)
    return run("feature_path", _run, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--detector", required=True, metavar="FILE", help="FastestDet as ONNX")
    parser.add_argument("--image", default=str(PHOTOGRAPH), help="default: the one in examples/")
    parser.add_argument("--model", default="default")
    parser.add_argument("--task", default="detection", help="whose feature head")
    parser.add_argument("--backend", default="torch", help="default: %(default)s")
    parser.add_argument("--quality", type=int, default=16, help="of the small stream")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: as the libraries choose")
    parser.add_argument("--cold", action="store_true", help="time single calls")
    parser.add_argument("--json", help="write every single time as well")
    parser.add_argument("--markdown", help="write the table")
    return parser


def _run(options: argparse.Namespace) -> int:
    from timing import interleaved

    contestants, facts = _contestants(options)
    turn = 0.0 if options.cold else TURN_SECONDS
    found = interleaved(contestants, options.rounds, options.warmup, turn_seconds=turn)
    times = {name: [seconds for seconds, _ in calls] for name, calls in found.items()}
    document = _document(options, times, facts)
    text = _markdown(document)
    print(text)
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    if options.markdown:
        Path(options.markdown).write_text(text)
    return 0 if document["ratio_over_picture"]["value"] >= RATIO_BAR else 1


def _contestants(
    options: argparse.Namespace,
) -> tuple[dict[str, Callable[[], object]], dict[str, Any]]:
    """What is timed, by name; and what is known of the streams."""
    import numpy as np

    import icmh_rt
    from icmh_rt import bundle as bundles
    from icmh_rt.evaluation.task_data import reducer
    from icmh_rt.images import load_image
    from icmh_rt.tasks.fastestdet import FastestDet
    from icmh_rt.tasks.remainder import remainder

    if options.threads:
        icmh_rt.set_num_threads(options.threads)
    bundle = bundles.load(options.model)
    head = getattr(bundle, "feature_heads", {}).get(options.task)
    if head is None:
        raise icmh_rt.OptionError(
            f"bundle {bundle.name!r} has no feature head for task {options.task!r}"
        )
    layers = [name for name, _ in head.outputs]
    image = reducer(FastestDet(options.detector, layers))(load_image(options.image))
    where = {"model": options.model, "backend": options.backend, "device": "cpu"}
    decoder = icmh_rt.Decoder(**where)
    small = icmh_rt.Encoder(head.width, options.task, options.quality, **where)
    small_stream = small.encode(image)
    wide = {
        name: _nearest(1.0, task, len(small_stream), image, where)
        for name, task in (("picture", "human"), ("adapted", options.task))
        if name == "picture" or task in bundle.adapters
    }
    whole = _session(options.detector, icmh_rt.get_num_threads())
    # So little is left of the detector that waking a second thread takes longer than it saves.
    rest = _session(remainder(options.detector, layers).SerializeToString(), 1)
    (taken,) = (value.name for value in whole.get_inputs())

    def from_features() -> object:
        found = decoder.features(small_stream)
        return rest.run(None, {name: feature[None] for name, feature in found.items()})

    def from_picture(stream: bytes) -> object:
        picture = decoder.decode(stream)
        blue_first = picture[:, :, ::-1].transpose(2, 0, 1)
        return whole.run(None, {taken: (blue_first.astype(np.float32) / np.float32(255.0))[None]})

    contestants: dict[str, Callable[[], object]] = {
        "features": from_features,
        "encode features": lambda: small.encode(image),
    }
    for name, (encoder, stream) in wide.items():
        contestants[name] = lambda stream=stream: from_picture(stream)
        contestants[f"encode {name}"] = lambda encoder=encoder: encoder.encode(image)
    facts = {
        "height": image.shape[0],
        "width": image.shape[1],
        "bytes": {"features": len(small_stream)} | {n: len(s) for n, (_, s) in wide.items()},
        "qualities": {"features": options.quality} | {n: e.quality for n, (e, _) in wide.items()},
        "backend": repr(decoder.backend),
        "threads": icmh_rt.get_num_threads(),
    }
    return contestants, facts


def _nearest(width: float, task: str, count: int, image, where: dict[str, str]):
    """An encoder of the quality whose stream comes nearest to so many bytes, and the stream."""
    import icmh_rt

    best = None
    low, high = QUALITIES.start, QUALITIES.stop - 1
    while low <= high:
        quality = (low + high) // 2
        encoder = icmh_rt.Encoder(width, task, quality, **where)
        stream = encoder.encode(image)
        if best is None or abs(len(stream) - count) < abs(len(best[1]) - count):
            best = encoder, stream
        if len(stream) < count:
            low = quality + 1
        else:
            high = quality - 1
    return best


def _session(model: Any, threads: int) -> Any:
    from icmh_rt._onnxruntime import ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    # As the codec's own sessions: threads that wait must not keep the cores from others.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def _document(
    options: argparse.Namespace, times: dict[str, list[float]], facts: dict[str, Any]
) -> dict[str, Any]:
    from dataclasses import asdict

    from timing import median_interval, ratio_interval

    from icmh_rt.evaluation import results

    def both(name: str) -> list[float]:
        return [a + b for a, b in zip(times[name], times[f"encode {name}"], strict=True)]

    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "provenance": results.provenance(
            f"python benchmarks/feature_path.py --detector {Path(options.detector).name} "
            f"--threads {options.threads}{' --cold' if options.cold else ''}"
        ),
        "image": Path(options.image).name,
        **facts,
        "milliseconds": {
            name: asdict(median_interval([1e3 * t for t in found])) for name, found in times.items()
        },
        "bar": RATIO_BAR,
        "times": times,
    }
    for name in ("picture", "adapted"):
        if name in times:
            over = ratio_interval(times[name], times["features"])
            with_encoding = ratio_interval(both(name), both("features"))
            document[f"ratio_over_{name}"] = asdict(over)
            document[f"ratio_over_{name}_with_encoding"] = asdict(with_encoding)
    return document


def _markdown(document: dict[str, Any]) -> str:
    from icmh_rt.evaluation.report import markdown_table, page_head

    def shown(interval: dict[str, float], digits: int = 1) -> str:
        value, low, high = (f"{interval[key]:.{digits}f}" for key in ("value", "low", "high"))
        return f"{value} [{low}, {high}]"

    rows = [
        (
            name,
            str(document["qualities"][name]),
            f"{count:,}",
            shown(document["milliseconds"][name]),
            shown(document["milliseconds"][f"encode {name}"]),
            *(
                (shown(document[f"ratio_over_{name}{end}"], 2) if name != "features" else "")
                for end in ("", "_with_encoding")
            ),
        )
        for name, count in document["bytes"].items()
    ]
    heads = (
        "path",
        "quality",
        "bytes",
        "stream to detections, ms",
        "encode, ms",
        "over features",
        "with encoding",
    )
    met = document["ratio_over_picture"]["value"] >= document["bar"]
    lines = [
        *page_head("From streams to detections", document["provenance"]),
        f"{document['image']} at {document['height']}x{document['width']}, "
        f"{document['backend']}, {document['threads']} thread(s). Medians and ratios with 95 % "
        "bootstrap intervals.",
        "",
        *markdown_table(heads, rows),
        "",
        f"Bar: features at least {document['bar']:g} times as fast as picture: "
        f"{'met' if met else 'not met'}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
