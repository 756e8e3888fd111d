"""The page of `icmh profile`, from its document (schema `icmh_rt.profile`, version 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icmh_rt.errors import IcmhError
from icmh_rt.reports import profile_tables
from icmh_rt.reports.chart import Axis, Chart, Point, Series, draw
from icmh_rt.reports.markup import Markup, h
from icmh_rt.reports.page import folded, notes, page, section, tiles
from icmh_rt.reports.palette import style
from icmh_rt.reports.profile_tables import readable

SCHEMA, SCHEMA_VERSION = "icmh_rt.profile", 1
OPERATIONS = ("encode", "decode")
# What mirrors each other in encoding and decoding has one colour.
COLORS = {
    **dict.fromkeys(("read", "parse"), 0),
    **dict.fromkeys(("g_a", "g_s"), 1),
    **dict.fromkeys(("h_a", "dequantize"), 2),
    **{"upload": 3, "quantize": 4, "h_s": 5, "pack": 7, "adapters": 8, "download": 9},
    **dict.fromkeys(("entropy_coding", "entropy_decoding"), 6),
}
LOG_FROM = 20.0
"""The ratio of the highest to the lowest value from which on an axis is logarithmic."""
_MAX_TILES = 6


def profile_page(document: Mapping[str, Any], title: str = "") -> str:
    """One document as a page. title: empty for "Profile of" and the model.

    Raises:
        IcmhError: it is of another schema or version, or lacks a part of it.
    """
    found = (document.get("schema"), document.get("schema_version"))
    if found != (SCHEMA, SCHEMA_VERSION):
        raise IcmhError(
            f"a page of a profile needs schema {SCHEMA!r}, version {SCHEMA_VERSION}; this is "
            f"{found[0]!r}, version {found[1]!r}"
        )
    try:
        return _page(document, title)
    except (AttributeError, KeyError, TypeError) as error:
        raise IcmhError(f"this is not a sound profile document: {error!r}") from error


def _page(document: Mapping[str, Any], title: str) -> str:
    configurations = document["configurations"]
    settings = document.get("settings") or {}
    sections = [
        _remarks(document),
        tiles(_tiles(configurations)),
        section(
            "Times of a call",
            profile_tables.times(configurations),
            note="Wall clock in milliseconds; in brackets the interval that holds the median with "
            "95 % confidence. A time that did not settle is refused, not shown.",
        ),
        _stages(configurations),
        _by_width(configurations),
        _growth(document.get("growth") or []),
        profile_tables.throughput(configurations),
        profile_tables.memory(configurations),
        profile_tables.costs(configurations),
        profile_tables.energy(configurations),
        profile_tables.cold_start(document.get("cold_start") or []),
        profile_tables.machine(document.get("machine") or {}, settings),
    ]
    lead = ", ".join(
        str(part)
        for part in (
            f"{len(configurations)} configuration{'s' if len(configurations) != 1 else ''}",
            f"quality {settings['quality']}" if "quality" in settings else None,
            settings.get("image"),
        )
        if part
    )
    title = title or f"Profile of {settings.get('model', 'a model')}"
    return page(title, f"{lead}.", sections, document.get("provenance") or {})


def _remarks(document: Mapping[str, Any]) -> Markup | None:
    """What was wrong, before any figure."""
    conditions = document.get("conditions") or {}
    problems = [str(line) for line in document.get("problems") or []]
    said = [str(line) for line in conditions.get("notes") or []]
    if conditions.get("throttled") and not any("throttl" in line for line in said):
        said.insert(0, "The machine throttled while it was measured.")
    if conditions.get("quiet") is False and not said:
        said = ["The machine was not quiet while it was measured."]
    if not problems and not said:
        return None
    return h("div", h("div", notes(problems), class_="warn") if problems else None, notes(said))


def _tiles(configurations: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Encoding and decoding of the configurations; of many, the fastest and the slowest."""
    shown = list(configurations)
    if len(shown) * len(OPERATIONS) > _MAX_TILES:
        settled = [c for c in shown if (c.get("encode") or {}).get("headline_ms") is not None]
        settled.sort(key=lambda c: c["encode"]["headline_ms"])
        shown = [settled[0], settled[-1]] if len(settled) > 1 else settled
    found = []
    for configuration in shown:
        for operation in OPERATIONS:
            value = (configuration.get(operation) or {}).get("headline_ms")
            text = "not settled" if value is None else f"{profile_tables.number(value)} ms"
            found.append((text, operation, configuration["name"]))
    return found


# -- stages ----------------------------------------------------------------------------------------


def _stages(configurations: Sequence[Mapping[str, Any]]) -> Markup | None:
    parts: list[Markup] = []
    for operation in OPERATIONS:
        measured = [c for c in configurations if (c.get(operation) or {}).get("stages")]
        if not measured:
            continue
        names = list(dict.fromkeys(s["stage"] for c in measured for s in c[operation]["stages"]))
        styles = {name: style("stage", COLORS.get(name, i)) for i, name in enumerate(names)}
        keys = [h("li", h("i", class_=styles[name]), readable(name)) for name in names]
        bars: list[Markup] = []
        for members in _grouped(measured, lambda c: str(c["size"])).values():
            lengths = [_length(c[operation]) for c in members]
            longest = max(lengths) or 1.0
            bars += [
                _bar(c["name"], c[operation], styles, length / longest)
                for c, length in zip(members, lengths, strict=True)
            ]
        parts += [
            h("h3", operation.capitalize()),
            h("ul", *keys, class_="keys"),
            h("div", *bars, class_="bars"),
            folded(
                f"Stages of {operation} in figures",
                *(profile_tables.stages(c["name"], c[operation]) for c in measured),
            ),
        ]
    if not parts:
        return None
    return section(
        "Where the time goes",
        *parts,
        note="Medians of the stages, added up. Bars of one operation and size have one scale.",
    )


