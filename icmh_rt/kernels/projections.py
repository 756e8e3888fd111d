"""The projections of SFMA: three into its branches as one, two out of them as one.

    project_down:   out[n, m, p] = bias[m] + sum_c weight[m, c] x[n, c, p]
    project_up:     out[n, c, p] = residual[n, c, p] + factor * (bias[c]
                        + sum_k weight[c, k] spatial[n, k, p]
                        + sum_k weight[c, K + k] relu(planes[n, k, p]))

The down-projections share their input and the up-projections their sum (Li et al., ECCV 2024,
section 3.3): merged, the features are read once and written once. Sums are in single precision or
better.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from icmh_rt.kernels import _cpu_adapter, _cuda, _triton
from icmh_rt.kernels._layout import empty_maps, is_channels_last, memory_format
from icmh_rt.kernels._op import Op
from icmh_rt.kernels._triton import tl


def reference_down(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """1x1 convolution.

    Args:
        x: (N, C, H, W), any strides. weight: (M, C). bias: (M,). One dtype.

    Returns:
        (N, M, H, W), in the memory format of ``x``.
    """
    out = F.conv2d(x, weight[:, :, None, None], bias)
    return out.contiguous(memory_format=memory_format(x))


def fake_down(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return empty_maps(x, weight.shape[0])


def reference_up(
    spatial: Tensor, planes: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, factor: float
) -> Tensor:
    """``residual + factor * (weight @ cat(spatial, relu(planes)) + bias)``.

    Args:
        spatial: (N, K, H, W), any strides.
        planes: the same shape, any strides; may be float32 beside halves, as an inverse FFT gives.
        weight: (C, 2K). bias: (C,). residual: (N, C, H, W), any strides. One dtype.
        factor: scales what is added.

    Returns:
        (N, C, H, W), in the memory format of ``spatial``.
    """
    both = torch.cat((spatial, torch.relu(planes).to(spatial.dtype)), 1)
    out = residual + factor * F.conv2d(both, weight[:, :, None, None], bias)
    return out.contiguous(memory_format=memory_format(spatial))


def fake_up(
    spatial: Tensor, planes: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, factor: float
) -> Tensor:
    return empty_maps(spatial, weight.shape[0])


# -- Triton ----------------------------------------------------------------------------------------


_BLOCKS = (
    ({"BLOCK_P": 64, "BLOCK_M": 64, "BLOCK_K": 32}, 4, 3),
    ({"BLOCK_P": 64, "BLOCK_M": 64, "BLOCK_K": 16}, 4, 3),
    ({"BLOCK_P": 128, "BLOCK_M": 64, "BLOCK_K": 32}, 8, 3),
    ({"BLOCK_P": 128, "BLOCK_M": 128, "BLOCK_K": 32}, 8, 3),
)


@_triton.autotune(["inputs", "outputs", "TOKENS"], *_BLOCKS)
@_triton.jit
def _down_kernel(
    x,
    weight,
    bias,
    out,
    size,
    inputs,
    outputs,
    x_n,
    x_c,
    x_p,
    w_row,
    w_column,
    out_n,
    out_c,
    out_p,
    SILU: tl.constexpr,
    TOKENS: tl.constexpr,  # only names the memory format to the tuner
    BLOCK_P: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    positions, rows = _tile(outputs, BLOCK_P, BLOCK_M)
    image = tl.program_id(1).to(tl.int64)
    x += image * x_n
    out += image * out_n
    acc = tl.zeros((BLOCK_P, BLOCK_M), tl.float32)
    acc = _triton.pointwise(
        acc, x, x_c, x_p, weight, w_row, w_column, positions, rows, size, inputs, outputs,
        False, BLOCK_K,
    )  # fmt: skip
    acc += _triton.load_vector(bias, rows, outputs)
    if SILU:
        acc = _triton.silu(acc)
    _triton.store_tile(out, out_c, out_p, positions, rows, size, outputs, acc)


@_triton.autotune(["inputs", "outputs", "TOKENS"], *_BLOCKS)
@_triton.jit
def _up_kernel(
    spatial,
    planes,
    weight,
    bias,
    residual,
    out,
    size,
    inputs,
    outputs,
    factor,
    spatial_n,
    spatial_c,
    spatial_p,
    planes_n,
    planes_c,
    planes_p,
    w_row,
    w_column,
    residual_n,
    residual_c,
    residual_p,
    out_n,
    out_c,
    out_p,
    TOKENS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    positions, rows = _tile(outputs, BLOCK_P, BLOCK_M)
    image = tl.program_id(1).to(tl.int64)
    acc = tl.zeros((BLOCK_P, BLOCK_M), tl.float32)
    acc = _triton.pointwise(
        acc, spatial + image * spatial_n, spatial_c, spatial_p, weight, w_row, w_column,
        positions, rows, size, inputs, outputs, False, BLOCK_K,
    )  # fmt: skip
    weight += inputs * w_column
    acc = _triton.pointwise(
        acc, planes + image * planes_n, planes_c, planes_p, weight, w_row, w_column,
        positions, rows, size, inputs, outputs, True, BLOCK_K,
    )  # fmt: skip
    acc += _triton.load_vector(bias, rows, outputs)
    before = _triton.load_tile(
        residual + image * residual_n, residual_c, residual_p, positions, rows, size, outputs
    )
    acc = before.to(tl.float32) + factor * acc
    _triton.store_tile(out + image * out_n, out_c, out_p, positions, rows, size, outputs, acc)


@_triton.jit
def _tile(outputs, BLOCK_P: tl.constexpr, BLOCK_M: tl.constexpr):
    """Positions and rows of the weight of this program. Those with the same positions are
    neighbours, so that the map comes from memory once.
    """
    across = tl.cdiv(outputs, BLOCK_M)
    positions = tl.program_id(0) // across * BLOCK_P + tl.arange(0, BLOCK_P)
    return positions, tl.program_id(0) % across * BLOCK_M + tl.arange(0, BLOCK_M)


def _grid(out: Tensor) -> Callable[[dict[str, int]], tuple[int, int]]:
    images, outputs, height, width = out.shape

    def grid(constants: dict[str, int]) -> tuple[int, int]:
        across = _triton.ceil_div(outputs, constants["BLOCK_M"])
        return _triton.ceil_div(height * width, constants["BLOCK_P"]) * across, images

    return grid


def run_triton_down(x: Tensor, weight: Tensor, bias: Tensor, silu: bool = False) -> Tensor:
    """``project_down``, and SiLU behind it if wished."""
    out = empty_maps(x, weight.shape[0])
    if not out.numel():
        return out
    x = _triton.flat(x)
    _triton.launch(
        _down_kernel,
        _grid(out),
        x,
        weight,
        bias.contiguous(),
        out,
        x.shape[2] * x.shape[3],
        x.shape[1],
        out.shape[1],
        *_triton.steps(x),
        *weight.stride(),
        *_triton.steps(out),
        SILU=silu,
        TOKENS=is_channels_last(x),
    )
    return out


def run_triton_up(
    spatial: Tensor, planes: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, factor: float
) -> Tensor:
    out = empty_maps(spatial, weight.shape[0])
    if not out.numel():
        return out
    spatial, planes, residual = (_triton.flat(x) for x in (spatial, planes, residual))
    _triton.launch(
        _up_kernel,
        _grid(out),
        spatial,
        planes,
        weight,
        bias.contiguous(),
        residual,
        out,
        out.shape[2] * out.shape[3],
        spatial.shape[1],
        out.shape[1],
        float(factor),
        *_triton.steps(spatial),
        *_triton.steps(planes),
        *weight.stride(),
        *_triton.steps(residual),
        *_triton.steps(out),
        TOKENS=is_channels_last(spatial),
    )
    return out


def triton_obstacle_up(*arguments: Tensor | float) -> str | None:
    return _triton.obstacle(*arguments[:5])


# -- registration ----------------------------------------------------------------------------------

project_down = Op(
    "project_down", "(Tensor x, Tensor weight, Tensor bias) -> Tensor", reference_down, fake_down
)
project_up = Op(
    "project_up",
    "(Tensor spatial, Tensor planes, Tensor weight, Tensor bias, Tensor residual, float factor) "
    "-> Tensor",
    reference_up,
    fake_up,
)
project_down.add("triton", run_triton_down, _triton.obstacle)
project_down.add("cuda", _cuda.project_down, _cuda.obstacle)
project_down.add("cpu", _cpu_adapter.project_down, _cpu_adapter.float_obstacle)
project_up.add("triton", run_triton_up, triton_obstacle_up)
project_up.add("cuda", _cuda.project_up, _cuda.obstacle)
project_up.add("cpu", _cpu_adapter.project_up, _cpu_adapter.project_up_obstacle)
