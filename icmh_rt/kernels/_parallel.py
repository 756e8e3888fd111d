"""Coarse-grained threads for inference on a CPU.

Torch splits every single operation over its threads and lets them meet after it. A tile that stays
in a core's cache is some ten microseconds of work an operation: meeting thousands of times an image
costs much on an idle machine and stalls on a busy one. Here each thread takes whole tiles instead,
and its operations run on that thread alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from icmh_rt._threads import work_alone

_Item = TypeVar("_Item")
_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def _forget() -> None:
    """Threads do not survive a fork, and a lock may have been held: the child starts anew.

    PyTorch's threads are gone as well, and GNU's OpenMP would wait for them without end: the child
    computes on one, as the workers of its data loaders do.
    """
    global _lock
    _lock = threading.Lock()
    _pools.clear()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def for_each(function: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    """Call ``function`` on every item, on as many threads as torch would use, in no order.

    No gradients are recorded. The first exception is raised here, after all calls have ended.
    """
    items = list(items)
    threads = min(torch.get_num_threads(), len(items))
    if threads <= 1:
        for item in items:
            function(item)
        return
    inference = torch.is_inference_mode_enabled()
    remaining = iter(items)

    def work() -> None:
        with torch.inference_mode() if inference else torch.no_grad():  # both are a thread's own
            while True:
                with _lock:
                    item: Any = next(remaining, remaining)
                if item is remaining:
                    return
                function(item)

    futures = [_pool(torch.get_num_threads()).submit(work) for _ in range(threads)]
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error


def _pool(threads: int) -> ThreadPoolExecutor:
    """The pool of ``threads`` workers that all loops share."""
    with _lock:
        if threads not in _pools:
            _pools[threads] = single_threaded_workers(threads, "icmh_rt-tiles")
        return _pools[threads]


def single_threaded_workers(count: int, name: str) -> ThreadPoolExecutor:
    """An executor of ``count`` threads, all running, whose operations run on the worker alone."""
    before = torch.get_num_threads()
    ready = threading.Barrier(count + 1)

    def start() -> None:
        # PyTorch takes the process's number when a thread first asks for it: were that after the
        # next line, it would overwrite what the line says.
        torch.get_num_threads()
        # Holds for the calling thread, and as the default of threads yet to come ...
        torch.set_num_threads(1)
        work_alone()
        ready.wait()

    pool = ThreadPoolExecutor(count, name, initializer=start)
    for _ in range(count):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)  # ... which is set right again here.
    return pool
