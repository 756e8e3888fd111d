"""What benchmarks/sfma.py measured as tables and as a verdict on its bars."""

from __future__ import annotations

from typing import Any

from timing import median_interval, ratio_interval

OURS = "icmh_rt"


def bars_of(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every bar with what was measured: what, value, interval, bar, aim, met."""
    made = []
    for case in cases:
        rows = {row["name"]: row for row in case["rows"]}
        for other, (bar, aim) in case["speed_bars"].items():
            if other not in rows:
                what = f"{case['name']}: over {other}, which cannot run"
                made.append(_bar(what, None, None, bar, aim, False))
                continue
            ratio = ratio_interval(rows[other]["times_s"], rows[OURS]["times_s"])
            what = f"{case['name']}: times faster than {other}"
            interval = [ratio.low, ratio.high]
            made.append(_bar(what, ratio.value, interval, bar, aim, ratio.value >= bar))
        if "error_bar" in case:
            for name, row in rows.items():
                if name.startswith(OURS):
                    what = f"{case['name']}: relative L2 error of {name}"
                    met = row["error"] <= case["error_bar"]
                    made.append(_bar(what, row["error"], None, case["error_bar"], None, met))
    return made


def _bar(
    what: str,
    value: float | None,
    interval: list[float] | None,
    bar: float,
    aim: float | None,
    met: bool,
) -> dict[str, Any]:
    return {
        "what": what,
        "value": value,
        "interval": interval,
        "bar": bar,
        "aim": aim,
        "met": met,
    }


def markdown_of(document: dict[str, Any]) -> str:
    """The tables and the verdict."""
    source = document["provenance"]
    lines = [
        "# SFMA",
        "",
        f"`{source['command']}`, {source['created']}, torch {source['versions'].get('torch')}, "
        f"{source['machine']['cpu']}"
        + ("" if document["device"] == "cpu" else f", {document['device']}")
        + f"; {document['threads']} threads, {document['rounds']} rounds. Medians with 95 % "
        "bootstrap intervals.",
    ]
    if document["allocator"]:
        settings = ", ".join(f"{k}={v}" for k, v in document["allocator"].items())
        lines += ["", f"NOT the allocator's defaults: {settings}"]
    load, cores = document["load_before"], source["machine"]["cores"]
    if load > 0.5 * cores:
        lines += ["", f"The machine was NOT idle: load average {load:.1f} on {cores} cores."]
    for case in document["cases"]:
        lines += ["", *(_adapter(case) if case["kind"] == "adapter" else _encode(case))]
    lines += ["", "| bar | measured | bar | aim | |", "|---|---|---|---|---|"]
    for bar in document["bars"]:
        lines.append(
            f"| {bar['what']} | {_measured(bar)} | {bar['bar']:g} | "
            f"{'' if bar['aim'] is None else format(bar['aim'], 'g')} | "
            f"{'met' if bar['met'] else '**MISSED**'} |"
        )
    return "\n".join(lines) + "\n"


def _measured(bar: dict[str, Any]) -> str:
    if bar["value"] is None:
        return "nothing"
    if bar["interval"] is None:
        return f"{bar['value']:.1e}"
    low, high = bar["interval"]
    return f"{bar['value']:.2f} [{low:.2f}, {high:.2f}]"


def _adapter(case: dict[str, Any]) -> list[str]:
    copy = median_interval(case["copy_s"]).value
    lines = [
        f"## {case['name']}",
        "",
        f"Floor: {case['bytes'] / 1e6:.1f} MB, x read and the result written, take "
        f"{1e3 * copy:.2f} ms as a copy ({case['bytes'] / copy / 1e9:.1f} GB/s).",
        "",
        f"| | ms | times faster than {case['judge']} | GB/s | of the floor | error | "
        "error of the change |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, times in _times(case):
        median = median_interval(row["times_s"]).value
        lines.append(
            f"{times} {case['bytes'] / median / 1e9:.1f} | {copy / median:.0%} | "
            f"{row['error']:.1e} | {row['change_error']:.1e} |"
        )
    return [*lines, *_missing(case)]


def _encode(case: dict[str, Any]) -> list[str]:
    lines = [
        f"## {case['name']}",
        "",
        f"| | ms | times faster than {case['judge']} | stream, bytes |",
        "|---|---|---|---|",
    ]
    lines += [f"{times} {row['bytes']} |" for row, times in _times(case)]
    return [*lines, *_missing(case)]


def _times(case: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Every row, and the start of its line: name, median, and how many times faster it is."""
    judge = next(row["times_s"] for row in case["rows"] if row["name"] == case["judge"])
    found = []
    for row in case["rows"]:
        ratio = ratio_interval(judge, row["times_s"])
        found.append(
            (
                row,
                f"| {row['name']} | {_milliseconds(median_interval(row['times_s']))} | "
                f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] |",
            )
        )
    return found


def _milliseconds(value: Any) -> str:
    return f"{1e3 * value.value:.2f} [{1e3 * value.low:.2f}, {1e3 * value.high:.2f}]"


def _missing(case: dict[str, Any]) -> list[str]:
    """Why contestants are not in the table."""
    if not case["missing"]:
        return []
    return ["", *(f"- {name}: {reason}" for name, reason in case["missing"].items())]
