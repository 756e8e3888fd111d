"""Random training crops from a folder of images, held in memory.

A step's crops depend on (seed, step, rank) alone, so a resumed run sees what an unbroken one would.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from icmh_rt.errors import TrainingError
from icmh_rt.tasks.datasets import SUFFIXES


class CropSource:
    """All images under ``folder`` as uint8 arrays; ``crops`` cuts, flips and transposes at random.

    Images smaller than ``min_size`` in either direction are left out. Raises TrainingError when the
    folder holds no usable image.
    """

    def __init__(self, folder: str | Path, min_size: int) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise TrainingError(f"data folder {str(folder)!r} does not exist; set data.folder")
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        self.images: list[np.ndarray] = []
        for path in paths:
            with Image.open(path) as image:
                if min(image.size) >= min_size:
                    self.images.append(np.asarray(image.convert("RGB")))
        if not self.images:
            raise TrainingError(
                f"no image of at least {min_size}x{min_size} pixels among {len(paths)} files in "
                f"{str(folder)!r}; lower data.crop or add images"
            )
        areas = np.array([i.shape[0] * i.shape[1] for i in self.images], np.float64)
        # Between uniform over images and over pixels: large ones hold more content, though alike.
        weights = np.sqrt(areas)
        self._cumulative = np.cumsum(weights / weights.sum())

    def crops(self, rng: np.random.Generator, count: int, size: int) -> np.ndarray:
        """``(count, 3, size, size)`` uint8."""
        out = np.empty((count, size, size, 3), np.uint8)
        chosen = np.searchsorted(self._cumulative, rng.random(count), side="right")
        for slot, which in enumerate(np.minimum(chosen, len(self.images) - 1)):
            image = self.images[which]
            top = rng.integers(0, image.shape[0] - size + 1)
            left = rng.integers(0, image.shape[1] - size + 1)
            crop = image[top : top + size, left : left + size]
            if rng.random() < 0.5:
                crop = crop[:, ::-1]
            if rng.random() < 0.25:
                crop = crop.transpose(1, 0, 2)
            out[slot] = crop
        return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def step_rng(seed: int, step: int, rank: int, purpose: Iterable[int] = ()) -> np.random.Generator:
    """The generator of one step on one process; equal arguments give equal crops."""
    return np.random.default_rng([seed, step, rank, *purpose])
