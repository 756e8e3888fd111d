"""Results as a table for a terminal and as a Markdown page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from icmh_rt.evaluation.curves import (
    ESTIMATE_EXTRA_BYTES,
    ESTIMATE_FACTOR_AIM,
    ESTIMATE_FACTOR_BAR,
    SPAN_AIM,
    SPAN_BAR,
    Checks,
    Comparison,
    Curve,
)
from icmh_rt.evaluation.results import Results

POINT_HEADS = (
    "quality",
    "bpp",
    "PSNR dB",
    "PSNR of mean MSE",
    "MS-SSIM",
    "bytes/estimate",
    "enc ms",
    "dec ms",
)
BD_HEADS = (
    "curve",
    "against",
    "BD-rate %",
    "Akima %",
    "mean of images %",
    "BD-PSNR dB",
    "over dB",
    "MS-SSIM BD-rate %",
)
CHECK_HEADS = ("curve", "rate rises", "images", "span", "bytes/estimate", "worst extra bytes")


def table(results: Results) -> str:
    """Plain text: the points of every curve, then Bjontegaard deltas, then checks."""
    blocks = [f"{describe_images(results)}; every figure is a mean over the images."]
    for curve in results.curves:
        blocks.append(f"{curve.name} ({_settings(curve)})\n{align(point_table(curve))}")
    if results.comparisons:
        lines = [align([BD_HEADS, *bd_rows(results.comparisons)]), *notes(results.comparisons)]
        blocks.append("\n".join(lines))
    if results.checks:
        blocks.append(align([CHECK_HEADS, *check_rows(results.checks)]))
    return "\n\n".join(blocks) + "\n"


def markdown(results: Results, title: str, figure: str | None = None) -> str:
    """A page: how it was made, the figure, deltas, checks, and the points of every curve.

    figure: the picture's path relative to the page.
    """
    lines = page_head(title, results.provenance)
    lines += [
        f"{describe_images(results)}. Rates are real bytes, headers included; every figure is a"
        " mean over the images. Conventions: see README.md in this folder.",
        "",
    ]
    if figure is not None:
        lines += [f"![Rate-distortion curves]({figure})", ""]
    if results.comparisons:
        lines += ["## Bjøntegaard deltas", ""]
        lines += [
            "Negative BD-rates are fewer bits at the same PSNR, or, in the last column, at the same"
            " MS-SSIM in decibels.",
            "",
        ]
        lines += [*markdown_table(BD_HEADS, bd_rows(results.comparisons)), ""]
        remarks = notes(results.comparisons)
        lines += [*(f"- {remark}" for remark in remarks), *([""] if remarks else [])]
    if results.checks:
        lines += ["## Rate over quality, and against the model's estimate", ""]
        lines += [*markdown_table(CHECK_HEADS, check_rows(results.checks)), ""]
        lines += [
            "Bars: the mean rate rises strictly; the span is at least"
            f" {SPAN_BAR:g} x (aim {SPAN_AIM:g} x); every stream has at most"
            f" {ESTIMATE_FACTOR_BAR} x its estimate + {ESTIMATE_EXTRA_BYTES} bytes"
            f" (aim {ESTIMATE_FACTOR_AIM} x). The last column is the worst stream's excess over"
            f" {ESTIMATE_FACTOR_BAR} x.",
            "",
        ]
    lines += ["## Points", ""]
    for curve in results.curves:
        heads, *rows = point_table(curve)
        lines += [f"### {curve.name}", "", _settings(curve), ""]
        lines += [*markdown_table(heads, rows), ""]
    return "\n".join(lines)


def page_head(title: str, origin: Mapping[str, Any]) -> list[str]:
    """Title, command and where figures come from; origin: as `results.provenance` gives it."""
    lines = [f"# {title}", ""]
    lines += ["Written by the command below; edit that, not this page.", ""]
    if "command" in origin:
        lines += ["```", str(origin["command"]), "```", ""]
    machine, versions = origin.get("machine", {}), origin.get("versions", {})
    if machine:
        made = ", ".join(f"{name} {version}" for name, version in versions.items())
        where = f"{machine['cores']} cores of {machine['cpu']}, {machine['architecture']}"
        lines += [f"{str(origin['created'])[:10]}; {made}; {where}.", ""]
    return lines


def describe_images(results: Results) -> str:
    """How many images, of which size."""
    images = results.images
    sizes = sorted({f"{max(i.width, i.height)}x{min(i.width, i.height)}" for i in images})
    shown = sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes"
    return f"{len(images)} images ({shown})" if len(images) != 1 else f"1 image ({shown})"


def _settings(curve: Curve) -> str:
    return ", ".join(f"{key} {value}" for key, value in curve.settings.items())


def _number(value: float | None, digits: int, sign: bool = False) -> str:
    if value is None:
        return "-"
    if math.isinf(value):
        return "inf"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def point_table(curve: Curve) -> list[list[str]]:
    """Heads and rows, without the columns that have no value in any row."""
    rows = _point_rows(curve)
    kept = [i for i in range(len(POINT_HEADS)) if any(row[i] != "-" for row in rows)]
    return [[row[i] for i in kept] for row in (POINT_HEADS, *rows)]


def _point_rows(curve: Curve) -> list[list[str]]:
    rows = []
    for index, point in enumerate(curve.points):
        ratio = None
        if curve.estimated_bits is not None and curve.byte_counts is not None:
            estimated = sum(curve.estimated_bits[index]) / 8
            ratio = sum(curve.byte_counts[index]) / estimated if estimated > 0 else math.inf
        rows.append(
            [
                "-" if point.quality is None else f"{point.quality:g}",
                _number(point.bpp, 4),
                _number(point.psnr, 3),
                _number(point.psnr_of_mean_mse, 3),
                _number(point.ms_ssim, 5),
                _number(ratio, 4),
                _number(curve.encode_ms[index] if curve.encode_ms else None, 1),
                _number(curve.decode_ms[index] if curve.decode_ms else None, 1),
            ]
        )
    return rows


def bd_rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """A row of `BD_HEADS` for every comparison."""
    rows = []
    for item in comparisons:
        mean = _number(item.mean_image_rate, 2, sign=True)
        span = "-"
        if item.rate is not None:
            span = f"{item.rate.low:.2f}–{item.rate.high:.2f}"
        rows.append(
            [
                item.test,
                item.anchor,
                _number(item.rate.value if item.rate else None, 2, sign=True),
                _number(item.rate_akima.value if item.rate_akima else None, 2, sign=True),
                mean if mean == "-" else f"{mean} ({item.image_count})",
                _number(item.psnr.value if item.psnr else None, 2, sign=True),
                span,
                _number(item.ms_ssim_rate.value if item.ms_ssim_rate else None, 2, sign=True),
            ]
        )
    return rows


def notes(comparisons: Sequence[Comparison]) -> list[str]:
    """One line per comparison that could not be made, or needs a warning."""
    lines = []
    for item in comparisons:
        found = [item.problem] if item.problem else []
        for result in (item.rate, item.psnr):
            found += [w for w in (result.warnings if result else ()) if w not in found]
        lines += [f"{item.test} against {item.anchor}: {text}" for text in found]
    return lines


def check_rows(checks: Sequence[Checks]) -> list[list[str]]:
    """A row of `CHECK_HEADS` for every curve checked."""
    return [
        [
            item.name,
            "yes" if item.monotone else "NO",
            f"{item.images_monotone}/{item.image_count}",
            f"{item.span:.1f} x" + ("" if item.span >= SPAN_BAR else " BELOW BAR"),
            _number(item.estimate_ratio, 4),
            _number(item.estimate_worst_extra_bytes, 1)
            + (" ABOVE BAR" if item.within_estimate is False else ""),
        ]
        for item in checks
    ]


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded with spaces; words to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = [rows[-1][i][:1].isalpha() for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = zip(row, widths, left, strict=True)
        lines.append("  ".join(f"{c:<{w}}" if keep else f"{c:>{w}}" for c, w, keep in cells))
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    left = [bool(rows) and rows[0][i][:1].isalpha() for i in range(len(heads))]
    rule = ["---" if keep else "---:" for keep in left]
    return ["| " + " | ".join(row) + " |" for row in (heads, rule, *rows)]
