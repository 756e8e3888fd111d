"""The rule by which a measurement has settled, and rounds on a clock that only work moves on."""

from __future__ import annotations

import itertools

import pytest

from icmh_rt.profiling import rounds
from icmh_rt.profiling.windows import Window, disagreement


def _windows(*medians):
    return [Window(10, ms, 1e3 / ms) for ms in medians]


@pytest.mark.parametrize(
    ("medians", "settled"),
    [
        ((10, 10), False),
        ((10, 10, 10), True),
        ((10, 10, 10.9), True),
        ((10, 10, 12), False),
        ((50, 10, 10, 10), True),
        ((10, 10, 10, 50), False),
        ((10, 11.2, 12.6), False),  # each is near the one before it, and they drift
    ],
)
def test_three_in_a_row_must_agree(medians, settled):
    assert (disagreement(_windows(*medians)) == "") is settled


def test_throughput_must_agree_too():
    windows = [Window(10, 10.0, per_second) for per_second in (100.0, 100.0, 60.0)]
    assert "throughputs" in disagreement(windows)


def test_a_window_counts_the_time_that_calls_took():
    window = Window.of([10.0, 10.0, 40.0, 20.0])
    assert (window.calls, window.p50_ms, window.per_second) == (4, 15.0, 50.0)


class _Machine:
    """A clock, and work that moves it on."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def clock(self):
        return self.now

    def work(self, name, seconds):
        def call():
            self.calls.append(name)
            self.now += seconds() if callable(seconds) else seconds

        return call


def _measure(machine, subjects, **options):
    options = {"rounds": 2, "warmup": 1, **options}
    return rounds.measure(subjects, clock=machine.clock, **options)


def test_steady_work_is_measured_in_three_windows():
    machine = _Machine()
    subjects = {name: rounds.Subject(machine.work(name, 0.5)) for name in "ab"}
    found = _measure(machine, subjects)
    for name in "ab":
        assert found[name].reason == ""
        assert [window.calls for window in found[name].windows] == [2, 2, 2]
        assert rounds.medians_ms(found[name].turns) == pytest.approx([500.0] * 6)


def test_work_that_slows_down_all_the_time_does_not_settle():
    machine = _Machine()
    lengths = itertools.count(1)
    subject = rounds.Subject(machine.work("a", lambda: 3.0 * 1.2 ** next(lengths)))
    found = _measure(machine, {"a": subject}, max_windows=6)["a"]
    assert len(found.windows) == 6
    assert "more than 10%" in found.reason


def test_what_settles_late_is_reported_from_where_it_has():
    machine = _Machine()
    lengths = itertools.chain([9.0, 9.0, 3.0, 9.0], itertools.repeat(2.5))
    found = _measure(machine, {"a": rounds.Subject(machine.work("a", lambda: next(lengths)))})["a"]
    assert found.reason == ""
    assert len(found.windows) == 5
    assert rounds.medians_ms(found.turns) == pytest.approx([2500.0] * 6)


def test_every_round_has_every_subject_once_in_changing_order():
    machine = _Machine()
    names = "abcd"
    subjects = {name: rounds.Subject(machine.work(name, 2.5)) for name in names}
    _measure(machine, subjects, rounds=4)
    timed = machine.calls[len(names) :]
    orders = [tuple(timed[i : i + 4]) for i in range(0, len(timed), 4)]
    assert all(sorted(order) == list(names) for order in orders)
    assert len(set(orders)) > 3


def test_a_drift_of_the_machine_reaches_all_alike():
    """The machine becomes slower from call to call; b takes twice as long as a all the same."""
    machine = _Machine()

    def drifting(seconds):
        return lambda: seconds * (1.0 + machine.now / 200.0)

    subjects = {
        "a": rounds.Subject(machine.work("a", drifting(0.3))),
        "b": rounds.Subject(machine.work("b", drifting(0.6))),
    }
    found = _measure(machine, subjects, rounds=5, max_windows=3)
    a, b = (sum(rounds.medians_ms(found[name].turns)) for name in "ab")
    assert b / a == pytest.approx(2.0, rel=0.02)


def test_short_calls_are_warmed_and_repeated():
    machine = _Machine()
    found = _measure(machine, {"a": rounds.Subject(machine.work("a", 0.002))}, rounds=1)["a"]
    assert [window.calls for window in found.windows] == [25, 25, 25]
    assert len(machine.calls) == 1 + 3 * (1 + 25)


def test_no_window_is_begun_when_it_is_late():
    machine = _Machine()
    lengths = itertools.count(1)
    subject = rounds.Subject(machine.work("a", lambda: 2.0 + next(lengths)))
    found = _measure(machine, {"a": subject}, max_windows=50, most_s=1.0)["a"]
    assert len(found.windows) == 3
    assert found.reason


def test_plain_and_instrumented_calls_take_turns():
    machine = _Machine()
    plain, other = machine.work("plain", 0.1), machine.work("instrumented", 0.1)

    def instrumented():
        other()
        return 0.1, {"g_a": 0.1}

    extras = {"alone": machine.work("alone", 0.004)}
    subject = rounds.Subject(plain, instrumented, extras)
    found = _measure(machine, {"a": subject}, rounds=1, calls_a_turn=4)["a"]
    turn = found.turns[0]
    assert (len(turn.plain), len(turn.instrumented), len(turn.stages)) == (4, 4, 4)
    assert turn.extras == pytest.approx({"alone": 0.004})
    one, other = ["plain", "instrumented"], ["instrumented", "plain"]
    assert machine.calls[-10:] == ["plain", *(one + other) * 2, "alone"]


def test_a_single_call_of_each_kind_begins_with_the_other_in_the_next_turn():
    machine = _Machine()
    other = machine.work("instrumented", 3.0)
    subject = rounds.Subject(machine.work("plain", 3.0), lambda: (other(), (3.0, {}))[1])
    _measure(machine, {"a": subject}, rounds=1)
    assert machine.calls[-6:] == [
        "plain",
        "instrumented",
        *["instrumented", "plain"],
        *["plain", "instrumented"],
    ]
