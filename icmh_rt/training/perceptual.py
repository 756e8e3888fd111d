"""Rate and perceptual distortion of the codec with adapters: the objective of adapter training.

After Li et al., "Image compression for machine and human vision with spatial-frequency adaptation",
ECCV 2024, section 3.4: the distortion is the mean squared difference of a task network's
intermediate features between the original and the decoded picture. No labels are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icmh_rt.errors import OptionError
from icmh_rt.tasks.network import TaskNetwork
from icmh_rt.training.frozen_base import FrozenBase

PIXEL_PEAK = 255.0
_TINY = 1e-8  # a feature that is zero everywhere has no distortion to be divided by


@dataclass(frozen=True)
class Batch:
    """Of one width: ``images (N, 3, H, W)`` in [0, 1], ``quality`` int64, ``trade_off`` (λ) and
    ``weight`` float32, each ``(N,)``.
    """

    width: int
    images: Tensor
    quality: Tensor
    trade_off: Tensor
    weight: Tensor


@dataclass(frozen=True)
class AdapterOutcome:
    """One width's pass: ``bpp``, ``distortion`` and ``mse`` (pixels in [0, 1]), each ``(N,)``, and
    the weighted ``loss ()``.
    """

    bpp: Tensor
    distortion: Tensor
    mse: Tensor
    loss: Tensor


def mosaic(images: Tensor, tiles: int) -> Tensor:
    """``(N·t², C, H, W)`` -> ``(N, C, t·H, t·W)``, crops side by side, row by row."""
    if tiles == 1:
        return images
    n, c, h, w = images.shape
    grid = images.reshape(n // tiles**2, tiles, tiles, c, h, w)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(n // tiles**2, c, tiles * h, tiles * w)


def feature_distortion(original: Tensor, decoded: Tensor, tiles: int, normalise: bool) -> Tensor:
    """Mean squared difference of one layer's features ``(N, ...)``, for each of the ``N·t²`` crops
    that the pictures consist of.

    Maps ``(N, C, h, w)`` are divided among their crops; of other features, and of maps of fewer
    positions than tiles, every crop has its picture's mean.
    """
    if original.shape != decoded.shape:
        raise OptionError(f"features of {tuple(original.shape)} and {tuple(decoded.shape)} differ")
    original, decoded = original.float(), decoded.float()
    difference = (decoded - original).square()
    if difference.dim() == 4 and min(difference.shape[-2:]) >= tiles:
        of_tiles = F.adaptive_avg_pool2d(difference.mean(1, keepdim=True), tiles).flatten()
    else:
        of_tiles = difference.flatten(1).mean(1).repeat_interleave(tiles**2)
    return of_tiles / (original.square().mean() + _TINY) if normalise else of_tiles


def _tensor(outputs: list[Any]) -> Tensor:
    """What the network said of all parts of the pictures."""
    if not all(isinstance(output, Tensor) for output in outputs):
        raise OptionError(
            f"the network says a {type(outputs[0]).__name__}, not a tensor: leave task_lambda at 0"
        )
    return torch.cat(outputs)


class PerceptualRateDistortion(nn.Module):
    """Runs codec and task network at several widths and sums ``weight · (bpp + λ · distortion)``.

    Args:
        base: with adapters for ``task`` attached to its model.
        network: the task network.
        tiles: crops along a side of a picture that the network sees.
        normalise: see `AdapterConfig`. pixel_lambda: weight of 255² MSE in the distortion.
        task_lambda: weight of how far what the network says is from what it says of the originals.
    """

    def __init__(
        self,
        base: FrozenBase,
        network: TaskNetwork,
        task: str,
        tiles: int = 1,
        normalise: bool = True,
        pixel_lambda: float = 0.0,
        task_lambda: float = 0.0,
    ) -> None:
        super().__init__()
        self.base, self.network, self.task = base, network, task
        self.tiles, self.normalise, self.pixel_lambda = tiles, normalise, pixel_lambda
        self.task_lambda = task_lambda

    def distortion(self, images: Tensor, decoded: Tensor) -> Tensor:
        """``(N,)`` of crops ``(N, 3, H, W)``: the mean over the network's layers."""
        with torch.no_grad():
            original, wanted = self.network.observe(mosaic(images, self.tiles))
        found, said = self.network.observe(mosaic(decoded, self.tiles))
        distortion = torch.stack(
            [
                feature_distortion(original[name], found[name], self.tiles, self.normalise)
                for name in original
            ]
        ).mean(0)
        if self.task_lambda == 0.0:
            return distortion
        distance = self.network.output_distance(_tensor(wanted), _tensor(said))
        return distortion + self.task_lambda * distance

    def forward_width(self, batch: Batch) -> AdapterOutcome:
        coded = self.base(batch.images, batch.quality, batch.width, self.task)
        decoded = coded.decoded.clamp(0.0, 1.0)
        distortion = self.distortion(batch.images, decoded)
        mse = (coded.decoded - batch.images).square().mean(dim=(1, 2, 3))
        total = coded.bpp + batch.trade_off * (distortion + self.pixel_lambda * PIXEL_PEAK**2 * mse)
        return AdapterOutcome(coded.bpp, distortion, mse, (batch.weight * total).mean())

    def forward(self, batches: list[Batch]) -> tuple[Tensor, list[AdapterOutcome]]:
        """Total loss and the outcomes of ``batches``."""
        outcomes = [self.forward_width(batch) for batch in batches]
        return torch.stack([o.loss for o in outcomes]).sum(), outcomes
