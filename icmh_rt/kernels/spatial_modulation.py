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

from icmh_rt.kernels import _cpu_adapter, _cuda, _triton
from icmh_rt.kernels._layout import empty_maps, is_channels_last, memory_format
from icmh_rt.kernels._op import Op
from icmh_rt.kernels._triton import tl


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


# -- Triton ----------------------------------------------------------------------------------------


@_triton.jit
def _kernel(
    x,
    other,
    weight,
    bias,
    out,
    height,
    width,
    channels,
    x_n,
    x_c,
    x_p,
    other_n,
    other_c,
    other_p,
    out_n,
    out_c,
    out_p,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Four rows of BLOCK_W columns and BLOCK_C channels; each input value is loaded 5 times for
    every 4 outputs below each other, not 25 times for each.
    """
    column_blocks = tl.cdiv(width, BLOCK_W)
    columns = tl.program_id(0) % column_blocks * BLOCK_W + tl.arange(0, BLOCK_W)
    top = tl.program_id(0) // column_blocks * 4
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image = tl.program_id(2).to(tl.int64)
    x += image * x_n
    other += image * other_n
    out += image * out_n

    # As a block of one: conditions on it broadcast over a tile.
    row = top + tl.zeros((1, 1), tl.int32)
    ok0 = (row >= 2) & (row - 2 < height)
    ok1 = (row >= 1) & (row - 1 < height)
    ok2 = row < height
    ok3 = row + 1 < height
    ok4 = row + 2 < height
    ok5 = row + 3 < height
    ok6 = row + 4 < height
    ok7 = row + 5 < height
    x_h = width * x_p
    x += top * x_h
    known = c < channels
    acc0 = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    acc1 = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    acc2 = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    acc3 = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    for v in tl.static_range(5):
        taps = weight + v + c * 25
        w0 = tl.load(taps, known, 0.0).to(tl.float32)[None, :]
        w1 = tl.load(taps + 5, known, 0.0).to(tl.float32)[None, :]
        w2 = tl.load(taps + 10, known, 0.0).to(tl.float32)[None, :]
        w3 = tl.load(taps + 15, known, 0.0).to(tl.float32)[None, :]
        w4 = tl.load(taps + 20, known, 0.0).to(tl.float32)[None, :]
        j = columns + (v - 2)
        seen = ((j >= 0) & (j < width))[:, None] & known[None, :]
        place = x + j[:, None] * x_p + c[None, :] * x_c
        value = tl.load(place - 2 * x_h, seen & ok0, 0.0).to(tl.float32)
        acc0 += value * w0
        value = tl.load(place - x_h, seen & ok1, 0.0).to(tl.float32)
        acc0 += value * w1
        acc1 += value * w0
        value = tl.load(place, seen & ok2, 0.0).to(tl.float32)
        acc0 += value * w2
        acc1 += value * w1
        acc2 += value * w0
        value = tl.load(place + x_h, seen & ok3, 0.0).to(tl.float32)
        acc0 += value * w3
        acc1 += value * w2
        acc2 += value * w1
        acc3 += value * w0
        value = tl.load(place + 2 * x_h, seen & ok4, 0.0).to(tl.float32)
        acc0 += value * w4
        acc1 += value * w3
        acc2 += value * w2
        acc3 += value * w1
        value = tl.load(place + 3 * x_h, seen & ok5, 0.0).to(tl.float32)
        acc1 += value * w4
        acc2 += value * w3
        acc3 += value * w2
        value = tl.load(place + 4 * x_h, seen & ok6, 0.0).to(tl.float32)
        acc2 += value * w4
        acc3 += value * w3
        value = tl.load(place + 5 * x_h, seen & ok7, 0.0).to(tl.float32)
        acc3 += value * w4

    b = tl.load(bias + c, known, 0.0).to(tl.float32)[None, :]
    seen = (columns < width)[:, None] & known[None, :]
    gates = other + (top * width + columns)[:, None] * other_p + c[None, :] * other_c
    place = out + (top * width + columns)[:, None] * out_p + c[None, :] * out_c
    gate = tl.load(gates, seen & ok2, 0.0).to(tl.float32)
    _store(place, (acc0 + b) * gate, seen & ok2)
    gate = tl.load(gates + width * other_p, seen & ok3, 0.0).to(tl.float32)
    _store(place + width * out_p, (acc1 + b) * gate, seen & ok3)
    gate = tl.load(gates + 2 * width * other_p, seen & ok4, 0.0).to(tl.float32)
    _store(place + 2 * width * out_p, (acc2 + b) * gate, seen & ok4)
    gate = tl.load(gates + 3 * width * other_p, seen & ok5, 0.0).to(tl.float32)
    _store(place + 3 * width * out_p, (acc3 + b) * gate, seen & ok5)


@_triton.jit
def _store(place, values, inside):
    tl.store(place, _triton.relu(values).to(place.dtype.element_ty), inside)


_over_tokens = _triton.autotune(
    ["channels"],
    ({"BLOCK_W": 16, "BLOCK_C": 32}, 4, 1),
    ({"BLOCK_W": 32, "BLOCK_C": 16}, 4, 1),
    ({"BLOCK_W": 16, "BLOCK_C": 64}, 8, 1),
)(_kernel)
_over_planes = _triton.autotune(
    ["channels"],
    ({"BLOCK_W": 64, "BLOCK_C": 4}, 4, 1),
    ({"BLOCK_W": 256, "BLOCK_C": 1}, 4, 1),
    ({"BLOCK_W": 32, "BLOCK_C": 16}, 4, 1),
)(_kernel)


def run_triton(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = empty_maps(x, x.shape[1])
    if not out.numel():
        return out
    images, channels, height, width = x.shape
    maps = x, other = _triton.flat(x), _triton.flat(other)

    def grid(constants: dict[str, int]) -> tuple[int, int, int]:
        across = _triton.ceil_div(width, constants["BLOCK_W"])
        blocks = across * _triton.ceil_div(height, 4)
        return blocks, _triton.ceil_div(channels, constants["BLOCK_C"]), images

    _triton.launch(
        _over_tokens if is_channels_last(x) else _over_planes,
        grid,
        *maps,
        weight.contiguous(),
        bias.contiguous(),
        out,
        height,
        width,
        channels,
        *_triton.steps(x),
        *_triton.steps(other),
        *_triton.steps(out),
    )
    return out


# -- registration ----------------------------------------------------------------------------------

spatial_modulation = Op(
    "spatial_modulation",
    "(Tensor x, Tensor other, Tensor weight, Tensor bias) -> Tensor",
    reference,
    fake,
)
spatial_modulation.add("triton", run_triton, _triton.obstacle)
spatial_modulation.add("cuda", _cuda.spatial_modulation, _cuda.obstacle)
spatial_modulation.add("cpu", _cpu_adapter.spatial_modulation, _cpu_adapter.float_obstacle)
