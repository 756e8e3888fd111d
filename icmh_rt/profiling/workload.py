"""What is measured: one backend, device, width, task and size, with a photograph of that size."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from icmh_rt.bundle import DEFAULT_BUNDLE, CodecBundle
from icmh_rt.codec import Decoder, Encoder
from icmh_rt.errors import OptionError
from icmh_rt.images import load_image, save_image

INPUTS = ("array", "png", "jpeg")
"""What `Encoder.encode` is given: pixels in memory, or a file that it reads."""

_SUFFIXES = {"png": ".png", "jpeg": ".jpg"}


@dataclass(frozen=True)
class Setting:
    """One configuration. size: (height, width)."""

    size: tuple[int, int]
    width: float = 1.0
    task: str = "human"
    backend: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    quality: int = 50
    model: str | Path | CodecBundle = DEFAULT_BUNDLE

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]


def picture(size: tuple[int, int], path: str | Path | None = None) -> np.ndarray:
    """uint8 ``(height, width, 3)``: the photograph, cropped, or mirrored at its borders until it is
    large enough. What is in a picture decides how long entropy coding takes, so noise would not do.

    Args:
        path: an image file; None for the photograph that comes with icmh_rt.

    Raises:
        ImageError: it cannot be read.
    """
    image = load_image(default_photograph() if path is None else path)
    rows, columns = (
        _mirrored(side, wanted) for side, wanted in zip(image.shape, size, strict=False)
    )
    return np.ascontiguousarray(image[rows][:, columns])


def _mirrored(side: int, wanted: int) -> np.ndarray:
    """Indices of ``wanted`` samples: forth, back, forth..."""
    period = np.arange(wanted) % (2 * side)
    return np.minimum(period, 2 * side - 1 - period)


def default_photograph() -> Path:
    """The one in the installed package, or beside it in a checkout.

    Raises:
        OptionError: there is none.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "export", package.parent / "export"):
        if (folder / "photograph.png").is_file():
            return folder / "photograph.png"
    raise OptionError("icmh_rt was installed without its photograph: name one with --image")


class Workload:
    """A setting, ready to be run.

    Args:
        setting: what runs.
        image: uint8 ``(height, width, 3)``; None for who only decodes.
        given_as: one of `INPUTS`.

    Attributes:
        encoder, decoder: of the setting; settings that differ in size share their backend.
        data: the stream; made when it is first needed.

    Raises:
        OptionError, BackendUnavailableError, BundleError: as `Encoder`.
    """

    def __init__(
        self, setting: Setting, image: np.ndarray | None = None, given_as: str = "array"
    ) -> None:
        self.setting = setting
        self.encoder = Encoder(
            width=setting.width,
            task=setting.task,
            quality=setting.quality,
            model=setting.model,
            backend=setting.backend,
            device=setting.device,
            dtype=setting.dtype,
        )
        self.decoder = Decoder(
            model=setting.model,
            backend=setting.backend,
            device=setting.device,
            dtype=setting.dtype,
        )
        self.image = image
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.source: Any = image
        if image is not None and given_as != "array":
            self._folder = tempfile.TemporaryDirectory(prefix="icmh-profile-")
            self.source = Path(self._folder.name) / f"picture{_SUFFIXES[given_as]}"
            save_image(image, self.source)

    @property
    def backend(self) -> Any:
        return self.encoder.backend

    @property
    def name(self) -> str:
        """Tells configurations apart, for people too."""
        setting = self.setting
        size = "x".join(map(str, setting.size))
        where = f"{self.backend.name} {self.backend.device}"
        return f"{where} {size} width {setting.width:g} {setting.task}"

    @cached_property
    def data(self) -> bytes:
        return self.encoder.encode(self.source)

    @property
    def has_image(self) -> bool:
        """Whether its streams decode to an image, and not to features only."""
        try:
            self.backend.check_image(self.setting.width, self.setting.task)
        except OptionError:
            return False
        return True

    def encode(self) -> bytes:
        return self.encoder.encode(self.source)

    def decode(self) -> Any:
        return (
            self.decoder.decode(self.data) if self.has_image else self.decoder.features(self.data)
        )

    def operations(self) -> dict[str, Callable[[], Any]]:
        return {"encode": self.encode, "decode": self.decode}
