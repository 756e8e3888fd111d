"""What a task network is to the trainer and to evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from icmh_rt.errors import OptionError
from icmh_rt.tasks.resize import resize


class TaskNetwork(nn.Module):
    """A frozen network with a way from pictures to its input and names for its features.

    Subclasses set ``body`` and, where a picture is not simply the input, override `preprocess`;
    those that are evaluated override `predict`.

    Args:
        body: the torch module. It is put into evaluation mode, and learns nothing.
        layers: names of modules in ``body`` whose outputs are the features. An output that is a
            dictionary, list or tuple gives one feature for each tensor in it, ``name.key``.
        size: (height, width) of the input, to which pictures are resized; None: as they are.
        batch: how many pictures one call of ``body`` takes; None for any number.

    Raises:
        OptionError: ``body`` has no module of one of the names, or no name is given.
    """

    def __init__(
        self,
        body: nn.Module,
        layers: Sequence[str],
        size: tuple[int, int] | None = None,
        batch: int | None = None,
    ) -> None:
        super().__init__()
        self.body = body.eval().requires_grad_(False)
        self.layers, self.size, self.batch = tuple(layers), size, batch
        modules = dict(body.named_modules())
        if not self.layers:
            raise OptionError(f"layers is empty: name some of {_some(modules)}")
        for layer in self.layers:
            if layer not in modules:
                raise OptionError(f"no layer {layer!r} in the network: it has {_some(modules)}")

    def train(self, mode: bool = True) -> TaskNetwork:
        """Frozen: stays in evaluation mode whatever ``mode`` is."""
        return super().train(False)

    def preprocess(self, images: Tensor) -> Tensor:
        """RGB ``(N, 3, H, W)`` in [0, 1] -> what ``body`` takes."""
        return images if self.size is None else resize(images, self.size, "bilinear")

    def run(self, inputs: Tensor) -> Any:
        """``body`` on preprocessed pictures."""
        return self.body(inputs)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Features of RGB ``images (N, 3, H, W)`` in [0, 1] by name, each ``(N, ...)``.

        Gradients pass to ``images``.
        """
        return self.observe(images)[0]

    def observe(self, images: Tensor) -> tuple[dict[str, Tensor], list[Any]]:
        """`features`, and what `run` gave of each part of the pictures."""
        inputs = self.preprocess(images)
        found: list[dict[str, Tensor]] = []
        outputs = []
        for part in inputs.split(self.batch) if self.batch else (inputs,):
            with self._watched() as seen:
                outputs.append(self.run(part))
            found.append(dict(seen))
        if len(found) == 1:
            return found[0], outputs
        return {name: torch.cat([f[name] for f in found]) for name in found[0]}, outputs

    @contextmanager
    def _watched(self) -> Iterator[dict[str, Tensor]]:
        """Collects the layers' outputs inside the block."""
        seen: dict[str, Tensor] = {}
        modules = dict(self.body.named_modules())
        handles = []
        for layer in self.layers:

            def keep(_: nn.Module, __: Any, output: Any, layer: str = layer) -> None:
                seen.update(_tensors(layer, output))

            handles.append(modules[layer].register_forward_hook(keep))
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def remainder(self) -> nn.Module | None:
        """What goes on from `features`, by name, to what `run` gives, with gradients; None where
        that is not known.
        """
        return None

    def output_distance(self, original: Tensor, found: Tensor) -> Tensor:
        """How far what the network says is from what it says of the originals, ``()``: by default
        the mean squared difference over the mean square.
        """
        difference = (found - original).square().mean()
        return difference / original.square().mean().clamp(min=1e-8)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Any:
        """What the network says of RGB ``images (N, 3, H, W)`` in [0, 1]; its own form."""
        inputs = self.preprocess(images)
        return self.interpret([self.run(part) for part in inputs.split(self.batch or len(inputs))])

    def interpret(self, outputs: list[Any]) -> Any:
        """What `predict` gives, of what `run` gave of each part of the pictures."""
        return outputs


def _tensors(name: str, output: Any) -> dict[str, Tensor]:
    if isinstance(output, Tensor):
        return {name: output}
    if isinstance(output, Mapping):
        items = list(output.items())
    elif isinstance(output, (list, tuple)):
        items = list(enumerate(output))
    else:
        raise OptionError(f"layer {name!r} gives a {type(output).__name__}, not tensors")
    found: dict[str, Tensor] = {}
    for key, value in items:
        found |= _tensors(f"{name}.{key}", value)
    return found


def _some(modules: Mapping[str, Any], count: int = 8) -> str:
    names = [name for name in modules if name]
    return ", ".join(names[:count]) + (f", ... ({len(names)} in all)" if names[count:] else "")


class ModuleNetwork(TaskNetwork):
    """Any torch module that takes RGB pictures, normalised channel by channel.

    Args:
        body, layers, size, batch: see `TaskNetwork`.
        mean, std: of the channels, in [0, 1], in the network's order of channels.
        bgr: whether that order is blue, green, red.
        peak: what white is in the input before ``mean`` and ``std``, which are in its units too.
        filter: "bilinear" (antialiased) or "area", how pictures are resized to ``size``.
    """

    def __init__(
        self,
        body: nn.Module,
        layers: Sequence[str],
        size: tuple[int, int] | None = None,
        batch: int | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        bgr: bool = False,
        peak: float = 1.0,
        filter: str = "bilinear",
    ) -> None:
        super().__init__(body, layers, size, batch)
        self.bgr, self.peak, self.filter = bgr, peak, filter
        self.plain = all(m == 0.0 for m in mean) and all(s == 1.0 for s in std)
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3:
                raise OptionError(f"{name} is {list(values)}: give one value a channel, three")
            self.register_buffer(
                name, torch.tensor([float(v) for v in values])[:, None, None], persistent=False
            )

    def preprocess(self, images: Tensor) -> Tensor:
        x = images if self.size is None else resize(images, self.size, self.filter)
        x = x.flip(1) if self.bgr else x
        x = x if self.peak == 1.0 else x * self.peak
        return x if self.plain else (x - self.mean) / self.std
