"""Parameters, multiply-adds and least memory traffic of a bundle's layers.

Counted from the bundle, layer by layer, by width and task: nothing runs. A depth-conv block is one
layer, because its inner maps stay in the cache; so are an adapter and a Swin block. Multiply-adds
are those of convolutions, projections and attention; of an adapter's Fourier transforms and of what
is done value by value there are none here. Traffic: every layer reads its input and writes its
output once, four bytes a value.

Here are the layers of the default architecture; `published_costs` has those of the others.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from icmh_rt.bundle import Bundle, CodecBundle
from icmh_rt.models.integer_network import IntegerHyperSynthesis
from icmh_rt.published import PublishedBundle

_PIXEL_BYTES = 3
VALUE_BYTES = 4
_PATCH_VALUES = 192  # of the stem: 3 samples of 8 x 8 pixels
PARTS = ("g_a", "h_a", "h_s", "g_s", "adapters_g_a", "adapters_g_s")
ENCODES = ("g_a", "adapters_g_a", "h_a", "h_s")
DECODES = ("h_s", "g_s", "adapters_g_s")


@dataclass(frozen=True)
class Layer:
    """One layer at one width.

    part: one of `PARTS` · stride: image pixels a position, along a side, where it computes · macs:
    a position · parameters: weights and biases that the width uses · traffic: bytes a position.
    """

    part: str
    name: str
    stride: int
    macs: float
    parameters: int
    traffic: float

    @property
    def macs_per_pixel(self) -> float:
        return self.macs / self.stride**2

    @property
    def bytes_per_pixel(self) -> float:
        return self.traffic / self.stride**2


def costs(bundle: CodecBundle, width: float, task: str) -> dict[str, Any] | None:
    """What the schema calls "costs"; None for converted checkpoints without torch, which knows
    their layers.

    Raises:
        OptionError: the bundle has no such width or task.
    """
    width, _ = bundle.width(width)
    bundle.task(task)
    if isinstance(bundle, Bundle):
        found = tuple(layers(bundle, width, task))
    elif isinstance(bundle, PublishedBundle) and importlib.util.find_spec("torch") is not None:
        found = _published(bundle, width, task)
    else:
        return None

    def of(parts: tuple[str, ...], value: str) -> float:
        return sum(getattr(layer, value) for layer in found if layer.part in parts)

    return {
        "parameters": {part: int(of((part,), "parameters")) for part in PARTS},
        "macs_per_pixel": {part: of((part,), "macs_per_pixel") for part in PARTS},
        "bytes_per_pixel": {part: of((part,), "bytes_per_pixel") for part in PARTS},
        "encode_parameters": int(of(ENCODES, "parameters")),
        "encode_macs_per_pixel": of(ENCODES, "macs_per_pixel"),
        "encode_bytes_per_pixel": of(ENCODES, "bytes_per_pixel"),
        "decode_parameters": int(of(DECODES, "parameters")),
        "decode_macs_per_pixel": of(DECODES, "macs_per_pixel"),
        "decode_bytes_per_pixel": of(DECODES, "bytes_per_pixel"),
    }


@functools.lru_cache(maxsize=32)
def _published(bundle: PublishedBundle, width: float, task: str) -> tuple[Layer, ...]:
    from icmh_rt.profiling.published_costs import published_layers

    return tuple(published_layers(bundle, width, task))


def layers(bundle: Bundle, width: float, task: str) -> Iterator[Layer]:
    """Every layer of the default architecture at a width, with the adapters of a task."""
    index = list(bundle.widths).index(width)

    def at(name: str) -> int:
        return int(bundle.config[name][index])

    c, m, h, z = (
        at(name)
        for name in ("channels", "latent_channels", "hyper_channels", "hyper_latent_channels")
    )
    patch_bytes = _PIXEL_BYTES * 64
    yield _dense("g_a", "stem", 8, _PATCH_VALUES, c, reads=patch_bytes)
    for block in range(at("blocks_8")):
        yield _block("g_a", f"blocks_8.{block}", 8, c)
    yield _dense("g_a", "down", 16, c, m, taps=9, reads=4 * c * VALUE_BYTES)
    for block in range(at("blocks_16")):
        yield _block("g_a", f"blocks_16.{block}", 16, m)
    yield _dense("h_a", "project", 16, m, h)
    yield _dense("h_a", "down_1", 32, h, h, taps=9, reads=4 * h * VALUE_BYTES)
    yield _dense("h_a", "down_2", 64, h, z, taps=9, reads=4 * h * VALUE_BYTES)
    yield from _integer_layers(bundle.widths[width].hyper_synthesis)
    for block in range(at("blocks_16")):
        yield _block("g_s", f"blocks_16.{block}", 16, m)
    yield _dense("g_s", "up", 16, m, 4 * c)
    for block in range(at("blocks_8")):
        yield _block("g_s", f"blocks_8.{block}", 8, c)
    yield _dense("g_s", "head", 8, c, _PATCH_VALUES, writes=patch_bytes)
    yield from _adapters(bundle, index, task)


def _dense(
    part: str,
    name: str,
    stride: int,
    inputs: int,
    outputs: int,
    taps: int = 1,
    reads: float | None = None,
    writes: float | None = None,
) -> Layer:
    """A convolution; ``stride`` is that of its output, ``reads`` and ``writes`` bytes for each of
    its positions.
    """
    weights = taps * inputs * outputs
    reads = inputs * VALUE_BYTES if reads is None else reads
    writes = outputs * VALUE_BYTES if writes is None else writes
    return Layer(part, name, stride, weights, weights + outputs, reads + writes)


def _block(part: str, name: str, stride: int, channels: int) -> Layer:
    """A depth-conv block: five projections and a depthwise 3x3."""
    weights = 5 * channels**2 + 9 * channels
    traffic = 2 * channels * VALUE_BYTES
    return Layer(part, name, stride, weights, weights + 6 * channels, traffic)


def _integer_layers(network: IntegerHyperSynthesis) -> Iterator[Layer]:
    stride = 64
    for number, layer in enumerate(network.layers):
        outputs = layer.out_channels * (4 if layer.shuffle else 1)
        traffic = (layer.in_channels + outputs) * VALUE_BYTES
        parameters = layer.weight.size + layer.bias.size
        yield Layer("h_s", str(number), stride, layer.multiply_adds(), parameters, traffic)
        stride //= 2 if layer.shuffle else 1


def _adapters(bundle: Bundle, index: int, task: str) -> Iterator[Layer]:
    trained = bundle.adapters.get(task)
    if trained is None:
        return
    widest = {max(bundle.config["channels"]): ("channels", 8)}
    widest[max(bundle.config["latent_channels"])] = ("latent_channels", 16)
    for name, array in trained.arrays.items():
        if not name.endswith(".s_down1.weight"):
            continue
        place = name.removesuffix(".s_down1.weight")
        part = "adapters_g_a" if place.startswith("encoder") else "adapters_g_s"
        kind, stride = widest[array.shape[1]]
        outer = int(bundle.config[kind][index])
        yield adapter(part, place, stride, outer, -(-array.shape[0] * outer // array.shape[1]))


def adapter(part: str, name: str, stride: int, outer: int, middle: int) -> Layer:
    """An SFMA of ``outer`` channels outside and ``middle`` inside. Half of the spectrum is stored,
    for the input is real.
    """
    projections = 5 * outer * middle
    spectrum = 9 * middle + middle**2
    macs = projections + 25 * middle + spectrum / 2
    biases = 3 * middle + 3 * middle + 2 * outer
    parameters = projections + 25 * middle + spectrum + biases
    return Layer(part, name, stride, macs, parameters, 2 * outer * VALUE_BYTES)
