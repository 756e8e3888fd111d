"""Zero-mean Gaussians integrated over unit bins: the model behind the CDF tables.

Row i of the scale table has sigma_i = scale_min * ratio**i (Ballé et al., "Variational image
compression with a scale hyperprior", ICLR 2018, section 6.2 of the appendix, discretises so).
Symbols are the quantized distance of a latent to its mean, so every row is symmetric about 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIKELIHOOD_FLOOR = 1e-9
"""CompressAI's lower bound of a likelihood: no symbol is estimated to cost more than 29.9 bits."""


def upper_tail(x: float) -> float:
    """P(X > x) of a standard normal; accurate far out in the tail."""
    return 0.5 * math.erfc(x / math.sqrt(2.0))


def bin_mass(symbol: int, sigma: float) -> float:
    """P(symbol - 1/2 < X < symbol + 1/2) for X of standard deviation ``sigma``."""
    if symbol == 0:
        return 1.0 - 2.0 * upper_tail(0.5 / sigma)
    s = abs(symbol)
    return upper_tail((s - 0.5) / sigma) - upper_tail((s + 0.5) / sigma)


def pmf_rows(
    sigmas: Sequence[float], tail_mass: float, max_reach: int | None = None
) -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """(probabilities float64 of each row, the value of each row's first entry int32 (T,)).

    A row covers the symbols until at most ``tail_mass`` lies outside on both sides together, or
    until ``max_reach`` on either side.
    """
    rows, offsets = [], []
    for sigma in sigmas:
        reach = 1
        while 2.0 * upper_tail((reach + 0.5) / sigma) > tail_mass and reach != max_reach:
            reach += 1
        side = [bin_mass(symbol, sigma) for symbol in range(reach + 1)]
        rows.append(np.array([*side[:0:-1], *side]))
        offsets.append(-reach)
    return rows, np.array(offsets, np.int32)


class ScaleTable:
    """The geometric table of standard deviations.

    Args:
        scale_min, scale_max: first and last standard deviation, in symbols.
        levels: number of rows.
    """

    def __init__(self, scale_min: float, scale_max: float, levels: int) -> None:
        step = math.log(scale_max / scale_min) / (levels - 1)
        self.sigmas = [scale_min * math.exp(i * step) for i in range(levels)]

    def pmf_rows(self, tail_mass: float) -> tuple[list[NDArray[Any]], NDArray[Any]]:
        """`pmf_rows` of the table."""
        return pmf_rows(self.sigmas, tail_mass)

    @cached_property
    def _bits(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """(bits of |symbol| for every row, one after the other; where each row starts)."""
        floor = -math.log2(LIKELIHOOD_FLOOR)
        values: list[float] = []
        starts = []
        for sigma in self.sigmas:
            starts.append(len(values))
            symbol = 0
            while True:
                cost = -math.log2(max(bin_mass(symbol, sigma), LIKELIHOOD_FLOOR))
                values.append(cost)
                if cost >= floor:
                    break
                symbol += 1
        return np.array(values), np.array([*starts, len(values)])

    def bits(self, symbols: NDArray[Any], indexes: NDArray[Any]) -> float:
        """The model's own estimate: -sum(log2 P(symbol | sigma)), floored like CompressAI's.

        Args:
            symbols: int32, any shape. indexes: uint8, the same shape, rows of the table.
        """
        values, starts = self._bits
        rows = indexes.reshape(-1).astype(np.intp)
        last = starts[rows + 1] - 1
        position = starts[rows] + np.abs(symbols.reshape(-1).astype(np.int64))
        return float(values[np.minimum(position, last)].sum())
