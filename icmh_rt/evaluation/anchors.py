"""Conventional codecs through Pillow and its plugins, as anchors for the learned one.

Every anchor encodes an RGB array to a complete file in memory (no metadata, so every byte counts)
and decodes that file again. `SETTINGS` is exactly what is passed to `PIL.Image.save`, besides the
quality: what is not named there is Pillow's default.

- `jpeg`: what `image.save("x.jpg", quality=q)` gives: baseline, 4:2:0 chroma, standard Huffman
  tables.
- `jpeg-optimized`: the same pixels, Huffman tables fitted to the image: a few percent smaller.
- `webp`: lossy, method 4, what `image.save("x.webp", quality=q)` gives.
- `webp-slow`: lossy, method 6, the encoder's most thorough search.
- `avif`: what `image.save("x.avif", quality=q)` gives: 4:2:0, speed 6. In Pillow from 11.3 on.
- `jxl`: JPEG XL, lossy, effort 7; by the plugin `pillow-jxl-plugin`, of the extra `eval`.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
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
        "avif": ("AVIF", {"subsampling": "4:2:0", "speed": 6}),
        "jxl": ("JXL", {"effort": 7}),
    }
)
QUALITIES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "JPEG": tuple(range(5, 100, 5)),
        "WEBP": (1, *range(5, 101, 5)),
        "AVIF": (1, *range(10, 91, 10), 95),
        "JXL": (1, *range(10, 91, 10), 95),
    }
)
FEATURE_OF_FORMAT = {"JPEG": "jpg", "WEBP": "webp", "AVIF": "avif"}
LIBRARY_OF_FORMAT = {"JPEG": "libjpeg_turbo", "WEBP": "webp", "AVIF": "avif"}
JXL_PLUGIN, JXL_MODULE = "pillow-jxl-plugin", "pillow_jxl"
REMEDIES = {
    "AVIF": "pip install 'pillow>=11.3'",
    "JXL": f"pip install {JXL_PLUGIN} (or 'icmh-rt[eval]')",
}


def is_installed(name: str) -> bool:
    """Whether the codec of an anchor of `SETTINGS` can be used here."""
    format = SETTINGS[name][0]
    if format == "JXL":
        return importlib.util.find_spec(JXL_MODULE) is not None
    try:
        return bool(features.check(FEATURE_OF_FORMAT[format]))
    except ValueError:  # a Pillow that is older than the format
        return False


def installed() -> tuple[str, ...]:
    """Every anchor that can be used here."""
    return tuple(name for name in SETTINGS if is_installed(name))


@dataclass(frozen=True)
class PillowAnchor:
    """One row of `SETTINGS` as a source of streams for `icmh_rt.evaluation.rd.measure`.

    Raises OptionError for an unknown name and BackendUnavailableError, which says what to install,
    where this Pillow has no such codec.
    """

    name: str
    kind: str = field(default="anchor", init=False)

    def __post_init__(self) -> None:
        if self.name not in SETTINGS:
            raise OptionError(f"unknown anchor {self.name!r}: choose from {', '.join(SETTINGS)}")
        if not is_installed(self.name):
            remedy = REMEDIES.get(self.format, "install one that has it")
            raise BackendUnavailableError(
                f"this Pillow has no {self.format}: {remedy}, or drop the anchor {self.name!r}"
            )

    @property
    def format(self) -> str:
        return SETTINGS[self.name][0]

    @property
    def settings(self) -> dict[str, object]:
        """What was run, with the versions of the libraries that decide the bytes."""
        if self.format == "JXL":
            library = f"{JXL_PLUGIN} {metadata.version(JXL_PLUGIN)}"
        else:
            feature = LIBRARY_OF_FORMAT[self.format]
            library = f"{feature} {features.version(feature) or 'unknown'}"
        return {
            "program": f"Pillow {PIL.__version__}",
            "library": library,
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
        self._register()
        try:
            Image.fromarray(image).save(target, self.format, quality=self.quality, **self.options)
        except (OSError, ValueError) as error:  # for instance WebP's limit of 16383 pixels a side
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise IcmhError(f"{self.format} cannot encode a {size} image: {error}") from error
        return Encoded(target.getvalue())

    def decode(self, data: bytes) -> np.ndarray:
        self._register()
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))

    def _register(self) -> None:
        """Plugins are not found by Pillow itself, nor on a worker process."""
        if self.format == "JXL":
            importlib.import_module(JXL_MODULE)
