"""Several images at a time, results in order: threads with bounded queues."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_ordered(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    executor: ThreadPoolExecutor,
    ahead: int,
) -> Generator[tuple[_Item, Future[_Result]], None, None]:
    """Every item with its finished call, in the order of ``items``.

    Items are taken from their iterator, by the calling thread, as room comes free: at most
    ``ahead`` of them, started or waiting, are beyond the one that is yielded. When the generator is
    closed (or the iterator raises), calls that have not started are dropped and those that have are
    waited for: nothing goes on behind the caller's back.
    """
    pending: deque[tuple[_Item, Future[_Result]]] = deque()
    iterator = iter(items)
    try:
        more = True
        while more or pending:
            while more and len(pending) <= ahead:
                try:
                    item = next(iterator)
                except StopIteration:
                    more = False
                    break
                pending.append((item, executor.submit(function, item)))
            if pending:
                pending[0][1].exception()  # waits
                yield pending.popleft()
    finally:
        for _, call in pending:
            call.cancel()
        for _, call in pending:
            if not call.cancelled():
                call.exception()
