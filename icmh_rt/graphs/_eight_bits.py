"""Products in eight bits: pairs of QuantizeLinear and DequantizeLinear before a convolution.

A pair rounds what passes to the values that eight bits can hold; a compiler that has kernels for
them (TensorRT) drops the pairs and computes with the codes, others compute with the rounded values:
the same numbers but for the order of sums. Weights have a scale for each output channel, inputs one
for the layer; zero is zero in both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from icmh_rt.errors import OptionError
from icmh_rt.graphs._builder import GraphBuilder

KINDS = {"int8": 127.0, "fp8": 448.0}
"""Number formats and their largest value; fp8 is e4m3 without infinities."""

OPSET = 19
"""The first whose QuantizeLinear takes half precision and knows fp8."""


@dataclass(frozen=True)
class EightBits:
    """What eight-bit products need to know.

    Args:
        kind: one of `KINDS`.
        limits: by layer of g_a and g_s, the magnitude of its input that the largest code stands
            for; layers that are not named keep their precision. ``icmh_rt.export`` finds them by
            running pictures.

    Raises:
        OptionError: another kind, or a limit that is not a positive number.
    """

    kind: str
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(f"eight-bit kind is {self.kind!r}: use {' or '.join(KINDS)}")
        for layer, limit in self.limits.items():
            if not (limit > 0 and math.isfinite(limit)):
                raise OptionError(f"limit of layer {layer!r} is {limit!r}: it must be above zero")


class Rounder:
    """Writes the pairs of one graph."""

    def __init__(self, b: GraphBuilder, bits: EightBits, dtype: str) -> None:
        self._b, self._bits, self._dtype = b, bits, dtype
        self._rounded: dict[tuple[str, float], str] = {}

    def takes(self, layer: str) -> bool:
        return layer in self._bits.limits

    def of_input(self, x: str, layer: str) -> str:
        """Layers with one input and one limit share the pair."""
        limit = float(self._bits.limits[layer])
        if (x, limit) not in self._rounded:
            self._rounded[x, limit] = self._pair(x, np.array(limit), f"{layer}.input")
        return self._rounded[x, limit]

    def of_weight(self, weight: np.ndarray, layer: str) -> str:
        """(O, I, k, k)"""
        limits = np.abs(weight).reshape(len(weight), -1).max(1)
        constant = self._b.constant(weight.astype(self._dtype), f"{layer}.weight")
        return self._pair(constant, limits, f"{layer}.weight", axis=0)

    def _pair(self, x: str, limit: np.ndarray, name: str, **axis: int) -> str:
        b, kind = self._b, self._bits.kind
        # Not below what half precision holds; a channel of zeros has no limit of its own.
        steps = np.maximum(limit / KINDS[kind], 2.0**-14).astype(self._dtype)
        scale = b.constant(steps, f"{name}.scale")
        zero = b.zeros(np.shape(limit), kind)
        name = ".".join(name.split(".")[-2:])  # the scope says the rest
        codes = b.node("QuantizeLinear", x, scale, zero, name=f"{name}.quantize", **axis)
        return b.node("DequantizeLinear", codes, scale, zero, name=f"{name}.dequantize", **axis)
