"""The page of `icmh eval task`."""

from __future__ import annotations

from collections.abc import Sequence

from icmh_rt.evaluation import task_report
from icmh_rt.evaluation.exhibits import Exhibit
from icmh_rt.evaluation.task_curves import TaskCurve, TaskResults
from icmh_rt.reports.chart import Axis, Chart, Point, Series, draw
from icmh_rt.reports.evaluation import PICTURES_NOTE, line_styles
from icmh_rt.reports.markup import Markup
from icmh_rt.reports.page import folded, notes, page, section, table, tiles
from icmh_rt.reports.pictures import gallery


def task_page(results: TaskResults, title: str, exhibits: Sequence[Exhibit] = ()) -> str:
    """One document. exhibits: pictures to look at, as `icmh_rt.evaluation.exhibits` makes them."""
    rows = task_report.comparison_rows(results)
    deltas = section(
        "Bjøntegaard deltas",
        table(task_report.COMPARISON_HEADS, rows, "Bjøntegaard deltas"),
        notes(task_report.notes(results)),
        note="The mean difference in bytes at equal accuracy, of curves made to rise by isotonic "
        "regression. Nothing is extrapolated.",
    )
    sections = [
        tiles(_tiles(results)),
        section("Accuracy over rate", _chart(results)),
        deltas if rows else None,
        section("Pictures", gallery(list(exhibits)), note=PICTURES_NOTE) if exhibits else None,
        section("All points", *(_points(curve) for curve in results.curves)),
    ]
    lead = (
        f"{results.task}, {len(results.images)} pictures shown to the same network. Rates are real "
        "bytes of whole files, a mean over the pictures."
    )
    return page(title, lead, sections, results.provenance)


def _tiles(results: TaskResults) -> list[tuple[str, str, str]]:
    name = task_report.NAMES.get(results.figure, results.figure)
    found = [
        (f"{100 * point.figures[results.figure]:.1f} %", name, "of the original pictures")
        for curve in results.curves
        if curve.kind == "original"
        for point in curve.points
    ]
    ours = [curve.name for curve in results.curves if curve.kind == "codec"]
    return found + [
        (
            f"{item.rate.value:+.1f} %",
            f"bytes against {item.anchor}",
            f"{item.test}, at equal {name}",
        )
        for item in results.comparisons
        if ours and item.test == ours[-1] and item.rate is not None
    ]


def _chart(results: TaskResults) -> Markup:
    name = task_report.NAMES.get(results.figure, results.figure)
    coded = [curve for curve in results.curves if curve.kind != "original"]
    levels = tuple(
        (100 * point.figures[results.figure], "original pictures")
        for curve in results.curves
        if curve.kind == "original"
        for point in curve.points
    )
    series = tuple(
        Series(curve.name, look.style, _line(curve, results.figure), look.dash, look.marker)
        for curve, look in zip(coded, line_styles([c.kind for c in coded]), strict=True)
    )
    ours = [p.bpp for curve in coded if curve.kind == "codec" for p in curve.points]
    x = Axis("bits per pixel (whole file)", 0.0, 1.1 * max(ours) if ours else None)
    return draw(Chart(name, x, Axis(f"{name} (%)"), series, levels))


def _line(curve: TaskCurve, figure: str) -> tuple[Point, ...]:
    return tuple(
        Point(
            point.bpp,
            100 * point.figures[figure],
            f"{curve.name} · quality {point.quality} · {point.bpp:.3f} bpp · "
            f"{100 * point.figures[figure]:.1f} %",
        )
        for point in curve.points
    )


def _points(curve: TaskCurve) -> Markup:
    heads, *rows = task_report.point_table(curve)
    return folded(curve.name, table(heads, rows, f"Points of {curve.name}"))
