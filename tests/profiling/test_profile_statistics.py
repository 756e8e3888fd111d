"""Quantiles and their intervals, against numpy, scipy where it is, and published tables."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from icmh_rt.profiling import statistics


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("q", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_those_of_numpy(count, q):
    values = random.Random(count).choices(range(1000), k=count)
    assert statistics.quantile(values, q) == pytest.approx(np.quantile(values, q))


@pytest.mark.parametrize(
    ("count", "ranks"),
    # Published tables of 95 % intervals of the median by ranks: Conover, "Practical Nonparametric
    # Statistics", 3rd ed., table A3, gives these for two tails of at most 2.5 % each.
    [(5, (None, None)), (6, (1, 6)), (10, (2, 9)), (15, (4, 12)), (20, (6, 15)), (100, (40, 61))],
)
def test_ranks_of_the_median_are_the_published_ones(count, ranks):
    assert statistics.interval_ranks(count, 0.5) == ranks


def _slow_ranks(count, q, confidence):
    """By definition: exact sums of binomial probabilities."""
    tail = (1 - confidence) / 2
    weights = [math.comb(count, k) * q**k * (1 - q) ** (count - k) for k in range(count + 1)]
    low = [rank for rank in range(1, count + 1) if math.fsum(weights[:rank]) <= tail]
    high = [rank for rank in range(1, count + 1) if math.fsum(weights[rank:]) <= tail]
    return (max(low) if low else None, min(high) if high else None)


@pytest.mark.parametrize("count", [1, 7, 30, 59, 60, 150, 299, 400])
@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_ranks_are_those_of_the_definition(count, q):
    assert statistics.interval_ranks(count, q) == _slow_ranks(count, q, 0.95)


def test_intervals_hold_what_they_promise():
    """Of many samples of a skewed distribution the share whose interval has the true quantile."""
    generator = np.random.default_rng(1)
    samples = np.exp(generator.normal(size=(1000, 40)))
    for q, true in ((0.5, 1.0), (0.9, math.exp(1.2815515655446004))):
        held = 0
        for sample in samples:
            found = statistics.with_interval(list(sample), q)
            held += (found["low"] or 0.0) <= true <= (found["high"] or math.inf)
        assert 0.94 <= held / len(samples)


def test_a_few_calls_have_no_interval_of_the_99th_percentile():
    found = statistics.describe([float(n) for n in range(30)])
    assert found["p99"]["high"] is None
    assert found["p99"]["low"] is not None
    assert found["p50"]["low"] <= found["p50"]["value"] <= found["p50"]["high"]
    assert (found["calls"], found["min"], found["max"], found["mean"]) == (30, 0.0, 29.0, 14.5)


def test_what_slows_both_down_cancels_in_ratios():
    drift = [1.0 + n / 3 for n in range(20)]
    found = statistics.paired_ratio([2.0 * d for d in drift], drift)
    assert found == {"value": 2.0, "low": 2.0, "high": 2.0}


def test_ranks_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    for count in (12, 75, 500):
        for q in (0.5, 0.9, 0.99):
            low, high = statistics.interval_ranks(count, q)
            if low is not None:
                assert stats.binom.cdf(low - 1, count, q) <= 0.025 < stats.binom.cdf(low, count, q)
            if high is not None:
                assert stats.binom.sf(high - 1, count, q) <= 0.025
                assert stats.binom.sf(high - 2, count, q) > 0.025
