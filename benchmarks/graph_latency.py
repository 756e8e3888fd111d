"""Claim: with CUDA graphs, encoding and decoding on a GPU wait for no launches.

    python benchmarks/graph_latency.py [--device cuda] [--rounds N] [--json F] [--markdown F]

Times `Encoder.encode` and `Decoder.decode` of a photograph at 512x768 and 1080x1920 at every width
of the default bundle, and of these the transforms alone (pixels on the host to latents on the host,
and back), with the graphs and eagerly (ICMH_CUDA_GRAPHS=0), in rounds that run every contestant
once in random order. Checks that both give the same pictures within two levels a sample, and
latents that differ in at most one symbol of a thousand.

Exit code 1 if they do not, or if a graph could not be recorded. There is no bar on the times. On a
CPU (--device cpu) there are no graphs, and only the eager times are taken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from environment import environment

SIZES = ((512, 768), (1080, 1920))
QUALITY = 50
SCHEMA, SCHEMA_VERSION = "icmh_rt.graph_latency", 1
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    from icmh_rt.errors import IcmhError

    try:
        return _run(options)
    except IcmhError as error:
        print(f"graph_latency: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the script")
    parser.add_argument("--dtype", default="auto", help="of the transforms; auto is fp16 on a GPU")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--quick", action="store_true", help="one small size, two widths, for tests"
    )
    parser.add_argument("--json", help="write every single time as well")
    parser.add_argument("--markdown", help="write the table as a page")
    return parser


def _run(options: argparse.Namespace) -> int:
    import torch

    from icmh_rt.backends import create
    from icmh_rt.bundle import load
    from icmh_rt.errors import OptionError
    from icmh_rt.evaluation.results import provenance, write_text

    if options.rounds < 3:
        raise OptionError(f"--rounds must be at least 3, got {options.rounds}")
    bundle = load("default")
    # Encoders and decoders with these arguments share it, and its graphs.
    backend = create(bundle, "torch", options.device, options.dtype)
    widths = tuple(bundle.widths)[:2] if options.quick else tuple(bundle.widths)
    rows, problems = [], []
    for size in ((64, 96),) if options.quick else SIZES:
        image = _photograph(size)
        for width in widths:
            print(f"\r{size[0]}x{size[1]} at {width:g}  ", end="", file=sys.stderr, flush=True)
            rows += _measure(image, width, options.device, options.dtype, options.rounds, problems)
    print(file=sys.stderr)
    runner = backend.graphs
    if runner is not None:
        problems += [f"no graph of {key}: {reason}" for key, reason in runner.reasons.items()]
    on_gpu = options.device != "cpu"
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance(f"python benchmarks/graph_latency.py --device {options.device}"),
        "device": torch.cuda.get_device_name(backend.device) if on_gpu else "cpu",
        "backend": repr(backend),
        "rounds": options.rounds,
        "graphs": None if runner is None else runner.counts,
        "problems": problems,
        "rows": rows,
    }
    page = _markdown(document)
    print(page)
    if options.json:
        write_text(json.dumps(document, indent=1) + "\n", options.json)
    if options.markdown:
        write_text(page, options.markdown)
    return 1 if problems else 0


def _photograph(size: tuple[int, int]) -> Any:
    """The one in examples/, mirrored at its borders until it is large enough."""
    import numpy as np

    from icmh_rt.errors import ImageError
    from icmh_rt.images import load_image

    found = sorted(EXAMPLES.glob("*.png"))
    if not found:
        raise ImageError(f"no photograph in {EXAMPLES.name}/")
    image = load_image(found[0])
    while any(have < want for have, want in zip(image.shape, size, strict=False)):
        image = np.concatenate([image, image[::-1]], 0)
        image = np.concatenate([image, image[:, ::-1]], 1)
    return np.ascontiguousarray(image[: size[0], : size[1]])


def _measure(
    image: Any, width: float, device: str, dtype: str, rounds: int, problems: list[str]
) -> list[dict[str, Any]]:
    """Rows of every stage at one size and width; adds what is wrong to ``problems``."""
    import numpy as np
    from timing import interleaved

    from icmh_rt.backends._cuda_graphs import WARMUP_CALLS
    from icmh_rt.codec import Decoder, Encoder

    encoder = Encoder(width=width, quality=QUALITY, device=device, dtype=dtype)
    decoder = Decoder(device=device, dtype=dtype)
    backend = encoder.backend
    data = encoder.encode(image)
    y_hat = decoder.latents(data).y_hat
    size = image.shape[:2]
    stages: dict[str, Callable[[], Any]] = {
        "encode": lambda: encoder.encode_detailed(image),
        "g_a + h_a": lambda: _latents(backend, image, width),
        "decode": lambda: decoder.decode(data),
        "g_s": lambda: backend.synthesis(y_hat, width, "human", size),
    }
    modes = {"eager": "0"} if backend.graphs is None else {"eager": "0", "graphs": "1"}
    contestants = {
        (stage, mode): _in_mode(run, value)
        for stage, run in stages.items()
        for mode, value in modes.items()
    }
    measured = interleaved(contestants, rounds, WARMUP_CALLS + 2)
    name = f"{size[0]}x{size[1]} at {width:g}"
    if "graphs" in modes:
        results = {key: rows[-1][1] for key, rows in measured.items()}
        reports = [results["encode", mode].latents.symbols_y for mode in modes]
        changed = float((reports[0] != reports[1]).mean())
        pictures = [results["decode", mode].astype(np.int16) for mode in modes]
        distance = int(np.abs(pictures[0] - pictures[1]).max())
        if changed > 1e-3 or distance > 2:
            problems.append(
                f"{name}: replays change {changed:.2%} of the symbols and samples by {distance}"
            )
    return [
        {
            "size": list(size),
            "width": width,
            "stage": stage,
            "bytes": len(data),
            "times_s": {mode: [s for s, _ in measured[stage, mode]] for mode in modes},
        }
        for stage in stages
    ]


def _latents(backend: Any, image: Any, width: float) -> tuple[Any, Any]:
    y = backend.analysis(image, width, "human")
    return backend.hyper_analysis(y, width, "human"), backend.latent_to_host(y)


def _in_mode(run: Callable[[], Any], value: str) -> Callable[[], Any]:
    def timed() -> Any:
        with environment("ICMH_CUDA_GRAPHS", value):
            return run()

    return timed


def _markdown(document: dict[str, Any]) -> str:
    from timing import median_interval, ratio_interval

    source = document["provenance"]
    lines = [
        "# Latency with and without CUDA graphs",
        "",
        f"`{source['command']}`, {source['created']}, torch {source['versions'].get('torch')}, "
        f"{document['device']}, {source['machine']['cpu']}; {document['rounds']} rounds. "
        "Medians with 95 % bootstrap intervals.",
        "",
        "| size | width | | eager, ms | graphs, ms | times faster |",
        "|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        cells = ["", ""]
        times = row["times_s"]
        for place, mode in enumerate(("eager", "graphs")):
            if mode in times:
                median = median_interval(times[mode])
                low, high = 1e3 * median.low, 1e3 * median.high
                cells[place] = f"{1e3 * median.value:.2f} [{low:.2f}, {high:.2f}]"
        ratio = ""
        if "graphs" in times:
            found = ratio_interval(times["eager"], times["graphs"])
            ratio = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
        size = "x".join(map(str, row["size"]))
        lines.append(
            f"| {size} | {row['width']:g} | {row['stage']} | {cells[0]} | {cells[1]} | {ratio} |"
        )
    lines += ["", f"Graphs: {document['graphs'] or 'none on this device'}"]
    lines += [f"- PROBLEM: {problem}" for problem in document["problems"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
