"""Claim: the default bundle's rate-distortion on Kodak, real bytes, against everyday codecs.

    python benchmarks/kodak_rate_distortion.py --data DIR [--jobs N]

Measures the four widths at qualities 1, 10, ... 100 over the 24 Kodak images in DIR, compares them
with the anchors' stored curves (docs/results/kodak_anchors.json) and CompressAI's published ones,
and writes kodak.json, kodak.svg and kodak.md to docs/results. Exit code 1 if a bar is missed (each
is printed with its aim).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
# (curve, anchor, bar, aim): BD-rate in percent of the mean curves, at most.
BD_RATES = (
    ("icmh_rt width 1", "jpeg", -40.0, -55.0),
    ("icmh_rt width 1", "webp", -5.0, -25.0),
    ("icmh_rt width 0.25", "jpeg", 0.0, -20.0),
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder with the 24 Kodak PNGs")
    parser.add_argument("--jobs", default="1")
    parser.add_argument("--model", default="default")
    parser.add_argument("--output", default=str(RESULTS), help="default: docs/results")
    options = parser.parse_args(arguments)

    from icmh_rt.evaluation import results
    from icmh_rt.evaluation.__main__ import main as evaluate

    output = Path(options.output)
    command = ["rd", "--data", options.data, "--anchors", "none", "--title", "Kodak, 24 images"]
    command += ["--model", options.model, "--jobs", options.jobs]
    command += ["--reference", str(RESULTS / "kodak_anchors.json")]
    for option, name in (("json", "kodak.json"), ("plot", "kodak.svg"), ("markdown", "kodak.md")):
        command += [f"--{option}", str(output / name)]
    code = evaluate(command)
    if code:
        return 2
    return 0 if _verdict(results.load(output / "kodak.json")) else 1


def _verdict(found) -> bool:
    """Print every bar with what was measured. Whether all are met."""
    from icmh_rt.evaluation.curves import ESTIMATE_EXTRA_BYTES, SPAN_AIM, SPAN_BAR

    rates = {(c.test, c.anchor): c.rate.value for c in found.comparisons if c.rate is not None}
    lines = []
    for test, anchor, bar, aim in BD_RATES:
        value = rates.get((test, anchor))
        text = "not comparable" if value is None else f"{value:+.2f} %"
        what = f"{test} against {anchor}: BD-rate {text} (bar {bar:+g} %, aim {aim:+g} %)"
        lines.append((value is not None and value <= bar, what))
    for item in found.checks:
        good = item.monotone and item.span >= SPAN_BAR
        what = f"rate {'rises' if item.monotone else 'does NOT rise'} with quality"
        what += f", span {item.span:.1f} x (bar {SPAN_BAR:g}, aim {SPAN_AIM:g})"
        lines.append((good, f"{item.name}: {what}"))
        extra = item.estimate_worst_extra_bytes
        if extra is not None:
            what = f"worst stream exceeds 1.01 x its estimate by {extra:.1f} bytes"
            what += f" (bar {ESTIMATE_EXTRA_BYTES}), all bytes {item.estimate_ratio:.4f} x"
            lines.append((bool(item.within_estimate), f"{item.name}: {what}"))
    print()
    for good, text in lines:
        print(f"{'ok  ' if good else 'MISS'}  {text}")
    return all(good for good, _ in lines)


if __name__ == "__main__":
    sys.exit(main())
