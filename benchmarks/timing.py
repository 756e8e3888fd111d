"""Time several things against each other in one process, fairly, and say how sure the figures are.

A machine's speed drifts (clocks, neighbours, temperature). So the contestants are not run one after
the other but in rounds, each of which runs every contestant once in a new random order: a drift
reaches all of them alike, and ratios are taken within it.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def interleaved(
    contestants: Mapping[Name, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int], None] | None = None,
    turn_seconds: float = 0.0,
) -> dict[Name, list[tuple[float, object]]]:
    """Run every contestant `warmup` times untimed, then once in each of `rounds` rounds.

    With `turn_seconds` a turn begins with an untimed call, because the others have taken its
    caches, and calls are repeated until they last so long; their mean is the time.

    Returns, per contestant, a (seconds, what the call returned) pair per round, in their order.
    """
    generator = random.Random(seed)
    order = list(contestants)
    for _ in range(warmup):
        for name in order:
            contestants[name]()
    results: dict[Name, list[tuple[float, object]]] = {name: [] for name in order}
    for index in range(rounds):
        generator.shuffle(order)
        for name in order:
            if turn_seconds:
                contestants[name]()
            start, calls = clock(), 0
            while True:
                value = contestants[name]()
                calls += 1
                seconds = clock() - start
                if seconds >= turn_seconds:
                    break
            results[name].append((seconds / calls, value))
        if progress is not None:
            progress(index + 1)
    return results


def median_interval(values: Sequence[float], seed: int = 0, draws: int = 2000) -> Interval:
    """Median with its percentile bootstrap interval."""
    return _bootstrap([(value,) for value in values], lambda v: v, seed, draws)


def ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], seed: int = 0, draws: int = 2000
) -> Interval:
    """Ratio of the medians, bootstrapped over rounds: the pair of a round is drawn together."""
    pairs = list(zip(numerators, denominators, strict=True))
    return _bootstrap(pairs, lambda top, bottom: top / bottom, seed, draws)


def _bootstrap(
    rows: Sequence[tuple[float, ...]], combine: Callable[..., float], seed: int, draws: int
) -> Interval:
    generator = random.Random(seed)

    def estimate(sample: Sequence[tuple[float, ...]]) -> float:
        return combine(*(statistics.median(column) for column in zip(*sample, strict=True)))

    estimates = sorted(estimate(generator.choices(rows, k=len(rows))) for _ in range(draws))
    low, high = estimates[int(0.025 * draws)], estimates[min(draws - 1, int(0.975 * draws))]
    return Interval(estimate(rows), low, high)
