"""The codec's layers and transforms as nodes: one width's slices of a bundle's weights.

Feature maps are NCHW, all products 1x1 and depthwise convolutions: the form that onnxruntime keeps
in its blocked layout from the first layer to the last, and that TensorRT fuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from icmh_rt.bundle import Bundle
from icmh_rt.errors import BundleError, OptionError
from icmh_rt.feature_files import BOUND, TrainedFeatureHead
from icmh_rt.graphs._builder import GraphBuilder, Side
from icmh_rt.graphs._eight_bits import EightBits, Rounder

PATCH = 8  # pixel-unshuffle factor of g_a's stem and of g_s's head
PLANES = 3 * PATCH * PATCH
HEAD = "features."  # before the names of a feature head's arrays
PRECISIONS = {"fp32": "float32", "fp16": "float16"}

Sides = tuple[Side, Side]

Adapter = Callable[[str, str, int, Sides], str]
"""Takes the name of a place (as ``icmh_rt.models.adapters`` calls it), the feature map there, its
channels, height and width; gives what goes on in its stead."""


def no_adapter(place: str, x: str, channels: int, sides: Sides) -> str:
    return x


@dataclass(frozen=True)
class Slice:
    """The weights of one width.

    Args:
        bundle: whose.
        width: its width multiplier.
        index: position of the width in the config.
        dtype: of weights and feature maps, "float32" or "float16".
        arrays: by name, at the largest width.
    """

    bundle: Bundle
    width: float
    index: int
    dtype: str
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, bundle: Bundle, width: float, precision: str) -> Slice:
        if precision not in PRECISIONS:
            raise OptionError(f"precision is {precision!r}: use {' or '.join(PRECISIONS)}")
        width, _ = bundle.width(width)
        widths = [float(value) for value in bundle.config["widths"]]
        index = min(range(len(widths)), key=lambda i: abs(widths[i] - width))
        return cls(bundle, width, index, PRECISIONS[precision], bundle.transforms)

    def size(self, name: str) -> int:
        """What the config says for this width."""
        return int(self.bundle.config[name][self.index])

    def weight(self, layer: str, outputs: int, inputs: int) -> np.ndarray:
        """The prefix that this width uses, float32."""
        array = self._array(f"{layer}.weight")
        if array.shape[0] < outputs or array.shape[1] < inputs:
            raise BundleError(
                f"bundle {self.bundle.name!r} has {array.shape} for {layer}.weight: width "
                f"{self.width} needs {(outputs, inputs)}"
            )
        return array[:outputs, :inputs].astype(np.float32)

    def bias(self, layer: str, outputs: int) -> np.ndarray:
        array = self._array(f"{layer}.bias")
        if array.ndim != 2 or array.shape[0] <= self.index or array.shape[1] < outputs:
            raise BundleError(
                f"bundle {self.bundle.name!r} has {array.shape} for {layer}.bias: it needs a row "
                f"of {outputs} for each width"
            )
        return array[self.index, :outputs].astype(np.float32)

    def _array(self, name: str) -> np.ndarray:
        try:
            return self.arrays[name]
        except KeyError:
            raise BundleError(f"bundle {self.bundle.name!r} lacks {name!r}") from None


class Layers:
    """Writes the layers of one width into a graph."""

    def __init__(
        self, builder: GraphBuilder, weights: Slice, eight_bits: EightBits | None = None
    ) -> None:
        self.b = builder
        self.weights = weights
        self._rounder = Rounder(builder, eight_bits, weights.dtype) if eight_bits else None

    def convolution(
        self,
        x: str,
        layer: str,
        weight: np.ndarray,
        bias: np.ndarray,
        dtype: str | None = None,
        **attributes: Any,
    ) -> str:
        """``dtype``: of ``x``, where it is not that of the transforms."""
        dtype = dtype or self.weights.dtype
        if self._rounder and self._rounder.takes(layer):
            x = self._rounder.of_input(x, layer)
            kernel = self._rounder.of_weight(weight, layer)
        else:
            kernel = self.b.constant(weight.astype(dtype), f"{layer}.weight")
        return self.b.node(
            "Conv",
            x,
            kernel,
            self.b.constant(bias.astype(dtype), f"{layer}.bias"),
            name=layer.rpartition(".")[2],
            **attributes,
        )

    def pointwise(self, x: str, layer: str, outputs: int, inputs: int) -> str:
        weight = self.weights.weight(layer, outputs, inputs)[:, :, None, None]
        return self.convolution(x, layer, weight, self.weights.bias(layer, outputs))

    def down(self, x: str, layer: str, outputs: int, inputs: int) -> str:
        """3x3, stride 2."""
        weight, bias = (
            self.weights.weight(layer, outputs, inputs),
            self.weights.bias(layer, outputs),
        )
        return self.convolution(x, layer, weight, bias, strides=[2, 2], pads=[1, 1, 1, 1])

    def depthwise(self, x: str, layer: str, channels: int) -> str:
        weight, bias = self.weights.weight(layer, channels, 1), self.weights.bias(layer, channels)
        return self.convolution(x, layer, weight, bias, pads=[1, 1, 1, 1], group=channels)

    def settle(self, x: str) -> str:
        """``x`` as it is, where residual sums begin.

        onnxruntime keeps feature maps in its blocked layout only behind an operator that makes
        them so; without one, every residual sum would go back to the plain layout. An average of
        one value is the cheapest such operator. It is for CPUs: left out in half precision.
        """
        if self.weights.dtype != "float32":
            return x
        return self.b.node("AveragePool", x, kernel_shape=[1, 1], name="settle")

    def silu(self, x: str) -> str:
        return self.b.node("Mul", x, self.b.node("Sigmoid", x), name="silu")

    def block(self, x: str, layer: str, channels: int) -> str:
        """A depth-conv block."""
        square = (channels, channels)
        with self.b.scope(layer.partition(".")[2].replace(".", "/")):
            mixed = self.silu(self.pointwise(x, f"{layer}.mix_in", *square))
            mixed = self.depthwise(mixed, f"{layer}.mix_spatial", channels)
            x = self.b.node("Add", x, self.pointwise(mixed, f"{layer}.mix_out", *square))
            gate = self.silu(self.pointwise(x, f"{layer}.ffn_gate", *square))
            gated = self.b.node("Mul", gate, self.pointwise(x, f"{layer}.ffn_value", *square))
            return self.b.node("Add", x, self.pointwise(gated, f"{layer}.ffn_out", *square))

    def blocks(self, x: str, stage: str, count: int, channels: int) -> str:
        for i in range(count):
            x = self.block(x, f"{stage}.{i}", channels)
        return x


# -- images ----------------------------------------------------------------------------------------


def image_in(b: GraphBuilder, image: str, rows: Side, columns: Side, dtype: str) -> str:
    """uint8 (N, H, W, 3) -> patches (N, 192, H'/8, W'/8), H' and W' being the next multiples of 16;
    beyond the image's border, what lies on it.

    Patch channels are in the order row, column, colour: see `patch_order`. Every operation rounds
    as in ``icmh_rt.kernels.images``.
    """
    with b.scope("image_in"):
        x = b.cast(image, "float32")  # at once: TensorRT takes bytes, but computes nothing in them
        tall, wide = (b.times(b.divided_up(side, 16), 16) for side in (rows, columns))
        below, beside = b.subtract(tall, rows), b.subtract(wide, columns)
        if (below, beside) != (0, 0):
            pads = b.vector([0, 0, 0, 0, 0, below, beside, 0])
            x = b.node("Pad", x, pads, mode="edge")
        x = b.node("Sub", b.node("Div", x, b.number(255.0)), b.number(0.5))
        if dtype != "float32":
            x = b.cast(x, dtype)
        shape = [0, b.divided(tall, PATCH), PATCH, b.divided(wide, PATCH), 3 * PATCH]
        x = b.transpose(b.reshape(x, shape), 0, 1, 3, 2, 4)
        return b.transpose(b.reshape(x, [0, 0, 0, PLANES]), 0, 3, 1, 2)


def image_out(b: GraphBuilder, x: str, latent: Sides, image: Sides, levels: bool) -> str:
    """The mirror: patches (N, 192, 2h, 2w), h and w being those of ``latent`` -> uint8
    (N, *image, 3).

    ``levels``: whether they are float32 levels of 0 to 255 already.
    """
    with b.scope("image_out"):
        if not levels:
            x = b.cast(x, "float32")
            x = b.node("Mul", b.node("Add", x, b.number(0.5)), b.number(255.0))
        # Clipped first, so that the clip can become a part of the layer before.
        x = b.node("Round", b.node("Clip", x, b.number(0.0), b.number(255.0)))
        x = b.transpose(x, 0, 2, 3, 1)
        x = b.transpose(b.reshape(x, [0, 0, 0, PATCH, 3 * PATCH]), 0, 1, 3, 2, 4)
        whole = tuple(b.times(side, 2 * PATCH) for side in latent)
        x = b.reshape(x, [0, *whole, 3])
        if whole != image:
            axes = b.constant(np.array([1, 2], np.int64), "sides")
            x = b.node("Slice", x, b.vector([0, 0]), b.vector(image), axes)
        return b.cast(x, "uint8")


def patch_order() -> np.ndarray:
    """Where channel (row, column, colour) of a patch here is in ``pixel_unshuffle``, (192,)."""
    return np.arange(PLANES).reshape(3, PATCH, PATCH).transpose(1, 2, 0).reshape(-1)


# -- transforms ------------------------------------------------------------------------------------


def analysis(layers: Layers, patches: str, sides: Sides, adapt: Adapter = no_adapter) -> str:
    """g_a: patches (N, 192, 2h, 2w) -> y (N, M, *sides), sides being h and w."""
    b, weights = layers.b, layers.weights
    c, m = weights.size("channels"), weights.size("latent_channels")
    twice = b.times(sides[0], 2), b.times(sides[1], 2)
    with b.scope("g_a"):
        stem = weights.weight("g_a.stem", c, PLANES)[:, patch_order(), None, None]
        x = layers.convolution(patches, "g_a.stem", stem, weights.bias("g_a.stem", c))
        x = adapt("g_a.stem", x, c, twice)
        x = layers.blocks(x, "g_a.blocks_8", weights.size("blocks_8"), c)
        x = layers.down(adapt("g_a.down:input", x, c, twice), "g_a.down", m, c)
        x = adapt("g_a.down", x, m, sides)
        return layers.blocks(x, "g_a.blocks_16", weights.size("blocks_16"), m)


def hyper_analysis(layers: Layers, y: str, sides: Sides) -> str:
    """h_a: y (N, M, *sides) -> z (N, Z, ceil(h / 4), ceil(w / 4)); beyond y's border, what lies on
    it.
    """
    b, weights = layers.b, layers.weights
    m, h = weights.size("latent_channels"), weights.size("hyper_channels")
    with b.scope("h_a"):
        pads = [b.subtract(b.times(b.divided_up(s, 4), 4), s) for s in sides]
        if pads != [0, 0]:
            y = b.node("Pad", y, b.vector([0, 0, 0, 0, 0, 0, *pads]), mode="edge")
        x = layers.silu(layers.pointwise(y, "h_a.project", h, m))
        x = layers.silu(layers.down(x, "h_a.down_1", h, h))
        return layers.down(x, "h_a.down_2", weights.size("hyper_latent_channels"), h)


def synthesis(layers: Layers, y: str, sides: Sides, adapt: Adapter = no_adapter) -> str:
    """g_s: y (N, M, *sides) -> patches (N, 192, 2h, 2w), h and w being the sides."""
    b, weights = layers.b, layers.weights
    c, m = weights.size("channels"), weights.size("latent_channels")
    twice = b.times(sides[0], 2), b.times(sides[1], 2)
    with b.scope("g_s"):
        x = layers.blocks(layers.settle(y), "g_s.blocks_16", weights.size("blocks_16"), m)
        x = layers.pointwise(adapt("g_s.up:input", x, m, sides), "g_s.up", 4 * c, m)
        x = b.node("DepthToSpace", x, blocksize=2, mode="CRD", name="shuffle")
        x = adapt("g_s.blocks_8.0:input", layers.settle(x), c, twice)
        x = layers.blocks(x, "g_s.blocks_8", weights.size("blocks_8"), c)
        x = adapt("g_s.head:input", x, c, twice)
        order = patch_order()
        weight = weights.weight("g_s.head", PLANES, c)[order, :, None, None]
        bias = weights.bias("g_s.head", PLANES)[order]
        if levels_are_folded(weights):
            weight, bias = weight * np.float32(255.0), (bias + np.float32(0.5)) * np.float32(255.0)
        return layers.convolution(x, "g_s.head", weight, bias)


def feature_head(layers: Layers, y: str, head: TrainedFeatureHead) -> dict[str, str]:
    """A feature head: y (N, M, h, w) -> features (N, C, h, w) by name. ``layers`` writes the
    head's arrays, whose names have `HEAD` before them.
    """
    b, c = layers.b, head.channels
    latent = head.arrays["stem.weight"].shape[1]
    with b.scope("features"):
        limits = [b.constant(np.array(v, layers.weights.dtype), "bound") for v in (-BOUND, BOUND)]
        x = layers.settle(layers.pointwise(y, f"{HEAD}stem", c, latent))
        x = b.node("Clip", x, *limits)
        for i in range(head.blocks):
            x = b.node("Clip", layers.block(x, f"{HEAD}blocks.{i}", c), *limits)
        x = layers.pointwise(x, f"{HEAD}out", sum(count for _, count in head.outputs), c)
        ends = np.cumsum([0, *(count for _, count in head.outputs)])
        axes = b.constant(np.array([1], np.int64), "channels")
        return {
            name: b.node(
                "Slice",
                x,
                b.constant(np.array([begin], np.int64), "channels"),
                b.constant(np.array([end], np.int64), "channels"),
                axes,
            )
            for (name, _), begin, end in zip(head.outputs, ends[:-1], ends[1:], strict=True)
        }


def head_layers(b: GraphBuilder, weights: Slice, head: TrainedFeatureHead) -> Layers:
    """What writes a feature head, of one width, with the arrays of its own."""
    arrays = {HEAD + name: array for name, array in head.arrays.items()}
    return Layers(b, replace(weights, index=0, arrays=arrays))


def levels_are_folded(weights: Slice) -> bool:
    """Whether g_s's head gives levels of 0 to 255 and not -0.5 to 0.5, which spares two passes over
    the image; half precision has too few bits for that.
    """
    return weights.dtype == "float32"


def check_config(bundle: Bundle) -> Mapping[str, Any]:
    """The bundle's config, if it has all that graphs need."""
    needed = ("widths", "channels", "latent_channels", "hyper_channels", "hyper_latent_channels")
    for name in (*needed, "blocks_8", "blocks_16"):
        if name not in bundle.config:
            raise BundleError(f"bundle {bundle.name!r} has no {name!r} in its config")
    return bundle.config
