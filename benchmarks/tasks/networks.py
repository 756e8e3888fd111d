"""Small networks that the task benchmarks train from scratch and measure compression with.

Residual networks after He et al., "Deep residual learning for image recognition", CVPR 2016; the
segmenter joins its stages like a feature pyramid (Lin et al., CVPR 2017). They are the "machine" of
the figures in docs/results: small enough to train on a CPU and to keep in the repository.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STAGES = (24, 48, 96, 192)


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class Backbone(nn.Module):
    """RGB (N, 3, H, W) in [0, 1] -> feature maps at 1/4, 1/8, 1/16 and 1/32 of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, STAGES[0], 5, 2, 2, bias=False), nn.BatchNorm2d(STAGES[0]), nn.ReLU()
        )
        inputs = (STAGES[0], *STAGES[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(_Residual(i, o, 2), _Residual(o, o, 1))
            for i, o in zip(inputs, STAGES, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem((x - 0.45) / 0.25)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Classifier(nn.Module):
    """RGB (N, 3, H, W) in [0, 1] -> class scores (N, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(STAGES[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.backbone(x)[-1].mean((2, 3))))


class Segmenter(nn.Module):
    """RGB (N, 3, H, W) in [0, 1] -> class scores (N, classes, H, W)."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in STAGES)
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.backbone(x)
        top = self.lateral[-1](maps[-1])
        for lateral, features in zip(self.lateral[-2::-1], maps[-2::-1], strict=True):
            top = lateral(features) + F.interpolate(
                top, features.shape[2:], mode="bilinear", align_corners=False
            )
        scores = self.head(self.smooth(top))
        return F.interpolate(scores, x.shape[2:], mode="bilinear", align_corners=False)


def save(model: nn.Module, path: str) -> None:
    """Weights in half precision, as safetensors."""
    from safetensors.torch import save_file

    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    save_file({name: value.contiguous() for name, value in state.items()}, path)


def load(model: nn.Module, path: str) -> nn.Module:
    """The model with weights from `save`, ready to predict."""
    from safetensors.torch import load_file

    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in load_file(path).items()
    }
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


__all__ = ["Backbone", "Classifier", "Segmenter", "load", "parameters_of", "save"]
