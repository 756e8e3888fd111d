"""torchvision's networks with the user's weights: nothing is downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icmh_rt.errors import BackendUnavailableError, OptionError
from icmh_rt.tasks.network import ModuleNetwork
from icmh_rt.tasks.weights import load_weights

# Of the paper: the four stages of ResNet-50; the five levels of the feature pyramid.
_STAGES = ("layer1", "layer2", "layer3", "layer4")
_PYRAMID = ("backbone.fpn",)
NETWORKS = {
    "resnet50": ("torchvision.models", _STAGES),
    "fasterrcnn_resnet50_fpn": ("torchvision.models.detection", _PYRAMID),
    "maskrcnn_resnet50_fpn": ("torchvision.models.detection", _PYRAMID),
}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TorchvisionNetwork(ModuleNetwork):
    """ResNet-50, or Faster or Mask R-CNN on ResNet-50 with a feature pyramid.

    Features are taken at the pictures' own size, as in the paper's training. For detectors only the
    backbone runs for them; `predict` runs all of the network, with its own resizing.

    Args:
        name: one of `NETWORKS`.
        weights: a file of the state dict, as torchvision publishes it; "" for random weights, which
            are good for nothing but tests.
        layers: names of modules; empty for the paper's.
        classes: of the last layer; 0 for torchvision's own number.

    Raises:
        OptionError: no such network or file, or weights that do not fit.
        BackendUnavailableError: torchvision is not installed.
    """

    def __init__(
        self,
        name: str,
        weights: str | Path = "",
        layers: Sequence[str] = (),
        classes: int = 0,
        size: tuple[int, int] | None = None,
    ) -> None:
        if name not in NETWORKS:
            raise OptionError(f"no network {name!r}: use one of {', '.join(NETWORKS)}")
        body = _build(name, classes)
        if weights:
            load_weights(body, weights)
        super().__init__(body, tuple(layers) or NETWORKS[name][1], size, mean=_MEAN, std=_STD)
        self.is_detector = name != "resnet50"

    def run(self, inputs: Tensor) -> Any:
        return self.body.backbone(inputs) if self.is_detector else self.body(inputs)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Any:
        """Logits ``(N, classes)``; of detectors a dictionary a picture, as torchvision gives it."""
        if self.is_detector:
            return self.body(list(images))  # normalises by itself
        return self.run(self.preprocess(images))


def _build(name: str, classes: int) -> nn.Module:
    try:
        home = importlib.import_module(NETWORKS[name][0])
    except ImportError as error:
        raise BackendUnavailableError(
            f"network {name!r} needs {error.name}: pip install 'icmh-rt[train]'"
        ) from None
    options: dict[str, Any] = {"num_classes": classes} if classes else {}
    if name != "resnet50":
        options["weights_backbone"] = None
    return getattr(home, name)(weights=None, **options)
