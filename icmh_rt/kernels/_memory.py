"""Large buffers on a CPU, without the price of fresh pages.

The system's allocator returns large memory as soon as it is freed, and hands it out again as pages
that do not exist yet: touching them for the first time takes longer than what the kernels compute.
So intermediates and results come from buffers that are kept, of huge pages where the system has
them. A result's buffer is free again when the last tensor on it is gone.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icmh_rt import _native
from icmh_rt.kernels._layout import empty_maps, memory_format

KEPT_BYTES = 512 << 20
"""Free memory that is kept for the next call, in all; beyond it the smallest buffers go first."""

_HUGE = 4 << 20  # smaller results are the allocator's
_PRIVATE: dict[str, Any] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)
_lock = threading.RLock()  # a buffer may be freed by the garbage collector within any of the blocks
_free: list[np.ndarray] = []


def _take(size: int) -> np.ndarray:
    """uint8, at least ``size`` bytes: the smallest free buffer that is not twice too large."""
    with _lock:
        fitting = [i for i, free in enumerate(_free) if size <= free.nbytes <= 2 * size + _HUGE]
        best = min(fitting, key=lambda i: _free[i].nbytes, default=None)
        if best is not None:
            return _free.pop(best)
    # Mapped by itself, so that it starts at a page and is not the allocator's to return; private,
    # since shared memory has no huge pages.
    buffer = np.frombuffer(mmap.mmap(-1, max(size, 1), **_PRIVATE), np.uint8)
    _native.module().advise_huge_pages(buffer.ctypes.data, buffer.nbytes)
    return buffer


def _give_back(buffer: np.ndarray) -> None:
    with _lock:
        _free.append(buffer)
        _free.sort(key=lambda free: free.nbytes)
        while sum(free.nbytes for free in _free) > KEPT_BYTES:
            _free.pop(0 if len(_free) > 1 else -1)


class _Lease:
    """A buffer while tensors are on it; NumPy's arrays, and so PyTorch's, hold on to it."""

    def __init__(self, buffer: np.ndarray, floats: int) -> None:
        self._buffer = buffer
        self.__array_interface__ = {
            "version": 3,
            "shape": (floats,),
            "typestr": np.dtype(np.float32).str,
            "data": (buffer.ctypes.data, False),
        }

    def __del__(self) -> None:
        _give_back(self._buffer)


def empty_floats(shape: tuple[int, ...], layout: torch.memory_format) -> Tensor:
    """Uninitialised float32 CPU memory of ``shape`` in ``layout``; from a kept buffer where it is
    large.
    """
    count = math.prod(shape)
    if 4 * count < _HUGE:
        return torch.empty(shape, memory_format=layout)
    strides = torch.empty(shape, device="meta", memory_format=layout).stride()
    floats = torch.from_numpy(np.asarray(_Lease(_take(4 * count), count)))
    return floats.as_strided(shape, strides)


def empty_result_maps(like: Tensor, channels: int) -> Tensor:
    """Uninitialised CPU memory like ``like (N, C, H, W)`` with another number of channels, in its
    memory format; see `empty_floats`.
    """
    if like.dtype != torch.float32:
        return empty_maps(like, channels)
    images, _, height, width = like.shape
    return empty_floats((images, channels, height, width), memory_format(like))


@contextmanager
def workspace(floats: int) -> Iterator[Tensor]:
    """Uninitialised float32 ``(floats,)``, the caller's for the block."""
    buffer = _take(4 * floats)
    try:
        yield torch.from_numpy(buffer[: 4 * floats].view(np.float32))
    finally:
        _give_back(buffer)


def release() -> None:
    """Free what is kept for the next call."""
    with _lock:
        _free.clear()
