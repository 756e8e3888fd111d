"""The graphs, by role: what goes in, what comes out, and what is between."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from icmh_rt._files import replace_file
from icmh_rt.bitstream import BASE_TASK, TASKS
from icmh_rt.bundle import Bundle, CodecBundle
from icmh_rt.errors import OptionError
from icmh_rt.feature_files import TrainedFeatureHead
from icmh_rt.graphs import _exact, _layers
from icmh_rt.graphs._builder import OPSET, GraphBuilder, Side, onnx
from icmh_rt.graphs._eight_bits import OPSET as EIGHT_BITS_OPSET
from icmh_rt.graphs._eight_bits import EightBits
from icmh_rt.graphs._layers import Layers, Sides, Slice
from icmh_rt.graphs._sfma import PLACES, Adapters
from icmh_rt.graphs.adapter_files import arrays_of

ROLES = ("encoder", "analysis", "hyper_synthesis", "synthesis", "features")
MAX_SIDE = 2**16 - 1


@dataclass(frozen=True)
class _Plan:
    """What a role's graph is written from."""

    b: GraphBuilder
    weights: Slice
    layers: Layers
    size: tuple[int, int] | None
    batch: int | str
    adapt: _layers.Adapter
    head: TrainedFeatureHead | None

    @property
    def latent_channels(self) -> int:
        return self.weights.size("latent_channels")

    @property
    def hyper_channels(self) -> int:
        return self.weights.size("hyper_latent_channels")

    def shape(self, stride: int, names: tuple[str, str], channels: int) -> list[int | str]:
        """Of an input or output; ``names`` for sides that are not known."""
        known = [-(-side // stride) for side in self.size] if self.size else []
        return [self.batch, *(known or names), channels]

    def sides_of(self, x: str, shape: list[int | str]) -> Sides:
        """Height and width of the input ``x`` of that shape."""
        height, width = (
            side if isinstance(side, int) else self.b.side(x, axis)
            for axis, side in enumerate(shape[1:3], 1)
        )
        return height, width


def build(
    bundle: CodecBundle,
    role: str,
    width: float,
    task: str = BASE_TASK,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    precision: str = "fp32",
    adapters: Mapping[str, np.ndarray] | None = None,
    eight_bits: EightBits | None = None,
) -> onnx.ModelProto:
    """One role's graph; the table of them is in ``icmh_rt.graphs``.

    Args:
        bundle: of the default architecture.
        role: one of `ROLES`.
        width: one of the bundle's width multipliers.
        task: one of the bundle's tasks, with the adapters that it has for it; with ``adapters``
            any but "human".
        size: (height, width) of the images if they are all the same: a smaller and faster graph
            without the inputs height and width. None: any.
        batch: how many images at once. None: any number.
        precision: of the transforms, "fp32" or "fp16". What symbols and indexes are made of is
            float32 in both.
        adapters: weights of the task's adapters as ``models.adapters.adapter_parameters`` names
            them, and their "factor" (1 without).
        eight_bits: layers of g_a and g_s whose products are in eight bits; the rest is of
            ``precision``.

    Raises:
        OptionError: an unknown role, width, task, size or precision, or adapters that do not fit.
        BundleError: the bundle lacks an array.
    """
    if role not in ROLES:
        raise OptionError(f"role {role!r} is unknown: use one of {', '.join(ROLES)}")
    if not isinstance(bundle, Bundle):
        raise OptionError(
            f"bundle {bundle.name!r} is a converted checkpoint: graphs are made of the default "
            "architecture only"
        )
    _check_sizes(size, batch)
    _layers.check_config(bundle)
    weights = Slice.of(bundle, width, precision)
    _check_task(bundle, task, adapters)
    head = bundle.feature_head(weights.width, task) if role == "features" else None
    builder = GraphBuilder()
    layers = Layers(builder, weights, eight_bits)
    adapt = _layers.no_adapter
    own = adapters is None and task in bundle.adapters
    if own:
        adapters = arrays_of(task, bundle.adapters[task])
    if adapters is not None:
        adapt = Adapters(layers, adapters, task, _adapted_channels(bundle)).at
    batch_side = "N" if batch is None else batch
    sides = (size[0], size[1]) if size else None
    plan = _Plan(builder, weights, layers, sides, batch_side, adapt, head)
    _WRITERS[role](plan)
    metadata = {
        "bundle": bundle.name,
        "fingerprint": bundle.fingerprint_of(task) if own else bundle.fingerprint,
        "precision": precision,
        "role": role,
        "task": task,
        "width": str(weights.width),
    }
    if size is not None:
        metadata["size"] = f"{size[0]}x{size[1]}"
    opset = OPSET
    if eight_bits is not None:
        metadata["eight_bits"], opset = eight_bits.kind, EIGHT_BITS_OPSET
    description = f"{role} of {bundle.name} at width {weights.width} for task {task}"
    metadata = {f"icmh.{key}": value for key, value in metadata.items()}
    return builder.model(f"icmh_{role}", description, metadata, opset)


def save(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write ``model`` to a file; equal models give equal bytes."""
    with replace_file(path) as file:
        file.write(model.SerializeToString(deterministic=True))


def _check_sizes(size: tuple[int, int] | None, batch: int | None) -> None:
    if size is not None:
        good = isinstance(size, (tuple, list)) and len(size) == 2
        if not good or not all(type(s) is int and 1 <= s <= MAX_SIDE for s in size):
            raise OptionError(f"size is {size!r}: give (height, width), 1 to {MAX_SIDE} each")
    if batch is not None and (type(batch) is not int or batch < 1):
        raise OptionError(f"batch is {batch!r}: give a number of images, 1 or more")


def _check_task(bundle: Bundle, task: str, adapters: Mapping[str, np.ndarray] | None) -> None:
    if adapters is None:
        bundle.task(task)
    elif task not in TASKS or task == BASE_TASK:
        raise OptionError(
            f"task {task!r} cannot have adapters: use one of "
            f"{', '.join(name for name in TASKS if name != BASE_TASK)}"
        )


def _adapted_channels(bundle: Bundle) -> dict[str, int]:
    """Channels at the adapters' places, at the largest width."""
    c, m = (max(bundle.config[name]) for name in ("channels", "latent_channels"))
    channels = {place: c for places in PLACES.values() for place in places}
    return channels | {"g_a.down": m, "g_s.up:input": m}


# -- roles -----------------------------------------------------------------------------------------


def _transforms(plan: _Plan) -> tuple[str, str, Sides]:
    """image -> y (N, h, w, M) and z (N, hz, wz, Z), float32; h and w."""
    b, dtype = plan.b, plan.weights.dtype
    shape = plan.shape(1, ("H", "W"), 3)
    image = b.input("image", "uint8", shape)
    with b.scope("image_in"):
        image_sides = plan.sides_of(image, shape)
        rows, columns = (b.divided_up(side, 16) for side in image_sides)
        sides = (rows, columns)
    patches = _layers.image_in(b, image, *image_sides, dtype)
    y = _layers.analysis(plan.layers, patches, sides, plan.adapt)
    z = _layers.hyper_analysis(plan.layers, y, sides)
    return _channels_last(plan, y), _channels_last(plan, z), sides


def _channels_last(plan: _Plan, x: str) -> str:
    x = plan.b.transpose(x, 0, 2, 3, 1)
    return x if plan.weights.dtype == "float32" else plan.b.cast(x, "float32")


def _analysis(plan: _Plan) -> None:
    y, z, _ = _transforms(plan)
    _latent_output(plan, y, "y", "float32")
    plan.b.output(z, "z", "float32", plan.shape(64, ("hz", "wz"), plan.hyper_channels))


def _latent_output(plan: _Plan, x: str, name: str, dtype: str) -> None:
    plan.b.output(x, name, dtype, plan.shape(16, ("h", "w"), plan.latent_channels))


def _encoder(plan: _Plan) -> None:
    b = plan.b
    _, tables = plan.weights.bundle.width(plan.weights.width)
    y, z, sides = _transforms(plan)
    rows = _exact.Rows(b, b.input("quality", "int64", []))
    symbols_z = _exact.hyper_symbols(b, z, tables, rows)
    with b.scope(_exact.EXACT):
        hyper_sides = [b.divided_up(side, 4) for side in sides]
        upsampled = [b.times(side, 4) for side in hyper_sides]
    network = tables.hyper_synthesis
    mean, index = _exact.hyper_synthesis(b, network, symbols_z, hyper_sides, rows)
    with b.scope(_exact.EXACT):
        if upsampled != list(sides) or plan.size is None:
            ends, axes = b.vector(sides), b.constant(np.array([1, 2], np.int64), "sides")
            start = b.constant(np.zeros(2, np.int64), "sides")
            mean, index = (b.node("Slice", x, start, ends, axes) for x in (mean, index))
    symbols_y = _exact.latent_symbols(b, y, mean, tables, rows)
    _latent_output(plan, b.cast(symbols_y, "int32"), "symbols_y", "int32")
    _latent_output(plan, b.cast(index, "uint8"), "indexes_y", "uint8")
    shape = plan.shape(64, ("hz", "wz"), plan.hyper_channels)
    b.output(b.cast(symbols_z, "int32"), "symbols_z", "int32", shape)


def _hyper_synthesis(plan: _Plan) -> None:
    b = plan.b
    _, tables = plan.weights.bundle.width(plan.weights.width)
    network = tables.hyper_synthesis
    shape = plan.shape(64, ("hz", "wz"), plan.hyper_channels)
    symbols = b.input("symbols_z", "int32", shape)
    rows = _exact.Rows(b, b.input("quality", "int64", []))
    with b.scope(_exact.EXACT):
        sides = plan.sides_of(symbols, shape)
        # As whole numbers: float32 does not hold all of them.
        limit = 2**24 - 1
        low, high = (b.constant(np.array(n, np.int32), "number_int32") for n in (-limit, limit))
        symbols = b.cast(b.node("Min", b.node("Max", symbols, low), high), "float32")
    mean, index = _exact.hyper_synthesis(b, network, symbols, list(sides), rows)
    with b.scope(_exact.EXACT):
        index = b.cast(index, "uint8")
    # Whole hyper-latent positions: what lies beyond the latent is for the caller to cut off.
    unit = network.upsampling
    upsampled = [unit * s if isinstance(s, int) else f"{unit}*{s}" for s in shape[1:3]]
    latent = [plan.batch, *upsampled, plan.latent_channels]
    b.output(mean, "mean_y", "float32", latent)
    b.output(index, "indexes_y", "uint8", latent)


def _synthesis(plan: _Plan) -> None:
    b, dtype = plan.b, plan.weights.dtype
    shape = plan.shape(16, ("h", "w"), plan.latent_channels)
    y = b.input("y_hat", "float32", shape)
    if plan.size:
        image_sides: tuple[Side, Side] = plan.size
    else:
        height, width = (b.reshape(b.input(n, "int64", []), [1]) for n in ("height", "width"))
        image_sides = (height, width)
    sides = plan.sides_of(y, shape)
    y = b.transpose(y if dtype == "float32" else b.cast(y, dtype), 0, 3, 1, 2)
    patches = _layers.synthesis(plan.layers, y, sides, plan.adapt)
    levels = _layers.levels_are_folded(plan.weights)
    image = _layers.image_out(b, patches, sides, image_sides, levels)
    b.output(image, "image", "uint8", plan.shape(1, ("height", "width"), 3))


def _features(plan: _Plan) -> None:
    b, dtype, head = plan.b, plan.weights.dtype, cast(TrainedFeatureHead, plan.head)
    y = b.input("y_hat", "float32", plan.shape(16, ("h", "w"), plan.latent_channels))
    y = b.transpose(y if dtype == "float32" else b.cast(y, dtype), 0, 3, 1, 2)
    found = _layers.feature_head(_layers.head_layers(b, plan.weights, head), y, head)
    for name, channels in head.outputs:
        x = found[name] if dtype == "float32" else b.cast(found[name], "float32")
        batch, height, width, _ = plan.shape(16, ("h", "w"), channels)
        b.output(x, name, "float32", [batch, channels, height, width])


_WRITERS: dict[str, Callable[[_Plan], None]] = {
    "encoder": _encoder,
    "analysis": _analysis,
    "hyper_synthesis": _hyper_synthesis,
    "synthesis": _synthesis,
    "features": _features,
}
