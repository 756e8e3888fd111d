"""Resizing that gradients pass through."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from icmh_rt.errors import OptionError

FILTERS = ("area", "bilinear")


def resize(images: Tensor, size: tuple[int, int], filter: str) -> Tensor:
    """``(N, C, H, W)`` -> ``(N, C, *size)``.

    Args:
        filter: "area": every output pixel is the mean of the rectangle of the picture that it
            covers, fractions of pixels counted; "bilinear": antialiased, as Pillow does it.
    """
    if filter not in FILTERS:
        raise OptionError(f"filter is {filter!r}: use one of {', '.join(FILTERS)}")
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    if filter == "bilinear":
        return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    rows, columns = (
        area_weights(a, b).to(images) for a, b in zip(images.shape[-2:], size, strict=True)
    )
    return rows @ images @ columns.T


@lru_cache(maxsize=64)
def area_weights(source: int, target: int) -> Tensor:
    """float32 ``(target, source)``: which part of each target pixel each source pixel covers."""
    edges = torch.arange(target + 1, dtype=torch.float64) * source / target
    low, high = edges[:-1, None], edges[1:, None]
    pixels = torch.arange(source, dtype=torch.float64)[None]
    covered = (torch.minimum(high, pixels + 1) - torch.maximum(low, pixels)).clamp(min=0)
    return (covered / (high - low)).float()
