"""Two profiles of the same configurations: what got slower, beyond what noise can do.

A ratio's bounds are those of the two medians at their worst: the later's low over the earlier's
high, and the other way round. Something is slower if even the low bound exceeds a tolerance, and
how far each run's own windows lay apart. What has not settled is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icmh_rt.errors import IcmhError, OptionError
from icmh_rt.profiling.windows import IN_A_ROW

TOLERANCE = 0.05
SCHEMA = "icmh_rt.profile_comparison"
SCHEMA_VERSION = 1

SLOWER, FASTER, SAME, UNCLEAR = "slower", "faster", "same", "unclear"
_MATCHED = ("backend", "device", "width", "task", "size", "quality")


def compare(
    before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Every configuration that both profiles have.

    Returns:
        "rows": name, operation, before_ms, after_ms, ratio (value, low, high), noise, verdict and
        why, and stages (ms before and after); "notes": one line each; "slower": how many rows are.

    Raises:
        IcmhError: they have no configuration in common.
        OptionError: the tolerance is negative.
    """
    if not tolerance >= 0:
        raise OptionError(f"tolerance is {tolerance}: it must be 0 or more")
    earlier = {_key(record): record for record in before["configurations"]}
    later = {_key(record): record for record in after["configurations"]}
    common = [key for key in earlier if key in later]
    if not common:
        raise IcmhError("the two profiles have no configuration in common: nothing to compare")
    rows = [
        _row(earlier[key], later[key], operation, tolerance)
        for key in common
        for operation in ("encode", "decode")
    ]
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "before": before["provenance"],
        "after": after["provenance"],
        "tolerance": tolerance,
        "rows": rows,
        "notes": _notes(before, after, len(earlier) - len(common), len(later) - len(common)),
        "slower": sum(row["verdict"] == SLOWER for row in rows),
    }


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(tuple(record[name]) if name == "size" else record[name] for name in _MATCHED)


def _row(
    before: Mapping[str, Any], after: Mapping[str, Any], operation: str, tolerance: float
) -> dict[str, Any]:
    old, new = before[operation], after[operation]
    a, b = old["end_to_end"]["p50"], new["end_to_end"]["p50"]
    noise = max(_noise(old), _noise(new))
    ratio = {
        "value": b["value"] / a["value"],
        "low": None if b["low"] is None or a["high"] is None else b["low"] / a["high"],
        "high": None if b["high"] is None or a["low"] is None else b["high"] / a["low"],
    }
    margin = max(tolerance, noise)
    why = ""
    if old["headline_ms"] is None or new["headline_ms"] is None:
        verdict = UNCLEAR
        which = "earlier" if old["headline_ms"] is None else "later"
        why = f"the {which} figure has not settled: {(old['reason'] or new['reason'])}"
    elif ratio["low"] is None or ratio["high"] is None:
        verdict, why = UNCLEAR, "too few calls for bounds: more --iterations"
    elif ratio["low"] > 1.0 + margin:
        verdict = SLOWER
    elif ratio["high"] < 1.0 / (1.0 + margin):
        verdict = FASTER
    else:
        verdict = SAME
    return {
        "name": before["name"],
        "operation": operation,
        "before_ms": a["value"],
        "after_ms": b["value"],
        "ratio": ratio,
        "noise": noise,
        "verdict": verdict,
        "why": why,
        "stages": _stages(old, new),
    }


def _noise(operation: Mapping[str, Any]) -> float:
    """How far the windows that count lie from their mean, at most."""
    medians = [window["p50_ms"] for window in operation["windows"][-IN_A_ROW:]]
    mean = sum(medians) / len(medians)
    return max(abs(value / mean - 1.0) for value in medians)


def _stages(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Medians of the stages of both, the one that grew most first."""
    sides = [
        {item["stage"]: item["statistics"]["p50"]["value"] for item in side["stages"]}
        for side in (old, new)
    ]
    found = [
        {"stage": name, "before_ms": sides[0].get(name, 0.0), "after_ms": sides[1].get(name, 0.0)}
        for name in dict.fromkeys([*sides[0], *sides[1]])
    ]
    return sorted(found, key=lambda item: item["before_ms"] - item["after_ms"])


def _notes(
    before: Mapping[str, Any], after: Mapping[str, Any], only_old: int, only_new: int
) -> list[str]:
    notes = []
    for what, old, new in (
        ("CPU", before["provenance"]["machine"]["cpu"], after["provenance"]["machine"]["cpu"]),
        ("threads", before["machine"]["threads"], after["machine"]["threads"]),
        ("GPUs", _gpus(before), _gpus(after)),
        ("power mode", _mode(before), _mode(after)),
        ("bundle", before["settings"]["fingerprint"], after["settings"]["fingerprint"]),
        ("image", before["settings"]["image"], after["settings"]["image"]),
        ("input", before["settings"]["input"], after["settings"]["input"]),
        ("clock limit", _limit(before), _limit(after)),
    ):
        if old != new:
            notes.append(f"they differ in {what}: {old} before, {new} after")
    if only_old or only_new:
        notes.append(
            f"{only_old} configuration(s) are in the earlier profile only, {only_new} in the later"
        )
    for name, document in (("earlier", before), ("later", after)):
        notes += [f"{name} profile: {note}" for note in document["conditions"]["notes"]]
    return notes


def _gpus(document: Mapping[str, Any]) -> list[str]:
    return [gpu["name"] for gpu in document["machine"]["gpus"]]


def _mode(document: Mapping[str, Any]) -> str | None:
    jetson = document["machine"]["jetson"]
    return None if jetson is None else jetson["power_mode"]


def _limit(document: Mapping[str, Any]) -> float | None:
    return document["machine"]["cpu"]["max_mhz"]
