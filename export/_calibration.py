"""Limits of eight-bit inputs, found by running pictures through the graphs in single precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from icmh_rt import graphs
from icmh_rt.bundle import Bundle
from icmh_rt.coding import coding_of
from icmh_rt.export._references import session_of
from icmh_rt.graphs import EightBits
from icmh_rt.images import size_of

QUALITIES = (20, 60, 100)
"""At which latents are quantized before they go through g_s."""

SAMPLES = 2**16
"""Values of an input that are looked at in each picture."""

_SHARES = np.linspace(0.2, 1.0, 33)  # of the largest magnitude, tried as limits


def calibrate(
    bundle: Bundle,
    width: float,
    task: str,
    kind: str,
    images: Sequence[np.ndarray],
    adapters: Mapping[str, np.ndarray] | None = None,
) -> EightBits:
    """Eight-bit products for the convolutions in the blocks of g_a and g_s: 70 % of all
    products at width 0.25, 85 % at 1.0.

    The four layers that make or end what residuals are added to (stem, down, up, head) keep their
    precision: rounding there goes through everything that follows, and would cost several times
    what it costs in all blocks together.

    Args:
        kind: "int8" or "fp8".
        images: uint8 (H, W, 3), like those that will come.
    """
    seen: dict[str, list[np.ndarray]] = {}
    analysis, synthesis = (
        _Watched(graphs.build(bundle, role, width, task, adapters=adapters))
        for role in ("analysis", "synthesis")
    )
    for image in images:
        y, z = analysis.run({"image": image[None]}, seen)
        for quality in QUALITIES:
            coding = coding_of(bundle, width, quality)
            prediction = coding.predict(coding.quantize_hyper(z[0]), size_of(image))
            y_hat = coding.dequantize(coding.quantize(y[0], prediction), prediction)
            sides = {"height": np.array(image.shape[0]), "width": np.array(image.shape[1])}
            synthesis.run({"y_hat": y_hat[None], **sides}, seen)
    find = {"int8": _int8_limit, "fp8": _largest}[kind]
    return EightBits(kind, {layer: find(np.concatenate(v)) for layer, v in seen.items()})


class _Watched:
    """A graph whose inputs of the convolutions in blocks are outputs too."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._outputs = [value.name for value in model.graph.output]
        self._layers: dict[str, str] = {}
        for node in model.graph.node:
            dense = node.op_type == "Conv" and not any(a.name == "group" for a in node.attribute)
            layer = node.input[1].removesuffix(".weight") if dense else ""
            if ".blocks_" in layer:
                self._layers[layer] = node.input[0]
        for name in sorted(set(self._layers.values())):
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        self._session = session_of(model)

    def run(self, feed: dict[str, Any], seen: dict[str, list[np.ndarray]]) -> list[np.ndarray]:
        """The graph's own outputs; samples of the inputs go to ``seen`` by layer."""
        names = sorted(set(self._layers.values()))
        found = self._session.run([*self._outputs, *names], feed)
        inputs = dict(zip(names, found[len(self._outputs) :], strict=True))
        for layer, name in self._layers.items():
            seen.setdefault(layer, []).append(_samples(inputs[name]))
        return found[: len(self._outputs)]


def _samples(x: np.ndarray) -> np.ndarray:
    """Magnitudes of some values, the same at every call, with the largest."""
    flat = np.abs(x).reshape(-1)
    if flat.size <= SAMPLES:
        return flat
    chosen = np.random.default_rng(0).integers(0, flat.size, SAMPLES)
    return np.append(flat[chosen], flat.max())


def _int8_limit(magnitudes: np.ndarray) -> float:
    """The one with the least mean squared error of rounding and clipping."""
    largest = _largest(magnitudes)
    errors = []
    for share in _SHARES:
        step = largest * share / 127.0
        rounded = np.minimum(np.rint(magnitudes / step), 127.0) * step
        errors.append(np.mean((rounded - magnitudes) ** 2))
    return float(largest * _SHARES[int(np.argmin(errors))])


def _largest(magnitudes: np.ndarray) -> float:
    return max(float(magnitudes.max()), 1e-6)
