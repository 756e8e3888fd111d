"""When a measurement has settled: perf_analyzer's rule.

Calls are measured in windows, until in three in a row both latency and throughput lie within a
tenth of their mean over the three. What has not settled by then has no headline figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icmh_rt.profiling.statistics import quantile

AGREEMENT = 0.10
IN_A_ROW = 3


@dataclass(frozen=True)
class Window:
    """calls: how many · p50_ms: their median · per_second: calls by the time that they took."""

    calls: int
    p50_ms: float
    per_second: float

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Window:
        return cls(len(times_ms), quantile(times_ms, 0.5), 1e3 * len(times_ms) / sum(times_ms))


def disagreement(windows: Sequence[Window], agreement: float = AGREEMENT) -> str:
    """Why the last windows do not agree, in words; "" if they do."""
    last = windows[-IN_A_ROW:]
    if len(last) < IN_A_ROW:
        return f"only {len(last)} of {IN_A_ROW} windows were measured"
    for what, values in (
        ("medians", [window.p50_ms for window in last]),
        ("throughputs", [window.per_second for window in last]),
    ):
        mean = sum(values) / len(values)
        worst = max(abs(value / mean - 1.0) for value in values)
        if worst > agreement:
            return (
                f"{what} of the last {IN_A_ROW} windows lie up to {worst:.0%} from their mean, more"
                f" than {agreement:.0%}"
            )
    return ""
