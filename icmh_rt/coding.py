"""How latents become symbols: all in which the families of codecs differ for the codec.

A `Coding` is one bundle's at one width and quality: which symbols, which tables, how the scale
indexes come about. Backends compute transforms and know none of this; the codec's pipeline is one
for all. Everything that a decoder does here has the same bits on every machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from icmh_rt import _native
from icmh_rt._threads import get_num_threads
from icmh_rt.bitstream import FLAG_REFERENCE_PATH
from icmh_rt.bundle import Bundle, CodecBundle, WidthTables
from icmh_rt.errors import ImageError
from icmh_rt.gaussian import ScaleTable
from icmh_rt.published import HYPER_STRIDE, LATENT_STRIDE, Padding, PublishedBundle, PublishedWidth
from icmh_rt.rans import Tables

DEFAULT_LATENT_STRIDE = 16
"""Image pixels a latent position of the default architecture, along each side."""

DEFAULT_HYPER_STRIDE = 4
"""Latent positions a hyper-latent position of the default architecture, along each side."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is known of the latent before it is decoded.

    mean: float32, broadcasts to ``(h, w, M)``; None where it is zero · indexes: uint8 or uint16
    ``(h, w, M)``, the table row of each symbol.
    """

    mean: NDArray[Any] | None
    indexes: NDArray[Any]


class Coding(ABC):
    """One bundle's symbols at one width and quality.

    Attributes:
        flags: of the streams' headers.
        tables_z, tables_y: what codes the symbols of z and of y.
        latent_stride: pixels of the image between positions of y.
    """

    flags: int = 0
    tables_z: Tables
    tables_y: Tables
    latent_stride: int

    def latent_origin(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(row, column) of the image's pixel where the first position's square begins; negative
        where there is padding before the image.
        """
        return 0, 0

    @abstractmethod
    def latent_shape(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        """(h, w, M) of y."""

    @abstractmethod
    def indexes_z(self, image_size: tuple[int, int]) -> NDArray[Any]:
        """``(hz, wz, Z)``: the table row of every symbol of z, one a channel. Empty without z."""

    @abstractmethod
    def quantize_hyper(self, z: NDArray[Any]) -> NDArray[Any]:
        """Symbols int32 of float32 ``(hz, wz, Z)``."""

    @abstractmethod
    def predict(self, symbols_z: NDArray[Any], image_size: tuple[int, int]) -> Prediction:
        """What the symbols of z tell about y."""

    def predict_part(
        self, symbols_z: NDArray[Any], image_size: tuple[int, int], rows: slice, columns: slice
    ) -> Prediction:
        """`predict` for some rows and columns of y; the same bits."""
        whole = self.predict(symbols_z, image_size)
        mean = whole.mean
        if mean is not None and mean.ndim == 3:
            mean = mean[rows, columns]
        return Prediction(mean, np.ascontiguousarray(whole.indexes[rows, columns]))

    def quantize(self, y: NDArray[Any], prediction: Prediction) -> NDArray[Any]:
        """Symbols int32 of float32 ``(h, w, M)``."""
        return to_symbols(y, mean=prediction.mean)

    def dequantize(self, symbols_y: NDArray[Any], prediction: Prediction) -> NDArray[Any]:
        """The decoded latent, float32 ``(h, w, M)``; the same bits on every machine: it rounds in
        single IEEE operations, with nothing that could be contracted or reordered.
        """
        latent = symbols_y.astype(np.float32)
        if prediction.mean is not None:
            latent += prediction.mean
        return latent

    def checked(
        self, symbols_z: NDArray[Any], symbols_y: NDArray[Any], prediction: Prediction
    ) -> list[NDArray[Any]]:
        """What the latents' checksum covers, in this order, each in C order and little-endian."""
        arrays = ((symbols_z, "<i4"), (symbols_y, "<i4"), (prediction.indexes, "u1"))
        return [np.ascontiguousarray(array, dtype) for array, dtype in arrays]

    @abstractmethod
    def estimated_bits(
        self,
        symbols_z: NDArray[Any],
        indexes_z: NDArray[Any],
        symbols_y: NDArray[Any],
        indexes_y: NDArray[Any],
    ) -> float:
        """-log2 likelihood of all symbols: the rate that research code reports."""


def coding_of(bundle: CodecBundle, width: float, quality: int) -> Coding:
    """The coding of ``bundle`` at one of its widths and qualities.

    Raises:
        OptionError: the bundle has no such width or quality.
    """
    _, tables = bundle.width(width)
    quality = bundle.quality(quality)
    if isinstance(bundle, PublishedBundle):
        return PublishedCoding(tables, bundle.padding)
    return IntegerCoding(cast(Bundle, bundle), tables, quality)


# -- the default architecture ----------------------------------------------------------------------


class IntegerCoding(Coding):
    """Gained latents; h_s is an integer network."""

    latent_stride = DEFAULT_LATENT_STRIDE

    def __init__(self, bundle: Bundle, tables: WidthTables, quality: int) -> None:
        self.tables_y = self.tables_z = bundle.tables
        self._config = bundle.config
        self._width = tables
        self._quality = quality

    def latent_shape(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        height, width = (-(-side // DEFAULT_LATENT_STRIDE) for side in image_size)
        return height, width, self._width.hyper_synthesis.latent_channels

    def indexes_z(self, image_size: tuple[int, int]) -> NDArray[Any]:
        height, width, _ = self.latent_shape(image_size)
        shape = (-(-height // DEFAULT_HYPER_STRIDE), -(-width // DEFAULT_HYPER_STRIDE))
        rows = self._width.hyper_index[self._quality - 1]
        return np.ascontiguousarray(np.broadcast_to(rows, (*shape, len(rows))))

    def quantize_hyper(self, z: NDArray[Any]) -> NDArray[Any]:
        return to_symbols(z, gain=self._width.hyper_gain[self._quality - 1])

    def predict(self, symbols_z: NDArray[Any], image_size: tuple[int, int]) -> Prediction:
        """Means gained, exact multiples of ``2**-mean_bits``, cut to the latent's shape."""
        height, width, _ = self.latent_shape(image_size)
        return self._run(symbols_z, slice(0, height), slice(0, width))

    def predict_part(
        self, symbols_z: NDArray[Any], image_size: tuple[int, int], rows: slice, columns: slice
    ) -> Prediction:
        """From no more of z than these rows and columns of y depend on."""
        reach = self._width.hyper_synthesis.reach
        first = [max(0, part.start // DEFAULT_HYPER_STRIDE - reach) for part in (rows, columns)]
        end = [-(-part.stop // DEFAULT_HYPER_STRIDE) + reach for part in (rows, columns)]
        inside = [
            slice(
                part.start - DEFAULT_HYPER_STRIDE * start, part.stop - DEFAULT_HYPER_STRIDE * start
            )
            for part, start in zip((rows, columns), first, strict=True)
        ]
        return self._run(symbols_z[first[0] : end[0], first[1] : end[1]], *inside)

    def _run(self, symbols_z: NDArray[Any], rows: slice, columns: slice) -> Prediction:
        """h_s of these symbols, and of that these rows and columns."""
        network = self._width.hyper_synthesis
        mean, indexes = network.run(symbols_z, self._quality, threads=get_num_threads())
        unit = np.float32(2.0**-network.mean_bits)
        return Prediction(
            np.multiply(mean[rows, columns], unit, dtype=np.float32),
            np.ascontiguousarray(indexes[rows, columns]),
        )

    def quantize(self, y: NDArray[Any], prediction: Prediction) -> NDArray[Any]:
        return to_symbols(y, self._width.gain[self._quality - 1], prediction.mean)

    def dequantize(self, symbols_y: NDArray[Any], prediction: Prediction) -> NDArray[Any]:
        # Symbol plus mean is exact in float32: only this multiplication rounds.
        latent = super().dequantize(symbols_y, prediction)
        latent *= self._width.inverse_gain[self._quality - 1]
        return latent

    def estimated_bits(
        self,
        symbols_z: NDArray[Any],
        indexes_z: NDArray[Any],
        symbols_y: NDArray[Any],
        indexes_y: NDArray[Any],
    ) -> float:
        """Under the trained Gaussians."""
        config = self._config
        scales = _scale_table(config["scale_min"], config["scale_max"], config["scale_levels"])
        return scales.bits(symbols_z, indexes_z) + scales.bits(symbols_y, indexes_y)


# Cached for the table of bits that it keeps, which takes longer to make than to use.
_scale_table = cache(ScaleTable)


# -- published models ------------------------------------------------------------------------------


class PublishedCoding(Coding):
    """Symbols are distances to a channel's median or to the predicted mean. With a hyperprior the
    bottleneck codes z, and the reference path predicts y; without, the bottleneck codes y.
    """

    latent_stride = LATENT_STRIDE

    def __init__(self, width: PublishedWidth, padding: Padding) -> None:
        self._width, self._padding = width, padding
        self._has_hyperprior = width.synthesis is not None
        self.flags = FLAG_REFERENCE_PATH if self._has_hyperprior else 0
        self.tables_z = width.tables
        self.tables_y = width.tables if width.gaussian is None else width.gaussian

    def latent_origin(self, image_size: tuple[int, int]) -> tuple[int, int]:
        row, column = self._padding.start(image_size)
        return -row, -column

    def latent_shape(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        return *self._shape(image_size, LATENT_STRIDE), self._width.latent_channels

    def indexes_z(self, image_size: tuple[int, int]) -> NDArray[Any]:
        if not self._has_hyperprior:
            return np.zeros((0, 0, 0), np.uint8)
        return self._channel_rows(self._shape(image_size, HYPER_STRIDE))

    def quantize_hyper(self, z: NDArray[Any]) -> NDArray[Any]:
        return to_symbols(z, mean=self._width.medians) if self._has_hyperprior else _no_symbols()

    def predict(self, symbols_z: NDArray[Any], image_size: tuple[int, int]) -> Prediction:
        medians = self._width.medians
        if self._width.synthesis is None:
            return Prediction(medians, self._channel_rows(self._shape(image_size, LATENT_STRIDE)))
        z_hat = symbols_z + medians.astype(np.float64)
        return Prediction(*self._width.synthesis.predict(z_hat))

    def checked(
        self, symbols_z: NDArray[Any], symbols_y: NDArray[Any], prediction: Prediction
    ) -> list[NDArray[Any]]:
        """Of the reference path also the means; without it there is nothing that could differ."""
        arrays = super().checked(symbols_z, symbols_y, prediction)
        if not self._has_hyperprior:
            return arrays[:2]
        return arrays if prediction.mean is None else [*arrays, prediction.mean.astype("<f4")]

    def estimated_bits(
        self,
        symbols_z: NDArray[Any],
        indexes_z: NDArray[Any],
        symbols_y: NDArray[Any],
        indexes_y: NDArray[Any],
    ) -> float:
        """Under the tables, which are the checkpoint's densities at 16 bits."""
        bits = self.tables_z.bits(symbols_z, indexes_z) if symbols_z.size else 0.0
        return bits + self.tables_y.bits(symbols_y, indexes_y)

    def _shape(self, image_size: tuple[int, int], stride: int) -> tuple[int, int]:
        height, width = self._padding.size(image_size)
        return height // stride, width // stride

    def _channel_rows(self, shape: tuple[int, int]) -> NDArray[Any]:
        channels = len(self._width.medians)
        rows = np.arange(channels, dtype=np.uint8 if channels <= 256 else np.uint16)
        return np.ascontiguousarray(np.broadcast_to(rows, (*shape, channels)))


# -- symbols ---------------------------------------------------------------------------------------


def _no_symbols() -> NDArray[Any]:
    return np.zeros((0, 0, 0), np.int32)


def to_symbols(
    values: NDArray[Any], gain: NDArray[Any] | None = None, mean: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Nearest int32, ties to even, of ``values * gain - mean``, each operation rounded to float32.
    Refuses what no image gives instead of writing garbage.

    Args:
        values: float32 (..., M). gain: (M,), None for one. mean: (M,) or the shape of ``values``,
            None for zero.

    Returns:
        int32 of the same shape, at most 2**17 in magnitude: far above what real images give. With
        the default architecture's means of at most 2**15 in magnitude (`mean_limit`), symbol plus
        mean stays an exact float32.

    Raises:
        ImageError: a value is not finite.
    """
    arrays = (
        None if array is None else np.ascontiguousarray(array, np.float32)
        for array in (values, gain, mean)
    )
    symbols, bad = _native.module().quantize(*arrays)
    if bad:
        raise ImageError(
            "the transforms gave values that are not finite; try dtype='fp32' or another backend"
        )
    return symbols
