from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icmh_rt.errors import OptionError
from icmh_rt.evaluation import bd

METHODS = ("pchip", "akima")
# Kodak figures of Pillow's JPEG (some of its points) and of mbt2018-mean, as CompressAI gives them.
JPEG = (
    [0.22115325927734372, 0.50838555, 0.72894626, 0.964380052, 1.3688269721, 2.35019938],
    [23.779894921045457, 29.0418091481, 30.9031647619, 32.39929573, 34.39429509, 37.912124702],
)
LEARNED = (
    [
        0.12392171,
        0.19798109,
        0.30724419,
        0.46061198,
        0.66166517,
        0.91440498,
        1.23420885,
        1.61908976,
    ],
    [27.699473, 29.358818, 31.128916, 32.950675, 34.968297, 36.911095, 38.837514, 40.633313],
)


def hermite_by_sums(x, y, slopes, low, high, steps=20_001):
    """The slow twin: the textbook Hermite basis evaluated densely, then the trapezoid rule."""
    d = slopes(x, y)
    grid = np.linspace(low, high, steps)
    piece = np.clip(np.searchsorted(x, grid, side="right") - 1, 0, len(x) - 2)
    h = x[piece + 1] - x[piece]
    t = (grid - x[piece]) / h
    values = (
        (1 + 2 * t) * (1 - t) ** 2 * y[piece]
        + t * (1 - t) ** 2 * h * d[piece]
        + t**2 * (3 - 2 * t) * y[piece + 1]
        + t**2 * (t - 1) * h * d[piece + 1]
    )
    return np.sum((values[1:] + values[:-1]) / 2) * (high - low) / (steps - 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("percent", [-55.0, -0.1, 0.0, 12.5, 300.0])
def test_a_curve_shifted_in_rate_has_that_bd_rate(method, percent):
    rates = [rate * (1 + percent / 100) for rate in LEARNED[0]]
    result = bd.bd_rate(*LEARNED, rates, LEARNED[1], method)
    assert result.value == pytest.approx(percent, abs=1e-9)
    assert (result.low, result.high) == (LEARNED[1][0], LEARNED[1][-1])
    assert result.overlap == pytest.approx(1.0)
    assert result.warnings == ()


@pytest.mark.parametrize("method", METHODS)
def test_a_curve_shifted_in_psnr_has_that_bd_psnr(method):
    result = bd.bd_psnr(*LEARNED, LEARNED[0], [p + 0.75 for p in LEARNED[1]], method)
    assert result.value == pytest.approx(0.75, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_straight_lines_by_hand(method):
    # ln rate is psnr/10 against psnr/8 over a common 24..40 dB: the mean gap is 32 * (1/8 - 1/10).
    psnr = np.array([20.0, 24.0, 29.0, 37.0, 40.0])
    other = np.array([24.0, 30.0, 36.0, 44.0])
    result = bd.bd_rate(np.exp(psnr / 10), psnr, np.exp(other / 8), other, method)
    assert result.value == pytest.approx(100 * math.expm1(32 * (1 / 8 - 1 / 10)))
    assert (result.low, result.high) == (24.0, 40.0)
    # PSNR is 10 against 8 times ln rate over the common 3..4.
    result = bd.bd_psnr(np.exp(psnr / 10), psnr, np.exp(other / 8), other, method)
    assert result.value == pytest.approx(-2 * (3 + 4) / 2)
    assert (result.low, result.high) == pytest.approx((math.exp(3), math.exp(4)))


@pytest.mark.parametrize(
    "method, rate, psnr",
    # From the `bjontegaard` package 1.3 over SciPy 1.17, on the curves as written above.
    [
        ("pchip", -58.98677420777298, 4.894522491055111),
        ("akima", -58.97380442625979, 4.894321019429452),
    ],
)
def test_the_published_package_gives_the_same(method, rate, psnr):
    assert bd.bd_rate(*JPEG, *LEARNED, method).value == pytest.approx(rate, abs=1e-9)
    assert bd.bd_psnr(*JPEG, *LEARNED, method).value == pytest.approx(psnr, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [2, 3, 4, 9])
@pytest.mark.parametrize("seed", range(4))
def test_the_package_and_the_own_integral_agree(method, count, seed, monkeypatch):
    pytest.importorskip("bjontegaard", reason="the package comes with icmh-rt[eval]")
    generator = np.random.default_rng(seed)
    curves = []
    for more in (0, seed):  # of different lengths
        rates = np.cumsum(generator.uniform(0.05, 0.5, count + more))
        curves += [rates, 25 + 6 * np.log(1 + 4 * rates) + generator.normal(0, 0.01, len(rates))]
    values = {}
    for used in (True, False):
        monkeypatch.setattr(bd, "package_is_used", lambda used=used: used)
        values[used] = [f(*curves, method).value for f in (bd.bd_rate, bd.bd_psnr)]
    assert values[True] == pytest.approx(values[False], rel=1e-9, abs=1e-9)


def test_the_package_is_what_gives_the_figures_where_it_is_installed(monkeypatch):
    package = pytest.importorskip("bjontegaard", reason="the package comes with icmh-rt[eval]")
    monkeypatch.setattr(package, "bd_linear", lambda *_, **__: np.log(1.5))
    assert bd.bd_rate(*JPEG, *LEARNED).value == pytest.approx(50.0)


def test_messages_name_the_quantity():
    with pytest.raises(OptionError, match="share no interval of MS-SSIM"):
        bd.bd_rate([1, 2], [20, 21], [1, 2], [30, 31], quantity="MS-SSIM")


@given(
    st.lists(st.tuples(st.floats(0.01, 5), st.floats(-9, 9)), min_size=2, max_size=7),
    st.floats(0, 0.45),
    st.floats(0.55, 1),
    st.sampled_from(METHODS),
)
def test_the_integral_equals_dense_sums(steps, start, stop, method):
    x = np.cumsum([step for step, _ in steps])
    y = np.array([value for _, value in steps])
    low, high = x[0] + start * np.ptp(x), x[0] + stop * np.ptp(x)
    slopes = bd.SLOPES[method]
    exact = bd.integrate_piecewise_cubic(x, y, slopes, low, high)
    dense = hermite_by_sums(x, y, slopes, low, high)
    assert exact == pytest.approx(dense, abs=1e-5 * (1 + np.ptp(x) * np.ptp(y)))


@given(st.lists(st.floats(0.01, 4), min_size=2, max_size=8), st.integers(0, 99))
def test_pchip_keeps_monotone_data_monotone(steps, seed):
    x = np.cumsum(steps)
    y = np.cumsum(np.random.default_rng(seed).uniform(0, 3, len(x)))
    areas = [
        bd.integrate_piecewise_cubic(x, y, bd.pchip_slopes, a, a + np.ptp(x) / 32)
        for a in np.linspace(x[0], x[0] + np.ptp(x) * 31 / 32, 32)
    ]
    assert np.all(np.diff(areas) >= -1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_swapping_the_curves_inverts_the_ratio(method):
    there = bd.bd_rate(*JPEG, *LEARNED, method).value
    back = bd.bd_rate(*LEARNED, *JPEG, method).value
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1.0)


def test_the_order_and_repetition_of_points_do_not_matter():
    order = [3, 0, 7, 5, 1, 6, 2, 4, 3]
    shuffled = [[values[i] for i in order] for values in LEARNED]
    assert bd.bd_rate(*JPEG, *shuffled) == bd.bd_rate(*JPEG, *LEARNED)


def test_curves_without_a_common_interval_are_an_error():
    low, high = ([1, 2, 3, 4], [20, 22, 24, 26]), ([1, 2, 3, 4], [26, 28, 30, 32])
    with pytest.raises(
        OptionError, match=r"share no interval of PSNR.*20.000\.\.26.000 dB, tested"
    ):
        bd.bd_rate(*low, *high)
    with pytest.raises(OptionError, match="share no interval of log-rate"):
        bd.bd_psnr([1, 2], [20, 21], [3, 4], [20, 21])


def test_a_small_overlap_is_flagged():
    result = bd.bd_rate([1, 2, 3, 4], [20, 22, 24, 26], [1, 2, 3, 4], [25, 27, 29, 31])
    assert result.warnings == ("the curves overlap over only 17 % of the shorter one",)


def test_curves_that_are_not_monotone_are_flagged_and_still_compared():
    bumpy = ([0.1, 0.2, 0.19, 0.4, 0.8], [26.0, 28.0, 29.0, 31.0, 34.0])
    assert not bd.is_monotone(*bumpy)
    result = bd.bd_rate(*bumpy, [2 * rate for rate in bumpy[0]], bumpy[1])
    assert result.value == pytest.approx(100.0)
    assert result.warnings == ("anchor curve is not monotone", "tested curve is not monotone")


def test_few_points_are_flagged():
    result = bd.bd_rate([1, 2], [20, 30], [2, 4], [20, 30])
    assert result.value == pytest.approx(100.0)
    assert result.warnings == (
        "anchor curve has only 2 points",
        "tested curve has only 2 points",
    )


@pytest.mark.parametrize(
    "rates, psnrs, message",
    [
        ([1, 2, 3], [30, 31], r"as many rates as PSNRs, got \(3,\) and \(2,\)"),
        ([[1, 2]], [[30, 31]], "as many rates"),
        ([], [], "at least two distinct points, got 0"),
        ([1, 1], [30, 30], "at least two distinct points, got 1"),
        ([0, 1], [30, 31], "rates must be positive"),
        ([-1, 1], [30, 31], "rates must be positive"),
        ([1, math.nan], [30, 31], "rates must be positive"),
        ([1, 2], [30, math.inf], "drop lossless points"),
        ([1, 2, 3], [30, 30, 31], r"same PSNR \(30\)"),
    ],
)
def test_what_is_no_curve_is_refused(rates, psnrs, message):
    with pytest.raises(OptionError, match=message):
        bd.bd_rate(*LEARNED, rates, psnrs)
    with pytest.raises(OptionError, match=message):
        bd.bd_rate(rates, psnrs, *LEARNED)


def test_two_psnrs_at_one_rate_have_no_bd_psnr():
    with pytest.raises(OptionError, match="same log-rate"):
        bd.bd_psnr(*LEARNED, [0.2, 0.2, 0.5], [30, 31, 33])


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(OptionError, match="'cubic': choose one of akima, pchip"):
        bd.bd_rate(*LEARNED, *LEARNED, "cubic")
