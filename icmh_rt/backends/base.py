"""The interface between the codec and whatever runs the transforms.

Arrays at this border are numpy on the host, channels-last. Quantization, the integer network and
the dequantized latent are computed here, once for all backends, so that backends can only differ
in how they compute ``g_a``, ``h_a`` and ``g_s``: nothing that entropy decoding depends on.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from icmh_rt._threads import get_num_threads
from icmh_rt.bundle import Bundle, WidthTables
from icmh_rt.errors import ImageError

LATENT_STRIDE = 16
"""Image pixels a latent position, along each side."""

HYPER_STRIDE = 4
"""Latent positions a hyper-latent position, along each side."""

_SYMBOL_LIMIT = 2**17
"""Far above what real images give. With means of at most 2**15 in magnitude (`mean_limit`), symbol
plus mean stays an exact float32."""


def latent_shape(image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the latent of an image of ``image_size`` pixels: rounded up to whole
    positions.
    """
    height, width = image_size
    return -(-height // LATENT_STRIDE), -(-width // LATENT_STRIDE)


def hyper_shape(image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the hyper-latent of an image of ``image_size`` pixels."""
    height, width = latent_shape(image_size)
    return -(-height // HYPER_STRIDE), -(-width // HYPER_STRIDE)


@dataclass(frozen=True, eq=False)
class Latents:
    """Everything that is entropy coded, and what codes it.

    symbols_z: int32 ``(hz, wz, Z)`` · symbols_y: int32 ``(h, w, M)`` · indexes_y: uint8 ``(h, w,
    M)``, the scale index of each symbol · times: seconds by stage.
    """

    symbols_z: np.ndarray
    symbols_y: np.ndarray
    indexes_y: np.ndarray
    times: dict[str, float] = field(default_factory=dict)


class Stopwatch:
    """Seconds between calls, by stage."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.times[stage] = self.times.get(stage, 0.0) + now - self._last
        self._last = now

    def take_over(self, times: dict[str, float]) -> None:
        """Count stages that another stopwatch measured meanwhile; the next lap starts here."""
        self.times |= times
        self._last = time.perf_counter()


class Backend(ABC):
    """Runs one bundle's transforms on one device.

    Subclasses give the three transforms; everything else is shared. Thread-safe: no call changes
    the object.
    """

    name: str
    device: str

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    # -- what a backend implements -----------------------------------------------------------------

    @abstractmethod
    def analysis(self, image: np.ndarray, width: float, task: str) -> Any:
        """g_a of uint8 ``(H, W, 3)``: the ungained latent of ``latent_shape``, as the backend
        keeps it.
        """

    @abstractmethod
    def latent_to_host(self, y: Any) -> np.ndarray:
        """What `analysis` returned as float32 ``(h, w, M)``."""

    @abstractmethod
    def hyper_analysis(self, y: Any, width: float, task: str) -> np.ndarray:
        """h_a of what `analysis` returned: float32 ``(hz, wz, Z)``."""

    @abstractmethod
    def synthesis(
        self, y_hat: np.ndarray, width: float, task: str, image_size: tuple[int, int]
    ) -> np.ndarray:
        """g_s of float32 ``(h, w, M)``: uint8 ``(H, W, 3)``."""

    # -- the codec's side --------------------------------------------------------------------------

    def encode_transforms(
        self, image: np.ndarray, width: float, task: str, quality: int
    ) -> Latents:
        """uint8 ``(H, W, 3)`` to everything that is entropy coded.

        Raises:
            ImageError: the transforms gave a value that is not finite.
        """
        watch = Stopwatch()
        width, tables = self.bundle.width(width)
        row = quality - 1
        y = self.analysis(image, width, task)
        watch.lap("g_a")
        z = self.hyper_analysis(y, width, task)
        watch.lap("h_a")
        symbols_z = _quantize(z * tables.hyper_gain[row])
        latent = self.latent_to_host(y)
        watch.lap("download")
        mean, indexes = self.hyper_synthesis(symbols_z, tables, quality, latent.shape[:2])
        watch.lap("h_s")
        residual = latent * tables.gain[row]
        residual -= mean
        symbols_y = _quantize(residual)
        watch.lap("quantize")
        return Latents(symbols_z, symbols_y, indexes, watch.times)

    def hyper_synthesis(
        self, symbols_z: np.ndarray, tables: WidthTables, quality: int, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means float32 (gained, exact multiples of ``2**-mean_bits``) and scale indexes uint8.

        Both ``(h, w, M)``, cut to the latent's ``shape``.
        """
        network = tables.hyper_synthesis
        mean, indexes = network.run(symbols_z, quality, threads=get_num_threads())
        height, width = shape
        mean = np.multiply(
            mean[:height, :width], np.float32(2.0**-network.mean_bits), dtype=np.float32
        )
        return mean, np.ascontiguousarray(indexes[:height, :width])

    def dequantize(
        self, symbols_y: np.ndarray, mean: np.ndarray, tables: WidthTables, quality: int
    ) -> np.ndarray:
        """The decoded latent, float32 ``(h, w, M)``; the same bits on every machine.

        Symbol plus mean is exact in float32, so only the multiplication rounds: one IEEE operation,
        with nothing that could be contracted or reordered.
        """
        latent = symbols_y.astype(np.float32)
        latent += mean
        latent *= tables.inverse_gain[quality - 1]
        return latent


def _quantize(values: np.ndarray) -> np.ndarray:
    """Nearest int32; refuses what no image gives, and NaN, instead of writing garbage."""
    if not np.all(np.isfinite(values)):
        raise ImageError(
            "the transforms gave values that are not finite; try dtype='fp32' or another backend"
        )
    np.rint(values, out=values)
    np.clip(values, -_SYMBOL_LIMIT, _SYMBOL_LIMIT, out=values)
    return values.astype(np.int32)
