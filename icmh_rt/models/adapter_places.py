"""Where adapters go in a codec: found by running its transforms and looking at feature maps.

The published TIC with adapters (Li et al., ECCV 2024) has them in g_a after the last layer at 1/2,
1/4 and 1/8 of the image, just before the next downsampling, and in g_s after the first layer at
1/8, 1/4 and 1/2, just after the upsampling. One pass over a small blank image shows which layers
these are in another codec, and how many channels they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from icmh_rt.errors import OptionError
from icmh_rt.models.slimmable_hyperprior import SlimmableHyperprior

TRANSFORMS = ("g_a", "g_s")
CHILD = "attached_adapters"  # the child module of a codec that holds what was attached
STRIDES = (2, 4, 8)  # of the feature maps that are adapted in codecs of four stages
_INPUT = ":input"
# The default codec goes to 1/8 in its first layer. Its places are the seams between its stages:
# stem | blocks at 1/8 | down | blocks at 1/16. How many blocks run depends on the width, so the
# seams are named by the layers beside the blocks. Nearest the image first.
_DEFAULT_CODEC_PLACES = {
    "g_a": ("g_a.stem", "g_a.down:input", "g_a.down"),
    "g_s": ("g_s.head:input", "g_s.blocks_8.0:input", "g_s.up:input"),
}


@dataclass(frozen=True)
class Place:
    """Where one adapter sits.

    Args:
        name: the module whose output it adapts, or with ``:input`` behind it the one whose (first)
            input.
        channels: of the feature map there; in a slimmable codec, at the largest width.
        stride: the image's height over the map's.
    """

    name: str
    channels: int
    stride: int

    @property
    def module(self) -> str:
        return self.name.removesuffix(_INPUT)

    @property
    def is_input(self) -> bool:
        return self.name.endswith(_INPUT)


class FeatureMap(NamedTuple):
    """What an adapter has to know of a feature map."""

    channels: int
    height: int
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class _Call:
    """One run of a module: how deep it was nested, and the maps that it took and gave, if any."""

    name: str
    depth: int
    taken: FeatureMap | None
    given: FeatureMap | None

    @property
    def height(self) -> int:
        """Of the map that it gave; 0 without one."""
        return 0 if self.given is None else self.given.height


def _feature_map(value: Any) -> FeatureMap | None:
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    if isinstance(value, Tensor) and value.dim() == 4 and value.numel():
        return FeatureMap(value.shape[1], value.shape[2], value.device, value.dtype)
    return None


@contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, for a while."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _trace(model: nn.Module, run: Callable[[], Any]) -> tuple[list[_Call], Any]:
    """The calls of submodules during ``run()``, in the order in which they began; its result."""
    calls: list[_Call | None] = []
    open_calls: list[tuple[int, FeatureMap | None]] = []

    def begin(module: nn.Module, args: Any) -> None:
        open_calls.append((len(calls), _feature_map(args)))
        calls.append(None)

    handles = []
    for name, module in model.named_modules():
        if name and not f"{name}.".startswith(f"{CHILD}."):

            def end(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                index, taken = open_calls.pop()
                calls[index] = _Call(name, len(open_calls), taken, _feature_map(output))

            handles.append(module.register_forward_pre_hook(begin))
            handles.append(module.register_forward_hook(end))
    try:
        result = run()
    finally:
        for handle in handles:
            handle.remove()
    return [call for call in calls if call is not None], result


@dataclass(frozen=True)
class _Probe:
    """What one pass over a blank image ran: the calls in each transform."""

    side: int  # of the image
    calls: dict[str, list[_Call]]


def describe(model: nn.Module) -> str:
    """A few words on a model, for messages."""
    children = [name for name, _ in model.named_children() if name != CHILD]
    shown = ", ".join(children[:8]) + (", ..." if len(children) > 8 else "")
    return f"{type(model).__name__} with submodules {shown or '(none)'}"


def _probe_at(model: nn.Module, side: int, width: tuple[int, ...]) -> _Probe:
    some = next(p for p in model.parameters() if p.is_floating_point())
    image = torch.zeros(1, 3, side, side, device=some.device, dtype=some.dtype)
    with _quiet(model):
        if not all(callable(getattr(model, name, None)) for name in TRANSFORMS):
            calls, _ = _trace(model, lambda: model(image))
            return _Probe(side, {name: calls for name in TRANSFORMS})
        encoder, y = _trace(model, lambda: model.g_a(image, *width))
        y = y[0] if isinstance(y, (tuple, list)) else y
        decoder, _ = _trace(model, lambda: model.g_s(y, *width))
        return _Probe(side, {"g_a": encoder, "g_s": decoder})


def _probe(model: nn.Module) -> list[_Probe]:
    """A probe of each width, the widest last; of any other model, one.

    Raises:
        OptionError: the model fails on blank images.
    """
    widths: list[tuple[int, ...]] = [()]
    if isinstance(model, SlimmableHyperprior):
        widths = [(index,) for index in range(len(model.config.widths))]
    # Codecs with attention windows take multiples of larger numbers; small images are quick.
    stride = getattr(model, "stride", None)
    sides = sorted({64, 128, 256, stride if isinstance(stride, int) and stride > 64 else 64})
    problem = ""
    for side in sides:
        try:
            return [_probe_at(model, side, width) for width in widths]
        except Exception as error:  # whatever a foreign model raises
            problem = problem or f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    raise OptionError(
        f"{describe(model)} cannot be probed for places: on a blank {sides[0]}x{sides[0]} image "
        f"it raises {problem}"
    )


def _stages(calls: Sequence[_Call]) -> list[_Call]:
    """The outermost calls that are several: a transform's layers, not the transform itself."""
    with_maps = [call for call in calls if call.given is not None]
    for depth in sorted({call.depth for call in with_maps}):
        level = [call for call in with_maps if call.depth == depth]
        if len(level) > 1:
            return level
    return with_maps


