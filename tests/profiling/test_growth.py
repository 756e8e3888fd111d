"""Fits of time and memory over pixels, of numbers that are known."""

from __future__ import annotations

import random

import numpy as np
import pytest

from icmh_rt.profiling import growth

_PIXELS = [256**2, 512**2, 1024**2, 2048**2]


def test_a_line_is_found_again():
    found = growth.fit(_PIXELS, [2.0 + 1e-4 * p for p in _PIXELS])
    assert found["fixed"] == pytest.approx(2.0)
    assert found["per_pixel"] == pytest.approx(1e-4)
    assert 0.9 < found["exponent"] < 1.0


def test_relative_errors_count():
    generator = random.Random(3)
    values = [(2.0 + 1e-4 * p) * generator.uniform(0.98, 1.02) for p in _PIXELS]
    found = growth.fit(_PIXELS, values)
    assert found["fixed"] == pytest.approx(2.0, rel=0.2)
    assert found["per_pixel"] == pytest.approx(1e-4, rel=0.05)


def test_a_power_is_found_again_and_nothing_is_negative():
    values = [1e-6 * p**1.3 for p in _PIXELS]
    found = growth.fit(_PIXELS, values)
    assert found["exponent"] == pytest.approx(1.3)
    assert found["fixed"] == 0.0
    ratio = np.array(_PIXELS) / np.array(values)
    assert found["per_pixel"] == pytest.approx(ratio.sum() / (ratio**2).sum())


@pytest.mark.parametrize(
    ("pixels", "values"), [([1], [1.0]), ([5, 5], [1.0, 2.0]), ([1, 2], [0.0, 1.0])]
)
def test_what_cannot_be_fitted(pixels, values):
    with pytest.raises(ValueError):
        growth.fit(pixels, values)


def test_flatness_is_judged_from_256_to_2048():
    pixels = [64**2, *_PIXELS, 4096**2]
    values = [9.0 * 64**2, *(1.0 * p for p in _PIXELS[:3]), 1.2 * _PIXELS[3], 7.0 * 4096**2]
    assert growth.flatness(pixels, values) == pytest.approx(0.2)
    assert growth.flatness([64**2, 256**2], [1.0, 1.0]) is None


def test_a_growth_is_sorted_and_says_whether_it_is_flat():
    sizes = [(2048, 2048), (256, 256), (1024, 1024), (512, 512)]
    points = [{"size": list(s), "value": 1e-4 * s[0] * s[1], "stable": True} for s in sizes]
    found = growth.growth(points, "time")
    assert [point["pixels"] for point in found["points"]] == _PIXELS
    assert [point["per_pixel"] for point in found["points"]] == pytest.approx([100.0] * 4)
    assert found["per_pixel"] == pytest.approx(100.0)
    assert found["flat"] == pytest.approx(0.0, abs=1e-9)
    assert found["flat_within_bar"] is True
    points[1]["value"] *= 1.5
    assert growth.growth(points, "time")["flat_within_bar"] is False
    memory = growth.growth(points, "memory")
    assert (memory["flat"], memory["flat_within_bar"]) == (None, None)
