"""Line charts as SVG, drawn here: no library, and nothing to do for the browser but show them.

A chart is drawn twice, wide and narrow, and the style sheet shows the one that fits, so that text
has its size on a telephone too. Every point carries its text for the script that shows it under the
pointer; without the script it is the point's title.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from icmh_rt.reports.markup import Markup, h

SIZES = {"wide": (880, 430), "narrow": (350, 310)}
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 44
DASHES = (None, "7 4", "2 3", "9 3 2 3")
MARKERS = ("circle", "square", "triangle", "diamond")
_RADIUS = 3.5


@dataclass(frozen=True)
class Point:
    """x, y: where · text: what it says · low, high: an interval around y, or None."""

    x: float
    y: float
    text: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """One line. style: a class of `palette.style` · dash, marker: numbers, taken cyclically."""

    name: str
    style: str
    points: tuple[Point, ...]
    dash: int = 0
    marker: int = 0

    def drawn(self) -> list[Point]:
        """Points that have a place, by x."""
        found = [p for p in self.points if math.isfinite(p.x) and math.isfinite(p.y)]
        return sorted(found, key=lambda p: p.x)


@dataclass(frozen=True)
class Axis:
    """low, high: the range, None for that of the points · ticks: (value, text), None for round
    numbers.
    """

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    ticks: tuple[tuple[float, str], ...] | None = None


@dataclass(frozen=True)
class Chart:
    """Lines in a frame. lines: (y, name) drawn from side to side."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    lines: tuple[tuple[float, str], ...] = field(default=())


def draw(chart: Chart) -> Markup:
    """The chart with its legend; a sentence where there is no point to draw."""
    series = [one for one in chart.series if one.drawn()]
    if not series:
        return h("p", f"{chart.title}: no figures to draw.", class_="note")
    pictures = [
        h("div", _svg(chart, series, *size), class_=f"chart-{name}") for name, size in SIZES.items()
    ]
    keys = [
        h(
            "button",
            h("svg", _swatch(one), width=34, height=12, aria_hidden="true"),
            one.name,
            type="button",
            class_=one.style,
            aria_pressed="true",
            data_series=index,
        )
        for index, one in enumerate(series)
    ]
    return h(
        "figure",
        h("figcaption", chart.title),
        h("div", *keys, class_="legend", role="group", aria_label="Lines that are shown"),
        *pictures,
        h("div", class_="tip", role="status", hidden=True),
        class_="chart",
    )


@dataclass(frozen=True)
class _Scale:
    """Values to pixels."""

    low: float
    high: float
    start: float
    stop: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = (math.log(max(v, 1e-300)) for v in (low, high, value))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)


def _svg(chart: Chart, series: Sequence[Series], width: int, height: int) -> Markup:
    shown = [p for one in series for p in one.drawn()]
    x = _scale(chart.x, [p.x for p in shown], _LEFT, width - _RIGHT)
    inside = [p for p in shown if x.low <= p.x <= x.high] or shown
    values = [v for p in inside for v in (p.y, p.low, p.high) if v is not None]
    y = _scale(chart.y, values + [v for v, _ in chart.lines], height - _BOTTOM, _TOP)
    key = f"clip-{zlib.crc32(chart.title.encode()):08x}-{width}"
    parts: list[Markup] = [
        h(
            "clipPath",
            h("rect", x=_LEFT - 6, y=0, width=width - _LEFT, height=height - _BOTTOM + 6),
            id=key,
        )
    ]
    parts += _grid(chart, x, y, width, height)
    for value, name in chart.lines:
        at = _n(y(value))
        parts.append(h("line", x1=_LEFT, x2=width - _RIGHT, y1=at, y2=at, class_="level"))
        parts.append(h("text", name, x=_LEFT + 6, y=_n(y(value) - 5), class_="small"))
    groups = [
        h("g", *_line(one, x, y), class_=f"series {one.style}", data_series=index)
        for index, one in enumerate(series)
    ]
    parts.append(h("g", *groups, clip_path=f"url(#{key})"))
    parts.append(h("circle", class_="cursor", r=_RADIUS + 3, hidden=True))
    return h(
        "svg",
        *parts,
        viewBox=f"0 0 {width} {height}",
        role="img",
        tabindex="0",
        aria_label=f"{chart.title}: {chart.y.label} against {chart.x.label}. Arrow keys go from "
        "point to point.",
    )


