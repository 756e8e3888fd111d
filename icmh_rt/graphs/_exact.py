"""The integer hyper-synthesis and the quantization as nodes in float32.

`IntegerHyperSynthesis.prove` bounds every sum below 2**24, and float32 adds and multiplies such
integers without rounding, in any order. That does not hold for convolution routines, which may take
Winograd or FFT forms, nor for TF32 and half-precision products. So every 3x3 layer is a matrix
product over unfolded patches, and the names of all nodes here begin with `EXACT`: whoever compiles
a graph must keep these in plain float32.
"""

from __future__ import annotations

import numpy as np

from icmh_rt.bundle import WidthTables
from icmh_rt.graphs._builder import GraphBuilder, Side
from icmh_rt.models.integer_network import IntegerHyperSynthesis, IntegerLayer, half_of

EXACT = "exact"
SYMBOL_LIMIT = 2.0**17
"""Of symbols, as csrc/kernels/quantize_index_cpu.cpp has it."""


class Rows:
    """Rows of tables over quality, chosen by the graph's input."""

    def __init__(self, b: GraphBuilder, quality: str) -> None:
        self._b = b
        with b.scope(EXACT):
            self._row = b.node("Sub", quality, b.constant(np.array(1, np.int64), "one"), name="row")

    def of(self, table: np.ndarray, name: str) -> str:
        """The row of ``table (Q, C)``, float32 (C,)."""
        rows = self._b.constant(np.asarray(table, np.float32), name)
        return self._b.node("Gather", rows, self._row, axis=0, name=f"{name}.row")


def symbols_of(b: GraphBuilder, gained: str) -> str:
    """Nearest whole numbers, ties to even, of what gain and mean have gone into; float32."""
    low, high = b.number(-SYMBOL_LIMIT), b.number(SYMBOL_LIMIT)
    return b.node("Round", b.node("Clip", gained, low, high), name="symbols")


def hyper_symbols(b: GraphBuilder, z: str, tables: WidthTables, rows: Rows) -> str:
    """z (N, hz, wz, Z) -> its symbols, float32."""
    with b.scope(EXACT), b.scope("symbols_z"):
        return symbols_of(b, b.node("Mul", z, rows.of(tables.hyper_gain, "hyper_gain")))


def latent_symbols(b: GraphBuilder, y: str, mean: str, tables: WidthTables, rows: Rows) -> str:
    """y (N, h, w, M) and the means of its symbols -> the symbols, float32."""
    with b.scope(EXACT), b.scope("symbols_y"):
        gained = b.node("Mul", y, rows.of(tables.gain, "gain"))
        return symbols_of(b, b.node("Sub", gained, mean))


def hyper_synthesis(
    b: GraphBuilder, network: IntegerHyperSynthesis, symbols: str, sides: list[Side], rows: Rows
) -> tuple[str, str]:
    """h_s.

    Args:
        symbols: of z, whole numbers, float32 (N, hz, wz, Z), at most 2**24 in magnitude.
        sides: hz and wz.

    Returns:
        The mean's value and the scale index, float32 (N, U hz, U wz, M) each.
    """
    network.prove()
    with b.scope(EXACT), b.scope("h_s"):
        with b.scope("input"):
            limit = rows.of(network.z_limit, "z_limit")
            x = b.node("Min", b.node("Max", symbols, b.node("Neg", limit)), limit)
            x = b.node("Mul", x, rows.of(network.z_multiplier, "z_multiplier"))
            x = b.node("Add", x, b.number(float(half_of(network.z_shift))))
            x = b.node("Floor", b.node("Mul", x, b.number(2.0**-network.z_shift)))
            x = b.node("Clip", x, b.number(-network.input_limit), b.number(network.input_limit))
        for layer in network.trunk:
            x, sides = _layer(b, layer, x, sides)
        mean, _ = _layer(b, network.mean_head, x, sides)
        index, _ = _layer(b, network.scale_head, x, sides)
        with b.scope("mean_of_quality"):
            mean = b.node("Mul", mean, rows.of(network.mean_multiplier, "mean_multiplier"))
            factor = np.ldexp(1.0, -network.mean_shift.astype(np.int32))
            # Adding a half after the shift is adding half of the shift before it; with a shift of
            # none there are no fractions for it to lift.
            mean = b.node("Mul", mean, rows.of(factor, "mean_factor"))
            mean = b.node("Floor", b.node("Add", mean, b.number(0.5)))
            mean = b.node("Clip", mean, b.number(-network.mean_limit), b.number(network.mean_limit))
            mean = b.node("Mul", mean, b.number(2.0**-network.mean_bits))
        with b.scope("index_of_quality"):
            offset = network.index_offset.astype(np.int64) + half_of(network.index_bits)
            index = b.node("Add", index, rows.of(offset, "index_offset"))
            index = b.node("Floor", b.node("Mul", index, b.number(2.0**-network.index_bits)))
            index = b.node("Clip", index, b.number(0.0), b.number(network.scales - 1))
    return mean, index


