"""Large buffers on a CPU, without the price of fresh pages.

The system hands out large allocations as pages of 4 KiB that do not exist yet: touching them for
the first time takes longer than what the kernels compute, and the allocator gives them back as soon
as they are freed. Intermediates live in a `Workspace` that is kept, results ask for huge pages.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from icmh_rt import _native
from icmh_rt.kernels._layout import empty_maps

KEPT_BYTES = 512 << 20
"""Intermediates kept for the next call, in all; larger ones are freed after use."""

_HUGE = 4 << 20  # smaller results are not worth the call
_lock = threading.Lock()
_kept: list[Tensor] = []


def empty_result_maps(like: Tensor, channels: int) -> Tensor:
    """Uninitialised CPU memory like ``like (N, C, H, W)`` with another number of channels, in its
    memory format.
    """
    result = empty_maps(like, channels)
    size = result.numel() * result.element_size()
    if size >= _HUGE:
        _native.module().advise_huge_pages(result.data_ptr(), size)
    return result


@contextmanager
def workspace(floats: int) -> Iterator[Tensor]:
    """Uninitialised float32 ``(floats,)``, the caller's for the block."""
    with _lock:
        fitting = [i for i, buffer in enumerate(_kept) if buffer.numel() >= floats]
        best = min(fitting, key=lambda i: _kept[i].numel(), default=None)
        buffer = None if best is None else _kept.pop(best)
    if buffer is None:
        buffer = torch.empty(floats, dtype=torch.float32)
        if 4 * floats >= _HUGE:
            _native.module().advise_huge_pages(buffer.data_ptr(), 4 * floats)
    try:
        yield buffer[:floats]
    finally:
        with _lock:
            _kept.append(buffer)
            _kept.sort(key=Tensor.numel)
            while 4 * sum(map(Tensor.numel, _kept)) > KEPT_BYTES:
                _kept.pop(0 if len(_kept) > 1 else -1)


def release() -> None:
    """Free the intermediates that are kept for the next call."""
    with _lock:
        _kept.clear()
