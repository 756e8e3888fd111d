"""Bjontegaard deltas between two rate-distortion curves: BD-rate and BD-PSNR.

Source: G. Bjontegaard, "Calculation of average PSNR differences between RD-curves", ITU-T SG16
VCEG-M33, 2001. As in the JVET common test conditions the curves are interpolated piecewise (PCHIP;
Akima as a second opinion, recommended by Herglotz et al., "The Bjøntegaard Bible", IEEE
Transactions on Image Processing, 2024) and not by
one cubic through all points, so any number of points works.

BD-rate: log-rate is a function of PSNR on either curve. Its mean difference over the PSNR interval
that both curves cover, taken back through the exponential, is the mean rate change at equal PSNR:
-10 % means that the tested codec needs a tenth less. BD-PSNR: PSNR as a function of log-rate, its
mean difference in dB over the rates that both curves cover.

The mean difference itself is taken from the package `bjontegaard` (Herglotz et al.) where it is
installed, which the extra `eval` sees to, and from an own integral elsewhere; the tests hold the
two to each other.

Rules, checked here:
- rates are positive and finite, PSNRs finite; two points that agree in both are one point; two
  points that agree in the abscissa only are an error, since there is no function through them;
- at least two distinct points a curve (with two, interpolation is linear), fewer than four are
  flagged;
- nothing is extrapolated: curves without a common interval are an error, one that covers less than
  half of the shorter curve is flagged;
- a curve along which rate and PSNR do not rise together is still integrated but flagged.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from icmh_rt.errors import OptionError

PACKAGE = "bjontegaard"
FEW_POINTS = 4
SMALL_OVERLAP = 0.5


@dataclass(frozen=True)
class BdResult:
    """A Bjontegaard delta with what it was taken over.

    value: percent of rate (BD-rate) or dB (BD-PSNR).  low, high: the common interval, in dB or in
    bits per pixel. overlap: that interval's length over the shorter curve's, 0-1 (BD-PSNR: in
    log-rate).  warnings: one line each.
    """

    value: float
    low: float
    high: float
    overlap: float
    warnings: tuple[str, ...] = ()


def is_monotone(rates: Sequence[float], psnrs: Sequence[float]) -> bool:
    """Whether, sorted by rate, both rate and PSNR rise strictly."""
    points = sorted(set(zip(map(float, rates), map(float, psnrs), strict=True)))
    return all(b[0] > a[0] and b[1] > a[1] for a, b in pairwise(points))


def package_is_used() -> bool:
    """Whether figures come from the package `PACKAGE`, and not from this module's own integral."""
    return importlib.util.find_spec(PACKAGE) is not None


def bd_rate(
    anchor_rates: Sequence[float],
    anchor_psnrs: Sequence[float],
    test_rates: Sequence[float],
    test_psnrs: Sequence[float],
    method: str = "pchip",
    quantity: str = "PSNR",
) -> BdResult:
    """Mean change of rate, in percent, of the tested curve against the anchor at equal PSNR.

    Negative is better. Rates in any unit common to both (bits per pixel here), PSNRs in dB, in any
    order. method: "pchip" or "akima". quantity: what messages call the PSNRs. Raises OptionError
    for curves that the rules at the top of this module refuse.
    """
    _slope_rule(method)
    anchor = _points(anchor_rates, anchor_psnrs, "anchor")
    test = _points(test_rates, test_psnrs, "tested")
    difference, low, high, overlap = _mean_difference(
        (anchor[:, 1], np.log(anchor[:, 0])),
        (test[:, 1], np.log(test[:, 0])),
        method,
        quantity,
        " dB",
    )
    return BdResult(
        100.0 * math.expm1(difference), low, high, overlap, _warnings(anchor, test, overlap)
    )


