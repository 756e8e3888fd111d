"""Frequency gate: the middle of SFMA's frequency branch (Li et al., ECCV 2024, section 3.3).

    out[n, c, p] = Y[n, c, p] * sigmoid(mix_bias[c] + sum_k mix_weight[c, k] smooth[n, k, p])
    smooth       = relu(dw_bias + dw3x3 |Y|),               |Y| zero outside the half spectrum

The published form scales the amplitude and rebuilds real and imaginary part with the cosine and
sine of the angle; scaling an amplitude by a real gate is scaling the complex number by it. All of
it is single precision, whatever the weights have: amplitudes are sums over the whole plane. With
the plain root of the squares it is right for amplitudes from 1e-15 to 1e15, and for zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from icmh_rt.kernels import _cpu_adapter, _cuda, _triton
from icmh_rt.kernels._layout import empty_maps, is_channels_last, memory_format
from icmh_rt.kernels._op import Op
from icmh_rt.kernels._triton import tl


def reference(
    spectrum: Tensor, dw_weight: Tensor, dw_bias: Tensor, mix_weight: Tensor, mix_bias: Tensor
) -> Tensor:
    """``spectrum * sigmoid(mix(relu(dw3x3 |spectrum|)))``.

    Args:
        spectrum: (N, C, H, Wf) complex64 (or complex128), any strides.
        dw_weight: (C, 1, 3, 3). dw_bias: (C,). mix_weight: (C, C), output by input channel.
        mix_bias: (C,). Any floating dtype; widened to the spectrum's precision.

    Returns:
        (N, C, H, Wf) of the spectrum's dtype, in its memory format.
    """
    amplitude = spectrum.abs()
    dw_weight, dw_bias, mix_weight, mix_bias = (
        weight.to(amplitude.dtype) for weight in (dw_weight, dw_bias, mix_weight, mix_bias)
    )
    smooth = F.conv2d(amplitude, dw_weight, dw_bias, padding=1, groups=amplitude.shape[1])
    gate = torch.sigmoid(F.conv2d(torch.relu(smooth), mix_weight[:, :, None, None], mix_bias))
    return (spectrum * gate).contiguous(memory_format=memory_format(spectrum))


def fake(
    spectrum: Tensor, dw_weight: Tensor, dw_bias: Tensor, mix_weight: Tensor, mix_bias: Tensor
) -> Tensor:
    return empty_maps(spectrum, spectrum.shape[1])


# -- Triton ----------------------------------------------------------------------------------------


@_triton.autotune(
    ["channels", "TOKENS"],
    ({"BLOCK_P": 32, "BLOCK_K": 16}, 4, 1),
    ({"BLOCK_P": 64, "BLOCK_K": 16}, 4, 1),
    ({"BLOCK_P": 64, "BLOCK_K": 16}, 8, 1),
)
@_triton.jit
def _kernel(
    spectrum,  # a real and an imaginary part as one integer of 64 bits: one load brings both
    dw_weight,
    dw_bias,
    mix_weight,
    mix_bias,
    out,
    height,
    width,
    channels,
    y_n,
    y_c,
    y_p,
    mix_row,
    mix_column,
    out_n,
    out_c,
    out_p,
    TOKENS: tl.constexpr,  # only names the memory format to the tuner
    BLOCK_M: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """BLOCK_P positions, all channels; nothing but the spectrum passes through memory."""
    size = height * width
    positions = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    i = positions // width
    j = positions % width
    image = tl.program_id(1).to(tl.int64)
    spectrum += image * y_n
    out += image * out_n
    for first in range(0, channels, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
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
                offsets = (up * width + across)[:, None] * y_p + k[None, :] * y_c
                real, imaginary = _parts(tl.load(spectrum + offsets, inside, 0))
                weight = _triton.load_vector(dw_weight + tap, k * 9, channels * 9)
                smooth += tl.sqrt(real * real + imaginary * imaginary) * weight
            mix = _triton.load_matrix(mix_weight, mix_row, mix_column, m, k, channels, channels)
            acc = _triton.dot(_triton.relu(smooth), mix.to(tl.float32), acc)
        gate = tl.sigmoid(acc + _triton.load_vector(mix_bias, m, channels))
        real, imaginary = _parts(
            _triton.load_tile(spectrum, y_c, y_p, positions, m, size, channels)
        )
        values = _joined(real * gate, imaginary * gate)
        _triton.store_tile(out, out_c, out_p, positions, m, size, channels, values)


@_triton.jit
def _parts(pair):
    imaginary = (pair >> 32).to(tl.int32)
    return pair.to(tl.int32).to(tl.float32, bitcast=True), imaginary.to(tl.float32, bitcast=True)


@_triton.jit
def _joined(real, imaginary):
    low = real.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    return (imaginary.to(tl.int32, bitcast=True).to(tl.int64) << 32) | low


def run_triton(
    spectrum: Tensor, dw_weight: Tensor, dw_bias: Tensor, mix_weight: Tensor, mix_bias: Tensor
) -> Tensor:
    out = empty_maps(spectrum, spectrum.shape[1])
    if not out.numel():
        return out
    spectrum = _triton.flat(spectrum.resolve_conj())
    images, channels, height, width = spectrum.shape

    def grid(constants: dict[str, int]) -> tuple[int, int]:
        return _triton.ceil_div(height * width, constants["BLOCK_P"]), images

    _triton.launch(
        _kernel,
        grid,
        spectrum.view(torch.int64),
        dw_weight.contiguous(),
        dw_bias.contiguous(),
        mix_weight,
        mix_bias.contiguous(),
        out.view(torch.int64),
        height,
        width,
        channels,
        *_triton.steps(spectrum),
        *mix_weight.stride(),
        *_triton.steps(out),
        TOKENS=is_channels_last(spectrum),
        BLOCK_M=_triton.power_of_two(channels, 16, 128),
    )
    return out


def triton_obstacle(spectrum: Tensor, *weights: Tensor) -> str | None:
    return _triton.obstacle(spectrum, dtypes=(torch.complex64,)) or _triton.obstacle(*weights)


# -- registration ----------------------------------------------------------------------------------

frequency_gate = Op(
    "frequency_gate",
    "(Tensor spectrum, Tensor dw_weight, Tensor dw_bias, Tensor mix_weight, Tensor mix_bias) "
    "-> Tensor",
    reference,
    fake,
)
frequency_gate.add("triton", run_triton, triton_obstacle)
frequency_gate.add("cuda", _cuda.frequency_gate, _cuda.obstacle)
frequency_gate.add("cpu", _cpu_adapter.frequency_gate, _cpu_adapter.frequency_gate_obstacle)
