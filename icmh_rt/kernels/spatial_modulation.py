"""Spatial modulation: the middle of SFMA's spatial branch (Li et al., ECCV 2024, section 3.3).

    out[n, c, i, j] = relu((bias[c] + sum_{u, v in -2..2} weight[c, 0, u+2, v+2]
                            x[n, c, i+u, j+v]) * other[n, c, i, j]),      x zero outside the map

A 5x5 depthwise convolution times a gate: 26 multiplications a value, so it costs what its memory
traffic costs, two maps read and one written.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from icmh_rt.kernels._layout import empty_maps, memory_format
from icmh_rt.kernels._op import Op


def reference(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``relu(dw5x5(x) * other)``.

    Args:
        x, other: (N, C, H, W), one dtype, any strides.
        weight: (C, 1, 5, 5). bias: (C,).

    Returns:
        (N, C, H, W), in the memory format of ``x``.
    """
    mixed = F.conv2d(x, weight, bias, padding=2, groups=x.shape[1])
    return torch.relu(mixed * other).contiguous(memory_format=memory_format(x))


def fake(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return empty_maps(x, x.shape[1])


spatial_modulation = Op(
    "spatial_modulation",
    "(Tensor x, Tensor other, Tensor weight, Tensor bias) -> Tensor",
    reference,
    fake,
)
