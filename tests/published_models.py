"""Small published models with random weights that spread: scales of many rows, medians off zero."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from icmh_rt.models.compressai_families import (
    FactorizedPrior,
    MeanScaleHyperprior,
    ScaleHyperprior,
)
from icmh_rt.models.slimmable_published import SlimmableFactorized, SlimmableHyper
from icmh_rt.models.tic import TIC

FAMILIES = (
    "tic",
    "tic-sfma",
    "slimmable-factorized",
    "slimmable-hyper",
    "bmshj2018-factorized",
    "bmshj2018-hyperprior",
    "mbt2018-mean",
)
SLIMMABLE = tuple(family for family in FAMILIES if family.startswith("slimmable"))
PADDING = {"tic": 256, "tic-sfma": 256}  # 64 in the others


def make(family: str, seed: int = 3) -> torch.nn.Module:
    """A model of that family in eval mode; equal seeds give equal weights."""
    torch.manual_seed(seed)
    model = {
        "tic": lambda: TIC(16, 32),
        "tic-sfma": lambda: TIC(16, 32, adapters=True),
        "slimmable-factorized": lambda: SlimmableFactorized(24),
        "slimmable-hyper": lambda: SlimmableHyper(24),
        "bmshj2018-factorized": lambda: FactorizedPrior(8, 12),
        "bmshj2018-hyperprior": lambda: ScaleHyperprior(8, 12),
        "mbt2018-mean": lambda: MeanScaleHyperprior(8, 12),
    }[family]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("h_a", "h_s", "g_a")) and parameter.ndim == 4:
                parameter.mul_(2.0)
            if name.endswith("quantiles"):
                parameter[:, 0, 1] += torch.rand(len(parameter)) - 0.5
            if name in ("h_s.4.bias", "h_s3.bias"):  # scales between 0.1 and 10, means near 0
                scales = len(parameter) // (2 if has_means(family) else 1)
                parameter[:scales] = torch.logspace(-1, 1, scales)
    return model.eval()


def has_means(family: str) -> bool:
    return family in ("tic", "tic-sfma", "mbt2018-mean")


def has_hyperprior(family: str) -> bool:
    return not family.endswith("factorized")


def save(family: str, path: Path, seed: int = 3) -> torch.nn.Module:
    """A checkpoint as the published trainers write it; returns the model."""
    model = make(family, seed)
    state = {"module." + key: value for key, value in model.state_dict().items()}
    torch.save({"epoch": 7, "state_dict": state}, path)
    return model


def model_bits(output: dict) -> float:
    """The rate that the model's own forward estimates."""
    return sum(-value.log2().sum().item() for value in output["likelihoods"].values())


def padded(image, family: str) -> tuple[torch.Tensor, int, int]:
    """uint8 (H, W, 3) as the published evaluation pads it, (1, 3, H', W') in [0, 1]; where its
    first row and column lie.
    """
    multiple = PADDING.get(family, 64)
    height, width = image.shape[:2]
    full = [math.ceil(side / multiple) * multiple for side in (height, width)]
    centred = family in ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean")
    top, left = ((full[0] - height) // 2, (full[1] - width) // 2) if centred else (0, 0)
    x = torch.zeros(1, 3, *full)
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255.0
    x[0, :, top : top + height, left : left + width] = pixels
    return x, top, left
