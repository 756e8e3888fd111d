"""The tables of a profile's page. What is not known is a dash, never a zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icmh_rt.reports.markup import Markup, h, join
from icmh_rt.reports.page import folded, section, table

UNKNOWN = "–"
_MIB = 2**20


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, without an exponent where that is readable."""
    if value is None:
        return UNKNOWN
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        decimals = max(0, digits - len(f"{abs(value):.0f}")) if abs(value) >= 1 else digits
        return f"{value:.{decimals}f}"
    return f"{value:.{digits}g}"


def readable(stage: str) -> str:
    """`entropy_coding` in words; `g_a` as it is."""
    return stage if len(stage) <= 3 else stage.replace("_", " ")


def value_of(quantile: Mapping[str, Any] | None) -> str:
    """A quantile without its interval."""
    return number((quantile or {}).get("value"))


def interval(quantile: Mapping[str, Any] | None) -> str:
    """A quantile with its interval, where there is one."""
    quantile = quantile or {}
    text = number(quantile.get("value"))
    if quantile.get("low") is None or quantile.get("high") is None:
        return text
    return f"{text} ({number(quantile['low'])}–{number(quantile['high'])})"


def _mib(count: float | None) -> str:
    return UNKNOWN if count is None else f"{count / _MIB:.1f}"


def times(configurations: Sequence[Mapping[str, Any]]) -> Markup:
    """Both operations of every configuration."""
    heads: tuple[str, ...] = (
        *("configuration", "operation", "p50, ms", "p90, ms", "p99, ms"),
        *("ns per pixel", "calls", "bpp", "remark"),
    )
    rows: list[tuple[str, ...]] = []
    for configuration in configurations:
        for name in ("encode", "decode"):
            operation = configuration.get(name)
            if not operation:
                continue
            found = operation.get("end_to_end") or {}
            settled = operation.get("headline_ms") is not None
            reason = "" if settled else str(operation.get("reason") or "no reason given")
            rows.append(
                (
                    configuration["name"],
                    name,
                    interval(found.get("p50")) if settled else "not settled",
                    value_of(found.get("p90")) if settled else UNKNOWN,
                    value_of(found.get("p99")) if settled else UNKNOWN,
                    number(operation.get("ns_per_pixel")) if settled else UNKNOWN,
                    str(found.get("calls", UNKNOWN)),
                    number(configuration.get("bits_per_pixel")),
                    reason,
                )
            )
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return table(heads, rows, "Times of a call")


def stages(name: str, operation: Mapping[str, Any]) -> Markup:
    """The stages of one operation, and how their sum compares with the call."""
    rows = []
    for stage in operation["stages"]:
        found = stage["statistics"]
        covers = [c for c in stage.get("covers") or [] if c != stage["stage"]]
        rows.append(
            (
                readable(stage["stage"]) + (f" (with {', '.join(covers)})" * bool(covers)),
                *(value_of(found.get(key)) for key in ("p50", "p90", "p99")),
                UNKNOWN if stage.get("share") is None else f"{100 * stage['share']:.1f}",
                str(stage.get("by", UNKNOWN)),
            )
        )
    said = []
    total = operation.get("stage_sum") or {}
    if total.get("ratio"):
        ratio = total["ratio"].get("value")
        said.append(f"The sum is {number(ratio)} of the call without instruments")
        said[0] += "." if total.get("within_bar", True) else ": MORE THAN 5 % OFF."
    overhead = (operation.get("overhead") or {}).get("value")
    if overhead is not None:
        said.append(f"Instruments cost {100 * (overhead - 1):+.1f} %.")
    return join(
        h("h3", name),
        table(("stage", "p50 ms", "p90 ms", "p99 ms", "share %", "taken by"), rows, name),
        h("p", " ".join(said), class_="note") if said else None,
    )


