"""The discretized Gaussians behind tables and rate estimates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from icmh_rt.gaussian import LIKELIHOOD_FLOOR, ScaleTable, bin_mass, upper_tail

TABLE = ScaleTable(0.11, 256.0, 64)


def test_geometric():
    ratios = np.array(TABLE.sigmas[1:]) / np.array(TABLE.sigmas[:-1])
    assert math.isclose(TABLE.sigmas[0], 0.11) and math.isclose(TABLE.sigmas[-1], 256.0)
    assert np.allclose(ratios, ratios[0])


@pytest.mark.parametrize("sigma", [0.11, 0.5, 3.0, 256.0])
def test_bin_mass_integrates_the_density(sigma):
    """Against midpoint sums of the density itself."""
    for symbol in (0, 1, -1, 2, 7):
        edges = np.linspace(symbol - 0.5, symbol + 0.5, 200001)
        middle = (edges[1:] + edges[:-1]) / 2
        density = np.exp(-0.5 * (middle / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
        assert math.isclose(bin_mass(symbol, sigma), density.mean(), rel_tol=1e-6, abs_tol=1e-30)


@pytest.mark.parametrize("tail_mass", [2.0**-8, 2.0**-20])
def test_rows_cover_all_but_the_tail(tail_mass):
    rows, offsets = TABLE.pmf_rows(tail_mass)
    for row, offset, sigma in zip(rows, offsets, TABLE.sigmas, strict=True):
        assert np.array_equal(row, row[::-1]) and offset == -(len(row) // 2)
        outside = 2.0 * upper_tail((len(row) // 2 + 0.5) / sigma)
        assert outside <= tail_mass
        assert math.isclose(row.sum() + outside, 1.0, abs_tol=1e-12)


def test_bits_are_minus_log2_of_the_mass():
    rng = np.random.default_rng(0)
    indexes = rng.integers(0, 64, (9, 11, 5)).astype(np.uint8)
    symbols = np.rint(rng.normal(size=indexes.shape) * np.array(TABLE.sigmas)[indexes])
    symbols = symbols.astype(np.int32)
    symbols[0, 0, 0], symbols[0, 0, 1] = 2**31 - 1, -(2**31)  # far beyond the floor
    expected = sum(
        -math.log2(max(bin_mass(int(s), TABLE.sigmas[i]), LIKELIHOOD_FLOOR))
        for s, i in zip(symbols.ravel(), indexes.ravel(), strict=True)
    )
    assert math.isclose(TABLE.bits(symbols, indexes), expected, rel_tol=1e-12)


def test_agrees_with_compressai():
    """The estimate is the one that CompressAI's GaussianConditional gives for the same scales."""
    pytest.importorskip("torch")
    entropy_models = pytest.importorskip("compressai.entropy_models")
    import torch

    rng = np.random.default_rng(1)
    indexes = rng.integers(0, 64, (1, 4, 8, 8)).astype(np.uint8)
    sigma = np.array(TABLE.sigmas)[indexes]
    symbols = np.rint(rng.normal(size=indexes.shape) * sigma).astype(np.int32)
    conditional = entropy_models.GaussianConditional(None, scale_bound=0.11).eval()
    _, likelihood = conditional(
        torch.from_numpy(symbols).float(), torch.from_numpy(sigma).float(), training=False
    )
    expected = -likelihood.double().log2().sum().item()
    assert math.isclose(TABLE.bits(symbols, indexes), expected, rel_tol=1e-3)
