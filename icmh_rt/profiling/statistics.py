"""Quantiles with confidence intervals that assume nothing about the distribution.

Times are skewed and have several modes, so nothing here is a mean with a standard error. Interval
of a quantile: two of the sorted values, chosen by the binomial distribution of how many fall below
the true quantile (e.g. David and Nagaraja, "Order Statistics", 3rd ed., section 7.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

CONFIDENCE = 0.95
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

Quantile = dict[str, "float | None"]
"""value, low, high; the ends are None where the sample is too small to have them."""


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile, interpolated between neighbours as numpy does by default."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def interval_ranks(
    count: int, q: float, confidence: float = CONFIDENCE
) -> tuple[int | None, int | None]:
    """Ranks from 1 of the two of ``count`` sorted values between which the q-quantile lies.

    Each end is missed with a probability of at most half of ``1 - confidence``. None where not even
    the smallest or the largest value is far enough out.
    """
    tail = (1.0 - confidence) / 2
    # below[k]: probability that at most k values lie below the quantile.
    below, total = [], 0.0
    for k in range(count + 1):
        log = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        total += math.exp(log + k * math.log(q) + (count - k) * math.log1p(-q))
        below.append(total)
    low = max((rank for rank in range(1, count + 1) if below[rank - 1] <= tail), default=None)
    high = min(
        (rank for rank in range(1, count + 1) if 1.0 - below[rank - 1] <= tail), default=None
    )
    return low, high


def with_interval(values: Sequence[float], q: float = 0.5) -> Quantile:
    """The q-quantile with its interval."""
    ordered = sorted(values)
    low, high = interval_ranks(len(ordered), q)
    return {
        "value": quantile(ordered, q),
        "low": None if low is None else ordered[low - 1],
        "high": None if high is None else ordered[high - 1],
    }


def describe(values: Sequence[float]) -> dict[str, Any]:
    """calls, p50, p90, p99 (each with its interval), mean, min and max."""
    found: dict[str, Any] = {"calls": len(values)}
    found |= {name: with_interval(values, q) for name, q in QUANTILES.items()}
    return {
        **found,
        "mean": math.fsum(values) / len(values),
        "min": min(values),
        "max": max(values),
    }


def paired_ratio(tops: Sequence[float], bottoms: Sequence[float]) -> Quantile:
    """Median of the ratios of what was measured together, with its interval: what slowed both down
    has cancelled.
    """
    return with_interval([top / bottom for top, bottom in zip(tops, bottoms, strict=True)])