def bd_psnr(
    anchor_rates: Sequence[float],
    anchor_psnrs: Sequence[float],
    test_rates: Sequence[float],
    test_psnrs: Sequence[float],
    method: str = "pchip",
) -> BdResult:
    """Mean change of PSNR, in dB, of the tested curve against the anchor at equal rate.

    Positive is better. Arguments and errors as for `bd_rate`; the mean is over log-rate, the
    interval is reported in the unit of the rates.
    """
    _slope_rule(method)
    anchor = _points(anchor_rates, anchor_psnrs, "anchor")
    test = _points(test_rates, test_psnrs, "tested")
    difference, low, high, overlap = _mean_difference(
        (np.log(anchor[:, 0]), anchor[:, 1]),
        (np.log(test[:, 0]), test[:, 1]),
        method,
        "log-rate",
        "",
    )
    return BdResult(
        difference, math.exp(low), math.exp(high), overlap, _warnings(anchor, test, overlap)
    )


def _points(rates: Sequence[float], psnrs: Sequence[float], name: str) -> np.ndarray:
    """The distinct points of a curve, float64 (n, 2) of rate and PSNR, after checking them."""
    r, p = np.asarray(rates, dtype=np.float64), np.asarray(psnrs, dtype=np.float64)
    if r.ndim != 1 or r.shape != p.shape:
        raise OptionError(f"{name} curve: need as many rates as PSNRs, got {r.shape} and {p.shape}")
    if not (np.isfinite(r).all() and np.isfinite(p).all() and (r > 0).all()):
        raise OptionError(
            f"{name} curve: rates must be positive, and both finite (drop lossless points)"
        )
    points = np.unique(np.stack([r, p], axis=1), axis=0)
    if len(points) < 2:
        raise OptionError(f"{name} curve: need at least two distinct points, got {len(points)}")
    return points


def _mean_difference(
    anchor: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    method: str,
    axis: str,
    unit: str,
) -> tuple[float, float, float, float]:
    """Mean of test - anchor over the abscissae that both cover, the interval, and its share."""
    x, y = anchor[0], test[0]
    low, high = max(x.min(), y.min()), min(x.max(), y.max())
    if not low < high:
        raise OptionError(
            f"the curves share no interval of {axis}: anchor {x.min():.3f}..{x.max():.3f}{unit},"
            f" tested {y.min():.3f}..{y.max():.3f}{unit}; measure more qualities"
        )
    by = _by_package if package_is_used() else mean_difference
    difference = by(_as_function(*anchor, axis), _as_function(*test, axis), method)
    overlap = (high - low) / min(np.ptp(x), np.ptp(y))
    return difference, float(low), float(high), float(overlap)


def _by_package(
    anchor: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], method: str
) -> float:
    """`mean_difference` by the package."""
    import bjontegaard  # here: it takes a second, for it imports matplotlib

    with warnings.catch_warnings():  # of small overlaps, which our rules flag
        warnings.simplefilter("ignore")
        return float(bjontegaard.bd_linear(*anchor, *test, method, require_matching_points=False))


def mean_difference(
    anchor: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], method: str
) -> float:
    """Mean of test - anchor over the abscissae that both cover; each (x, y), x strictly rising."""
    low, high = max(anchor[0][0], test[0][0]), min(anchor[0][-1], test[0][-1])
    area = [
        integrate_piecewise_cubic(*curve, _slope_rule(method), low, high)
        for curve in (anchor, test)
    ]
    return float((area[1] - area[0]) / (high - low))


def _as_function(x: np.ndarray, y: np.ndarray, axis: str) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    repeated = np.flatnonzero(np.diff(x) <= 0)
    if repeated.size:
        raise OptionError(
            f"two points of a curve have the same {axis} ({x[repeated[0]]:.6g}): drop one of them"
        )
    return x, y


def _warnings(anchor: np.ndarray, test: np.ndarray, overlap: float) -> tuple[str, ...]:
    found = []
    for name, points in (("anchor", anchor), ("tested", test)):
        if len(points) < FEW_POINTS:
            found.append(f"{name} curve has only {len(points)} points")
        if not is_monotone(points[:, 0].tolist(), points[:, 1].tolist()):
            found.append(f"{name} curve is not monotone")
    if overlap < SMALL_OVERLAP:
        found.append(f"the curves overlap over only {100 * overlap:.0f} % of the shorter one")
    return tuple(found)


