"""The document's parts, of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from icmh_rt.profiling import costs, growth, rounds, stages, throttling
from icmh_rt.profiling.operations import Operation
from icmh_rt.profiling.plan import Plan
from icmh_rt.profiling.statistics import describe, paired_ratio
from icmh_rt.profiling.windows import AGREEMENT
from icmh_rt.profiling.workload import Workload

OVERHEAD_BAR = 0.02
"""What the instruments may add to a call."""


def configuration(
    workload: Workload, measured: Mapping[str, Any], findings: throttling.Findings
) -> dict[str, Any]:
    setting, backend = workload.setting, workload.backend
    found: dict[str, tuple[Operation, rounds.Measured]] = {
        operation: measured[f"{workload.name}, {operation}"] for operation in workload.operations()
    }
    return {
        "name": workload.name,
        "backend": backend.name,
        "device": backend.device,
        "dtype": setting.dtype,
        "width": setting.width,
        "task": setting.task,
        "size": list(setting.size),
        "quality": setting.quality,
        "stream_bytes": len(workload.data),
        "bits_per_pixel": 8 * len(workload.data) / setting.pixels,
        **{
            operation: _operation(*subject_and_times, findings)
            for operation, subject_and_times in found.items()
        },
        "throughput": [],
        "memory": None,
        "costs": costs.costs(backend.bundle, setting.width, setting.task),
        "energy": None,
    }


def _operation(
    subject: Operation, measured: rounds.Measured, findings: throttling.Findings
) -> dict[str, Any]:
    turns = measured.turns
    plain = [1e3 * seconds for turn in turns for seconds in turn.plain]
    end_to_end = describe(plain)
    shares = subject.shares(turns)
    apart = [[subject.taken_apart(times, shares) for times in turn.stages] for turn in turns]
    calls = [times for turn in apart for times in turn]
    order = stages.ENCODE if subject.kind == "encode" else stages.DECODE
    names = stages.ordered(list(dict.fromkeys(n for times in calls for n in times)), order)
    sums = [statistics.median(sum(times.values()) for times in turn) for turn in apart]
    bare = [statistics.median(turn.plain) for turn in turns]
    # Of each call its own stages, and its own time.
    own = [
        sum(times.values()) / seconds
        for parts, turn in zip(apart, turns, strict=True)
        for times, seconds in zip(parts, turn.instrumented, strict=True)
    ]
    total_s = statistics.median(sum(times.values()) for times in calls)
    # Of each call its own share: what stops a call now and then stops it in any stage.
    parts_of = {
        name: statistics.median(times.get(name, 0.0) / sum(times.values()) for times in calls)
        for name in names
    }
    whole = sum(parts_of.values())
    records = [
        {
            "stage": name,
            "by": subject.how(name, shares),
            "covers": subject.inside(name, shares),
            "statistics": describe([1e3 * times.get(name, 0.0) for times in calls]),
            "share": parts_of[name] / whole,
        }
        for name in names
    ]
    ratio = paired_ratio(sums, bare)
    reason = measured.reason or ("; ".join(findings.notes) if not findings.quiet else "")
    p50 = end_to_end["p50"]["value"]
    return {
        "headline_ms": None if reason else p50,
        "stable": not measured.reason,
        "reason": reason,
        "end_to_end": end_to_end,
        "ns_per_pixel": 1e6 * p50 / subject.workload.setting.pixels,
        "stages": records,
        "stage_sum": {
            "ms": 1e3 * total_s,
            "ratio": ratio,
            "of_call": statistics.median(own),
            "within_bar": _within_bar(statistics.median(own), ratio),
        },
        "overhead": paired_ratio([statistics.median(turn.instrumented) for turn in turns], bare),
        "windows": [
            {"calls": w.calls, "p50_ms": w.p50_ms, "per_second": w.per_second}
            for w in measured.windows
        ],
        "rounds_ms": rounds.medians_ms(turns),
    }


def _within_bar(of_call: float, ratio: Mapping[str, float | None]) -> bool:
    """Whether stages add up to their call, and as far as can be told to an end-to-end time: a ratio
    that noise alone may have brought beyond the bar is not held against them.
    """
    low, high = ratio["low"], ratio["high"]
    apart = (low is not None and low > 1.0 + stages.BAR) or (
        high is not None and high < 1.0 - stages.BAR
    )
    return abs(of_call - 1.0) <= stages.BAR and not apart


class Conditions:
    """How the machine was, over all that was measured."""

    def __init__(self) -> None:
        self._busy: float | None = None
        self._quiet, self._throttled = True, False
        self._notes: list[str] = []

    def add(self, findings: throttling.Findings) -> None:
        if findings.others_busy is not None:
            self._busy = max(self._busy or 0.0, findings.others_busy)
        self._quiet &= findings.quiet
        self._throttled |= findings.throttled
        for note in findings.notes:
            self.add_note(note)

    def add_note(self, note: str | None) -> None:
        if note and note not in self._notes:
            self._notes.append(note)

    def record(self) -> dict[str, Any]:
        return {
            "quiet": self._quiet,
            "others_busy": self._busy,
            "throttled": self._throttled,
            "notes": self._notes,
        }


def settings(plan: Plan, workloads: Sequence[Workload]) -> dict[str, Any]:
    first = workloads[0]
    return {
        "model": first.backend.bundle.name,
        "fingerprint": first.backend.bundle.fingerprint,
        "quality": plan.quality,
        "image": "photograph.png" if plan.image is None else Path(plan.image).name,
        "input": plan.given_as,
        "iterations": plan.iterations,
        "warmup_calls": plan.warmup,
        "max_windows": plan.max_windows,
        "rounds_per_window": plan.rounds,
        "agreement": AGREEMENT,
    }


def growths(configurations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over the sizes of each backend, width and task, if there are enough."""
    kinds: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in configurations:
        key = tuple(record[name] for name in ("backend", "device", "width", "task"))
        kinds.setdefault(key, []).append(record)
    found = []
    for (backend, device, width, task), records in kinds.items():
        if len(records) < growth.LEAST:
            continue
        for operation in ("encode", "decode"):
            of = {"operation": operation, "backend": backend, "device": device}
            of |= {"width": width, "task": task}
            times = [
                {
                    "size": record["size"],
                    "value": record[operation]["end_to_end"]["p50"]["value"],
                    "stable": record[operation]["headline_ms"] is not None,
                }
                for record in records
            ]
            found.append(of | growth.growth(times, "time"))
            peaks = [_above_base(record, operation) for record in records]
            if all(peak is not None and peak > 0 for peak in peaks):
                points = [
                    {"size": record["size"], "value": peak, "stable": True}
                    for record, peak in zip(records, peaks, strict=True)
                ]
                found.append(of | growth.growth(points, "memory"))
    return found


