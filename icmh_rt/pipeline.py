"""Several items at a time, results in order: threads with bounded queues."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_ordered(
    function: Callable[[Sequence[_Item]], Sequence[_Result | Exception]],
    items: Iterable[_Item],
    executor: ThreadPoolExecutor,
    workers: int,
    together: int = 1,
) -> Generator[tuple[_Item, Future[_Result]], None, None]:
    """Every item with its finished call, in the order of ``items``.

    Items are taken from their iterator, by the calling thread, as room comes free: at most
    ``2 * together`` a worker, started or waiting, are beyond the one that is yielded. When the
    generator is closed (or the iterator raises), items that no call has are dropped and calls that
    have started are waited for: nothing goes on behind the caller's back.

    Args:
        function: some items to a result, or the exception, of each.
        workers: threads of ``executor``.
        together: so many items are given to a call at most; where fewer wait, a worker takes its
            share of them, so that none is without work at the end.
    """
    pending: deque[tuple[_Item, Future[_Result]]] = deque()
    waiting: deque[tuple[_Item, Future[_Result]]] = deque()  # shared with the workers

    def work() -> None:
        taken: list[tuple[_Item, Future[_Result]]] = []
        for _ in range(max(1, min(together, len(waiting) // workers))):
            try:
                item, call = waiting.popleft()
            except IndexError:  # other workers took it
                break
            if call.set_running_or_notify_cancel():
                taken.append((item, call))
        if taken:
            _settle([call for _, call in taken], lambda: function([item for item, _ in taken]))

    iterator = iter(items)
    try:
        more = True
        while more or pending:
            while more and len(pending) <= 2 * together * workers:
                try:
                    item = next(iterator)
                except StopIteration:
                    more = False
                    break
                call: Future[_Result] = Future()
                pending.append((item, call))
                waiting.append((item, call))
                executor.submit(work)
            if pending:
                pending[0][1].exception()  # waits
                yield pending.popleft()
    finally:
        for _, call in pending:
            call.cancel()
        for _, call in pending:
            if not call.cancelled():
                call.exception()


def _settle(
    calls: Sequence[Future[_Result]], function: Callable[[], Sequence[_Result | Exception]]
) -> None:
    """Give each call its result, or its exception; all of them the one that is raised."""
    try:
        results = function()
    except BaseException as error:
        for call in calls:
            call.set_exception(error)
        return
    for call, result in zip(calls, results, strict=True):
        if isinstance(result, Exception):
            call.set_exception(result)
        else:
            call.set_result(result)
