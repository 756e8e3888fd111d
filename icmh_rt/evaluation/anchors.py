"""Conventional codecs through Pillow, as anchors for the learned one.

Every anchor encodes an RGB array to a complete file in memory (no metadata, so every byte counts)
and decodes that file again. `SETTINGS` is exactly what is passed to `PIL.Image.save`, besides the
quality: what is not named there is Pillow's default.

- `jpeg`: what `image.save("x.jpg", quality=q)` gives: baseline, 4:2:0 chroma, standard Huffman
  tables.
- `jpeg-optimized`: the same pixels, Huffman tables fitted to the image: a few percent smaller.
- `webp`: lossy, method 4, what `image.save("x.webp", quality=q)` gives.
- `webp-slow`: lossy, method 6, the encoder's most thorough search.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import PIL
from PIL import Image, features

from icmh_rt.errors import BackendUnavailableError, IcmhError, OptionError
from icmh_rt.evaluation.rd import Encoded

SETTINGS: Mapping[str, tuple[str, Mapping[str, object]]] = MappingProxyType(
    {
        "jpeg": ("JPEG", {"subsampling": "4:2:0"}),
        "jpeg-optimized": ("JPEG", {"subsampling": "4:2:0", "optimize": True}),
        "webp": ("WEBP", {"method": 4}),
        "webp-slow": ("WEBP", {"method": 6}),
    }
)
QUALITIES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"JPEG": tuple(range(5, 100, 5)), "WEBP": (1, *range(5, 101, 5))}
)
FEATURE_OF_FORMAT = {"JPEG": "jpg", "WEBP": "webp"}
LIBRARY_OF_FORMAT = {"JPEG": "libjpeg_turbo", "WEBP": "webp"}


@dataclass(frozen=True)
class PillowAnchor:
    """One row of `SETTINGS` as a source of streams for `icmh_rt.evaluation.rd.measure`.

    Raises OptionError for an unknown name and BackendUnavailableError where this Pillow was built
    without the codec.
    """

    name: str
    kind: str = field(default="anchor", init=False)

    def __post_init__(self) -> None:
        if self.name not in SETTINGS:
            raise OptionError(f"unknown anchor {self.name!r}: choose from {', '.join(SETTINGS)}")
        if not features.check(FEATURE_OF_FORMAT[self.format]):
            raise BackendUnavailableError(
                f"this Pillow has no {self.format}: install one that has it or drop {self.name!r}"
            )

    @property
    def format(self) -> str:
        return SETTINGS[self.name][0]

    @property
    def settings(self) -> dict[str, object]:
        """What was run, with the versions of the libraries that decide the bytes."""
        library = features.version(LIBRARY_OF_FORMAT[self.format]) or "unknown"
        return {
            "program": f"Pillow {PIL.__version__}",
            "library": f"{LIBRARY_OF_FORMAT[self.format]} {library}",
            "format": self.format,
            **SETTINGS[self.name][1],
        }

    @property
    def qualities(self) -> tuple[int, ...]:
        """The qualities measured unless told otherwise."""
        return QUALITIES[self.format]

    def open(self, quality: int) -> PillowCoder:
        return PillowCoder(self.format, quality, SETTINGS[self.name][1])


@dataclass(frozen=True)
class PillowCoder:
    """A Pillow codec at one quality: uint8 (H, W, 3) to a file's bytes and back."""

    format: str
    quality: int
    options: Mapping[str, object]

    def encode(self, image: np.ndarray) -> Encoded:
        target = io.BytesIO()
        try:
            Image.fromarray(image).save(target, self.format, quality=self.quality, **self.options)
        except (OSError, ValueError) as error:  # for instance WebP's limit of 16383 pixels a side
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise IcmhError(f"{self.format} cannot encode a {size} image: {error}") from error
        return Encoded(target.getvalue())

    def decode(self, data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