def _above_base(record: dict[str, Any], operation: str) -> int | None:
    found = record["memory"]
    if found is None or found["host_base_bytes"] is None:
        return None
    peak = found[f"{operation}_host_peak_bytes"]
    return None if peak is None else peak - found["host_base_bytes"]


def problems(document: dict[str, Any]) -> Iterator[str]:
    refused: dict[str, list[str]] = {}
    for record in document["configurations"]:
        for operation in ("encode", "decode"):
            found = record[operation]
            where = f"{record['name']}, {operation}"
            if found["headline_ms"] is None:
                refused.setdefault(found["reason"], []).append(where)
            if not found["stage_sum"]["within_bar"]:
                ratio = found["stage_sum"]["ratio"]["value"]
                yield f"{where}: its stages add up to {ratio:.1%} of the end-to-end time"
            if (found["overhead"]["low"] or 0.0) > 1.0 + OVERHEAD_BAR:
                yield f"{where}: the instruments add {found['overhead']['value'] - 1.0:.1%}"
    for reason, places in refused.items():
        where = places[0] if len(places) == 1 else f"{len(places)} operations"
        yield f"{where}: no headline figure: {reason}"
    for found in document["growth"]:
        if found["flat_within_bar"] is False:
            yield (
                f"{found['backend']} {found['device']} width {found['width']:g} {found['task']}, "
                f"{found['operation']}: time per pixel varies by {found['flat']:.0%} over the sizes"
            )
