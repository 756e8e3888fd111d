"""The integer hyper-synthesis: scale indexes and means that are equal on every device.

After Ballé, Johnston, Minnen, "Integer networks for data compression with latent-variable models",
ICLR 2019. docs/integer_hyper_synthesis.md is the normative definition;
csrc/kernels/integer_network.cpp runs it, `IntegerHyperSynthesis.run_reference` is its plain twin in
numpy, and ``integer_network_torch.Float32HyperSynthesis`` the form for other devices. numpy only.

Feature maps are channels-last, ``(H, W, C)``. Every layer computes

    y = clamp((sum(weight * x) + bias + half(shift)) >> shift, low, high)

with ``half(s) = 2**(s-1)`` (0 for s = 0) and ``>>`` rounding towards minus infinity. `prove` shows
that no sum, in whatever order it is taken, reaches 2**24: then fp32 holds every intermediate value
exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from icmh_rt import _native
from icmh_rt.errors import BackendUnavailableError, BundleError, OptionError

ACCUMULATOR_LIMIT = 2**24
"""Every intermediate value stays below this in magnitude; fp32 holds all such integers."""

MAX_SHIFT = 23
MAX_SCALES = 256
KINDS = ("conv1x1", "conv3x3", "depthwise3x3")
_LAYER_ARRAYS = {
    "weight": np.int16,
    "bias": np.int32,
    "shift": np.uint8,
    "low": np.int32,
    "high": np.int32,
}
_TABLES = {
    "z_multiplier": np.int32,
    "mean_multiplier": np.int32,
    "mean_shift": np.uint8,
    "index_offset": np.int32,
}
_SCALARS = (
    "z_shift",
    "input_limit",
    "mean_bits",
    "mean_limit",
    "index_bits",
    "scales",
)


def half_of(shift: np.ndarray | int) -> np.ndarray:
    """What is added before ``>> shift`` to round to nearest; int64 of ``shift``'s shape."""
    shift = np.asarray(shift, np.int64)
    return (np.int64(1) << shift) >> 1


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """One layer; O output channels (before the shuffle), C input channels.

    Args:
        name: what error messages call it.
        kind: "conv1x1", "conv3x3" or "depthwise3x3"; the 3x3 ones pad with zeros.
        weight: int16 ``(O, C)``, ``(O, 3, 3, C)`` or ``(C, 3, 3)``.
        bias: int32 ``(O,)``.
        shift: uint8 ``(O,)``, 0 to 23.
        low, high: int32 ``(O,)``, the clamp, inside int16.
        shuffle: whether a pixel shuffle by 2 follows, ``(H, W, 4c) -> (2H, 2W, c)`` with input
            channel ``4 * c + 2 * dy + dx``; not for depthwise3x3.

    Raises:
        BundleError: an array has another dtype or shape than stated, or a value out of range.
    """

    name: str
    kind: str
    weight: np.ndarray
    bias: np.ndarray
    shift: np.ndarray
    low: np.ndarray
    high: np.ndarray
    shuffle: bool = False

    def __post_init__(self) -> None:
        where = f"integer hyper-synthesis layer {self.name!r}"
        if self.kind not in KINDS:
            raise BundleError(f"{where} is a {self.kind!r}; known kinds are {', '.join(KINDS)}")
        for key, dtype in _LAYER_ARRAYS.items():
            array = getattr(self, key)
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                found = getattr(array, "dtype", type(array).__name__)
                raise BundleError(f"{where}: {key} is {found}, not {np.dtype(dtype)}")
            object.__setattr__(self, key, np.ascontiguousarray(array))
        shape = self.weight.shape
        fits = {
            "conv1x1": len(shape) == 2,
            "conv3x3": len(shape) == 4 and shape[1:3] == (3, 3),
            "depthwise3x3": len(shape) == 3 and shape[1:3] == (3, 3),
        }[self.kind]
        if not fits or min(shape) < 1:
            raise BundleError(f"{where}: weight of shape {shape} is not that of a {self.kind}")
        for key in ("bias", "shift", "low", "high"):
            if getattr(self, key).shape != shape[:1]:
                raise BundleError(
                    f"{where}: {key} has shape {getattr(self, key).shape} for {shape[0]} rows"
                )
        if self.shuffle and (self.kind == "depthwise3x3" or shape[0] % 4):
            raise BundleError(f"{where}: {shape[0]} rows of a {self.kind} cannot be shuffled by 2")
        if self.shift.max() > MAX_SHIFT:
            raise BundleError(f"{where}: shift {self.shift.max()} is above {MAX_SHIFT}")
        if (self.low > self.high).any() or self.low.min() < -(2**15) or self.high.max() >= 2**15:
            raise BundleError(f"{where}: its clamp is empty or does not fit int16")

    @property
    def in_channels(self) -> int:
        return self.weight.shape[0 if self.kind == "depthwise3x3" else -1]

    @property
    def out_channels(self) -> int:
        """Channels after the shuffle."""
        return self.weight.shape[0] // (4 if self.shuffle else 1)

    def multiply_adds(self) -> int:
        """Per position of the input grid."""
        return int(self.weight.size)


