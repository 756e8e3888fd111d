"""Rate-accuracy results as a table, a Markdown page and a figure."""

from __future__ import annotations

import os
from typing import Any

from icmh_rt.evaluation.bd import BdResult
from icmh_rt.evaluation.plot import CODEC_COLORS, MARKERS, OTHER_STYLES, require, save
from icmh_rt.evaluation.report import align, markdown_table, page_head
from icmh_rt.evaluation.task_curves import TaskCurve, TaskResults

NAMES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "ap50": "AP50",
    "ap": "AP",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
}
COMPARISON_HEADS = ("curve", "against", "BD-rate %", "over %", "BD-accuracy, points")


def table(results: TaskResults) -> str:
    """Plain text: every curve's points, then the deltas."""
    blocks = [f"{results.task}, {len(results.images)} pictures; rates are of whole files."]
    for curve in results.curves:
        blocks.append(f"{curve.name}\n{align(point_table(curve))}")
    if results.comparisons:
        blocks.append(align([COMPARISON_HEADS, *comparison_rows(results)]))
        blocks += notes(results)
    return "\n\n".join(blocks) + "\n"


def markdown(results: TaskResults, title: str, figure: str | None = None) -> str:
    """A page; figure: the picture's path relative to it."""
    lines = page_head(title, results.provenance)
    lines += [
        f"{len(results.images)} pictures. Rates are real bytes, headers included, a mean over the "
        "pictures.",
        "",
    ]
    if figure is not None:
        lines += [f"![Rate-accuracy curves]({figure})", ""]
    if results.comparisons:
        lines += [
            "## Bjøntegaard deltas",
            "",
            f"At equal {NAMES.get(results.figure, results.figure)}, of curves made to rise "
            "(isotonic regression). Negative BD-rates are fewer bits.",
            "",
            *markdown_table(COMPARISON_HEADS, comparison_rows(results)),
            "",
            *(f"- {note}" for note in notes(results)),
            "",
        ]
    for curve in results.curves:
        heads, *rows = point_table(curve)
        lines += [f"## {curve.name}", "", *markdown_table(heads, rows), ""]
    return "\n".join(lines)


def draw(results: TaskResults, path: str | os.PathLike[str], title: str) -> None:
    """Accuracy against bits per pixel; raises as `plot.require`."""
    require(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    counts = {"codec": 0, "anchor": 0}
    right = 0.0
    for curve in results.curves:
        values = [100.0 * point.figures[results.figure] for point in curve.points]
        if curve.kind == "original":
            axes.axhline(values[0], color="0.5", linewidth=1, label="original pictures")
            continue
        index = counts[curve.kind]
        counts[curve.kind] += 1
        rates = [point.bpp for point in curve.points]
        if curve.kind == "codec":
            right = max(right, *rates)
            shades = CODEC_COLORS[::-1]
            style: dict[str, Any] = {
                "color": shades[index % len(shades)],
                "marker": MARKERS[index % len(MARKERS)],
                "markersize": 4,
                "linewidth": 1.8,
                "linestyle": "-" if index < len(shades) else "--",
            }
        else:
            color, dashes = OTHER_STYLES[index % len(OTHER_STYLES)]
            style = {"color": color, "linestyle": dashes, "linewidth": 1.4}
        axes.plot(rates, values, label=curve.name, **style)
    if right:
        axes.set_xlim(0, 1.1 * right)
    axes.set(
        xlabel="bits per pixel (whole file)",
        ylabel=f"{NAMES.get(results.figure, results.figure)} (%)",
        title=title,
    )
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    save(figure, path)


def point_table(curve: TaskCurve) -> list[tuple[str, ...]]:
    """Heads and rows."""
    figures = list(curve.points[0].figures)
    heads = ("quality", "bpp", *(f"{NAMES.get(name, name)} %" for name in figures))
    return [
        heads,
        *(
            (
                str(point.quality) if curve.kind != "original" else "",
                f"{point.bpp:.4f}" if curve.kind != "original" else "",
                *(f"{100 * point.figures[name]:.2f}" for name in figures),
            )
            for point in curve.points
        ),
    ]


def comparison_rows(results: TaskResults) -> list[tuple[str, ...]]:
    """A row of `COMPARISON_HEADS` for every comparison."""
    return [
        (
            found.test,
            found.anchor,
            _value(found.rate, "+.1f"),
            f"{found.rate.low:.1f}-{found.rate.high:.1f}" if found.rate else "",
            _value(found.accuracy, "+.2f"),
        )
        for found in results.comparisons
    ]


def _value(result: BdResult | None, form: str) -> str:
    return "none" if result is None else format(result.value, form)


def notes(results: TaskResults) -> list[str]:
    """One line per comparison that could not be made, or needs a warning."""
    lines = []
    for found in results.comparisons:
        said = [found.problem] if found.problem else []
        said += found.rate.warnings if found.rate else ()
        if said:
            lines.append(f"{found.test} against {found.anchor}: {'; '.join(said)}")
    return lines
