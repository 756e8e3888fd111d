from __future__ import annotations

import io
import math

import numpy as np
import pytest
from evaluation_fakes import photograph
from PIL import Image

from icmh_rt.errors import OptionError
from icmh_rt.evaluation.ms_ssim import SMALLEST_SIDE, decibels, ms_ssim


def pair(height: int, width: int, quality: int = 20) -> tuple[np.ndarray, np.ndarray]:
    image = photograph(1, height, width)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return image, np.asarray(Image.open(io.BytesIO(file.getvalue())))


UGLY = {
    "odd": pair(173, 211),
    "smallest": pair(SMALLEST_SIDE, SMALLEST_SIDE),
    "even": pair(176, 320, 80),
    "many strips": pair(300, 161),
    "flat and dark": (np.zeros((170, 170, 3), np.uint8), np.full((170, 170, 3), 3, np.uint8)),
    "bright": (np.full((170, 170, 3), 255, np.uint8), np.full((170, 170, 3), 250, np.uint8)),
    "opposite": (photograph(2, 180, 180), 255 - photograph(2, 180, 180)),
    "noise": tuple(
        np.random.default_rng(seed).integers(0, 256, (180, 164, 3), np.uint8) for seed in (1, 2)
    ),
}


@pytest.mark.parametrize("name", UGLY)
def test_it_is_what_the_maintained_package_says(name):
    package = pytest.importorskip(
        "pytorch_msssim", reason="the package to compare with comes with icmh-rt[train]"
    )
    import torch

    first, second = UGLY[name]
    tensors = [torch.from_numpy(a.copy()).permute(2, 0, 1)[None].double() for a in (first, second)]
    usual = float(package.ms_ssim(*tensors, data_range=255))
    assert ms_ssim(first, second) == pytest.approx(usual, abs=5e-6)
    # It rounds its window to float32; with one in float64 the two agree to rounding.
    taps = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = (taps / taps.sum()).repeat(3, 1, 1, 1)
    exact = float(package.ms_ssim(*tensors, data_range=255, win=window))
    assert ms_ssim(first, second) == pytest.approx(exact, abs=1e-9)


def test_a_frozen_value():
    """Of pytorch_msssim 1.0 in float64, for where it is not installed."""
    y, x = np.mgrid[0:200, 0:177]
    first = np.stack([(x * y) % 251, (3 * x + y) % 256, (x * x) % 256], axis=-1).astype(np.uint8)
    second = (first // 64 * 64 + 32).astype(np.uint8)
    assert ms_ssim(first, second) == pytest.approx(0.899268016, abs=5e-6)


def test_the_same_image_is_one_and_views_do_not_matter():
    image, coded = UGLY["odd"]
    assert ms_ssim(image, image) == 1.0
    mirrored = ms_ssim(image[:, ::-1, ::-1], coded[:, ::-1, ::-1])
    assert mirrored == pytest.approx(ms_ssim(image[:, ::-1].copy(), coded[:, ::-1].copy()))
    before = image.copy()
    ms_ssim(image, coded)
    assert np.array_equal(image, before)


def test_small_images_have_none():
    small = np.zeros((SMALLEST_SIDE - 1, 400, 3), np.uint8)
    assert ms_ssim(small, small) is None


@pytest.mark.parametrize(
    "first, second",
    [
        (np.zeros((200, 200, 3), np.uint8), np.zeros((200, 201, 3), np.uint8)),
        (np.zeros((200, 200, 3), np.uint8), np.zeros((200, 200, 3), np.float32)),
        (np.zeros((200, 200, 3)), np.zeros((200, 200, 3))),
        (np.zeros((200, 200), np.uint8), np.zeros((200, 200), np.uint8)),
    ],
)
def test_what_is_no_pair_of_images_is_refused(first, second):
    with pytest.raises(OptionError, match="uint8"):
        ms_ssim(first, second)


def test_decibels():
    assert decibels(0.99) == pytest.approx(20.0)
    assert decibels(0.0) == 0.0
    assert decibels(1.0) == math.inf