@dataclass(frozen=True, eq=False)
class LayerBound:
    """What `prove` found for one stage: the extremes of each row over all inputs, int64 ``(O,)``.

    They bound every partial sum in every order, the bias and the rounding half included.
    """

    name: str
    low: np.ndarray
    high: np.ndarray

    @property
    def worst(self) -> int:
        """The largest magnitude over all rows."""
        return int(max(-self.low.min(), self.high.max()))


@dataclass(frozen=True, eq=False)
class IntegerHyperSynthesis:
    """h_s of one model width as integers: Z hyper-latent channels in, M latent channels out.

    Tables have one row for each quality 1, 2, ..., Q (row ``quality - 1``).

    Args:
        trunk: layers that both heads share, in order.
        mean_head, scale_head: conv1x1 layers without shuffle, M rows each.
        z_multiplier: int32 ``(Q, Z)``, >= 0; network input is
            ``clamp((z * z_multiplier + half) >> z_shift, -input_limit, input_limit)``.
        mean_multiplier: int32 ``(Q, M)``; the mean is
            ``clamp((mean_head * mean_multiplier + half) >> mean_shift, -mean_limit, mean_limit)``
            in units of ``2**-mean_bits`` of the gained latent.
        mean_shift: uint8 ``(Q, M)``, 0 to 23.
        index_offset: int32 ``(Q, M)``; the scale index is
            ``clamp((scale_head + index_offset + half) >> index_bits, 0, scales - 1)``.

    Raises:
        BundleError: parts that do not fit together.
    """

    trunk: tuple[IntegerLayer, ...]
    mean_head: IntegerLayer
    scale_head: IntegerLayer
    z_multiplier: np.ndarray
    mean_multiplier: np.ndarray
    mean_shift: np.ndarray
    index_offset: np.ndarray
    z_shift: int
    input_limit: int
    mean_bits: int
    mean_limit: int
    index_bits: int
    scales: int

    def __post_init__(self) -> None:
        channels = self.z_channels
        for layer in self.layers:
            if layer is self.scale_head:
                channels = self.mean_head.in_channels
            if layer.in_channels != channels:
                raise BundleError(
                    f"integer hyper-synthesis layer {layer.name!r} takes {layer.in_channels} "
                    f"channels, the one before it gives {channels}"
                )
            channels = layer.out_channels
        for head in (self.mean_head, self.scale_head):
            if head.kind != "conv1x1" or head.shuffle:
                raise BundleError(f"integer hyper-synthesis head {head.name!r} is no plain conv1x1")
        if self.scale_head.out_channels != self.mean_head.out_channels:
            raise BundleError(
                f"the mean head has {self.mean_head.out_channels} rows, "
                f"the scale head {self.scale_head.out_channels}"
            )
        qualities = len(self.z_multiplier)
        for key, dtype in _TABLES.items():
            array = getattr(self, key)
            width = self.z_channels if key == "z_multiplier" else self.latent_channels
            wanted = f"{np.dtype(dtype)} ({qualities}, {width})"
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                raise BundleError(f"integer hyper-synthesis table {key!r} is not {wanted}")
            if array.shape != (qualities, width) or not qualities:
                raise BundleError(
                    f"integer hyper-synthesis table {key!r} has shape {array.shape}, not {wanted}"
                )
            object.__setattr__(self, key, np.ascontiguousarray(array))
        ranges = {
            "z_shift": (0, MAX_SHIFT),
            "input_limit": (1, 2**15 - 1),
            "mean_bits": (0, 16),
            "mean_limit": (1, ACCUMULATOR_LIMIT - 1),
            "index_bits": (0, 12),
            "scales": (1, MAX_SCALES),
        }
        for key, (low, high) in ranges.items():
            value = getattr(self, key)
            if type(value) is not int or not low <= value <= high:
                raise BundleError(
                    f"integer hyper-synthesis {key} is {value!r}, not a whole number "
                    f"{low} to {high}"
                )
        if self.mean_shift.max() > MAX_SHIFT:
            raise BundleError(f"integer hyper-synthesis mean_shift exceeds {MAX_SHIFT}")
        if self.z_multiplier.min() < 0 or self.z_multiplier.max() >= ACCUMULATOR_LIMIT // 2:
            raise BundleError("integer hyper-synthesis z_multiplier is not in 0 to 2**23 - 1")

    @property
    def layers(self) -> tuple[IntegerLayer, ...]:
        return (*self.trunk, self.mean_head, self.scale_head)

    @property
    def z_channels(self) -> int:
        return (*self.trunk, self.mean_head)[0].in_channels

    @property
    def latent_channels(self) -> int:
        return self.mean_head.out_channels

    @property
    def qualities(self) -> int:
        return len(self.z_multiplier)

    @property
    def upsampling(self) -> int:
        """Latent positions along a side for each hyper-latent position."""
        return 2 ** sum(layer.shuffle for layer in self.trunk)

    @cached_property
    def reach(self) -> int:
        """On how many hyper-latent positions around its own a latent position depends at most."""
        reach, stride = 0.0, 1  # in positions of the input
        for layer in self.layers:  # the heads side by side: as if one came after the other
            reach += (layer.kind != "conv1x1") / stride
            stride *= 2 if layer.shuffle else 1
        return math.ceil(reach)

    @cached_property
    def z_limit(self) -> np.ndarray:
        """Where z is clamped so that the product stays below 2**24, int32 ``(Q, Z)``.

        Part of the definition, and derived so that a bundle cannot get it wrong.
        """
        room = ACCUMULATOR_LIMIT - 1 - int(half_of(self.z_shift))
        return (room // np.maximum(self.z_multiplier, 1)).astype(np.int32)

    def multiply_adds(self, height: int, width: int) -> int:
        """Multiply-adds of one run on a ``(height, width, Z)`` hyper-latent."""
        total, positions = 0, height * width
        for layer in self.layers:
            total += positions * layer.multiply_adds()
            positions *= 4 if layer.shuffle else 1
        return total

    # Storage -----------------------------------------------------------------------------------

    def to_tensors(self, prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays (int16, int32, uint8; named ``prefix + ...``) and metadata that JSON can hold."""
        tensors = {}
        for part, layer in self._parts():
            for key in _LAYER_ARRAYS:
                tensors[f"{prefix}{part}.{key}"] = getattr(layer, key)
        for key in _TABLES:
            tensors[prefix + key] = getattr(self, key)
        metadata: dict[str, Any] = {key: getattr(self, key) for key in _SCALARS}
        metadata["layers"] = [
            {"name": layer.name, "kind": layer.kind, "shuffle": layer.shuffle}
            for layer in self.layers
        ]
        return tensors, metadata

    def _parts(self) -> list[tuple[str, IntegerLayer]]:
        parts = [(f"trunk.{i}", layer) for i, layer in enumerate(self.trunk)]
        return [*parts, ("mean_head", self.mean_head), ("scale_head", self.scale_head)]

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any], prefix: str = ""
    ) -> IntegerHyperSynthesis:
        """The network that `to_tensors` stored, proven again.

        Raises:
            BundleError: something is missing, of another dtype or shape, or fails `prove`.
        """
        try:
            described = metadata["layers"]
            trunk_size = len(described) - 2
            parts = [f"trunk.{i}" for i in range(trunk_size)] + ["mean_head", "scale_head"]
            layers = [
                IntegerLayer(
                    name=str(layer["name"]),
                    kind=layer["kind"],
                    shuffle=bool(layer["shuffle"]),
                    **{key: tensors[f"{prefix}{part}.{key}"] for key in _LAYER_ARRAYS},
                )
                for part, layer in zip(parts, described, strict=True)
            ]
            tables: dict[str, Any] = {key: tensors[prefix + key] for key in _TABLES}
            scalars = {key: metadata[key] for key in _SCALARS}
        except KeyError as error:
            raise BundleError(f"the integer hyper-synthesis lacks {error.args[0]!r}") from error
        except (TypeError, ValueError) as error:
            raise BundleError(f"the integer hyper-synthesis cannot be read: {error}") from error
        network = cls(
            trunk=tuple(layers[:trunk_size]),
            mean_head=layers[-2],
            scale_head=layers[-1],
            **tables,
            **scalars,
        )
        network.prove()
        return network

    # Proof -------------------------------------------------------------------------------------

    def prove(self) -> list[LayerBound]:
        """Bound every value that any input can produce, stage by stage, by interval arithmetic.

        Returns:
            The bounds, one entry a stage; all of them are below 2**24.

        Raises:
            BundleError: a row can reach 2**24; names the stage, the row and the value.
        """
        bounds = [self._prove_input()]
        low = np.full(self.z_channels, -self.input_limit, np.int64)
        high = -low
        for layer in self.trunk:
            bounds.append(_layer_bound(layer, low, high))
            low, high = _output_range(layer)
        bounds.append(_layer_bound(self.mean_head, low, high))
        bounds.append(_layer_bound(self.scale_head, low, high))
        bounds += [self._mean_bound(), self._index_bound()]
        for bound in bounds:
            worst = np.maximum(-bound.low, bound.high)
            if worst.max() >= ACCUMULATOR_LIMIT:
                row = int(worst.argmax())
                raise BundleError(
                    f"integer hyper-synthesis layer {bound.name!r} row {row} can reach "
                    f"{int(worst[row])}, beyond the 2**24 that fp32 holds exactly; quantize it "
                    "again with smaller weights"
                )
        return bounds

    def _prove_input(self) -> LayerBound:
        half = int(half_of(self.z_shift))
        product = (self.z_multiplier.astype(np.int64) * self.z_limit).max(0)
        return LayerBound("input", -product, product + half)

    def _mean_bound(self) -> LayerBound:
        head = np.stack([self.mean_head.low, self.mean_head.high]).astype(np.int64)
        product = head[:, None] * self.mean_multiplier.astype(np.int64)
        high = product.max(0).clip(min=0) + half_of(self.mean_shift)
        return LayerBound("mean", product.min(0).clip(max=0).min(0), high.max(0))

    def _index_bound(self) -> LayerBound:
        offset = self.index_offset.astype(np.int64)
        low = self.scale_head.low.clip(max=0) + offset.min(0).clip(max=0)
        high = self.scale_head.high.clip(min=0) + offset.max(0).clip(min=0)
        return LayerBound("scale index", low, high + half_of(self.index_bits))

    # Running -----------------------------------------------------------------------------------

    def run(
        self, z: np.ndarray, quality: int, *, threads: int = 1, level: str = "auto"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means and scale indexes for a hyper-latent, in C++.

        Args:
            z: any integer dtype, ``(H, W, Z)``: the decoded hyper-latent symbols.
            quality: 1 to Q.
            threads: at most this many of the process's pool; small inputs use fewer. The result
                does not depend on it.
            level: instruction set, one of `levels`, or "auto", the fastest that ICMH_SIMD allows.
                The result does not depend on it.

        Returns:
            mean int32 ``(U*H, U*W, M)`` in units of ``2**-mean_bits``, and scale index uint8 of the
            same shape, U being `upsampling`.

        Raises:
            OptionError: an argument has another dtype, shape or range.
            BundleError: the network fails `prove`.
            BackendUnavailableError: no native module, or its instruction-set level miscalculates.
        """
        row = self._row_of(quality)
        z = self.checked_z(z)
        if type(threads) is not int or not 1 <= threads <= 1024:
            raise OptionError(f"threads is {threads!r}, not a whole number 1 to 1024")
        if level != "auto" and level not in levels():
            raise OptionError(f"level {level!r} is none of this CPU's: {', '.join(levels())}, auto")
        return self._native.run(z, row, level, threads)

    def run_reference(self, z: np.ndarray, quality: int) -> tuple[np.ndarray, np.ndarray]:
        """What `run` must return, in plain int64 numpy; slow."""
        row = self._row_of(quality)
        z = self.checked_z(z).astype(np.int64)
        limit = self.z_limit[row].astype(np.int64)
        x = np.clip(z, -limit, limit) * self.z_multiplier[row]
        x = (x + half_of(self.z_shift)) >> self.z_shift
        x = np.clip(x, -self.input_limit, self.input_limit)
        for layer in self.trunk:
            x = _run_layer(layer, x)
        shift = self.mean_shift[row].astype(np.int64)
        mean = _run_layer(self.mean_head, x) * self.mean_multiplier[row] + half_of(shift)
        mean = np.clip(mean >> shift, -self.mean_limit, self.mean_limit)
        index = _run_layer(self.scale_head, x) + self.index_offset[row] + half_of(self.index_bits)
        index = np.clip(index >> self.index_bits, 0, self.scales - 1)
        return mean.astype(np.int32), index.astype(np.uint8)

    def _row_of(self, quality: int) -> int:
        if isinstance(quality, bool) or not isinstance(quality, (int, np.integer)):
            raise OptionError(f"quality is {quality!r}, not a whole number 1 to {self.qualities}")
        if not 1 <= quality <= self.qualities:
            raise OptionError(f"quality is {quality}, outside 1 to {self.qualities}")
        return int(quality) - 1

    def checked_z(self, z: np.ndarray) -> np.ndarray:
        """``z`` as contiguous int32; values beyond int32 saturate, as the definition's clamp would.

        Raises:
            OptionError: not an integer array ``(H, W, Z)`` with H and W of 1 to 2**20.
        """
        if not isinstance(z, np.ndarray) or z.dtype.kind not in "iu":
            found = z.dtype if isinstance(z, np.ndarray) else type(z).__name__
            raise OptionError(f"z is {found}, not an integer array")
        fits = z.ndim == 3 and z.shape[2] == self.z_channels
        if not fits or not all(1 <= side <= 2**20 for side in z.shape[:2]):
            raise OptionError(f"z has shape {z.shape}, not (H, W, {self.z_channels})")
        if z.dtype in (np.uint32, np.int64, np.uint64):
            z = np.minimum(z, 2**31 - 1) if z.dtype.kind == "u" else z.clip(-(2**31), 2**31 - 1)
        return np.ascontiguousarray(z, np.int32)

    def probe_input(self, quality: int, height: int = 2, width: int = 3) -> np.ndarray:
        """Fixed hyper-latents that reach into the clamps, int64 ``(height, width, Z)``."""
        row = self._row_of(quality)
        random = np.random.default_rng([height, width, quality])
        full = self.input_limit * 2.0**self.z_shift / np.maximum(self.z_multiplier[row], 1)
        z = random.normal(0.0, 0.5, (height, width, self.z_channels)) * full
        return np.rint(z.clip(-(2**30), 2**30)).astype(np.int64)

    @cached_property
    def _native(self) -> Any:
        """The packed network, proven, the level in use compared with the definition."""
        self.prove()
        packed = _native.module().IntegerNetwork(
            trunk=[_native_layer(layer) for layer in self.trunk],
            mean_head=_native_layer(self.mean_head),
            scale_head=_native_layer(self.scale_head),
            z_multiplier=self.z_multiplier,
            z_limit=self.z_limit,
            z_shift=self.z_shift,
            input_limit=self.input_limit,
            mean_multiplier=self.mean_multiplier,
            mean_shift=self.mean_shift,
            mean_limit=self.mean_limit,
            index_offset=self.index_offset,
            index_bits=self.index_bits,
            scales=self.scales,
        )
        quality = (self.qualities + 1) // 2
        z = self.checked_z(self.probe_input(quality))
        level = _native.module().integer_network_level()
        results = [packed.run(z, quality - 1, name, 1) for name in ("scalar", level)]
        check_probe(f"the native level {level!r}", *results)
        return packed

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_native"}


def check_probe(
    who: str,
    expected: tuple[np.ndarray, np.ndarray],
    found: tuple[np.ndarray, np.ndarray],
) -> None:
    """Compare (mean, scale index) of an implementation with the definition's.

    Raises:
        BackendUnavailableError: they differ; names both sides and the number of wrong values.
    """
    for what, a, b in zip(("means", "scale indexes"), expected, found, strict=True):
        wrong = np.count_nonzero(np.asarray(a) != np.asarray(b))
        if wrong:
            raise BackendUnavailableError(
                f"{who} computes {wrong} of {np.size(a)} {what} of the integer hyper-synthesis "
                "otherwise than the definition (csrc/kernels/integer_network.cpp, scalar): its "
                "arithmetic is not exact, so streams would not decode; use another backend or "
                "switch its reduced-precision modes off"
            )


def levels() -> list[str]:
    """Instruction-set levels that this CPU can run, slowest ("scalar", the definition) first."""
    return list(_native.module().integer_network_levels())


def _native_layer(layer: IntegerLayer) -> tuple:
    return (
        KINDS.index(layer.kind),
        layer.shuffle,
        layer.weight,
        layer.bias,
        layer.shift,
        layer.low,
        layer.high,
    )


def _layer_bound(layer: IntegerLayer, low: np.ndarray, high: np.ndarray) -> LayerBound:
    """Extremes of all partial sums for input channels in ``low``..``high``, int64 ``(C,)``.

    A partial sum has some of the terms: at least all the negative ones, at most all the positive.
    Zero counts as a possible input, because padding and unfinished sums have it.
    """
    weight = layer.weight.astype(np.int64)
    low, high = low.clip(max=0), high.clip(min=0)
    if layer.kind == "depthwise3x3":
        low, high = low[:, None, None], high[:, None, None]
    at_low, at_high = weight * low, weight * high
    axes = tuple(range(1, weight.ndim))
    bias = layer.bias.astype(np.int64)
    return LayerBound(
        layer.name,
        np.minimum(at_low, at_high).sum(axes) + bias.clip(max=0),
        np.maximum(at_low, at_high).sum(axes) + bias.clip(min=0) + half_of(layer.shift),
    )


def _output_range(layer: IntegerLayer) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each channel after clamp and shuffle."""
    low, high = layer.low.astype(np.int64), layer.high.astype(np.int64)
    if layer.shuffle:
        low, high = low.reshape(-1, 4).min(1), high.reshape(-1, 4).max(1)
    return low, high


def unfold3x3(x: np.ndarray) -> np.ndarray:
    """``(H, W, C)`` -> ``(H, W, 3, 3, C)``: each position's zero-padded neighbourhood."""
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows = [
        np.stack([padded[dy : dy + height, dx : dx + width] for dx in range(3)], 2)
        for dy in range(3)
    ]
    return np.stack(rows, 2)


def pixel_shuffle(x: np.ndarray) -> np.ndarray:
    """``(H, W, 4C)`` -> ``(2H, 2W, C)``, input channel ``4 * c + 2 * dy + dx``."""
    height, width, channels = x.shape
    x = x.reshape(height, width, channels // 4, 2, 2).transpose(0, 3, 1, 4, 2)
    return x.reshape(2 * height, 2 * width, channels // 4)


def apply_weight(kind: str, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The sums of one layer, without bias: ``(H, W, C)`` -> ``(H, W, O)`` in the arrays' dtype."""
    if kind == "conv1x1":
        return x @ weight.T
    patches = unfold3x3(x)
    if kind == "depthwise3x3":
        return (patches * weight.transpose(1, 2, 0)).sum((2, 3))
    return patches.reshape(*x.shape[:2], -1) @ weight.reshape(len(weight), -1).T


def _run_layer(layer: IntegerLayer, x: np.ndarray) -> np.ndarray:
    shift = layer.shift.astype(np.int64)
    total = apply_weight(layer.kind, layer.weight.astype(np.int64), x) + layer.bias
    y = np.clip((total + half_of(shift)) >> shift, layer.low, layer.high)
    return pixel_shuffle(y) if layer.shuffle else y
