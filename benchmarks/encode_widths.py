"""Claim: a narrower width encodes faster on a CPU, at 512x768 and the same quality.

    python benchmarks/encode_widths.py [--image FILE] [--rounds N] [--threads N] [--json F]

Times whole `Encoder.encode` calls, from pixels in memory to bytes, in rounds that run every width
once in random order. Prints the median of each with its 95 % bootstrap interval, the ratio of the
widest to each, and the medians of the stages (from further calls of `encode_detailed`). Exit code 1
if width 0.25 is less than 4 times faster than 1.0, the bar (the aim is 8).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from command import run, set_threads

HEIGHT, WIDTH = 512, 768
WIDTHS = (0.25, 0.5, 0.75, 1.0)
RATIO_BAR, RATIO_AIM = 4.0, 8.0
STAGE_ROUNDS = 5
SCHEMA, SCHEMA_VERSION = "icmh_rt.encode_widths", 1
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    set_threads(options.threads)
    return run("encode_widths", _run, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--image", help="photograph to encode (default: the one in examples/)")
    parser.add_argument("--quality", type=int, default=50)
    parser.add_argument("--model", default="default")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="0: as the libraries choose")
    parser.add_argument("--json", help="write every single time as well")
    return parser


def _run(options: argparse.Namespace) -> int:
    from timing import interleaved, median_interval, ratio_interval

    from icmh_rt.codec import Encoder
    from icmh_rt.errors import OptionError
    from icmh_rt.evaluation.results import provenance, write_text

    if options.rounds < 3:
        raise OptionError(f"--rounds must be at least 3, got {options.rounds}")
    image, name = _image(options.image)
    encoders = {
        width: Encoder(
            width=width,
            quality=options.quality,
            model=options.model,
            backend=options.backend,
            device="cpu",
        )
        for width in WIDTHS
    }
    timed = interleaved(
        {width: lambda e=encoder: e.encode(image) for width, encoder in encoders.items()},
        options.rounds,
        options.warmup,
        progress=lambda done: print(f"\rround {done}/{options.rounds}", end="", file=sys.stderr),
    )
    print(file=sys.stderr)
    # Apart, because a detailed encode also works out the model's own estimate.
    detailed = interleaved(
        {width: lambda e=encoder: e.encode_detailed(image) for width, encoder in encoders.items()},
        min(options.rounds, STAGE_ROUNDS),
        warmup=1,
    )
    seconds = {width: [s for s, _ in rows] for width, rows in timed.items()}
    print(f"{name} {HEIGHT}x{WIDTH}, quality {options.quality}, {options.rounds} rounds")
    print("width   bytes   median ms  [95 %]   x faster than 1.0  [95 %]   stages in ms")
    rows = []
    for width in WIDTHS:
        data = timed[width][0][1]
        median = median_interval(seconds[width])
        ratio = ratio_interval(seconds[1.0], seconds[width])
        stages = _stage_medians_ms([value.times for _, value in detailed[width]])
        shown = ", ".join(f"{stage} {ms:.1f}" for stage, ms in stages.items())
        print(
            f"{width:<5g} {len(data):7d} {1e3 * median.value:11.1f}"
            f"  [{1e3 * median.low:.1f}, {1e3 * median.high:.1f}]"
            f"{ratio.value:14.2f}  [{ratio.low:.2f}, {ratio.high:.2f}]   {shown}"
        )
        rows.append(
            {
                "width": width,
                "bytes": len(data),
                "median_ms": 1e3 * median.value,
                "interval_ms": [1e3 * median.low, 1e3 * median.high],
                "ratio": ratio.value,
                "ratio_interval": [ratio.low, ratio.high],
                "stages_ms": stages,
                "times_ms": [1e3 * s for s in seconds[width]],
            }
        )
    narrow = rows[0]["ratio"]
    verdict = "meets" if narrow >= RATIO_BAR else "MISSES"
    bars = f"the bar of {RATIO_BAR:g} (aim {RATIO_AIM:g})"
    print(f"width 0.25 is {narrow:.2f} x faster: {verdict} {bars}")
    if options.json:
        document = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "provenance": provenance("python benchmarks/encode_widths.py"),
            "image": name,
            "size": [HEIGHT, WIDTH],
            "quality": options.quality,
            "threads": options.threads or None,
            "widths": rows,
        }
        write_text(json.dumps(document, indent=1) + "\n", options.json)
    return 0 if narrow >= RATIO_BAR else 1


def _image(path: str | None):  # -> tuple[np.ndarray, str]
    """A real photograph of 512x768, since entropy coding's time depends on what is in it."""
    from icmh_rt.errors import ImageError
    from icmh_rt.images import load_image

    chosen = Path(path) if path else next(iter(sorted(EXAMPLES.glob("*.png"))), None)
    if chosen is None:
        raise ImageError(f"no photograph in {EXAMPLES.name}/: name one with --image")
    image = load_image(chosen)
    if image.shape[0] < HEIGHT or image.shape[1] < WIDTH:
        raise ImageError(f"{chosen.name} is {image.shape[:2]}: need at least {HEIGHT}x{WIDTH}")
    return image[:HEIGHT, :WIDTH].copy(), chosen.name


def _stage_medians_ms(times: list[dict[str, float]]) -> dict[str, float]:
    """Median in milliseconds of each stage over rounds of {stage: seconds}."""
    return {stage: 1e3 * statistics.median(t[stage] for t in times) for stage in times[0]}


if __name__ == "__main__":
    sys.exit(main())
