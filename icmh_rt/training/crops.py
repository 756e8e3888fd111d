"""Random crops of a dataset's pictures, for adapter training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from icmh_rt.errors import TrainingError


class Crops:
    """Random crops of a dataset's pictures, flipped left to right at random.

    Args:
        paths: of the pictures.
        size: (height, width) of the crops.
        scale: least and largest factor by which a picture is resized first, drawn geometrically.
            One that would be too small for the crop is enlarged until it fits.
        in_memory: whether to keep pictures once they are decoded.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: tuple[int, int],
        scale: tuple[float, float] = (1.0, 1.0),
        in_memory: bool = False,
    ) -> None:
        self.paths, self.size, self.scale = tuple(paths), size, scale
        self._kept: dict[int, np.ndarray] | None = {} if in_memory else None

    def _picture(self, index: int) -> np.ndarray:
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        try:
            with Image.open(self.paths[index]) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"cannot read {str(self.paths[index])!r}: {error}") from None
        if self._kept is not None:
            self._kept[index] = pixels
        return pixels

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """uint8 ``(count, 3, *size)``; depends on ``rng`` alone."""
        out = np.empty((count, *self.size, 3), np.uint8)
        for slot in range(count):
            picture = self._picture(int(rng.integers(len(self.paths))))
            u, top, left, flip = rng.random(4)
            factor = self.scale[0] * (self.scale[1] / self.scale[0]) ** u
            factor = max(factor, *(s / p for s, p in zip(self.size, picture.shape, strict=False)))
            crop = _cut(picture, self.size, factor, top, left)
            out[slot] = crop[:, ::-1] if flip < 0.5 else crop
        return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def _cut(
    picture: np.ndarray, size: tuple[int, int], factor: float, top: float, left: float
) -> np.ndarray:
    """``size`` pixels of ``picture`` resized by ``factor``; ``top`` and ``left`` of the room."""
    height, width = (min(round(s / factor), p) for s, p in zip(size, picture.shape, strict=False))
    y = int(top * (picture.shape[0] - height + 1))
    x = int(left * (picture.shape[1] - width + 1))
    piece = picture[y : y + height, x : x + width]
    if piece.shape[:2] == tuple(size):
        return piece
    return np.asarray(Image.fromarray(piece).resize(size[::-1], Image.Resampling.BICUBIC))