def throughput(configurations: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Images per second of many images in work at a time."""
    rows = [
        (
            configuration["name"],
            str(found.get("images", UNKNOWN)),
            str(found.get("workers", UNKNOWN)),
            interval(found.get("images_per_s")),
            interval(found.get("loop_images_per_s")),
            interval(found.get("speedup")),
            "yes" if found.get("stable", True) else "no",
        )
        for configuration in configurations
        for found in configuration.get("throughput") or []
    ]
    heads = ("configuration", "images", "in work", "images/s", "one by one", "times", "settled")
    return _section("Throughput", heads, rows)


def memory(configurations: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Peaks, in MiB."""
    keys = (
        "host_base_bytes",
        "encode_host_peak_bytes",
        "decode_host_peak_bytes",
        "encode_device_peak_bytes",
        "decode_device_peak_bytes",
    )
    rows = [
        (c["name"], *(_mib(c["memory"].get(key)) for key in keys))
        for c in configurations
        if c.get("memory")
    ]
    heads = (
        "configuration",
        "host before, MiB",
        "encode, host",
        "decode, host",
        "encode, device",
        "decode, device",
    )
    return _section("Peak memory", heads, rows)


def costs(configurations: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Parameters and operations of each network."""
    rows: dict[tuple[str, ...], None] = {}  # sizes and backends do not change them
    for configuration in configurations:
        found = configuration.get("costs")
        if not found:
            continue
        named = f"width {configuration['width']:g} {configuration['task']}"
        parts = found.get("parameters") or {}
        for part, count in parts.items():
            macs = (found.get("macs_per_pixel") or {}).get(part)
            traffic = (found.get("bytes_per_pixel") or {}).get(part)
            thousands = UNKNOWN if count is None else f"{count / 1000:.1f}"
            rows[named, readable(part), thousands, number(macs), number(traffic)] = None
    heads = ("configuration", "network", "thousand parameters", "MACs/pixel", "bytes/pixel")
    return _section("Costs of the networks", heads, list(rows), fold=True)


def energy(configurations: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Power and energy of an image."""
    keys = ("idle_w", "encode_w", "decode_w", "encode_mj_per_image", "decode_mj_per_image")
    rows = [
        (c["name"], *(number(c["energy"].get(key)) for key in keys), str(c["energy"].get("source")))
        for c in configurations
        if c.get("energy")
    ]
    heads = (
        "configuration",
        "idle, W",
        "encode, W",
        "decode, W",
        "encode, mJ/image",
        "decode, mJ/image",
        "from",
    )
    return _section("Power and energy", heads, rows)


def cold_start(found: Sequence[Mapping[str, Any]]) -> Markup | None:
    """From a new process to its first stream."""
    keys = ("import_ms", "load_ms", "first_encode_ms", "second_encode_ms", "total_ms")
    rows = [
        (
            f"{one['backend']} {one['device']} width {one['width']:g} {one['task']} "
            f"{one['size'][0]}x{one['size'][1]}",
            *(interval(one.get(key)) for key in keys),
            str(one.get("processes", UNKNOWN)),
        )
        for one in found
    ]
    heads = (
        "configuration",
        "import, ms",
        "load, ms",
        "first encode, ms",
        "second encode, ms",
        "in all, ms",
        "processes",
    )
    return _section("From a new process to its first stream", heads, rows)


def growth(
    found: Sequence[Mapping[str, Any]], name_of: Callable[[Mapping[str, Any]], str]
) -> Markup:
    """The fits."""
    units = {"time": ("ms", "ns"), "memory": ("bytes", "bytes")}
    rows = []
    for one in found:
        fixed, per_pixel = units[one["quantity"]]
        flat = one.get("flat")
        rows.append(
            (
                name_of(one),
                one["quantity"],
                f"{number(one.get('fixed'))} {fixed}",
                f"{number(one.get('per_pixel'))} {per_pixel}",
                number(one.get("exponent")),
                UNKNOWN if flat is None else f"{100 * flat:.0f} %",
                {True: "yes", False: "NO", None: UNKNOWN}[one.get("flat_within_bar")],
            )
        )
    heads = ("curve", "of", "fixed", "per pixel", "exponent", "spread per pixel", "within bar")
    return table(heads, rows, "Fitted growth")


def machine(found: Mapping[str, Any], settings: Mapping[str, Any]) -> Markup | None:
    """What it was measured on, and how."""
    facts: list[tuple[str, str]] = []
    cpu = found.get("cpu") or {}
    if cpu:
        said = [f"{cpu.get('allowed') or cpu.get('cores')} of {cpu.get('cores')} cores"]
        said += [str(cpu["name"])] if cpu.get("name") else []
        said += [f"governor {cpu['governor']}"] if cpu.get("governor") else []
        said += [f"{number(cpu['mhz'])} MHz"] if cpu.get("mhz") else []
        facts.append(("processor", ", ".join(said)))
    if found.get("memory_bytes"):
        facts.append(("memory", f"{found['memory_bytes'] / 2**30:.1f} GiB"))
    for gpu in found.get("gpus") or []:
        facts.append((f"GPU {gpu.get('index', '')}", _pairs(gpu, ("index",))))
    for name in ("jetson", "threads", "environment"):
        if found.get(name):
            facts.append((name, _pairs(found[name])))
    if settings:
        facts.append(("settings", _pairs(settings)))
    if not facts:
        return None
    return section(
        "The machine and the settings", h("dl", *(join(h("dt", a), h("dd", b)) for a, b in facts))
    )


def _pairs(values: Mapping[str, Any], but: Sequence[str] = ()) -> str:
    known = {k: v for k, v in values.items() if k not in but and v not in (None, "")}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in known.items())


def _section(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], fold: bool = False
) -> Markup | None:
    """A table without the columns in which nothing is known; None without rows."""
    if not rows:
        return None
    kept = [i for i in range(len(heads)) if any(row[i] != UNKNOWN for row in rows)]
    shown = table([heads[i] for i in kept], [[row[i] for i in kept] for row in rows], title)
    return section(title, folded(f"{len(rows)} rows", shown) if fold else shown)
