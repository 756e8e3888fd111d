"""Memory for large intermediates on a CPU."""

from __future__ import annotations

import math
import mmap

import torch
from torch import Tensor

_LARGE_BYTES = 8 << 20


def large_empty(like: Tensor, *shape: int) -> Tensor:
    """``like.new_empty(shape)``, in huge pages where the tensor is large and the system has them.

    The allocator maps every large tensor anew, and the system then clears it page by page, 4 KiB
    at a time, as it is first written. That costs about as much as a block's whole arithmetic on a
    tensor; with pages of 2 MiB, asked for with madvise, it costs a third.
    """
    count = math.prod(shape)
    size = count * like.element_size()
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if size < _LARGE_BYTES or like.device.type != "cpu" or advice is None:
        return like.new_empty(shape)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(advice)
    except OSError:  # a kernel without them; then these are pages like any other
        pass
    return torch.frombuffer(memory, dtype=like.dtype, count=count).view(shape)
