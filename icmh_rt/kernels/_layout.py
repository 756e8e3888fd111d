"""How feature maps lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x (N, C, H, W)`` lies channels-last, and not plainly contiguous as well."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def memory_format(x: Tensor) -> torch.memory_format:
    """The one that results of ``x`` take: its own, contiguous if it has neither."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def empty_maps(x: Tensor, channels: int) -> Tensor:
    """Like ``x (N, C, H, W)`` with another number of channels, in its memory format."""
    shape = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
