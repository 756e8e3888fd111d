"""A profile, and a comparison of two, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from icmh_rt.evaluation.report import align
from icmh_rt.profiling import stages
from icmh_rt.profiling.schema import HOW

_MIB = 1 << 20


def table(document: Mapping[str, Any]) -> str:
    """All of it."""
    return "\n\n".join(_blocks(document)) + "\n"


def _blocks(document: Mapping[str, Any]) -> Iterator[str]:
    yield _head(document)
    records = document["configurations"]
    for operation in ("encode", "decode"):
        yield f"{operation}, ms\n{align(_latency(records, operation))}"
        yield f"{operation}, stages: median ms\n{align(_stage_rows(records, operation))}"
    for title, rows in (
        ("throughput, images a second", _throughput(records)),
        ("memory, MiB", _memory(records)),
        ("work by width and task", _costs(records)),
        ("power, and energy of an image", _energy(records)),
        ("cold start, ms", _cold(document["cold_start"])),
        ("growth with pixels", _growth(document["growth"])),
    ):
        if len(rows) > 1:
            yield f"{title}\n{align(rows)}"
    lines = [f"- {line}" for line in (*document["conditions"]["notes"], *document["problems"])]
    yield "\n".join(["To note:", *lines]) if lines else "All figures have settled."


def _head(document: Mapping[str, Any]) -> str:
    origin, settings = document["provenance"], document["settings"]
    here, known = origin["machine"], document["machine"]
    lines = [
        f"{here['cpu']}, {known['cpu']['allowed']} of {here['cores']} CPUs; threads "
        + ", ".join(f"{name} {count}" for name, count in known["threads"].items() if count)
    ]
    lines += [
        ", ".join(
            part
            for part in (
                gpu["name"],
                f"driver {gpu['driver']}" if gpu["driver"] else "",
                f"{gpu['power_limit_w']:.0f} W" if gpu["power_limit_w"] else "",
            )
            if part
        )
        for gpu in known["gpus"]
    ]
    if known["jetson"]:
        lines.append(f"{known['jetson']['model']}, power mode {known['jetson']['power_mode']}")
    lines.append(", ".join(f"{name} {version}" for name, version in origin["versions"].items()))
    lines.append(
        f"bundle {settings['model']} ({settings['fingerprint']}), quality {settings['quality']}, "
        f"{settings['image']} as {settings['input']}"
    )
    lines.append(
        'Medians with their 95 % intervals; "~": has not settled, or the machine was busy or '
        "slowed: no headline figure."
    )
    return "\n".join(lines)


def _where(record: Mapping[str, Any]) -> list[str]:
    size = "x".join(map(str, record["size"]))
    return [f"{record['backend']} {record['device']}", size, f"{record['width']:g}", record["task"]]


_WHERE = ["backend", "size", "width", "task"]


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _interval(found: Mapping[str, Any]) -> str:
    return f"[{_ms(found['low'])}, {_ms(found['high'])}]"


def _latency(records: Sequence[Mapping[str, Any]], operation: str) -> list[list[str]]:
    rows = [[*_WHERE, "p50", "95 %", "p90", "p99", "ns/pixel", "bpp", "calls"]]
    for record in records:
        found = record[operation]
        times = found["end_to_end"]
        mark = "~" if found["headline_ms"] is None else ""
        rows.append(
            [
                *_where(record),
                mark + _ms(times["p50"]["value"]),
                _interval(times["p50"]),
                _ms(times["p90"]["value"]),
                _ms(times["p99"]["value"]),
                f"{found['ns_per_pixel']:.1f}",
                f"{record['bits_per_pixel']:.3f}",
                str(times["calls"]),
            ]
        )
    return rows


def _stage_rows(records: Sequence[Mapping[str, Any]], operation: str) -> list[list[str]]:
    seen = [item["stage"] for record in records for item in record[operation]["stages"]]
    order = stages.ENCODE if operation == "encode" else stages.DECODE
    names = stages.ordered(list(dict.fromkeys(seen)), order)
    rows = [[*_WHERE, *names, "sum", "of whole", "instruments"]]
    for record in records:
        found = record[operation]
        times = {item["stage"]: item for item in found["stages"]}
        cells = []
        for name in names:
            if name not in times:
                cells.append("-")
                continue
            item = times[name]
            marks = "*" if item["by"] in (HOW[3], HOW[4]) else ""
            marks += "+" if len(item["covers"]) > 1 else ""
            cells.append(_ms(item["statistics"]["p50"]["value"]) + marks)
        whole = found["stage_sum"]
        rows.append(
            [
                *_where(record),
                *cells,
                _ms(whole["ms"]),
                f"{whole['ratio']['value']:.1%}" + ("" if whole["within_bar"] else " OFF"),
                f"{found['overhead']['value'] - 1.0:+.1%}",
            ]
        )
    if any("*" in cell for row in rows[1:] for cell in row):
        rows[0][0] += " (*: by difference or share)"
    if any("+" in cell[-1:] for row in rows[1:] for cell in row[4:-3]):
        rows[0][0] += " (+: with the copies or transforms beside it)"
    return rows


def _throughput(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [[*_WHERE, "images", "workers", "pipelined", "plain loop", "times", "95 %"]]
    for record in records:
        for found in record["throughput"]:
            rows.append(
                [
                    *_where(record),
                    str(found["images"]),
                    str(found["workers"]),
                    ("" if found["stable"] else "~") + f"{found['images_per_s']['value']:.2f}",
                    f"{found['loop_images_per_s']['value']:.2f}",
                    f"{found['speedup']['value']:.2f}",
                    _interval(found["speedup"]),
                ]
            )
    return rows


def _memory(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [[*_WHERE, "before", "encode peak", "decode peak", "encode GPU", "decode GPU"]]
    for record in records:
        found = record["memory"]
        if found is None:
            continue
        values = (
            found["host_base_bytes"],
            found["encode_host_peak_bytes"],
            found["decode_host_peak_bytes"],
            found["encode_device_peak_bytes"],
            found["decode_device_peak_bytes"],
        )
        cells = ["-" if value is None else f"{value / _MIB:.0f}" for value in values]
        rows.append([*_where(record), *cells])
    return rows


def _costs(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """One row a width and task: they do not depend on the size."""
    rows = [["width", "task", "", "parameters", "kMAC/pixel", "bytes/pixel"]]
    seen = set()
    for record in records:
        found, key = record["costs"], (record["width"], record["task"])
        if found is None or key in seen:
            continue
        seen.add(key)
        for operation in ("encode", "decode"):
            rows.append(
                [
                    f"{record['width']:g}",
                    record["task"],
                    operation,
                    f"{found[f'{operation}_parameters']:,}",
                    f"{found[f'{operation}_macs_per_pixel'] / 1e3:.2f}",
                    f"{found[f'{operation}_bytes_per_pixel']:.0f}",
                ]
            )
    return rows


def _energy(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    names = ("encode_w", "encode_mj_per_image", "decode_w", "decode_mj_per_image")
    rows = [[*_WHERE, "source", "idle W", "encode W", "encode mJ", "decode W", "decode mJ"]]
    for record in records:
        found = record["energy"]
        if found is not None:
            cells = ["-" if found[name] is None else f"{found[name]:.1f}" for name in names]
            rows.append([*_where(record), found["source"], f"{found['idle_w']:.1f}", *cells])
    return rows


def _cold(starts: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    steps = ("process", "import", "load", "first_encode", "second_encode", "total")
    rows = [[*_WHERE, *(step.replace("_", " ") for step in steps)]]
    for found in starts:
        rows.append([*_where(found), *(_ms(found[f"{step}_ms"]["value"]) for step in steps)])
    return rows


def _growth(growths: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["backend", "width", "task", "", "", "fixed", "per pixel", "~ pixels^", "varies"]]
    for found in growths:
        time = found["quantity"] == "time"
        fixed = _ms(found["fixed"]) + " ms" if time else f"{found['fixed'] / _MIB:.1f} MiB"
        each = f"{found['per_pixel']:.1f} {'ns' if time else 'bytes'}"
        flat = "-" if found["flat"] is None else f"{found['flat']:.0%}"
        rows.append(
            [
                f"{found['backend']} {found['device']}",
                f"{found['width']:g}",
                found["task"],
                found["operation"],
                found["quantity"],
                fixed,
                each,
                f"{found['exponent']:.3f}",
                flat + (" OFF" if found["flat_within_bar"] is False else ""),
            ]
        )
    return rows


def comparison(found: Mapping[str, Any]) -> str:
    """The rows of `compare.compare`; of what got slower also the stages that did."""
    rows = [["configuration", "", "before ms", "after ms", "ratio", "95 %", "noise", "verdict"]]
    more = []
    for row in found["rows"]:
        ratio = row["ratio"]
        ends = ["-" if ratio[end] is None else f"{ratio[end]:.2f}" for end in ("low", "high")]
        rows.append(
            [
                row["name"],
                row["operation"],
                _ms(row["before_ms"]),
                _ms(row["after_ms"]),
                f"{ratio['value']:.3f}",
                f"[{', '.join(ends)}]",
                f"{row['noise']:.1%}",
                row["verdict"].upper() if row["verdict"] == "slower" else row["verdict"],
            ]
        )
        where = f"{row['name']}, {row['operation']}"
        if row["verdict"] == "slower":
            grown = [s for s in row["stages"] if s["after_ms"] > s["before_ms"]][:3]
            shown = ", ".join(
                f"{s['stage']} {_ms(s['before_ms'])} -> {_ms(s['after_ms'])}" for s in grown
            )
            more.append(f"- {where}: {shown or 'no stage alone'} ms")
        elif row["why"]:
            more.append(f"- {where}: {row['why']}")
    more += [f"- {note}" for note in found["notes"]]
    count = found["slower"]
    end = (
        f"{count} slower by more than {found['tolerance']:.0%} and the noise"
        if count
        else (f"Nothing is slower by more than {found['tolerance']:.0%} and the noise.")
    )
    return "\n".join([align(rows), *([""] if more else []), *more, "", end]) + "\n"
