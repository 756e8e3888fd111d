"""What benchmarks/rans.py measured as tables and as a verdict on its bars."""

from __future__ import annotations

import statistics
from importlib import metadata

from rans_contestants import API, ARRAYS_API, CORE
from timing import Interval, ratio_interval

DIRECTIONS = ("encode", "decode")
SPEED_BARS = {"encode": (20.0, 40.0), "decode": (25.0, 40.0)}
SCALAR_BAR = 10.0
THREADS_BAR = 1.7
SIZE_BAR, SIZE_AIM = 1.002, 1.0005
_PACKAGES = ("compressai", "constriction", "torch-ans", "pybind11")


def package_versions() -> dict[str, str | None]:
    """Versions of what is compared with; None: not installed."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def bars(document: dict) -> list[dict]:
    """Every bar with what was measured: kind, what, value, interval, bar, aim, met.

    Speeds are those of the quickest icmh_rt row of the plane and direction. They are judged twice:
    by CompressAI's bare C++ loops, compiled here, and by its coder as it can be called, with lists
    that are ready. Without a bar (the gain over its use with arrays) met is None.
    """
    made = []
    for run in document["runs"]:
        if run["kind"] == "threads":
            single, double = run["rows"]
            for direction in DIRECTIONS:
                ratio = ratio_interval(single[f"{direction}_s"], double[f"{direction}_s"])
                what = f"{direction}, two threads over one, {single['symbols']} symbols"
                made.append(_bar("threads", what, ratio, THREADS_BAR, None))
            continue
        judged = run["kind"] == "all" or run["level"] == "scalar"
        for plane in _planes(run) if judged else ():
            rows = {row["name"]: row for row in run["rows"] if row["plane"] == plane}
            own = [row for name, row in rows.items() if name.startswith("icmh_rt, ")]
            for direction in DIRECTIONS:
                key = f"{direction}_s"
                best = min(own, key=lambda row: statistics.median(row[key]))
                level = "" if run["kind"] == "all" else f" at level {run['level']}"
                what = f"{direction} {plane}{level}, {best['name']} over "
                if CORE in rows:
                    ratio = ratio_interval(rows[CORE][key], best[key])
                    scalar = run["level"] == "scalar"
                    bar, aim = (SCALAR_BAR, None) if scalar else SPEED_BARS[direction]
                    made.append(_bar("speed", what + CORE, ratio, bar, aim))
                for other in (API, ARRAYS_API):
                    if run["kind"] == "all" and other in rows:
                        ratio = ratio_interval(rows[other][key], best[key])
                        bar, aim = SPEED_BARS[direction] if other == API else (None, None)
                        made.append(_bar("speed" if bar else "gain", what + other, ratio, bar, aim))
    for (plane, symbols), rows in _grouped(document["sizes"]).items():
        worst = max(8 * row["bytes"] / row["ideal_bits"] for row in rows)
        what = f"bytes of {plane}, {symbols} symbols, worst of {len(rows)}"
        made.append(
            {
                "kind": "size",
                "what": what,
                "value": worst,
                "interval": None,
                "bar": SIZE_BAR,
                "aim": SIZE_AIM,
                "met": worst <= SIZE_BAR,
            }
        )
    return made


def text(document: dict) -> str:
    """For a terminal."""
    parts = []
    for title, header, rows in _tables(document):
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        lines = [title]
        for row in [header, *rows]:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join(cells).rstrip())
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, *_notes(document)])


def markdown(document: dict) -> str:
    """The page docs/results/rans.md."""
    origin = document["provenance"]
    machine = origin["machine"]
    versions = origin["versions"] | {k: v for k, v in document["packages"].items() if v}
    lines = [
        "# The entropy coder's speed and size",
        "",
        f"Made by `{origin['command']}` on {origin['created'][:10]}; not edited by hand.",
        "",
        f"{machine['cpu']}, {machine['system']} {machine['architecture']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".",
        "",
        "Single-thread rows ran on one core of one process. M/s: million symbols a second, median "
        f"of {document['rounds']} rounds (best), by CPU time. × core: speed over CompressAI's C++ "
        "core in the same rounds, with the 95 % interval. × copy: time over that of a memory copy "
        "of the same symbols and indexes. × ideal: bytes over the cross-entropy under the true "
        "model.",
    ]
    for title, header, rows in _tables(document):
        lines += ["", f"## {title}", ""]
        lines += [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    for note in _notes(document):
        lines += ["", note]
    return "\n".join(lines) + "\n"


Table = tuple[str, list[str], list[list[str]]]


def _tables(document: dict) -> list[Table]:
    made = [_bar_table(document)]
    facts = {plane["name"]: plane for plane in document["planes"]}
    for run in document["runs"]:
        if run["kind"] == "all":
            made += [_plane_table(run, facts[plane]) for plane in _planes(run)]
    levels = _level_table(document)
    if levels[2]:
        made.append(levels)
    made.append(_size_table(document))
    if any(plane["is_real"] for plane in facts.values()):
        made.append(_latent_table(document))
    return made


def _bar_table(document: dict) -> Table:
    rows = []
    for bar in document["bars"]:
        digits = 4 if bar["kind"] == "size" else 2
        value = f"{bar['value']:.{digits}f}"
        if bar["interval"]:
            value += f" [{bar['interval'][0]:.{digits}f}, {bar['interval'][1]:.{digits}f}]"
        aim = "" if bar["aim"] is None else f"{bar['aim']:g}"
        limit = "" if bar["bar"] is None else f"{bar['bar']:g}"
        rows.append(
            [bar["what"], value, limit, aim, {True: "yes", False: "NO"}.get(bar["met"], "")]
        )
    return "Bars", ["what", "measured", "bar", "aim", "met"], rows


def _plane_table(run: dict, facts: dict) -> Table:
    header = ["coder", "encode M/s", "decode M/s", "bytes", "× ideal", "encode × core"]
    header += ["decode × core", "encode × copy", "decode × copy"]
    title = (
        f"{facts['name']}: {facts['symbols']} symbols, {facts['bits_per_symbol']:.3f} bits each, "
        f"own tables of {facts['precision']} bits, level {run['level']}"
    )
    rows = []
    by_name = {row["name"]: row for row in run["rows"] if row["plane"] == facts["name"]}
    for row in by_name.values():
        name = row["name"]
        if row["moved_bytes"] is not None:
            name += f" ({row['moved_bytes'] / 1e9 / statistics.median(row['encode_s']):.1f} GB/s)"
        cells = [name, *(_speed(row, direction) for direction in DIRECTIONS)]
        if row["bytes"] is None:
            cells += ["", ""]
        else:
            cells += [str(row["bytes"]), f"{8 * row['bytes'] / facts['ideal_bits']:.5f}"]
        cells += [_against(by_name.get(CORE), row, direction) for direction in DIRECTIONS]
        copy = by_name.get(row["copy"])
        cells += [_against(row, copy, direction) for direction in DIRECTIONS]
        rows.append(cells)
    rows += [[f"{name}: {why}"] + [""] * (len(header) - 1) for name, why in run["missing"].items()]
    return title, header, rows


def _level_table(document: dict) -> Table:
    rows = []
    for run in document["runs"]:
        if run["kind"] == "threads":
            continue
        for plane in _planes(run):
            by_name = {row["name"]: row for row in run["rows"] if row["plane"] == plane}
            for name, row in by_name.items():
                if run["kind"] == "level" and name.startswith(("icmh_rt", CORE)):
                    cells = [f"{run['level']}, {plane}, {name}"]
                    cells += [_speed(row, direction) for direction in DIRECTIONS]
                    core = by_name.get(CORE)
                    cells += [_against(core, row, direction) for direction in DIRECTIONS]
                    rows.append(cells)
    header = ["level, plane, coder", "encode M/s", "decode M/s", "encode × core", "decode × core"]
    return "Instruction sets", header, rows


def _size_table(document: dict) -> Table:
    rows = []
    for (plane, symbols), group in _grouped(document["sizes"]).items():
        ideal = sum(row["ideal_bits"] for row in group)
        table = sum(row["table_bits"] for row in group)
        coded = sum(8 * row["bytes"] for row in group)
        worst = max(8 * row["bytes"] / row["ideal_bits"] for row in group)
        rows.append(
            [f"{plane}, {symbols} symbols, {len(group)} planes"]
            + [f"{100 * excess / ideal:.4f}" for excess in (table - ideal, coded - table)]
            + [f"{100 * (coded / ideal - 1):.4f}", f"{100 * (worst - 1):.4f}"]
        )
    title = (
        f"Size over the true model's cross-entropy, in percent: tables of {document['precision']} "
        f"bits, escape below {document['tail_mass']:g}"
    )
    return title, ["plane", "tables", "coder", "in all", "worst plane"], rows


def _latent_table(document: dict) -> Table:
    rows = []
    for facts in document["planes"]:
        if facts["is_real"]:
            row = next(r for r in document["runs"][0]["rows"] if r["plane"] == facts["name"])
            coded = 8 * row["bytes"]
            rows.append(
                [
                    facts["name"],
                    str(row["bytes"]),
                    f"{coded / facts['table_bits']:.5f}",
                    f"{coded / facts['ideal_bits']:.5f}",
                ]
            )
    header = ["plane", "bytes", "over the bundle's tables", "over the trained Gaussians"]
    return "Latents: what made the symbols is unknown, so two yardsticks", header, rows


def _notes(document: dict) -> list[str]:
    waited = max(run["wall_over_cpu"] for run in document["runs"])
    notes = [
        f"By the wall clock the calls of the busiest process took {waited:.2f} times their own "
        "time: the more above 1, the busier the machine was."
    ]
    core = document["compressai_core"]
    if core["reason"]:
        return [*notes, f"CompressAI's core was not measured: {core['reason']}."]
    return [
        *notes,
        f"CompressAI's core: {core['made_of']}. Its streams equal those of compressai.ans where "
        "that is installed. *wide*: with the support that CompressAI's own tables have (tail mass "
        "1e-9), otherwise that of ours; always 16 bits.",
    ]


def _planes(run: dict) -> list[str]:
    return list(dict.fromkeys(row["plane"] for row in run["rows"]))


def _grouped(sizes: list[dict]) -> dict[tuple[str, int], list[dict]]:
    groups: dict[tuple[str, int], list[dict]] = {}
    for row in sizes:
        groups.setdefault((row["plane"], row["symbols"]), []).append(row)
    return groups


def _speed(row: dict, direction: str) -> str:
    seconds = row[f"{direction}_s"]
    rate = row["symbols"] / 1e6
    return f"{rate / statistics.median(seconds):.1f} ({rate / min(seconds):.1f})"


def _against(slow: dict | None, quick: dict | None, direction: str) -> str:
    if slow is None or quick is None:
        return ""
    ratio = ratio_interval(slow[f"{direction}_s"], quick[f"{direction}_s"], draws=400)
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _bar(kind: str, what: str, ratio: Interval, bar: float | None, aim: float | None) -> dict:
    return {
        "kind": kind,
        "what": what,
        "value": ratio.value,
        "interval": [ratio.low, ratio.high],
        "bar": bar,
        "aim": aim,
        "met": None if bar is None else ratio.value >= bar,
    }
