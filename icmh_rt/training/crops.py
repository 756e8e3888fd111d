"""Random parts of a dataset's pictures, for adapters and feature heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from icmh_rt.errors import TrainingError


class _Pictures:
    """Files of pictures, kept once they are decoded if ``in_memory`` is set."""

    def __init__(self, paths: Sequence[Path], in_memory: bool) -> None:
        self.paths = tuple(paths)
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


class Crops(_Pictures):
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
        super().__init__(paths, in_memory)
        self.size, self.scale = size, scale

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


class Views(_Pictures):
    """Random parts of a dataset's pictures, reduced or enlarged to one size as a network that takes
    that size sees whole pictures; flipped left to right at random.

    Args:
        paths: of the pictures.
        size: (height, width) of the views.
        part: least and largest part of a picture's area, drawn evenly.
        aspect: factor by which height over width may differ from the picture's, either way.
        in_memory: whether to keep pictures once they are decoded.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: tuple[int, int],
        part: tuple[float, float] = (0.35, 1.0),
        aspect: float = 1.35,
        in_memory: bool = False,
    ) -> None:
        super().__init__(paths, in_memory)
        self.size, self.part, self.aspect = size, part, aspect

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """uint8 ``(*size, 3)``; depends on ``rng`` alone."""
        picture = self._picture(int(rng.integers(len(self.paths))))
        area, tilt, top, left, flip = rng.random(5)
        area = self.part[0] + (self.part[1] - self.part[0]) * area
        stretch = self.aspect ** (2.0 * tilt - 1.0)
        factors = (area * stretch) ** 0.5, (area / stretch) ** 0.5
        height, width = (
            int(min(side, max(1, round(side * factor))))
            for side, factor in zip(picture.shape[:2], factors, strict=True)
        )
        y = int(top * (picture.shape[0] - height + 1))
        x = int(left * (picture.shape[1] - width + 1))
        piece = Image.fromarray(picture[y : y + height, x : x + width])
        smaller = height >= self.size[0] and width >= self.size[1]
        filter = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
        view = np.array(piece.resize(self.size[::-1], filter))
        return view[:, ::-1].copy() if flip < 0.5 else view
