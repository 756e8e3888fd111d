"""Several items at a time, in order."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from icmh_rt.pipeline import map_ordered


def squares(items):
    return [ValueError(item) if item % 7 == 6 else item * item for item in items]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("together", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_results_come_in_order(workers: int, together: int, count: int) -> None:
    with ThreadPoolExecutor(workers) as executor:
        for item, (given, call) in enumerate(
            map_ordered(squares, range(count), executor, workers, together)
        ):
            assert given == item
            if item % 7 == 6:
                assert str(call.exception()) == str(item)
            else:
                assert call.result() == item * item


def test_calls_take_several_items_while_many_wait_and_fewer_at_the_end() -> None:
    calls, hold = [], threading.Event()

    def note(items):
        hold.wait(10)
        calls.append(len(items))
        return items

    with ThreadPoolExecutor(2) as executor:
        results = map_ordered(note, range(40), executor, 2, 4)
        hold.set()
        assert [item for item, _ in results] == [*range(40)]
    assert sum(calls) == 40 and max(calls) > 1
    assert max(calls) <= 4


def test_an_exception_is_every_item_s_of_its_call() -> None:
    def fail(items):
        raise KeyError(items[0])

    with ThreadPoolExecutor(1) as executor:
        for _, call in map_ordered(fail, "abc", executor, 1, 2):
            with pytest.raises(KeyError):
                call.result()


def test_closing_drops_what_waits_and_waits_for_what_runs() -> None:
    begun, may_end, done = threading.Event(), threading.Event(), []

    def slow(items):
        begun.set()
        if items[0]:
            may_end.wait(10)
        done.extend(items)
        return items

    with ThreadPoolExecutor(1) as executor:
        results = map_ordered(slow, range(100), executor, 1)
        assert next(results)[0] == 0
        begun.wait(10)
        threading.Timer(0.05, may_end.set).start()
        results.close()
        assert len(done) <= 2
