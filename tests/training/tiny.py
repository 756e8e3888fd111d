"""A configuration small enough to train in a test, and images to train it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TINY_MODEL: dict[str, Any] = {
    "widths": [0.5, 0.75, 1.0],
    "channels": [16, 24, 32],
    "latent_channels": [24, 32, 40],
    "hyper_channels": [8, 12, 16],
    "hyper_latent_channels": [4, 6, 8],
    "blocks_8": [1, 1, 2],
    "blocks_16": [1, 1, 1],
    "gain_anchors": 3,
}


def write_images(folder: Path, count: int = 4, size: int = 272) -> Path:
    """Pictures with edges, gradients and texture, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size] / size
    for index in range(count):
        a, b, c = rng.uniform(2, 20, 3)
        base = np.stack([np.sin(a * x + c), np.cos(b * y), np.sin(a * x * y + b)], -1)
        steps = (np.floor(6 * x + c) + np.floor(5 * y)) % 2
        picture = 128 + 60 * base + 30 * steps[..., None] + rng.normal(0, 3, (size, size, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


def tiny_config(folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Plain values for ``icmh_rt.training.config.from_dict``."""
    values: dict[str, Any] = {
        "output": str(output),
        "seed": 3,
        "precision": "fp32",
        "threads": 1,
        "klt_crops": 16,
        "log_every": 4,
        "checkpoint_every": 4,
        "data": {"folder": str(folder), "crop": 64, "batch": 2},
        "optimizer": {"steps": 8, "lr": 1e-3, "warmup_steps": 2},
        "model": TINY_MODEL,
    }
    for key, value in changes.items():
        if isinstance(value, dict):
            values[key] = {**values[key], **value}
        else:
            values[key] = value
    return values