def _layer(
    b: GraphBuilder, layer: IntegerLayer, x: str, sides: list[Side]
) -> tuple[str, list[Side]]:
    """(N, H, W, C) -> (N, H, W, O), shuffled where the layer says so; and the sides of that."""
    with b.scope(layer.name):
        if layer.kind == "conv1x1":
            total = b.node("MatMul", x, _weight(b, layer, layer.weight.T))
        elif layer.kind == "conv3x3":
            patches = b.node("Concat", *_taps(b, x), axis=3, name="patches")
            weight = layer.weight.reshape(len(layer.weight), -1).T
            total = b.node("MatMul", patches, _weight(b, layer, weight))
        else:
            weights = layer.weight.transpose(1, 2, 0).reshape(9, -1)
            products = [
                b.node("Mul", tap, _weight(b, layer, weight))
                for tap, weight in zip(_taps(b, x), weights, strict=True)
            ]
            total = products[0]
            for product in products[1:]:
                total = b.node("Add", total, product)
        # Below 2**24 together, by the proof, like every partial sum.
        bias = layer.bias.astype(np.int64) + half_of(layer.shift)
        x = b.node("Add", total, b.constant(bias.astype(np.float32), f"h_s.{layer.name}.bias"))
        factor = np.ldexp(1.0, -layer.shift.astype(np.int32)).astype(np.float32)
        x = b.node("Floor", b.node("Mul", x, b.constant(factor, f"h_s.{layer.name}.factor")))
        low, high = (
            b.constant(getattr(layer, name).astype(np.float32), f"h_s.{layer.name}.{name}")
            for name in ("low", "high")
        )
        x = b.node("Min", b.node("Max", x, low), high)
        if not layer.shuffle:
            return x, sides
        x = b.reshape(x, [0, 0, 0, layer.out_channels, 2, 2])
        sides = [b.times(side, 2) for side in sides]
        x = b.transpose(x, 0, 1, 4, 2, 5, 3)
        return b.reshape(x, [0, *sides, layer.out_channels]), sides


def _weight(b: GraphBuilder, layer: IntegerLayer, weight: np.ndarray) -> str:
    return b.constant(weight.astype(np.float32), f"h_s.{layer.name}.weight")


def _taps(b: GraphBuilder, x: str) -> list[str]:
    """The nine neighbours of every position, row by row; zeros beyond the border."""
    x = b.node("Pad", x, b.vector([0, 1, 1, 0, 0, 1, 1, 0]))
    axes = b.constant(np.array([1, 2], np.int64), "axes")
    end = [-2, -1, np.iinfo(np.int64).max]
    return [
        b.node("Slice", x, b.vector([row, column]), b.vector([end[row], end[column]]), axes)
        for row in range(3)
        for column in range(3)
    ]
