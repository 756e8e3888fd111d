"""Quantization and scale index: what the entropy coder needs of a latent, in one pass, exact.

    value[n, c, p]  = fl(fl(latent[n, c, p] * gain[c]) - mean[n, c, p])       fl: nearest float32
    symbol[n, c, p] = min(max(rint(value), -2**17), 2**17)                    rint: ties to even
    index[n, c, p]  = how many thresholds lie below scale[n, c, p]

Two roundings, never a fused multiply-add: every implementation gives the same bits. A value that
is NaN gives symbol 0; a scale that is NaN gives the last row. Both are counted, as are infinite
values, so that a caller can refuse them instead of coding garbage.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from icmh_rt.kernels import _cpu_codec, _cuda, _triton
from icmh_rt.kernels._layout import is_channels_last, memory_format
from icmh_rt.kernels._op import Op
from icmh_rt.kernels._triton import tl

SYMBOL_LIMIT = 2**17
"""Largest magnitude of a symbol."""


def reference(
    latent: Tensor,
    mean: Tensor | None,
    gain: Tensor | None,
    scales: Tensor | None,
    thresholds: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Symbols, scale indexes, and how many numbers were no good.

    Args:
        latent: (N, C, H, W) float32, or a half that is widened; any strides.
        mean: the same shape, any strides (also expanded), or None: zero.
        gain: (C,) or None: one.
        scales: like ``mean``, or None: no indexes are wanted.
        thresholds: (T - 1,) ascending, T <= 256; None exactly if ``scales`` is.

    Returns:
        symbols: (N, C, H, W) int32, in the memory format of ``latent``.
        indexes: the same in uint8, below T; empty (0,) without ``scales``.
        bad: (1,) int32, how many values were infinite or NaN, plus how many scales were NaN.
    """
    value = latent.float()
    if gain is not None:
        value = value * gain.float()[:, None, None]
    if mean is not None:
        value = value - mean.float()
    bad = (~value.isfinite()).sum()
    symbols = value.nan_to_num(0.0).round().clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT).int()
    symbols = symbols.contiguous(memory_format=memory_format(latent))
    if scales is None:
        indexes = torch.empty(0, dtype=torch.uint8, device=latent.device)
    else:
        scales = scales.float()
        bad = bad + scales.isnan().sum()
        # bucketize puts NaN behind the last threshold.
        indexes = torch.bucketize(scales.contiguous(), cast(Tensor, thresholds).float()).to(
            torch.uint8
        )
        indexes = indexes.contiguous(memory_format=memory_format(latent))
    return symbols, indexes, bad.to(torch.int32).reshape(1)


def fake(
    latent: Tensor,
    mean: Tensor | None,
    gain: Tensor | None,
    scales: Tensor | None,
    thresholds: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_outputs(latent, scales is not None)


def empty_outputs(latent: Tensor, has_scales: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Symbols, indexes and bad, not filled."""
    layout = memory_format(latent)
    symbols = torch.empty(
        latent.shape, dtype=torch.int32, device=latent.device, memory_format=layout
    )
    if has_scales:
        indexes = torch.empty_like(symbols, dtype=torch.uint8, memory_format=layout)
    else:
        indexes = torch.empty(0, dtype=torch.uint8, device=latent.device)
    return symbols, indexes, torch.empty(1, dtype=torch.int32, device=latent.device)


# -- Triton ----------------------------------------------------------------------------------------


@_triton.jit
def _kernel(
    latent,
    mean,
    gain,
    scales,
    thresholds,
    symbols,
    indexes,
    bad,
    size,
    channels,
    levels,
    latent_n,
    latent_c,
    latent_p,
    mean_n,
    mean_c,
    mean_p,
    scales_n,
    scales_c,
    scales_p,
    LIMIT: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK values in the order in which the results lie. Compiled without fused multiply-add."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size * channels
    if TOKENS:
        c = place % channels
        p = place // channels
    else:
        c = place // size
        p = place % size
    image = tl.program_id(1).to(tl.int64)
    value = tl.load(latent + image * latent_n + c * latent_c + p * latent_p, inside, 0.0)
    value = value.to(tl.float32)
    if gain is not None:
        value = value * tl.load(gain + c, inside, 0.0).to(tl.float32)
    if mean is not None:
        less = tl.load(mean + image * mean_n + c * mean_c + p * mean_p, inside, 0.0)
        value = value - less.to(tl.float32)
    wrong = tl.sum((value - value != 0.0).to(tl.int32))
    value = tl.where(value == value, value, 0.0)
    place += image * size * channels
    tl.store(symbols + place, _triton.rint(_triton.clamp(value, -LIMIT, LIMIT)), inside)
    if scales is not None:
        scale = tl.load(scales + image * scales_n + c * scales_c + p * scales_p, inside, 0.0)
        scale = scale.to(tl.float32)
        index = tl.zeros((BLOCK,), tl.int32)
        for level in range(0, levels):
            index += (tl.load(thresholds + level).to(tl.float32) < scale).to(tl.int32)
        index = tl.where(scale == scale, index, levels)
        wrong += tl.sum((scale != scale).to(tl.int32))
        tl.store(indexes + place, index.to(tl.uint8), inside)
    if wrong > 0:
        tl.atomic_add(bad, wrong)


def run_triton(
    latent: Tensor,
    mean: Tensor | None,
    gain: Tensor | None,
    scales: Tensor | None,
    thresholds: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    symbols, indexes, bad = empty_outputs(latent, scales is not None)
    bad.zero_()
    if not latent.numel():
        return symbols, indexes, bad
    images, channels, height, width = latent.shape
    latent, mean, scales = (x if x is None else _triton.flat(x) for x in (latent, mean, scales))
    gain, thresholds = (x if x is None else x.contiguous() for x in (gain, thresholds))
    _triton.launch(
        _kernel,
        (_triton.ceil_div(channels * height * width, _BLOCK), images),
        latent,
        mean,
        gain,
        scales,
        thresholds,
        symbols,
        indexes,
        bad,
        height * width,
        channels,
        0 if thresholds is None else thresholds.numel(),
        *_triton.steps(latent),
        *((0, 0, 0) if mean is None else _triton.steps(mean)),
        *((0, 0, 0) if scales is None else _triton.steps(scales)),
        LIMIT=SYMBOL_LIMIT,
        TOKENS=is_channels_last(symbols),
        BLOCK=_BLOCK,
        enable_fp_fusion=False,
    )
    return symbols, indexes, bad


_BLOCK = 1024


# -- registration ----------------------------------------------------------------------------------

quantize_index = Op(
    "quantize_index",
    "(Tensor latent, Tensor? mean, Tensor? gain, Tensor? scales, Tensor? thresholds) "
    "-> (Tensor, Tensor, Tensor)",
    reference,
    fake,
    differentiable=False,
)
quantize_index.add("triton", run_triton, _triton.obstacle)
quantize_index.add("cuda", _cuda.quantize_index, _cuda.obstacle)
quantize_index.add("cpu", _cpu_codec.quantize_index, _cpu_codec.quantize_index_obstacle)
