"""Depth-conv block of the default codec: mixing and a gated FFN, both residual.

    t   = x + mix_out(dw3x3(silu(mix_in(x)))),              dw3x3 sees zeros outside the map
    out = t + out(silu(gate(t)) * value(t))

All but the depthwise convolution are 1x1 convolutions C -> C (the block shape of DCVC-RT, Jia et
al., CVPR 2025; here `icmh_rt.models.slimmable.DepthConvBlock`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from icmh_rt.kernels import _cpu_layers, _cuda, _triton
from icmh_rt.kernels._layout import empty_maps, is_channels_last, memory_format
from icmh_rt.kernels._op import Op
from icmh_rt.kernels._triton import tl
from icmh_rt.kernels.projections import run_triton_down


def reference(
    x: Tensor,
    mix_in_w: Tensor,
    mix_in_b: Tensor,
    mix_spatial_w: Tensor,
    mix_spatial_b: Tensor,
    mix_out_w: Tensor,
    mix_out_b: Tensor,
    gate_w: Tensor,
    gate_b: Tensor,
    value_w: Tensor,
    value_b: Tensor,
    out_w: Tensor,
    out_b: Tensor,
) -> Tensor:
    """The block on the weights of one width.

    Args:
        x: (N, C, H, W), any strides.
        mix_in_w, mix_out_w, gate_w, value_w, out_w: (C, C), rows of any stride (slices).
        mix_spatial_w: (C, 1, 3, 3). All biases: (C,). One dtype.

    Returns:
        (N, C, H, W), in the memory format of ``x``.
    """
    mixed = F.silu(_pointwise(x, mix_in_w, mix_in_b))
    mixed = F.conv2d(mixed, mix_spatial_w, mix_spatial_b, padding=1, groups=x.shape[1])
    mixed = x + _pointwise(mixed, mix_out_w, mix_out_b)
    gated = F.silu(_pointwise(mixed, gate_w, gate_b)) * _pointwise(mixed, value_w, value_b)
    out = mixed + _pointwise(gated, out_w, out_b)
    return out.contiguous(memory_format=memory_format(x))


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, weight[:, :, None, None], bias)


def fake(x: Tensor, *weights: Tensor) -> Tensor:
    return empty_maps(x, x.shape[1])


# -- Triton ----------------------------------------------------------------------------------------


@_triton.autotune(
    ["channels", "TOKENS"],
    ({"BLOCK_P": 64, "BLOCK_K": 16}, 4, 1),
    ({"BLOCK_P": 64, "BLOCK_K": 32}, 8, 1),
    ({"BLOCK_P": 128, "BLOCK_K": 32}, 8, 1),
)
@_triton.jit
def _mix_kernel(
    x,
    mixed,
    dw_weight,
    dw_bias,
    weight,
    bias,
    out,
    height,
    width,
    channels,
    x_n,
    x_c,
    x_p,
    mixed_n,
    mixed_c,
    mixed_p,
    w_row,
    w_column,
    out_n,
    out_c,
    out_p,
    TOKENS: tl.constexpr,  # only names the memory format to the tuner
    BLOCK_M: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``x + mix_out(dw3x3(mixed))``: the convolution is the matrix product's prologue."""
    size = height * width
    positions = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    i = positions // width
    j = positions % width
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    image = tl.program_id(2).to(tl.int64)
    mixed += image * mixed_n
    acc = tl.zeros((BLOCK_P, BLOCK_M), tl.float32)
    for start in range(0, channels, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        smooth = tl.zeros((BLOCK_P, BLOCK_K), tl.float32)
        smooth += _triton.load_vector(dw_bias, k, channels)
        for tap in tl.static_range(9):
            up = i + (tap // 3 - 1)
            across = j + (tap % 3 - 1)
            seen = (up >= 0) & (up < height) & (across >= 0) & (across < width)
            inside = seen[:, None] & (k[None, :] < channels)
            offsets = (up * width + across)[:, None] * mixed_p + k[None, :] * mixed_c
            value = tl.load(mixed + offsets, inside, 0.0).to(tl.float32)
            smooth += value * _triton.load_vector(dw_weight + tap, k * 9, channels * 9)
        b = _triton.load_matrix(weight, w_row, w_column, m, k, channels, channels)
        acc = _triton.dot(smooth.to(b.dtype), b, acc)
    acc += _triton.load_vector(bias, m, channels)
    acc += _triton.load_tile(x + image * x_n, x_c, x_p, positions, m, size, channels)
    _triton.store_tile(out + image * out_n, out_c, out_p, positions, m, size, channels, acc)


@_triton.autotune(
    ["channels", "TOKENS"],
    ({"BLOCK_P": 32, "BLOCK_J": 32, "BLOCK_K": 32}, 4, 2),
    ({"BLOCK_P": 64, "BLOCK_J": 32, "BLOCK_K": 32}, 8, 3),
    ({"BLOCK_P": 64, "BLOCK_J": 64, "BLOCK_K": 64}, 8, 2),
)
@_triton.jit
def _ffn_kernel(
    x,
    gate_w,
    gate_b,
    value_w,
    value_b,
    out_w,
    out_b,
    out,
    size,
    channels,
    x_n,
    x_c,
    x_p,
    gate_row,
    gate_column,
    value_row,
    value_column,
    out_row,
    out_column,
    out_n,
    out_c,
    out_p,
    TOKENS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``x + out(silu(gate(x)) * value(x))``: the hidden channels never reach memory."""
    positions = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    image = tl.program_id(2).to(tl.int64)
    x += image * x_n
    acc = tl.zeros((BLOCK_P, BLOCK_M), tl.float32)
    for first in range(0, channels, BLOCK_J):
        hidden = first + tl.arange(0, BLOCK_J)
        gate = tl.zeros((BLOCK_P, BLOCK_J), tl.float32)
        value = tl.zeros((BLOCK_P, BLOCK_J), tl.float32)
        for start in range(0, channels, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            a = _triton.load_tile(x, x_c, x_p, positions, k, size, channels)
            b = _triton.load_matrix(gate_w, gate_row, gate_column, hidden, k, channels, channels)
            gate = _triton.dot(a.to(b.dtype), b, gate)
            b = _triton.load_matrix(value_w, value_row, value_column, hidden, k, channels, channels)
            value = _triton.dot(a.to(b.dtype), b, value)
        gate = _triton.silu(gate + _triton.load_vector(gate_b, hidden, channels))
        value += _triton.load_vector(value_b, hidden, channels)
        b = _triton.load_matrix(out_w, out_row, out_column, m, hidden, channels, channels)
        acc = _triton.dot((gate * value).to(b.dtype), b, acc)
    acc += _triton.load_vector(out_b, m, channels)
    acc += _triton.load_tile(x, x_c, x_p, positions, m, size, channels)
    _triton.store_tile(out + image * out_n, out_c, out_p, positions, m, size, channels, acc)


def run_triton(
    x: Tensor,
    mix_in_w: Tensor,
    mix_in_b: Tensor,
    mix_spatial_w: Tensor,
    mix_spatial_b: Tensor,
    mix_out_w: Tensor,
    mix_out_b: Tensor,
    gate_w: Tensor,
    gate_b: Tensor,
    value_w: Tensor,
    value_b: Tensor,
    out_w: Tensor,
    out_b: Tensor,
) -> Tensor:
    """Three kernels: mix_in with SiLU, the rest of the mixing, the FFN."""
    if not x.numel():
        return empty_maps(x, x.shape[1])
    images, channels, height, width = x.shape
    block = _triton.power_of_two(channels, 16, 256)

    def grid(constants: dict[str, int]) -> tuple[int, int, int]:
        rows = _triton.ceil_div(height * width, constants["BLOCK_P"])
        return rows, _triton.ceil_div(channels, block), images

    mixed = run_triton_down(x, mix_in_w, mix_in_b, silu=True)
    between, out = torch.empty_like(mixed), torch.empty_like(mixed)
    x = _triton.flat(x)
    options = {"TOKENS": is_channels_last(x), "BLOCK_M": block}
    _triton.launch(
        _mix_kernel,
        grid,
        x,
        mixed,
        mix_spatial_w.contiguous(),
        mix_spatial_b.contiguous(),
        mix_out_w,
        mix_out_b.contiguous(),
        between,
        height,
        width,
        channels,
        *_triton.steps(x),
        *_triton.steps(mixed),
        *mix_out_w.stride(),
        *_triton.steps(between),
        **options,
    )
    _triton.launch(
        _ffn_kernel,
        grid,
        between,
        gate_w,
        gate_b.contiguous(),
        value_w,
        value_b.contiguous(),
        out_w,
        out_b.contiguous(),
        out,
        height * width,
        channels,
        *_triton.steps(between),
        *gate_w.stride(),
        *value_w.stride(),
        *out_w.stride(),
        *_triton.steps(out),
        **options,
    )
    return out


# -- registration ----------------------------------------------------------------------------------

depth_conv_block = Op(
    "depth_conv_block",
    "(Tensor x, Tensor mix_in_w, Tensor mix_in_b, Tensor mix_spatial_w, Tensor mix_spatial_b, "
    "Tensor mix_out_w, Tensor mix_out_b, Tensor gate_w, Tensor gate_b, Tensor value_w, "
    "Tensor value_b, Tensor out_w, Tensor out_b) -> Tensor",
    reference,
    fake,
)
depth_conv_block.add("triton", run_triton, _triton.obstacle)
depth_conv_block.add("cuda", _cuda.depth_conv_block, _cuda.obstacle)
depth_conv_block.add("cpu", _cpu_layers.depth_conv_block, _cpu_layers.depth_conv_block_obstacle)
