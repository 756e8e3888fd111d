"""The two-dimensional Fourier transform of real maps as matrix products.

Along a side of n the transform is the product with ``cos(2 pi j k / n) - i sin(2 pi j k / n)``; of
the last side, where the input is real, the first ``n // 2 + 1`` frequencies tell all. Complex maps
are pairs of real ones, put one below the other so that one product transforms both. The inverse
ignores what a real result cannot have (imaginary parts of the first and of the middle frequency),
as FFT libraries do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from icmh_rt.graphs._builder import GraphBuilder, Side

Sides = tuple[Side, Side]


class Fourier:
    """Writes transforms of (N, C, H, W) into a graph; matrices of equal sides are made once."""

    def __init__(self, b: GraphBuilder) -> None:
        self._b = b
        self._matrices: dict[tuple, str] = {}

    def forward(self, x: str, sides: Sides) -> tuple[str, str]:
        """float32 (N, C, H, W) -> real and imaginary part, (N, C, H, W // 2 + 1) each."""
        b, (rows, columns) = self._b, self._matrices_of(sides)
        both = b.node("MatMul", x, columns, name="dft_columns")
        below = b.node("Concat", *self._halves(both, 3), axis=2)
        real, imaginary = self._halves(b.node("MatMul", rows, below, name="dft_rows"), 2)
        return real, imaginary

    def inverse(self, real: str, imaginary: str, sides: Sides) -> str:
        """Real and imaginary part, (N, C, H, W // 2 + 1) each -> (N, C, H, W)."""
        b, (rows, columns) = self._b, self._inverses_of(sides)
        below = b.node("Concat", real, imaginary, axis=2)
        halves = self._halves(b.node("MatMul", rows, below, name="inverse_dft_rows"), 2)
        beside = b.node("Concat", *halves, axis=3)
        return b.node("MatMul", beside, columns, name="inverse_dft_columns")

    def _halves(self, x: str, axis: int) -> list[str]:
        return self._b.nodes("Split", x, outputs=2, axis=axis, num_outputs=2)

    # -- matrices ------------------------------------------------------------------------------

    def _matrices_of(self, sides: Sides) -> tuple[str, str]:
        """(2H, 2H) and (W, 2 (W // 2 + 1))."""
        return self._kept(self._rows, sides[0]), self._kept(self._columns, sides[1])

    def _inverses_of(self, sides: Sides) -> tuple[str, str]:
        """(2H, 2H) and (2 (W // 2 + 1), W)."""
        return (
            self._kept(self._inverse_rows, sides[0]),
            self._kept(self._inverse_columns, *sides),
        )

    def _kept(self, make: Callable[..., str], *sides: Side) -> str:
        key = (make.__name__, *sides)
        if key not in self._matrices:
            with self._b.scope("dft"):
                self._matrices[key] = make(*sides)
        return self._matrices[key]

    def _rows(self, side: Side) -> str:
        b = self._b
        if isinstance(side, int):
            c, s = _waves(side, side)
            return b.constant(np.block([[c, s], [-s, c]]).astype(np.float32), "rows")
        cos, sin = self._wave_nodes(side, side)
        above = b.node("Concat", cos, sin, axis=1)
        below = b.node("Concat", b.node("Neg", sin), cos, axis=1)
        return b.node("Concat", above, below, axis=0, name="rows")

    def _columns(self, side: Side) -> str:
        b = self._b
        if isinstance(side, int):
            c, s = _waves(side, side // 2 + 1)
            return b.constant(np.hstack((c, -s)).astype(np.float32), "columns")
        cos, sin = self._wave_nodes(side, b.add(b.divided(side, 2), 1))
        return b.node("Concat", cos, b.node("Neg", sin), axis=1, name="columns")

    def _inverse_rows(self, side: Side) -> str:
        """But for the division by H, which the other matrix has."""
        if isinstance(side, int):
            cos, sin = _waves(side, side)
            matrix = np.block([[cos, -sin], [sin, cos]])
            return self._b.constant(matrix.astype(np.float32), "inverse_rows")
        return self._b.transpose(self._kept(self._rows, side), 1, 0)

    def _inverse_columns(self, height: Side, side: Side) -> str:
        """Every frequency counts twice, for its mirror image; the first and the middle one are
        their own.
        """
        b = self._b
        if isinstance(side, int) and isinstance(height, int):
            cos, sin = _waves(side, side // 2 + 1)
            counts = 1 + np.minimum(2 * np.arange(side // 2 + 1) % side, 1)
            values = np.hstack((cos * counts, -sin * counts)).T / (height * side)
            return b.constant(values.astype(np.float32), "inverse_columns")
        frequencies = self._range(b.add(b.divided(side, 2), 1))
        two, one = (b.constant(np.array([n], np.int64), "sides") for n in (2, 1))
        odd = b.node("Mod", b.node("Mul", frequencies, two), b.whole(side))
        count = b.cast(b.node("Add", b.node("Min", odd, one), one), "float32")
        count = b.node("Div", count, b.cast(b.whole(b.times(height, side)), "float32"))
        count = b.node("Concat", count, count, axis=0)
        matrix = b.node("Mul", self._kept(self._columns, side), count)
        return b.transpose(matrix, 1, 0)

    def _wave_nodes(self, side: Side, frequencies: Side) -> tuple[str, str]:
        """`_waves` of sides that are known at run time, float32."""
        b = self._b
        positions = b.node("Reshape", self._range(side), b.vector([-1, 1]))
        steps = b.node("Mul", positions, self._range(frequencies))
        # Whole turns leave as integers, and so does half a turn: small angles have small errors.
        half = b.whole(b.divided(side, 2))
        steps = b.node("Mod", b.node("Add", steps, half), b.whole(side))
        steps = b.cast(b.node("Sub", steps, half), "float32")
        step = b.node("Div", b.number(2.0 * math.pi), b.cast(b.whole(side), "float32"))
        angle = b.node("Mul", steps, step, name="angle")
        return b.node("Cos", angle), b.node("Sin", angle)

    def _range(self, count: Side) -> str:
        """int64 (count,): 0, 1, ..."""
        b = self._b
        end = b.node("Squeeze", b.whole(count), b.constant(np.array([0], np.int64), "sides"))
        zero, one = (b.constant(np.array(n, np.int64), "number_int64") for n in (0, 1))
        return b.node("Range", zero, end, one)


def _waves(side: int, frequencies: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines, float64 (side, frequencies)."""
    steps = np.outer(np.arange(side), np.arange(frequencies)) % side
    angle = steps * (2.0 * math.pi / side)
    return np.cos(angle), np.sin(angle)
