"""Multi-scale structural similarity of two images, on the CPU, with numpy alone.

Source: Z. Wang, E. P. Simoncelli, A. C. Bovik, "Multi-scale structural similarity for image quality
assessment", Asilomar 2003, with the choices that learned compression publishes with
(`pytorch_msssim`, which CompressAI's evaluation calls; the tests hold this module to it): five
scales, an 11-tap Gaussian of sigma 1.5 without padding, halving by means of 2x2 samples (a side of
odd length gets a row of zeros in front), each RGB channel on its own, negative terms cut to zero,
then the mean of the channels.

Dissimilarity is also given in decibels, -10 log10(1 - MS-SSIM), where curves near 1 can be told
apart and Bjontegaard deltas make sense.
"""

from __future__ import annotations

import math

import numpy as np

from icmh_rt.errors import OptionError
from icmh_rt.evaluation.metrics import PEAK

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
TAPS, SIGMA = 11, 1.5
SMALLEST_SIDE = (TAPS - 1) * 2 ** (len(WEIGHTS) - 1) + 1
"""Images with a shorter side have no MS-SSIM: the window must fit the coarsest scale."""

_C1, _C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
# Rows of a strip: what is filtered at a time stays in a core's cache.
_STRIP_ROWS = 32


def ms_ssim(first: np.ndarray, second: np.ndarray) -> float | None:
    """MS-SSIM, 0 to 1, of two uint8 images (H, W, 3); None if a side is below `SMALLEST_SIDE`.

    Raises OptionError unless both are uint8 (H, W, 3) of one shape.
    """
    sound = first.ndim == 3 and first.dtype == np.uint8 == second.dtype
    if first.shape != second.shape or not sound:
        raise OptionError(
            f"images must be uint8 (H, W, 3) of one shape, got {first.dtype} {first.shape} and "
            f"{second.dtype} {second.shape}"
        )
    if min(first.shape[:2]) < SMALLEST_SIDE:
        return None
    channels = range(first.shape[2])
    return float(np.mean([_of_channel(first[..., c], second[..., c]) for c in channels]))


def decibels(value: float) -> float:
    """-10 log10(1 - MS-SSIM); infinite where the images are the same."""
    return math.inf if value >= 1.0 else -10.0 * math.log10(1.0 - value)


def _of_channel(first: np.ndarray, second: np.ndarray) -> float:
    """(H, W) each. The product over the scales of contrast-structure, and of the last luminance."""
    # float64: a variance is a small difference of large squares where the picture is flat.
    x, y = first.astype(np.float64), second.astype(np.float64)
    product = 1.0
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            x, y = _halved(x), _halved(y)
        similarity, contrast = _means(x, y)
        last = scale == len(WEIGHTS) - 1
        product *= max(0.0, similarity if last else contrast) ** weight
    return product


def _means(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Means over all windows of SSIM and of its contrast-structure part."""
    rows, columns = (side - TAPS + 1 for side in x.shape)
    similarity = contrast = 0.0
    for top in range(0, rows, _STRIP_ROWS):
        strip = slice(top, min(rows, top + _STRIP_ROWS) + TAPS - 1)
        a, b = x[strip], y[strip]
        mean_a, mean_b = _filtered(a), _filtered(b)
        both, squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
        covariance = _filtered(a * b) - both
        variances = _filtered(a * a + b * b) - squares
        structure = (2 * covariance + _C2) / (variances + _C2)
        contrast += float(structure.sum())
        structure *= (2 * both + _C1) / (squares + _C1)
        similarity += float(structure.sum())
    count = rows * columns
    return similarity / count, contrast / count


def _filtered(values: np.ndarray) -> np.ndarray:
    """The Gaussian mean of every window inside: (H, W) to (H - 10, W - 10)."""
    middle = TAPS // 2
    for axis in (1, 0):
        values = np.moveaxis(values, axis, 0)
        length = len(values) - TAPS + 1
        result = values[middle : middle + length] * _KERNEL[middle]
        for tap in range(middle):  # the kernel is symmetric: one product for two taps
            pair = values[tap : tap + length] + values[TAPS - 1 - tap : TAPS - 1 - tap + length]
            pair *= _KERNEL[tap]
            result += pair
        values = np.moveaxis(result, 0, axis)
    return values


def _gaussian() -> np.ndarray:
    """float64 (TAPS,) of sum 1."""
    taps = np.exp(-((np.arange(TAPS) - TAPS // 2) ** 2) / (2 * SIGMA**2))
    return taps / taps.sum()


_KERNEL = _gaussian()


def _halved(values: np.ndarray) -> np.ndarray:
    """Means of 2x2 samples of (H, W); an odd side has a row of zeros before it."""
    values = np.pad(values, [(side % 2, 0) for side in values.shape])
    return (values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]) / 4
