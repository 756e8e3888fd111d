"""Measuring several things in rounds, so that the machine's drift reaches all of them alike.

A machine's speed drifts (clocks, heat, neighbours). Each round gives every subject one turn, in a
new random order; some rounds are a window, and windows go on until all subjects have settled
(`windows`) or there have been enough. What is reported is of the last three windows, the same for
all.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from icmh_rt.profiling.windows import AGREEMENT, IN_A_ROW, Window, disagreement

ROUNDS = 5
"""Rounds of a window."""

TURN_S = 0.05
"""A turn lasts at least about so long: short calls are repeated in it."""

MOST_CALLS = 50
"""Calls of a turn, at most."""

WARM_S = 2.0
"""Calls shorter than this are called once, untimed, when their turn begins: what ran before them
has taken their caches, and the memory that the allocator keeps.
"""


@dataclass(frozen=True)
class Subject:
    """Something to measure.

    call: does it once · instrumented: does it once and returns (seconds, seconds by stage); None
    where there are no stages · extras: further calls that are timed once a turn.
    """

    call: Callable[[], Any]
    instrumented: Callable[[], tuple[float, dict[str, float]]] | None = None
    extras: Mapping[str, Callable[[], Any]] = field(default_factory=dict)


@dataclass
class Turn:
    """Seconds of one turn's calls. stages: of the instrumented ones, one for each."""

    plain: list[float] = field(default_factory=list)
    instrumented: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    extras: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """windows: all that there were · turns: of the last windows, in order · reason: why the windows
    have not settled, "" if they have.
    """

    windows: list[Window]
    turns: list[Turn]
    reason: str


def measure(
    subjects: Mapping[str, Subject],
    calls_a_turn: int = 1,
    max_windows: int = 10,
    rounds: int = ROUNDS,
    warmup: int = 2,
    most_s: float | None = None,
    agreement: float = AGREEMENT,
    between: Callable[[], None] = lambda: None,
    progress: Callable[[int, str], None] = lambda windows, what: None,
    clock: Callable[[], float] = time.perf_counter,
    seed: int = 0,
) -> dict[str, Measured]:
    """Measure every subject.

    Args:
        subjects: by name.
        calls_a_turn: at least; short calls are repeated more often.
        max_windows: the most windows, at least `windows.IN_A_ROW` are measured.
        rounds: of a window.
        warmup: untimed calls of each at first.
        most_s: no window is begun after so many seconds, if there are enough for a verdict.
        between: called after every turn.
        progress: called with the number of windows done and what is being done.
    """
    generator = random.Random(seed)
    order = list(subjects)
    lengths = {}
    began = clock()
    for name in order:
        progress(0, f"warming up {name}")
        lengths[name] = _warm_up(subjects[name], warmup, clock)
    turns: dict[str, list[Turn]] = {name: [] for name in order}
    windows: dict[str, list[Window]] = {name: [] for name in order}
    collects = gc.isenabled()
    gc.disable()
    try:
        while True:
            done = len(windows[order[0]])
            settled = all(not disagreement(found, agreement) for found in windows.values())
            late = most_s is not None and clock() - began >= most_s
            if done >= IN_A_ROW and (settled or late or done >= max_windows):
                break
            for number in range(rounds):
                generator.shuffle(order)
                for name in order:
                    progress(done, f"round {number + 1}/{rounds}, {name}")
                    calls = max(calls_a_turn, min(MOST_CALLS, round(TURN_S / lengths[name])))
                    first = len(turns[name])
                    turns[name].append(_turn(subjects[name], calls, lengths[name], first, clock))
                    between()
            gc.collect()
            for name in order:
                times = [s for turn in turns[name][-rounds:] for s in turn.plain]
                windows[name].append(Window.of([1e3 * seconds for seconds in times]))
    finally:
        if collects:
            gc.enable()
    return {
        name: Measured(
            windows[name],
            turns[name][-IN_A_ROW * rounds :],
            disagreement(windows[name], agreement),
        )
        for name in subjects
    }


def _warm_up(subject: Subject, warmup: int, clock: Callable[[], float]) -> float:
    """Seconds of a call, about."""
    shortest = float("inf")
    for _ in range(max(1, warmup)):
        if subject.instrumented is not None:
            subject.instrumented()
        for extra in subject.extras.values():
            extra()
        shortest = min(shortest, _timed(subject.call, clock))
    return max(shortest, 1e-6)


def _turn(
    subject: Subject, calls: int, length_s: float, first: int, clock: Callable[[], float]
) -> Turn:
    """``first``: an even or odd number, by which plain or instrumented calls begin."""
    turn = Turn()
    if length_s < WARM_S:
        subject.call()
    for number in range(first, first + calls):
        instrumented = subject.instrumented
        kinds = ["plain"] if instrumented is None else ["plain", "instrumented"]
        for kind in kinds if number % 2 == 0 else kinds[::-1]:
            if kind == "plain" or instrumented is None:
                turn.plain.append(_timed(subject.call, clock))
            else:
                seconds, stages = instrumented()
                turn.instrumented.append(seconds)
                turn.stages.append(stages)
    for name, extra in subject.extras.items():
        turn.extras[name] = _timed(extra, clock)
    return turn


def _timed(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def medians_ms(turns: Sequence[Turn]) -> list[float]:
    """Median of each turn's plain calls."""
    from statistics import median

    return [1e3 * median(turn.plain) for turn in turns]
