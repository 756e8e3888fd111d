"""The frequency gate's Triton kernel with its parameters in the order in which TensorRT passes
them: inputs, numbers, results.
"""

from __future__ import annotations

from typing import Any

from icmh_rt.kernels import _triton, frequency_gate
from icmh_rt.kernels._triton import tl

_kernel: Any = getattr(frequency_gate._kernel, "function", None)


@_triton.jit
def icmh_frequency_gate(
    spectrum,
    dw_weight,
    dw_bias,
    mix_weight,
    mix_bias,
    height,
    width,
    out,
    CHANNELS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """All maps are NCHW without gaps."""
    size = height * width
    _kernel(
        spectrum,
        dw_weight,
        dw_bias,
        mix_weight,
        mix_bias,
        out,
        height,
        width,
        CHANNELS,
        CHANNELS * size,
        size,
        1,
        CHANNELS,
        1,
        CHANNELS * size,
        size,
        1,
        False,
        BLOCK_M,
        BLOCK_P,
        BLOCK_K,
    )
