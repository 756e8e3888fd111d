"""Figures of a profile: time by width, stage by stage; growth of time and memory with pixels.
matplotlib is imported when one is drawn, not before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from icmh_rt.errors import OptionError
from icmh_rt.evaluation.plot import CODEC_COLORS, MARKERS, require, save
from icmh_rt.profiling import stages
from icmh_rt.profiling.growth import FLAT_RANGE

# One hue for what computes, light and dark; gray for what moves data; told apart in gray print too.
_STAGE_COLORS = {
    "g_a": "#08306b",
    "g_s": "#08306b",
    "adapters": "#1b7837",
    "h_a": "#4f9fd0",
    "h_s": "#9ecae1",
    "entropy_coding": "#b35806",
    "entropy_decoding": "#b35806",
    "quantize": "#fdb863",
    "dequantize": "#fdb863",
    "upload": "0.45",
    "download": "0.6",
    "launch": "0.75",
    "read": "0.3",
}
_SMALL = 0.015
"""Stages that are less than this share in every bar are drawn as one, "rest"."""


def _figure(columns: int, height: float = 3.6) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: no global state, no display
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.set_axisbelow(True)
    return figure, list(axes)


def draw_widths(document: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Stacked bars of the stages' medians, a bar a configuration, of the first size.

    Raises:
        OptionError, BackendUnavailableError, IcmhError: as `plot.require` and `plot.save`.
    """
    require(path)
    records = document["configurations"]
    size = records[0]["size"]
    records = [record for record in records if record["size"] == size]
    labels = _labels(records)
    figure, axes = _figure(2, 1.9 + 0.34 * len(records))
    drawn: dict[str, Any] = {}
    for one, operation, order in zip(
        axes, ("encode", "decode"), (stages.ENCODE, stages.DECODE), strict=True
    ):
        left = [0.0] * len(records)
        for name, values in _bars(records, operation, order).items():
            color = _STAGE_COLORS.get(name, "0.9")
            drawn[name] = one.barh(labels, values, left=left, color=color, height=0.7)
            left = [a + b for a, b in zip(left, values, strict=True)]
        for place, (record, end) in enumerate(zip(records, left, strict=True)):
            found = record[operation]
            mark = "~" if found["headline_ms"] is None else ""
            shown = f" {mark}{found['end_to_end']['p50']['value']:.1f}"
            one.text(end, place, shown, va="center", fontsize=9)
        one.invert_yaxis()
        one.set_xlim(0, 1.2 * max(left))
        one.set(xlabel="ms", title=f"{operation}, {size[1]}×{size[0]}")
        one.grid(axis="x", color="0.9", linewidth=0.8)
    names = [name.replace("_", " ") if len(name) > 3 else name for name in drawn]
    figure.legend(
        list(drawn.values()), names, loc="outside lower center", ncols=6, frameon=False, fontsize=8
    )
    axes[0].set_ylabel("configuration" if len(set(labels)) != len(_widths(records)) else "width")
    save(figure, path)


def _bars(
    records: Sequence[Mapping[str, Any]], operation: str, order: Sequence[str]
) -> dict[str, list[float]]:
    """Medians of each stage that is to be seen, in order, and of the rest."""
    seen = [item["stage"] for record in records for item in record[operation]["stages"]]
    bars: dict[str, list[float]] = {}
    for name in stages.ordered(list(dict.fromkeys(seen)), order):
        values = [_median(record, operation, name) for record in records]
        wholes = [record[operation]["stage_sum"]["ms"] for record in records]
        small = all(v < _SMALL * whole for v, whole in zip(values, wholes, strict=True))
        shown = "rest" if small or name not in _STAGE_COLORS else name
        before = bars.pop(shown, [0.0] * len(records))
        bars[shown] = [a + b for a, b in zip(before, values, strict=True)]
    if "rest" in bars:
        bars["rest"] = bars.pop("rest")  # at the end
    return bars


def _median(record: Mapping[str, Any], operation: str, stage: str) -> float:
    for item in record[operation]["stages"]:
        if item["stage"] == stage:
            return float(item["statistics"]["p50"]["value"])
    return 0.0


def _widths(records: Sequence[Mapping[str, Any]]) -> list[float]:
    return list(dict.fromkeys(record["width"] for record in records))


def _labels(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells the configurations apart."""
    parts = []
    for name in ("backend", "device", "task"):
        if len({record[name] for record in records}) > 1:
            parts.append(name)
    return [" ".join([f"{r['width']:g}", *(str(r[name]) for name in parts)]) for r in records]


def draw_growth(document: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Time per pixel, and peak memory per pixel, of encoding over the number of pixels, a line a
    configuration; filled where the figure has settled.

    Raises:
        OptionError: the document is of fewer than three sizes; otherwise as `draw_widths`.
    """
    require(path)
    found = [item for item in document["growth"] if item["operation"] == "encode"]
    quantities = [q for q in ("time", "memory") if any(item["quantity"] == q for item in found)]
    if not quantities:
        raise OptionError("growth takes three sizes or more: give --sizes HxW HxW HxW ...")
    figure, axes = _figure(len(quantities))
    for one, quantity in zip(axes, quantities, strict=True):
        of = [item for item in found if item["quantity"] == quantity]
        for number, (item, label) in enumerate(zip(of, _labels(of), strict=True)):
            color = CODEC_COLORS[-1 - (len(of) - 1 - number) % len(CODEC_COLORS)]
            pixels = [point["pixels"] / 1e6 for point in item["points"]]
            each = [point["per_pixel"] for point in item["points"]]
            one.plot(pixels, each, color=color, linewidth=1.6, label=f"width {label}")
            for x, y, point in zip(pixels, each, item["points"], strict=True):
                fill = color if point["stable"] else "white"
                marker = MARKERS[number % len(MARKERS)]
                one.plot([x], [y], marker, color=color, markerfacecolor=fill, markersize=4.5)
        if quantity == "time":
            low, high = (pixels / 1e6 for pixels in FLAT_RANGE)
            one.axvspan(low, high, color="0.95", zorder=0)
        one.set_xscale("log")
        sizes = {p["pixels"] / 1e6: p["size"] for item in of for p in item["points"]}
        one.set_xticks(list(sizes), [f"{w}×{h}" for h, w in sizes.values()], fontsize=7)
        one.set_xticks([], minor=True)
        one.set_ylim(bottom=0)
        unit = "encode, ns a pixel" if quantity == "time" else "encode, peak bytes a pixel"
        one.set(xlabel="pixels, logarithmic", ylabel=unit)
        one.grid(color="0.9", linewidth=0.8)
        one.legend(frameon=False, fontsize=7)
    save(figure, path)
