"""The parts that an adapted codec is made of; ``models.adapters`` puts them in."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from icmh_rt.kernels.sfma import LAYERS, sfma
from icmh_rt.models.adapter_places import TRANSFORMS, FeatureMap, Place
from icmh_rt.models.sfma import SFMA

_DOWN = ("s_down1", "s_down2", "f_down")
_UP = ("s_up", "f_up")


class SlimmableSFMA(SFMA):
    """An SFMA that also takes fewer channels than it was made for.

    Given the first ``c`` of its ``in_dim`` channels it uses the first ``c`` rows or columns of its
    up- and down-projections and the first ``ceil(middle_dim * c / in_dim)`` middle channels: what
    a slimmable codec does at narrow widths. Nothing but the input tells it.
    """

    def forward(self, x: Tensor, implementation: str | None = None) -> Tensor:
        """``x (N, c, H, W)``, c at most ``in_dim``, -> adapted feature map of that shape.

        In memory it lies as ``x`` does, so that the layers behind run the same kernels as in the
        base and a new adapter leaves every bit of their results.
        """
        if self.factor == 0:
            return x
        outer = x.shape[1]
        middle = -(-self.s_down1.out_channels * outer // self.s_up.out_channels)
        tensors = []
        for name in LAYERS:
            layer = getattr(self, name)
            outputs = outer if name in _UP else middle
            # A depthwise layer has one input channel whatever the width.
            inputs = outer if name in _DOWN else middle
            tensors += [
                layer.weight[:outputs, :inputs].to(x.dtype),
                layer.bias[:outputs].to(x.dtype),
            ]
        adapted = sfma(x, *tensors, float(self.factor), implementation=implementation)
        if torch.compiler.is_compiling() or adapted.stride() == x.stride():
            return adapted
        return torch.empty_like(x).copy_(adapted)


class TaskAdapters(nn.Module):
    """The adapters of one task, under the names that the published TIC gives them."""

    def __init__(
        self, places: Mapping[str, Sequence[tuple[Place, FeatureMap]]], middle: int, factor: float
    ) -> None:
        super().__init__()
        self.places = {t: tuple(place for place, _ in places[t]) for t in TRANSFORMS}
        self.middle = middle
        self.factor = factor
        self.handles: list[Any] = []

        def make(transform: str) -> nn.ModuleList:
            return nn.ModuleList(
                SlimmableSFMA(place.channels, middle, factor).to(seen.device, seen.dtype)
                for place, seen in places[transform]
            )

        self.encoder_sfmas = make("g_a")
        self.decoder_sfmas = make("g_s")
        for adapter in (*self.encoder_sfmas, *self.decoder_sfmas):
            for up in (adapter.s_up, adapter.f_up):
                nn.init.zeros_(up.weight)
                nn.init.zeros_(up.bias)

    def sites(self) -> Iterator[tuple[Place, nn.Module]]:
        """Every place with its adapter: those of g_a, then those of g_s."""
        lists = {"g_a": self.encoder_sfmas, "g_s": self.decoder_sfmas}
        for transform in TRANSFORMS:
            yield from zip(self.places[transform], lists[transform], strict=True)

    def description(self) -> dict[str, Any]:
        """What must agree between a file and a model, as JSON has it."""
        places = {t: [[p.name, p.channels] for p in ps] for t, ps in self.places.items()}
        return {"middle": self.middle, "factor": self.factor, "places": places}


class AttachedAdapters(nn.Module):
    """All tasks' adapters of one model; one child module a task.

    It is a child of the base, so that everything which walks over modules finds it, but it is
    absent from the base's state dict.
    """

    def __init__(self, trainable: Sequence[str]) -> None:
        super().__init__()
        self.trainable = tuple(trainable)  # parameters of the base that learned before

    def state_dict(self, *args: Any, destination: Any = None, **kwargs: Any) -> Any:
        return {} if destination is None else destination

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # `state_dict` is a dictionary of this module alone, from which its children are loaded
        # next. Given their own tensors they stay as they are, and none is reported missing.
        unexpected_keys.extend(key for key in state_dict if key.startswith(prefix))
        state_dict.update((prefix + name, value) for name, value in self.named_parameters())


# Pairs of attached adapters and a task, the innermost `use_task` last. A tuple, because contexts
# are copied by reference: nobody may change it in place.
ACTIVE: contextvars.ContextVar[tuple[tuple[nn.Module, str | None], ...]] = contextvars.ContextVar(
    "icmh_rt_adapter_tasks", default=()
)


def active_task(attached: nn.Module) -> str | None:
    """The task whose adapters run in this context; None: the base."""
    for module, task in reversed(ACTIVE.get()):
        if module is attached:
            return task
    return None


class _Hook:
    """Applies one adapter while its task is chosen; a class, so that models can be pickled."""

    def __init__(self, attached: nn.Module, task: str, sfma: nn.Module) -> None:
        self.attached, self.task, self.sfma = attached, task, sfma


class AfterHook(_Hook):
    """A forward hook: adapts the output, or the first one of several."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if active_task(self.attached) != self.task:
            return None  # leaves the output as it is
        if isinstance(output, tuple):
            return (self.sfma(output[0]), *output[1:])
        return self.sfma(output)


class BeforeHook(_Hook):
    """A forward pre-hook: adapts the first argument."""

    def __call__(self, module: nn.Module, args: Any) -> Any:
        if active_task(self.attached) != self.task:
            return None
        return (self.sfma(args[0]), *args[1:])
