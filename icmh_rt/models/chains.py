"""The default codec's transforms in a few native calls, for inference on a CPU: chains of layers,
and between them the adapters of a task. The results are those of the modules, whose weights they
share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, channels_last, nn

from icmh_rt.coding import DEFAULT_HYPER_STRIDE, DEFAULT_LATENT_STRIDE
from icmh_rt.kernels._cpu_layers import LayerChain, PackedConvolution, PackedDepthConv, shuffled
from icmh_rt.models.kept_weights import KeptWeights
from icmh_rt.models.slimmable import SlimPointwise
from icmh_rt.models.slimmable_hyperprior import PATCH, SlimmableHyperprior

_SHUFFLE = 2  # of g_s, from 1/16 to 1/8
_KEPT: KeptWeights[PackedConvolution] = KeptWeights()

_Add = Callable[[LayerChain], object]


class ChainedTransform:
    """A transform of several images at a time, each as if alone.

    Args:
        steps: chains, and adapters, which are modules of one map.
    """

    def __init__(self, steps: Sequence[LayerChain | nn.Module]) -> None:
        self._steps = tuple(steps)

    def __call__(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """See `LayerChain`."""
        return self._through(self._steps, maps)

    def pictures(self, maps: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """See `LayerChain.pictures`."""
        *steps, last = self._steps
        assert isinstance(last, LayerChain)  # it ends with pixels
        return last.pictures(self._through(steps, maps), sizes)

    @staticmethod
    def _through(steps: Sequence[LayerChain | nn.Module], maps: Sequence[Tensor]) -> list[Tensor]:
        found = [*maps]
        for step in steps:
            if isinstance(step, LayerChain):
                found = step(found)
            else:
                found = [step(x).contiguous(memory_format=channels_last) for x in found]
        return found


class ChainedTransforms(NamedTuple):
    """g_a from uint8 ``(H, W, 3)``, h_a from a latent of any size, g_s to pictures."""

    g_a: ChainedTransform
    h_a: ChainedTransform
    g_s: ChainedTransform


def chained(
    model: SlimmableHyperprior, width: int, mean: float, adapters: Mapping[str, nn.Module]
) -> ChainedTransforms | None:
    """The transforms of a width; None if an adapter sits where no chain can be cut.

    Args:
        mean: what pixels in [0, 1] are shifted by.
        adapters: by the names of their places, see `models.adapters`; none for the base.
    """
    g_a, g_s = _Cutter("g_a", adapters), _Cutter("g_s", adapters)
    _analysis(g_a, model, width, mean)
    _synthesis(g_s, model, width, mean)
    if g_a.used | g_s.used != {*adapters}:
        return None
    return ChainedTransforms(
        ChainedTransform(g_a.steps()),
        ChainedTransform([_hyper_analysis(model, width)]),
        ChainedTransform(g_s.steps()),
    )


class _Cutter:
    """Takes the layers of a transform in order, and cuts the chain where an adapter sits."""

    def __init__(self, transform: str, adapters: Mapping[str, nn.Module]) -> None:
        self.used: set[str] = set()
        self._transform, self._adapters = transform, adapters
        self._steps: list[LayerChain | nn.Module] = []
        self._layers: list[_Add] = []

    def begin_or_end(self, add: _Add) -> None:
        """What is no layer of the model: pixels."""
        self._layers.append(add)

    def layer(self, name: str, *adds: _Add, gives_map: bool = True) -> None:
        """A layer of the model; ``gives_map``: in the order that the module gives it in."""
        place = f"{self._transform}.{name}"
        self._cut(f"{place}:input")
        self._layers += adds
        if gives_map:
            self._cut(place)

    def steps(self) -> list[LayerChain | nn.Module]:
        self._close()
        return self._steps

    def _cut(self, place: str) -> None:
        if place in self._adapters:
            self._close()
            self._steps.append(self._adapters[place])
            self.used.add(place)

    def _close(self) -> None:
        if self._layers:
            chain = LayerChain()
            for add in self._layers:
                add(chain)
            self._steps.append(chain)
            self._layers = []


def _analysis(cutter: _Cutter, model: SlimmableHyperprior, width: int, mean: float) -> None:
    g_a = model.g_a
    cutter.begin_or_end(lambda chain: chain.patches(PATCH, DEFAULT_LATENT_STRIDE, mean))
    cutter.layer("stem", _convolution(g_a.stem.packed(width)))
    _blocks(cutter, "blocks_8", g_a.blocks_8[: g_a.depth_8[width]], width)
    cutter.layer("down", _convolution(g_a.down.packed(width)))
    _blocks(cutter, "blocks_16", g_a.blocks_16[: g_a.depth_16[width]], width)


def _hyper_analysis(model: SlimmableHyperprior, width: int) -> LayerChain:
    h_a = model.h_a
    project = h_a.project.packed(width)
    chain = LayerChain().extension(project.sizes[0], DEFAULT_HYPER_STRIDE)
    chain.convolution(project, silu=True).convolution(h_a.down_1.packed(width), silu=True)
    return chain.convolution(h_a.down_2.packed(width))


def _synthesis(cutter: _Cutter, model: SlimmableHyperprior, width: int, mean: float) -> None:
    g_s = model.g_s
    _blocks(cutter, "blocks_16", g_s.blocks_16[: g_s.depth_16[width]], width)
    up = _packed_for_shuffle(g_s.up, width)
    # Its map has the outputs in another order than the module's: nothing can be between.
    cutter.layer("up", _convolution(up), lambda chain: chain.shuffle(_SHUFFLE), gives_map=False)
    _blocks(cutter, "blocks_8", g_s.blocks_8[: g_s.depth_8[width]], width)
    cutter.layer("head", _convolution(g_s.head.packed(width)))
    cutter.begin_or_end(lambda chain: chain.pixels(PATCH, mean))


def _blocks(cutter: _Cutter, name: str, blocks: nn.ModuleList, width: int) -> None:
    for number, block in enumerate(blocks):
        cutter.layer(f"{name}.{number}", _depth_conv(block.packed(width)))


def _depth_conv(packed: PackedDepthConv) -> _Add:
    return lambda chain: chain.depth_conv(packed)


def _convolution(packed: PackedConvolution) -> _Add:
    return lambda chain: chain.convolution(packed)


def _packed_for_shuffle(layer: SlimPointwise, width: int) -> PackedConvolution:
    def make() -> PackedConvolution:
        weight = layer.matrix(width)
        order = shuffled(len(weight) // _SHUFFLE**2, _SHUFFLE)
        return PackedConvolution(weight[order], layer.bias[width][order])

    return _KEPT.get(layer, width, (layer.weight, layer.bias), make)