def _length(operation: Mapping[str, Any]) -> float:
    """What the length of a bar stands for, in ms."""
    return float((operation.get("stage_sum") or {}).get("ms") or 0.0)


def _bar(
    name: str, operation: Mapping[str, Any], styles: Mapping[str, str], length: float
) -> Markup:
    """Stages by share; the bar's length of the longest one's (whole where no sum is known)."""
    stages = operation["stages"]
    whole = sum(stage.get("share") or 0.0 for stage in stages) or 1.0
    pieces = []
    for stage in stages:
        share = (stage.get("share") or 0.0) / whole
        median = profile_tables.value_of(stage["statistics"].get("p50"))
        text = f"{readable(stage['stage'])}: {median} ms, {100 * share:.1f} %"
        width = f"width: {100 * share:.3f}%"
        pieces.append(h("span", class_=styles[stage["stage"]], style=width, title=text))
    total = (operation.get("stage_sum") or {}).get("ms")
    said = name if total is None else f"{name} · {profile_tables.number(total)} ms"
    largest = max(stages, key=lambda stage: stage.get("share") or 0.0)
    label = f"{said}; most of it in {readable(largest['stage'])}"
    return h(
        "div",
        h("div", said, class_="bar-name"),
        h(
            "div",
            *pieces,
            class_="bar",
            role="img",
            aria_label=label,
            style=f"width: {100 * (length or 1.0):.2f}%",
        ),
    )


# -- charts ----------------------------------------------------------------------------------------


def _by_width(configurations: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Time over width where there are several widths: a chart for each operation."""
    charts = []
    for operation in OPERATIONS:
        series: list[Series] = []
        for name, members in _grouped(configurations, _without_width).items():
            found = (_median_point(c, operation) for c in members)
            points = [point for point in found if point is not None]
            if len({point.x for point in points}) > 1:
                series.append(_series(name, points, len(series)))
        if series:
            widths = sorted({point.x for one in series for point in one.points})
            x = Axis("width", ticks=tuple((width, f"{width:g}") for width in widths))
            title = f"Median time to {operation}"
            charts.append(draw(Chart(title, x, _reach("ms", series), tuple(series))))
    return section("Time by width", *charts) if charts else None


def _reach(label: str, series: Sequence[Series]) -> Axis:
    """From zero to a little above the highest point; logarithmic where lines lie far apart."""
    values = [p.y for one in series for p in one.points]
    highest = max(p.high or p.y for one in series for p in one.points)
    if min(values) > 0 and max(values) > LOG_FROM * min(values):
        return Axis(label, log=True)
    return Axis(label, 0.0, 1.08 * highest or 1.0)


def _without_width(configuration: Mapping[str, Any]) -> str:
    height, width = configuration["size"]
    parts = (configuration["backend"], configuration["device"], f"{height}x{width}")
    return " ".join([*map(str, parts), str(configuration["task"])])


def _median_point(configuration: Mapping[str, Any], operation: str) -> Point | None:
    found = configuration.get(operation) or {}
    median = (found.get("end_to_end") or {}).get("p50") or {}
    value = median.get("value")
    if value is None:
        return None
    text = f"{operation} · {configuration['name']} · {profile_tables.interval(median)} ms"
    if not found.get("stable", True):
        text += " · did not settle"
    return Point(
        float(configuration["width"]), float(value), text, median.get("low"), median.get("high")
    )


def _growth(found: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Time and memory per pixel over the number of pixels."""
    if not found:
        return None
    charts = []
    for quantity, unit in (("time", "ns per pixel"), ("memory", "bytes per pixel")):
        members = [growth for growth in found if growth["quantity"] == quantity]
        series = []
        for index, growth in enumerate(members):
            name = _growth_name(growth)
            points = [
                Point(
                    float(point["pixels"]),
                    float(point["per_pixel"]),
                    f"{name} · {point['size'][0]}x{point['size'][1]} · "
                    f"{profile_tables.number(point['per_pixel'])} {unit}",
                )
                for point in growth["points"]
                if point.get("per_pixel") is not None
            ]
            series.append(_series(name, points, index))
        sizes = {
            point["pixels"]: f"{point['size'][0]}x{point['size'][1]}"
            for growth in members
            for point in growth["points"]
        }
        if any(one.points for one in series):
            x = Axis("pixels", log=True, ticks=_spread(sorted(sizes.items())))
            title = f"{quantity.capitalize()} per pixel"
            charts.append(draw(Chart(title, x, _reach(unit, series), tuple(series))))
    return section(
        "Growth with the size of the picture",
        *charts,
        profile_tables.growth(found, _growth_name),
        note="A flat line is time or memory in proportion to the pixels. Fixed part and part per "
        "pixel are fitted to all sizes.",
    )


def _growth_name(growth: Mapping[str, Any]) -> str:
    parts = (growth["operation"], growth["backend"], growth["device"])
    return " ".join([*map(str, parts), f"width {growth['width']:g}", str(growth["task"])])


def _spread(ticks: Sequence[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """Those ticks of a logarithmic axis that have room for their text: four at most."""
    if len(ticks) <= 4:
        return tuple(ticks)
    steps = [math.floor(i * (len(ticks) - 1) / 3 + 0.5) for i in range(4)]
    return tuple(ticks[i] for i in steps)


def _series(name: str, points: Sequence[Point], index: int) -> Series:
    return Series(name, style("stage", index), tuple(points), index // 10, index)


def _grouped(
    items: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], str]
) -> dict[str, list[Mapping[str, Any]]]:
    """Items by key, in the order in which they come."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
