"""The page of `icmh eval rd`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from icmh_rt.evaluation import report
from icmh_rt.evaluation.curves import Curve
from icmh_rt.evaluation.curves import Point as Mean
from icmh_rt.evaluation.exhibits import Exhibit
from icmh_rt.evaluation.ms_ssim import decibels
from icmh_rt.evaluation.results import Results
from icmh_rt.reports.chart import Axis, Chart, Point, Series, draw
from icmh_rt.reports.markup import Markup, h
from icmh_rt.reports.page import folded, notes, page, section, table, tiles
from icmh_rt.reports.palette import style
from icmh_rt.reports.pictures import gallery

PICTURES_NOTE = (
    "Decoded pictures as they are. Of every other codec, the quality whose stream has most nearly "
    "as many bytes. Drag across the picture; arrow keys move the border too."
)


def evaluation_page(results: Results, title: str, exhibits: Sequence[Exhibit] = ()) -> str:
    """One document. exhibits: pictures to look at, as `icmh_rt.evaluation.exhibits` makes them."""
    sections = [
        tiles(_tiles(results)),
        section("Quality over rate", *_charts(results)),
        _comparisons(results),
        section("Pictures", gallery(list(exhibits)), note=PICTURES_NOTE) if exhibits else None,
        _checks(results),
        section("All points", *(_points(curve) for curve in results.curves)),
    ]
    lead = (
        f"{report.describe_images(results)}. Rates are real bytes of whole files; every figure is "
        "a mean over the images."
    )
    return page(title, lead, sections, results.provenance)


def _tiles(results: Results) -> list[tuple[str, str, str]]:
    """The widest codec against every anchor and published curve."""
    ours = results.codec_curves
    if not ours:
        return []
    widest = max(ours, key=lambda curve: float(curve.settings.get("width", 0)))
    others = {curve.name for curve in results.curves if curve.kind != "codec"}
    return [
        (f"{item.rate.value:+.1f} %", f"bytes against {item.anchor}", f"{item.test}, at equal PSNR")
        for item in results.comparisons
        if item.test == widest.name and item.anchor in others and item.rate is not None
    ]


# -- curves ----------------------------------------------------------------------------------------


def _charts(results: Results) -> list[Markup]:
    charts = [_chart(results, "PSNR", "PSNR, RGB (dB)", [_psnr_point] * len(results.curves))]
    if any(point.ms_ssim is not None for curve in results.curves for point in curve.points):
        charts.append(
            _chart(
                results,
                "MS-SSIM",
                "MS-SSIM, −10 log₁₀(1 − value) (dB)",
                [_ms_ssim_point] * len(results.curves),
            )
        )
    return charts


def _chart(results: Results, title: str, y_label: str, makers: Sequence) -> Markup:
    series = [
        Series(
            curve.name,
            line_style.style,
            tuple(maker(curve, point) for point in curve.points),
            line_style.dash,
            line_style.marker,
        )
        for curve, line_style, maker in zip(
            results.curves, line_styles([c.kind for c in results.curves]), makers, strict=True
        )
    ]
    x, y = _frame(results, series, y_label)
    return draw(Chart(title, x, y, tuple(series)))


def line_styles(kinds: Sequence[str]) -> list[Series]:
    """How the lines of curves of these kinds look, as series without points."""
    codecs = sum(kind == "codec" for kind in kinds)
    counts = dict.fromkeys(("codec", "anchor", "published"), 0)
    found = []
    for kind in kinds:
        index = counts[kind]
        counts[kind] += 1
        dash = {"codec": 0, "anchor": 1 + index % 3, "published": 2}[kind]
        found.append(Series("", style(kind, index, codecs), (), dash, index))
    return found


def _frame(results: Results, series: Sequence[Series], y_label: str) -> tuple[Axis, Axis]:
    """Anchors go far beyond the rates of interest: axes are fitted to this codec's own points."""
    label = "bits per pixel (whole file)"
    kinds = [curve.kind for curve in results.curves]
    wanted = "codec" if "codec" in kinds else None
    own = [
        point
        for one, kind in zip(series, kinds, strict=True)
        if wanted in (None, kind)
        for point in one.drawn()
    ]
    if not own:
        return Axis(label), Axis(y_label)
    right = 1.1 * max(point.x for point in own)
    seen = [point.y for one in series for point in one.drawn() if point.x <= right]
    low = min(point.y for point in own)
    reach = max(seen) - low or 1.0
    return Axis(label, 0.0, right), Axis(y_label, low - 0.08 * reach, max(seen) + 0.05 * reach)


def _text(curve: Curve, point: Mean, value: str) -> str:
    quality = "" if point.quality is None else f"quality {point.quality:g} · "
    return f"{curve.name} · {quality}{point.bpp:.3f} bpp · {value}"


def _psnr_point(curve: Curve, point: Mean) -> Point:
    return Point(point.bpp, point.psnr, _text(curve, point, f"{point.psnr:.2f} dB"))


def _ms_ssim_point(curve: Curve, point: Mean) -> Point:
    if point.ms_ssim is None:
        return Point(point.bpp, math.nan, "")
    value = decibels(point.ms_ssim)
    return Point(
        point.bpp, value, _text(curve, point, f"MS-SSIM {point.ms_ssim:.4f} ({value:.2f} dB)")
    )


# -- tables ----------------------------------------------------------------------------------------


def _comparisons(results: Results) -> Markup | None:
    found = results.comparisons
    if not found:
        return None
    return section(
        "Bjøntegaard deltas",
        table(report.BD_HEADS, report.bd_rows(found), "Bjøntegaard deltas"),
        notes(report.notes(found)),
        note="The mean difference in bytes at equal quality: −10 % is a tenth fewer bytes. Nothing "
        "is extrapolated.",
    )


def _checks(results: Results) -> Markup | None:
    if not results.checks:
        return None
    return section(
        "Rate over quality, and against the model's estimate",
        table(report.CHECK_HEADS, report.check_rows(results.checks), "Checks of the rate"),
        note="The rate must rise with quality; a stream should take what the model's own "
        "probabilities say.",
    )


def _points(curve: Curve) -> Markup:
    heads, *rows = report.point_table(curve)
    settings = ", ".join(f"{key} {value}" for key, value in curve.settings.items())
    return folded(
        curve.name, h("p", settings, class_="note"), table(heads, rows, f"Points of {curve.name}")
    )
