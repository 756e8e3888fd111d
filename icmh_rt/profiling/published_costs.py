"""The layers of converted checkpoints: which of them run at a width and for a task, and on what.

Shapes come from one pass of the model on PyTorch's meta device, which computes nothing. A layer is
a convolution, a GDN, a Swin block or an adapter: what is between them works value by value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from icmh_rt.models.checkpoints import from_state_dict
from icmh_rt.models.gdn import GDN
from icmh_rt.models.sfma import SFMA
from icmh_rt.models.swin import SwinBlock
from icmh_rt.profiling.costs import VALUE_BYTES, Layer, adapter
from icmh_rt.published import PublishedBundle

_KINDS = (nn.Conv2d, nn.ConvTranspose2d, GDN, SwinBlock, SFMA)


def published_layers(bundle: PublishedBundle, width: float, task: str) -> Iterator[Layer]:
    """Every layer of a converted checkpoint; positions are pixels of the padded image.

    ``g_s`` of a width whose streams hold a feature is what makes the feature.
    """
    state = {name: torch.from_numpy(array.copy()) for name, array in bundle.state.items()}
    model: Any = from_state_dict(state).to("meta").requires_grad_(False)
    slimmable = hasattr(model, "widths")
    adapted = task in bundle.adapted_tasks
    seen: list[tuple[str, nn.Module, Tensor, Tensor]] = []

    def watch(name: str, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        seen.append((name, module, arguments[0], output))

    for name, module in model.named_modules():
        if isinstance(module, _KINDS):
            module.register_forward_hook(partial(watch, name))

    def run(part: str, transform: str, x: Tensor) -> tuple[Tensor, list[Layer]]:
        seen.clear()
        function = getattr(model, transform)
        x = function(x, width) if slimmable else function(x)
        return x, [
            _layer(part, name, module, before, after, side)
            for name, module, before, after in seen
            if adapted or not isinstance(module, SFMA)
        ]

    side, runs = bundle.padding.multiple, bundle.widths[width]
    y, found = run("g_a", "g_a", torch.empty(1, 3, side, side, device="meta"))
    yield from found
    if runs.synthesis is not None:
        z, found = run("h_a", "h_a", y)
        yield from found
        yield from run("h_s", "h_s", z)[1]
    yield from run("g_s", "g_s" if runs.output == "image" else "feature", y)[1]


def _layer(part: str, name: str, module: Any, before: Tensor, after: Tensor, side: int) -> Layer:
    """One that took ``before`` and gave ``after`` for an image of ``side * side`` pixels."""
    if isinstance(module, SFMA):
        stride, middle = side // after.shape[-1], module.s_down1.out_channels
        return adapter(f"adapters_{part}", name, stride, after.shape[1], middle)
    if isinstance(module, SwinBlock):  # channels last
        channels = after.shape[-1]
        inner = (module.attn.qkv, module.attn.proj, module.mlp.fc1, module.mlp.fc2)
        # A token is compared and mixed with all of its window.
        weights = sum(layer.weight.numel() for layer in inner)
        macs = after.numel() // channels * (weights + 2 * channels * module.window**2)
        parameters = sum(parameter.numel() for parameter in module.parameters())
    elif isinstance(module, GDN):
        channels = after.shape[1]
        macs = after.numel() * channels
        parameters = channels**2 + channels
    else:
        # By shapes: a narrow width of a slimmable layer uses a part of its weights.
        weights = math.prod(module.kernel_size) * before.shape[1] * after.shape[1]
        where = before if isinstance(module, nn.ConvTranspose2d) else after
        macs = weights * math.prod(where.shape[2:])
        parameters = weights + (0 if module.bias is None else after.shape[1])
    traffic = (before.numel() + after.numel()) * VALUE_BYTES
    return Layer(part, name, 1, macs / side**2, parameters, traffic / side**2)
