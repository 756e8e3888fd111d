from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icmh_rt.errors import OptionError
from icmh_rt.evaluation import metrics


def test_psnr_of_an_error_of_one_everywhere():
    image = np.full((3, 5, 3), 100, np.uint8)
    assert metrics.squared_error(image, image + 1) == 45
    assert metrics.psnr(image, image + 1) == pytest.approx(20 * math.log10(255))


def test_differences_do_not_wrap_around():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert metrics.squared_error(black, white) == metrics.squared_error(white, black) == 12 * 255**2
    assert metrics.psnr(black, white) == 0.0


def test_identical_images_have_infinite_psnr():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert metrics.psnr(image, image.copy()) == math.inf
    assert metrics.mean_psnr([0, 12], [12, 12]) == math.inf
    assert math.isfinite(metrics.psnr_of_mean_mse([0, 12], [12, 12]))


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_squared_error_equals_the_plain_sum(seed, height, width):
    a, b = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3)).astype(np.uint8)
    plain = sum((int(x) - int(y)) ** 2 for x, y in zip(a.ravel(), b.ravel(), strict=True))
    assert metrics.squared_error(a, b) == plain
    assert metrics.squared_error(a[:, ::-1], b[:, ::-1]) == plain  # not contiguous


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**4)), min_size=1, max_size=6))
def test_mean_of_psnrs_is_never_below_psnr_of_mean_mse(rows):
    sse, samples = zip(*rows, strict=True)
    assert metrics.mean_psnr(sse, samples) >= metrics.psnr_of_mean_mse(sse, samples) - 1e-9


def test_the_two_means_by_hand():
    # MSEs 255^2/10 and 255^2/1000: PSNRs 10 and 30 dB; the mean MSE is 255^2 * 0.0505.
    sse, samples = [0.1 * 255**2 * 6, 0.001 * 255**2 * 300], [6, 300]
    assert metrics.mean_psnr(sse, samples) == pytest.approx(20.0)
    assert metrics.psnr_of_mean_mse(sse, samples) == pytest.approx(-10 * math.log10(0.0505))


@pytest.mark.parametrize(
    "first, second, message",
    [
        (np.zeros((2, 2, 3), np.float32), np.zeros((2, 2, 3), np.uint8), "float32"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), r"\(2, 2\)"),
        (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3, 3), np.uint8), "differ in shape"),
        (np.zeros((0, 2, 3), np.uint8), np.zeros((0, 2, 3), np.uint8), "at least one pixel"),
        ([[[1, 2, 3]]], np.zeros((1, 1, 3), np.uint8), "uint8"),
    ],
)
def test_what_is_no_pair_of_images_is_refused(first, second, message):
    with pytest.raises(OptionError, match=message):
        metrics.squared_error(first, second)


def test_bits_per_pixel_counts_every_byte():
    assert metrics.bits_per_pixel(100, 10, 20) == 4.0
    for arguments in ((1, 0, 5), (1, 5, 0), (-1, 5, 5)):
        with pytest.raises(OptionError):
            metrics.bits_per_pixel(*arguments)
