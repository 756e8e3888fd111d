"""Generalized divisive normalization and its approximate inverse.

    out[n, i, p] = x[n, i, p] * (beta[i] + sum_j gamma[i, j] x[n, j, p]²) ** (-1/2, inverse: +1/2)

Ballé, Laparra, Simoncelli, "Density modeling of images using a generalized normalization
transformation", ICLR 2016, equation 2 with exponents 2 and 1/2. Halves are squared and summed in
single precision: a square overflows float16 from 256 on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from icmh_rt.kernels import _cpu_codec, _cuda, _triton
from icmh_rt.kernels._layout import empty_maps, is_channels_last, memory_format
from icmh_rt.kernels._op import Op
from icmh_rt.kernels._triton import tl


def reference(x: Tensor, beta: Tensor, gamma: Tensor, inverse: bool) -> Tensor:
    """GDN, or IGDN if ``inverse``.

    Args:
        x: (N, C, H, W), any strides.
        beta: (C,), positive. gamma: (C, C), not negative; both as they act, not as they are kept.
        inverse: multiply by the root instead of dividing.

    Returns:
        (N, C, H, W), in the memory format and dtype of ``x``.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    gamma, beta = gamma.to(wide.dtype)[:, :, None, None], beta.to(wide.dtype)
    energy = F.conv2d(wide * wide, gamma, beta)
    out = wide * (energy.sqrt() if inverse else energy.rsqrt())
    return out.to(x.dtype).contiguous(memory_format=memory_format(x))


def fake(x: Tensor, beta: Tensor, gamma: Tensor, inverse: bool) -> Tensor:
    return empty_maps(x, x.shape[1])


# -- Triton ----------------------------------------------------------------------------------------


@_triton.autotune(
    ["channels", "TOKENS"],
    ({"BLOCK_P": 64, "BLOCK_M": 64, "BLOCK_K": 16}, 4, 3),
    ({"BLOCK_P": 64, "BLOCK_M": 128, "BLOCK_K": 32}, 8, 3),
    ({"BLOCK_P": 128, "BLOCK_M": 64, "BLOCK_K": 32}, 8, 3),
)
@_triton.jit
def _kernel(
    x,
    beta,
    gamma,
    out,
    size,
    channels,
    x_n,
    x_c,
    x_p,
    gamma_row,
    gamma_column,
    out_n,
    out_c,
    out_p,
    INVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
    TOKENS: tl.constexpr,  # only names the memory format to the tuner
    BLOCK_P: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    across = tl.cdiv(channels, BLOCK_M)
    positions = tl.program_id(0) // across * BLOCK_P + tl.arange(0, BLOCK_P)
    m = tl.program_id(0) % across * BLOCK_M + tl.arange(0, BLOCK_M)
    image = tl.program_id(1).to(tl.int64)
    x += image * x_n
    energy = tl.zeros((BLOCK_P, BLOCK_M), tl.float32)
    for start in range(0, channels, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = _triton.load_tile(x, x_c, x_p, positions, k, size, channels).to(tl.float32)
        b = _triton.load_matrix(gamma, gamma_row, gamma_column, m, k, channels, channels)
        energy = _triton.dot(a * a, b.to(tl.float32), energy, PRECISION)
    # Beyond the last channel the root has a one, not a zero: nothing there divides by zero.
    energy += tl.where(m < channels, 0.0, 1.0)[None, :] + _triton.load_vector(beta, m, channels)
    value = _triton.load_tile(x, x_c, x_p, positions, m, size, channels).to(tl.float32)
    if INVERSE:
        value *= tl.sqrt(energy)
    else:
        value *= tl.rsqrt(energy)
    _triton.store_tile(out + image * out_n, out_c, out_p, positions, m, size, channels, value)


def run_triton(x: Tensor, beta: Tensor, gamma: Tensor, inverse: bool) -> Tensor:
    out = empty_maps(x, x.shape[1])
    if not out.numel():
        return out
    x = _triton.flat(x)
    images, channels, height, width = x.shape

    def grid(constants: dict[str, int]) -> tuple[int, int]:
        across = _triton.ceil_div(channels, constants["BLOCK_M"])
        return _triton.ceil_div(height * width, constants["BLOCK_P"]) * across, images

    _triton.launch(
        _kernel,
        grid,
        x,
        beta.contiguous(),
        gamma,
        out,
        height * width,
        channels,
        *_triton.steps(x),
        *gamma.stride(),
        *_triton.steps(out),
        INVERSE=inverse,
        # TF32 has the range of float32 for the squares and rounds like the halves they come from.
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32",
        TOKENS=is_channels_last(x),
    )
    return out


def triton_obstacle(x: Tensor, beta: Tensor, gamma: Tensor, inverse: bool) -> str | None:
    return _triton.obstacle(x, beta, gamma)


# -- registration ----------------------------------------------------------------------------------

gdn = Op("gdn", "(Tensor x, Tensor beta, Tensor gamma, bool inverse) -> Tensor", reference, fake)
gdn.add("triton", run_triton, triton_obstacle)
gdn.add("cuda", _cuda.gdn, _cuda.obstacle)
gdn.add("cpu", _cpu_codec.gdn, _cpu_codec.gdn_obstacle)