def _stages_by_size(model: nn.Module, probe: _Probe) -> dict[str, tuple[str, ...]]:
    """Names of the places in a codec that halves its maps one stage at a time.

    Raises:
        OptionError: some size is missing; says what there is.
    """
    names = {}
    for transform in TRANSFORMS:
        stages = _stages(probe.calls[transform])
        found = []
        for stride in STRIDES:
            maps = [s for s in stages[:-1] if s.height * stride == probe.side]
            found += [maps[-1 if transform == "g_a" else 0].name] if maps else []
        if len(found) != len(STRIDES):
            shown = [f"{s.name} at 1/{probe.side // s.height}" for s in stages]
            raise OptionError(
                f"no places for adapters in {type(model).__name__}: looked in {transform} for "
                f"inner layers that give feature maps at 1/2, 1/4 and 1/8 of the image, found "
                f"{', '.join(shown[:12]) or 'no layers'}{', ...' if len(shown) > 12 else ''}; name "
                "modules in places={'g_a': [...], 'g_s': [...]}"
            )
        names[transform] = tuple(found)
    return names


def _place(
    model: nn.Module, name: str, probes: Sequence[_Probe], transform: str
) -> tuple[Place, FeatureMap]:
    """The place called ``name``, checked against what was run at every width."""
    is_input = name.endswith(_INPUT)
    module = name.removesuffix(_INPUT)
    seen = []
    for probe in probes:
        runs = [call for call in probe.calls[transform] if call.name == module]
        maps = [call.taken if is_input else call.given for call in runs]
        if len(maps) != 1 or maps[0] is None:
            if not any(module == known for known, _ in model.named_modules()):
                why = "is no module of it"
            elif len(maps) != 1:
                why = f"runs {len(maps)} times in {transform}, not once"
            else:
                why = f"has no 4-D {'input' if is_input else 'output'}"
            raise OptionError(f"place {name!r} does not fit {describe(model)}: it {why}")
        seen.append(maps[0])
    return Place(name, seen[-1].channels, probes[-1].side // seen[-1].height), seen[-1]


def find_places(
    model: nn.Module, names: Mapping[str, Sequence[str]] | None
) -> dict[str, list[tuple[Place, FeatureMap]]]:
    """The places in each transform, nearest the image first, and the feature maps there.

    Args:
        model: runs once (a slimmable one at every width) in evaluation mode; nothing changes in it.
        names: of places in g_a and g_s, as `models.adapters.attach_adapters` takes them. None finds
            the equivalents of the published ones.

    Raises:
        OptionError: no places are found, or one that is named does not run exactly once.
    """
    if not any(p.is_floating_point() for p in model.parameters()):
        raise OptionError(f"{describe(model)} has no parameters: there is nothing to adapt")
    if names is not None:
        well_formed = isinstance(names, Mapping) and all(
            key in TRANSFORMS
            and isinstance(value, Sequence)
            and not isinstance(value, str)
            and all(isinstance(name, str) for name in value)
            for key, value in names.items()
        )
        listed = [name for value in names.values() for name in value] if well_formed else []
        if not listed or len(set(listed)) != len(listed):
            raise OptionError(
                f"places is {names!r}: give {{'g_a': [names], 'g_s': [names]}} of different modules"
            )
    elif not all(callable(getattr(model, name, None)) for name in TRANSFORMS):
        raise OptionError(
            f"no places for adapters in {describe(model)}: looked for g_a and g_s; name modules "
            "in places={'g_a': [...], 'g_s': [...]}"
        )
    probes = _probe(model)
    if names is None:
        if isinstance(model, SlimmableHyperprior):
            names = _DEFAULT_CODEC_PLACES
        else:
            names = _stages_by_size(model, probes[-1])
    return {
        transform: [_place(model, name, probes, transform) for name in names.get(transform, ())]
        for transform in TRANSFORMS
    }
