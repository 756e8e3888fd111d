"""Distortion and rate of one image: squared error, PSNR, bits per pixel.

Conventions, the same everywhere in this package:

- PSNR is over the three 8-bit RGB channels together: ``10 log10(255^2 / MSE)`` with the MSE over
  all H*W*3 samples of one image. No luma-only figure, no colour conversion.
- The PSNR of a *set* is the mean of its images' PSNRs (the rule of CompressAI's published figures).
  The PSNR of the set's mean MSE (`psnr_of_mean_mse`) is given beside it: it weighs hard images more
  and is never the larger of the two.
- Bits per pixel count the whole file or stream, headers included: ``8 * bytes / (H * W)``.
- Identical images have infinite PSNR. It stays infinite; whoever averages or fits must treat such
  points explicitly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from icmh_rt.errors import OptionError

PEAK = 255
CHANNELS = 3


def squared_error(first: np.ndarray, second: np.ndarray) -> int:
    """Sum of squared differences of two uint8 images (H, W, 3), exact, as a Python integer.

    Raises OptionError if either is not uint8 of shape (H, W, 3), if the shapes differ, or if there
    are no pixels.
    """
    for image in (first, second):
        shape = getattr(image, "shape", None)
        dtype = getattr(image, "dtype", None)
        if dtype != np.uint8 or shape is None or len(shape) != 3 or shape[2] != CHANNELS:
            raise OptionError(f"an image must be uint8 (H, W, 3), got {dtype} {shape}")
    if first.shape != second.shape:
        raise OptionError(f"images differ in shape: {first.shape} and {second.shape}")
    if first.size == 0:
        raise OptionError(f"an image needs at least one pixel, got shape {first.shape}")
    total = 0
    for row_a, row_b in zip(first, second, strict=True):  # by row: no full-size int64 temporaries
        difference = (row_a.astype(np.int32) - row_b).ravel().astype(np.int64)
        total += int(difference @ difference)
    return total


def psnr_from_squared_error(sse: float, samples: int) -> float:
    """PSNR in dB of an error summed over `samples` 8-bit samples; infinity for no error."""
    if samples < 1 or sse < 0:
        raise OptionError(f"need sse >= 0 and samples >= 1, got {sse} and {samples}")
    return math.inf if sse == 0 else 10.0 * math.log10(PEAK * PEAK * samples / sse)


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """RGB PSNR in dB of two uint8 images (H, W, 3); infinity where they are identical.

    Raises OptionError as `squared_error` does.
    """
    return psnr_from_squared_error(squared_error(first, second), first.size)


def mean_psnr(sse: Sequence[float], samples: Sequence[int]) -> float:
    """Mean of the images' PSNRs in dB, the headline convention; infinite if one is exact."""
    values = [psnr_from_squared_error(s, n) for s, n in zip(sse, samples, strict=True)]
    return sum(values) / len(values)


def psnr_of_mean_mse(sse: Sequence[float], samples: Sequence[int]) -> float:
    """PSNR in dB of the mean of the images' MSEs; every image counts once, whatever its size."""
    mses = [s / n for s, n in zip(sse, samples, strict=True)]
    return psnr_from_squared_error(sum(mses), len(mses))


def bits_per_pixel(byte_count: int, height: int, width: int) -> float:
    """Rate in bits per pixel of a whole file of `byte_count` bytes."""
    if height < 1 or width < 1 or byte_count < 0:
        raise OptionError(f"need height, width, bytes >= 1, 1, 0: {height}, {width}, {byte_count}")
    return 8.0 * byte_count / (height * width)
