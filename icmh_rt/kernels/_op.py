"""What all fused ops have in common: a reference, its faster twins, and how one is chosen.

An `Op` is registered with ``torch.library`` under ``icmh_rt::<name>``, with a fake implementation,
so that ``torch.compile(fullgraph=True)`` and ``torch.export`` pass through it, and with a backward
pass that differentiates the reference.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icmh_rt.errors import BackendUnavailableError, OptionError

IMPLEMENTATIONS = ("reference", "triton", "cuda", "cpu")
ENVIRONMENT = "ICMH_KERNELS"
_PREFERRED = {"cpu": ("cpu",), "cuda": ("triton", "cuda")}  # by device, the best first
_LIBRARY = torch.library.Library("icmh_rt", "DEF")
OPS: dict[str, Op] = {}
"""Every op by name."""


@dataclass(frozen=True)
class Implementation:
    """A faster twin of an op's reference.

    ``run`` takes the op's arguments. ``obstacle`` takes them too and says in one line why they
    cannot be run here (no such device, a dtype it does not know), or None.
    """

    run: Callable[..., Any]
    obstacle: Callable[..., str | None]


class Op:
    """A fused op: call it like its reference, with ``implementation=`` to force one.

    Args:
        schema: of ``torch.library``, without the name: ``"(Tensor x, float f) -> Tensor"``.
        reference: plain PyTorch, for every floating dtype and device; the definition.
        fake: arguments -> empty outputs of the shape, dtype and strides that all twins return.
        differentiable: False for ops whose outputs are integers.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        reference: Callable[..., Any],
        fake: Callable[..., Any],
        differentiable: bool = True,
    ) -> None:
        self.name, self.reference = name, reference
        self.__doc__ = reference.__doc__
        self._twins: dict[str, Implementation] = {}
        arguments, arrow, result = schema.partition(") ->")
        _LIBRARY.define(f"{name}{arguments}, str implementation{arrow}{result}")
        _LIBRARY.impl(name, self._run, "CompositeExplicitAutograd")
        qualified = f"icmh_rt::{name}"
        torch.library.register_fake(
            qualified, lambda *arguments: fake(*arguments[:-1]), lib=_LIBRARY
        )
        if differentiable:
            torch.library.register_autograd(
                qualified, self._backward, setup_context=self._save, lib=_LIBRARY
            )
        self._registered = getattr(torch.ops.icmh_rt, name).default
        OPS[name] = self

    def add(self, name: str, run: Callable[..., Any], obstacle: Callable[..., str | None]) -> None:
        """Give the op a faster twin, one of `IMPLEMENTATIONS`."""
        self._twins[name] = Implementation(run, obstacle)

    def __call__(self, *arguments: Any, implementation: str | None = None) -> Any:
        """Arguments in the order of the reference's.

        Args:
            implementation: "reference", "triton", "cuda" or "cpu"; "auto" or None for what the
                environment variable ICMH_KERNELS names, else the fastest that can run.

        Raises:
            OptionError: there is no such implementation.
            BackendUnavailableError: the one that was asked for cannot run; the message says why.
        """
        name = wish(implementation)
        if name == "auto" and self._is_training(arguments):
            return self.reference(*arguments)
        return self._registered(*arguments, name)

    @staticmethod
    def _is_training(arguments: tuple[Any, ...]) -> bool:
        """Whether gradients are wanted: autograd's own records of the reference then cost less
        than a fast pass forward and the reference once more on the way back.
        """
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return False
        return any(isinstance(a, Tensor) and a.requires_grad for a in arguments)

    def obstacles(self, *arguments: Any) -> dict[str, str | None]:
        """For each implementation, why it cannot run these arguments here; None: it can."""
        found: dict[str, str | None] = {"reference": None}
        for name in IMPLEMENTATIONS[1:]:
            twin = self._twins.get(name)
            found[name] = "is not written" if twin is None else twin.obstacle(*arguments)
        return found

    def chosen(self, *arguments: Any, implementation: str | None = None) -> str:
        """Name of the implementation that a call with these arguments runs; raises as it does."""
        return self._choose(arguments, wish(implementation))

    def _choose(self, arguments: tuple[Any, ...], wish: str) -> str:
        if wish == "auto":
            device = next(a.device.type for a in arguments if isinstance(a, Tensor))
            for name in _PREFERRED.get(device, ()):
                twin = self._twins.get(name)
                if twin is not None and twin.obstacle(*arguments) is None:
                    return name
            return "reference"
        if wish == "reference":
            return wish
        twin = self._twins.get(wish)
        obstacle = "it is not written" if twin is None else twin.obstacle(*arguments)
        if obstacle is not None:
            raise BackendUnavailableError(
                f"the {wish} kernel of {self.name} cannot run: {obstacle}; use another "
                f"implementation or unset {ENVIRONMENT}"
            )
        return wish

    def _run(self, *arguments: Any) -> Any:
        *given, wish = arguments
        name = self._choose(tuple(given), wish)
        run = self.reference if name == "reference" else self._twins[name].run
        return run(*given)

    @staticmethod
    def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        inputs = inputs[:-1]
        ctx.places = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
        ctx.others = [None if i in ctx.places else value for i, value in enumerate(inputs)]
        ctx.save_for_backward(*(inputs[i] for i in ctx.places))

    def _backward(self, ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        # Recomputed rather than kept: the reference's intermediates are many times the inputs.
        inputs = list(ctx.others)
        wanted = []
        for place, value in zip(ctx.places, ctx.saved_tensors, strict=True):
            inputs[place] = value.detach().requires_grad_(ctx.needs_input_grad[place])
            if ctx.needs_input_grad[place]:
                wanted.append(place)
        with torch.enable_grad():
            output = self.reference(*inputs)
        found = torch.autograd.grad(output, [inputs[i] for i in wanted], gradients)
        result: list[Any] = [None] * (len(inputs) + 1)
        for place, gradient in zip(wanted, found, strict=True):
            result[place] = gradient
        return tuple(result)


def wish(implementation: str | None = None) -> str:
    """What is asked for, from the argument or the environment."""
    if implementation in (None, "auto"):
        name, source = os.environ.get(ENVIRONMENT) or "auto", ENVIRONMENT
    else:
        name, source = implementation, "implementation"
    if name != "auto" and name not in IMPLEMENTATIONS:
        raise OptionError(f"{source} is {name!r}: use auto, {', '.join(IMPLEMENTATIONS)}")
    return name