def _slope_rule(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    if method not in SLOPES:
        raise OptionError(
            f"unknown interpolation {method!r}: choose one of {', '.join(sorted(SLOPES))}"
        )
    return SLOPES[method]


def integrate_piecewise_cubic(
    x: np.ndarray,
    y: np.ndarray,
    slopes: Callable[[np.ndarray, np.ndarray], np.ndarray],
    low: float,
    high: float,
) -> float:
    """Exact integral over [low, high] of the piecewise Hermite cubic through (x, y).

    x: float64 (n,), strictly rising, covering low and high; y: float64 (n,). slopes maps them to
    the derivative at each point.
    """
    h, d = np.diff(x), slopes(x, y)
    secant = np.diff(y) / h
    # On piece k: y_k + d_k t + c t^2 + b t^3 with t = x - x_k, integrated between clipped ends.
    c = (3 * secant - 2 * d[:-1] - d[1:]) / h
    b = (d[:-1] + d[1:] - 2 * secant) / h**2
    start, stop = (np.clip(edge - x[:-1], 0.0, h) for edge in (low, high))

    def primitive(t: np.ndarray) -> np.ndarray:
        return t * (y[:-1] + t * (d[:-1] / 2 + t * (c / 3 + t * b / 4)))

    return float(np.sum(primitive(stop) - primitive(start)))


def pchip_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Derivatives that keep monotone data monotone.

    F. N. Fritsch and J. Butland, SIAM J. Sci. Stat. Comput. 5, 1984. Inside, a weighted harmonic
    mean of the neighbouring secants, zero at extrema; at the ends, the three-point formula cut so
    that the shape is kept (as MATLAB's and SciPy's pchip, and JVET's spreadsheet).
    """
    h, m = np.diff(x), np.diff(y) / np.diff(x)
    if len(m) == 1:
        return np.array([m[0], m[0]])
    d = np.zeros_like(x)
    same_sign = m[:-1] * m[1:] > 0
    before, after = np.where(same_sign, m[:-1], 1.0), np.where(same_sign, m[1:], 1.0)
    w_before, w_after = h[:-1] + 2 * h[1:], 2 * h[:-1] + h[1:]
    harmonic = (w_before + w_after) / (w_before / before + w_after / after)
    d[1:-1] = np.where(same_sign, harmonic, 0.0)
    d[0] = _pchip_end(h[0], h[1], m[0], m[1])
    d[-1] = _pchip_end(h[-1], h[-2], m[-1], m[-2])
    return d


def _pchip_end(h0: float, h1: float, m0: float, m1: float) -> float:
    slope = ((2 * h0 + h1) * m0 - h0 * m1) / (h0 + h1)
    if np.sign(slope) != np.sign(m0):
        return 0.0
    if np.sign(m0) != np.sign(m1) and abs(slope) > 3 * abs(m0):
        return 3 * m0
    return slope


def akima_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Derivatives that ignore far points, so that one outlier does not make the curve swing.

    H. Akima, "A new method of interpolation and smooth curve fitting", J. ACM 17, 1970. The secants
    are continued linearly by two at either end; where both weights vanish the secants' mean is
    taken.
    """
    m = np.diff(y) / np.diff(x)
    if len(m) == 1:
        return np.array([m[0], m[0]])
    first, last = 2 * m[0] - m[1], 2 * m[-1] - m[-2]
    m = np.concatenate([[2 * first - m[0], first], m, [last, 2 * last - m[-1]]])
    change = np.abs(np.diff(m))
    left, right = change[2:], change[:-2]  # each secant is weighted by the change on the other side
    total = left + right
    flat = total <= 1e-9 * max(total.max(), np.finfo(np.float64).tiny)
    safe = np.where(flat, 1.0, total)
    return np.where(flat, (m[1:-2] + m[2:-1]) / 2, (left * m[1:-2] + right * m[2:-1]) / safe)


SLOPES = {"pchip": pchip_slopes, "akima": akima_slopes}
