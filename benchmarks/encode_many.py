"""Claim: `Encoder.encode_many` encodes a folder of photographs faster than a plain loop.

    python benchmarks/encode_many.py --data DIR [--count N] [--widths W,...] [--rounds N]
        [--threads N] [--memory] [--json F] [--markdown F]

Times `[encoder.encode(path) for path in paths]` and `encoder.encode_batch(paths)`, which is
`encode_many`, over the same photographs, 64 of DIR at equal distances, from files to bytes. After a
round that is not timed they run in rounds, each of which has either once at every width, in random
order. Prints the medians with their 95 % bootstrap intervals, how many cores each kept busy, and
their ratio; beside it the most that threads could gain: what encode_many would take if all cores
were busy all the time. Exit code 1 if the ratio is below 1.3 at any width, the bar, or if a stream
differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from command import run, set_threads

COUNT = 64
BAR = 1.3
SCHEMA, SCHEMA_VERSION = "icmh_rt.encode_many", 1


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    set_threads(options.threads)
    return run("encode_many", _run, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of photographs")
    parser.add_argument(
        "--count", type=int, default=COUNT, help="photographs (default: %(default)s)"
    )
    parser.add_argument("--widths", default="1.0,0.25")
    parser.add_argument("--quality", type=int, default=50)
    parser.add_argument("--model", default="default")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="0: as the libraries choose")
    parser.add_argument("--memory", action="store_true", help="from pixels instead of files")
    parser.add_argument("--json", help="write every single time as well")
    parser.add_argument("--markdown", help="write the table")
    return parser


def _run(options: argparse.Namespace) -> int:
    from timing import interleaved, median_interval, ratio_interval

    from icmh_rt import get_num_threads
    from icmh_rt.codec import Encoder
    from icmh_rt.errors import OptionError
    from icmh_rt.evaluation.results import provenance, write_text
    from icmh_rt.images import load_image

    if options.rounds < 3:
        raise OptionError(f"--rounds must be at least 3, got {options.rounds}")
    paths = _photographs(options.data, options.count)
    pixels = [load_image(path) for path in paths]
    megapixels = sum(image.shape[0] * image.shape[1] for image in pixels) / 1e6
    sources: list[Any] = pixels if options.memory else paths
    contestants = {}
    for width in (float(word) for word in options.widths.split(",")):
        encoder = Encoder(
            width=width,
            quality=options.quality,
            model=options.model,
            backend=options.backend,
            device="cpu",
        )
        contestants["loop", width] = _timed(lambda e=encoder: [e.encode(s) for s in sources])
        contestants["many", width] = _timed(lambda e=encoder: e.encode_batch(sources))
    timed = interleaved(
        contestants,
        options.rounds,
        warmup=1,
        progress=lambda done: print(f"\rround {done}/{options.rounds}", end="", file=sys.stderr),
    )
    print(file=sys.stderr)
    rows, same = [], True
    for width in dict.fromkeys(width for _, width in contestants):
        loop, many = timed["loop", width], timed["many", width]
        same &= all(streams == loop[0][1][1] for _, (_, streams) in (*loop, *many))
        walls = {name: [s for s, _ in timed[name, width]] for name in ("loop", "many")}
        busy = {
            name: median_interval([cpu / s for s, (cpu, _) in timed[name, width]]).value
            for name in walls
        }
        seconds = {name: median_interval(values) for name, values in walls.items()}
        ratio = ratio_interval(walls["loop"], walls["many"])
        work = median_interval([cpu for _, (cpu, _) in many]).value
        rows.append(
            {
                "width": width,
                "seconds": {name: vars(interval) for name, interval in seconds.items()},
                "busy_cores": busy,
                "ratio": vars(ratio),
                "most": seconds["loop"].value * get_num_threads() / work,
                "images_per_second": len(sources) / seconds["many"].value,
                "times": walls,
            }
        )
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance(_command(options)),
        "photographs": {
            "folder": Path(options.data).name,
            "count": len(paths),
            "megapixels": round(megapixels, 2),
            "from": "pixels" if options.memory else "files",
        },
        "quality": options.quality,
        "threads": get_num_threads(),
        "same_streams": same,
        "widths": rows,
    }
    print(_table(document))
    if options.json:
        write_text(json.dumps(document, indent=1) + "\n", options.json)
    if options.markdown:
        write_text(_page(document), options.markdown)
    return 0 if same and all(row["ratio"]["value"] >= BAR for row in rows) else 1


def _timed(call: Any) -> Any:
    """With the process's CPU seconds."""

    def run() -> tuple[float, list[bytes]]:
        before = time.process_time()
        streams = call()
        return time.process_time() - before, streams

    return run


def _photographs(folder: str, count: int) -> list[Path]:
    from icmh_rt.errors import ImageError
    from icmh_rt.images import readable_suffixes

    found = [
        path
        for path in sorted(Path(folder).glob("*"))
        if path.suffix.lower() in readable_suffixes() and path.is_file()
    ]
    if len(found) < count or count < 1:
        raise ImageError(f"{folder} has {len(found)} photographs, {count} are asked for")
    return [found[i * len(found) // count] for i in range(count)]


def _command(options: argparse.Namespace) -> str:
    command = f"python benchmarks/encode_many.py --data {Path(options.data).name}"
    defaults = _parser().parse_args(["--data", "x"])
    for name in ("count", "widths", "quality", "model", "backend", "rounds", "threads"):
        value = getattr(options, name)
        if value != getattr(defaults, name):
            command += f" --{name} {value}"
    return command + " --memory" * options.memory


def _table(document: dict[str, Any]) -> str:
    lines = [
        "| width | plain loop, s | cores busy | encode_many, s | cores busy | × as fast | at most "
        "| images a second |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in document["widths"]:
        loop, many = (row["seconds"][name] for name in ("loop", "many"))
        ratio = row["ratio"]
        lines.append(
            f"| {row['width']:g} | {_shown(loop)} | {row['busy_cores']['loop']:.2f} "
            f"| {_shown(many)} | {row['busy_cores']['many']:.2f} | {_shown(ratio)} "
            f"| {row['most']:.2f} | {row['images_per_second']:.1f} |"
        )
    return "\n".join(lines)


def _shown(interval: dict[str, float]) -> str:
    return f"{interval['value']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def _page(document: dict[str, Any]) -> str:
    from icmh_rt.evaluation.report import page_head

    photographs = document["photographs"]
    slowest = min(document["widths"], key=lambda row: row["ratio"]["value"])
    verdict = "met" if slowest["ratio"]["value"] >= BAR else "missed"
    lines = page_head("Encoding many images", document["provenance"])
    lines += [
        f"{photographs['count']} photographs, {photographs['megapixels']} megapixels in all, from "
        f"{photographs['from']}, quality {document['quality']}, {document['threads']} threads; "
        "medians [95 %] over rounds. *at most*: encode_many's own work on cores that are busy all "
        "the time.",
        "",
        _table(document),
        "",
        f"The bar of {BAR} is {verdict}: {slowest['ratio']['value']:.2f} at width "
        f"{slowest['width']:g}. All streams are those of the loop: {document['same_streams']}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
