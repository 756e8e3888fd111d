"""What feature heads learn from: latents as streams hold them, and a network's features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from icmh_rt.backends.base import Backend
from icmh_rt.coding import DEFAULT_LATENT_STRIDE
from icmh_rt.errors import TrainingError
from icmh_rt.tasks.network import TaskNetwork
from icmh_rt.training.crops import Views
from icmh_rt.training.data import step_rng

_PURPOSE = 4  # separates the pairs' views from what else a seed draws


@dataclass(frozen=True)
class Pairs:
    """float16 ``latents (K, h, w, M)`` and ``features (K, C, h, w)``, layer behind layer."""

    latents: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.latents)


def latents_of(
    backend: Backend, image: np.ndarray, width: float, task: str, quality: int
) -> np.ndarray:
    """float32 ``(h, w, M)``: what a decoder has of uint8 ``(H, W, 3)``, dequantized."""
    latents = backend.encode_transforms(image, width, task, quality)
    coding = backend.coding(width, quality)
    return coding.dequantize(latents.symbols_y, latents.prediction)


@torch.no_grad()
def features_of(network: TaskNetwork, images: Tensor) -> dict[str, Tensor]:
    """Of RGB ``(N, 3, H, W)`` in [0, 1]; TrainingError for layers at another resolution."""
    found = network.features(images)
    wanted = tuple(-(-side // DEFAULT_LATENT_STRIDE) for side in images.shape[2:])
    for name, feature in found.items():
        if feature.dim() != 4 or tuple(feature.shape[2:]) != wanted:
            raise TrainingError(
                f"layer {name!r} gives {tuple(feature.shape[1:])} for pictures of "
                f"{tuple(images.shape[2:])}: choose layers with {wanted} positions"
            )
    return found


def make_pairs(
    backend: Backend,
    network: TaskNetwork,
    views: Views,
    count: int,
    qualities: tuple[int, int],
    stream: tuple[float, str],
    seed: tuple[int, int],
    progress: bool = True,
    on_pictures: Callable[[Tensor], Tensor] = lambda x: x,
) -> Pairs:
    """``count`` of them, each view at a quality of its own.

    Args:
        stream: width and task of the latents.
        seed: of the run, and the process's rank.
        on_pictures: brings pictures to the network's device.
    """
    latents, features = [], []
    low, high = qualities
    for index in tqdm(range(count), unit="pair", disable=not progress, desc="encoding"):
        rng = step_rng(seed[0], index, seed[1], [_PURPOSE])
        image = views.draw(rng)
        y_hat = latents_of(backend, image, *stream, int(rng.integers(low, high + 1)))
        picture = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255.0
        found = features_of(network, on_pictures(picture))
        latents.append(torch.from_numpy(y_hat).half())
        features.append(torch.cat(list(found.values()), 1)[0].half().cpu())
    return Pairs(torch.stack(latents), torch.stack(features))