def _scale(axis: Axis, values: Sequence[float], start: float, stop: float) -> _Scale:
    values = [v for v in values if v > 0] or [1.0] if axis.log else values
    low = min(values) if axis.low is None else axis.low
    high = max(values) if axis.high is None else axis.high
    if axis.log:
        low, high = (low / 1.15, high * 1.15) if high > low else (low / 2, low * 2)
    elif not high > low:
        low, high = low - 1, low + 1
    elif axis.low is None:
        low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    return _Scale(low, high, start, stop, axis.log)


def _grid(chart: Chart, x: _Scale, y: _Scale, width: int, height: int) -> list[Markup]:
    """Lines and numbers of both axes, and what the axes are."""
    parts = []
    bottom = height - _BOTTOM
    for value, text in _ticks(chart.x, x, 5 if width < 500 else 9):
        column = _n(x(value))
        parts.append(h("line", x1=column, x2=column, y1=_TOP, y2=bottom, class_="grid"))
        parts.append(h("text", text, x=column, y=bottom + 16, text_anchor="middle"))
    for value, text in _ticks(chart.y, y, 7):
        at = y(value)
        parts.append(h("line", x1=_LEFT, x2=width - _RIGHT, y1=_n(at), y2=_n(at), class_="grid"))
        parts.append(h("text", text, x=_LEFT - 6, y=_n(at + 4), text_anchor="end"))
    middle = (_LEFT + width - _RIGHT) / 2
    parts.append(h("text", chart.x.label, x=middle, y=height - 8, text_anchor="middle"))
    turned = f"translate(13 {(_TOP + bottom) / 2}) rotate(-90)"
    parts.append(h("text", chart.y.label, transform=turned, text_anchor="middle"))
    return parts


def _ticks(axis: Axis, scale: _Scale, count: int) -> list[tuple[float, str]]:
    if axis.ticks is not None:
        return [tick for tick in axis.ticks if scale.low <= tick[0] <= scale.high]
    if axis.log:
        found = log_ticks(scale.low, scale.high)
        if len(found) >= 2:
            return [(value, f"{value:g}") for value in found]
    return linear_ticks(scale.low, scale.high, count)


def linear_ticks(low: float, high: float, count: int) -> list[tuple[float, str]]:
    """Round numbers within a range, about as many."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, f"{i * step:.{digits}f}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or powers alone where these are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    return [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]


def _line(one: Series, x: _Scale, y: _Scale) -> list[Markup]:
    points = one.drawn()
    path = "M" + " L".join(f"{_n(x(p.x))} {_n(y(p.y))}" for p in points)
    dash = DASHES[one.dash % len(DASHES)]
    parts = [h("path", d=path, class_="line", stroke_dasharray=dash)]
    for p in points:
        if p.low is not None and p.high is not None:
            ends = f"M{_n(x(p.x))} {_n(y(p.low))} V{_n(y(p.high))}"
            parts.append(h("path", d=ends, class_="interval"))
    for p in points:
        if x.low <= p.x <= x.high:
            place = (x(p.x), y(p.y))
            parts.append(
                h(
                    "path",
                    h("title", p.text),
                    d=_marker(one.marker, *place),
                    class_="point",
                    data_x=_n(place[0]),
                    data_y=_n(place[1]),
                )
            )
    return parts


def _swatch(one: Series) -> list[Markup]:
    dash = DASHES[one.dash % len(DASHES)]
    line = h("path", d="M0 6 H34", class_="line", stroke_dasharray=dash)
    return [line, h("path", d=_marker(one.marker, 17, 6), class_="point")]


def _marker(kind: int, x: float, y: float) -> str:
    """The outline of a marker around (x, y)."""
    r = _RADIUS
    name = MARKERS[kind % len(MARKERS)]
    if name == "circle":
        return f"M{_n(x - r)} {_n(y)} a{r} {r} 0 1 0 {2 * r} 0 a{r} {r} 0 1 0 {-2 * r} 0 Z"
    if name == "square":
        return f"M{_n(x - r)} {_n(y - r)} h{2 * r} v{2 * r} h{-2 * r} Z"
    if name == "triangle":
        return f"M{_n(x)} {_n(y - r - 1)} l{r + 1} {2 * r} h{-2 * r - 2} Z"
    return f"M{_n(x)} {_n(y - r - 1)} l{r + 1} {r + 1} l{-r - 1} {r + 1} l{-r - 1} {-r - 1} Z"


def _n(value: float) -> str:
    """A coordinate, short; what lies far outside stays a number that browsers take."""
    return f"{max(-1e5, min(1e5, value)):.1f}".removesuffix(".0")
