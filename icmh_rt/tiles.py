"""Large images by tiles: the same stream and the same picture in bounded memory.

Without adapters every transform of the default architecture is local: a value depends on a known
neighbourhood (`Reach`), so a tile with that much around it computes what the whole image would
compute there, and h_s, in integers, the same bits on every machine. What is kept for the whole
image is what the entropy coder needs, symbols and their indexes.

The arithmetic of a position does not depend on the tile either, as far as this package's kernels
go; libraries may compute small maps otherwise than large ones (PyTorch's convolutions below 20,480
values), so images are cut into parts of nearly equal area, none of them small. Where a library does
otherwise nevertheless, a stream has other roundings in a few symbols, and is as good a stream.

Adapters look at spectra of whole feature maps: nothing of them is local.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icmh_rt.backends.base import Backend, Latents, lap
from icmh_rt.bundle import Bundle, CodecBundle
from icmh_rt.coding import DEFAULT_HYPER_STRIDE, DEFAULT_LATENT_STRIDE, Coding, Prediction
from icmh_rt.errors import IcmhError, OptionError
from icmh_rt.images import size_of

DEFAULT_TILE = 2048
"""Side of a tile in pixels: at the default bundle's full width some 0.4 GB of feature maps."""

TILES_FROM = 4
"""Images of more than this many tiles are computed by tiles, smaller ones at once."""

MAX_WHOLE_PIXELS = 2**26
"""Images above it that cannot be computed by tiles are refused: whole, they take up to 64 bytes a
pixel."""

_MIN_TILE = 64  # a position of z
_HYPER_REACH = 3  # h_a: two 3x3 convolutions of stride 2 around every fourth position

Progress = Callable[[float], None]
"""Called with the share of the work that is done, above 0 up to 1; what it raises ends the work."""


class Reach(NamedTuple):
    """On how many positions of y around itself something depends.

    before, after: y on the image's 16x16 squares above and below, alike left and right ·
    synthesis: a square of the picture on positions of y, either way.
    """

    before: int
    after: int
    synthesis: int


class Span(NamedTuple):
    """Positions ``start`` to ``stop`` of an axis, in a window ``first`` to ``end`` around them."""

    start: int
    stop: int
    first: int
    end: int

    @property
    def core(self) -> slice:
        """What is the tile's own."""
        return slice(self.start, self.stop)

    @property
    def window(self) -> slice:
        """What it is computed from."""
        return slice(self.first, self.end)

    @property
    def inside(self) -> slice:
        """The core's place in the window."""
        return slice(self.start - self.first, self.stop - self.first)


def reach_of(bundle: CodecBundle, width: float, task: str) -> Reach | None:
    """How far the transforms look; None where that is everywhere or not known."""
    if not isinstance(bundle, Bundle) or task in bundle.adapters:
        return None
    index = list(bundle.widths).index(bundle.width(width)[0])
    blocks_8, blocks_16 = (bundle.config[f"blocks_{stride}"][index] for stride in (8, 16))
    # Every block sees one position around itself. The 3x3 convolution of stride 2 between the two
    # resolutions begins one position of 1/8 before its square and ends with it.
    return Reach(
        before=blocks_16 + -(-(blocks_8 + 1) // 2),
        after=blocks_16 + (blocks_8 + 1) // 2,
        synthesis=blocks_16 + -(-blocks_8 // 2),
    )


def exact_squares(known: NDArray[np.bool_], reach: Reach | None) -> NDArray[np.bool_]:
    """Which squares of the picture depend on known positions alone, given those of y ``(h, w)``."""
    if reach is None:
        return np.full(known.shape, known.all())
    missing = ~known
    for axis in (0, 1):
        narrow = np.moveaxis(missing, axis, 0)
        wide = narrow.copy()
        for distance in range(1, reach.synthesis + 1):
            wide[distance:] |= narrow[:-distance]
            wide[:-distance] |= narrow[distance:]
        missing = np.moveaxis(wide, 0, axis)
    return ~missing


@dataclass(frozen=True)
class Tiling:
    """An image's tiles: cores of positions of y, which start at multiples of ``stride`` positions,
    so that they are whole positions of z too.
    """

    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]
    reach: Reach

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of y."""
        return self.rows[-1][1], self.columns[-1][1]

    def spans(self, before: int, after: int, stride: int = 1) -> Iterator[tuple[Span, Span]]:
        """Each tile's rows and columns, in windows with so many positions or more around the core
        as far as there are, which start at multiples of ``stride``. As far as that allows they are
        of one size: memory that one tile gave back fits the next.
        """
        height, width = self.shape
        for row in _spans(self.rows, before, after, height, stride):
            for column in _spans(self.columns, before, after, width, stride):
                yield row, column


def _spans(
    cores: tuple[tuple[int, int], ...], before: int, after: int, length: int, stride: int
) -> list[Span]:
    most = max(stop - start for start, stop in cores) + before + after
    size = min(length, -(-most // stride) * stride)
    spans = []
    for start, stop in cores:
        first = max(0, min(start - before, length - size)) // stride * stride
        spans.append(Span(start, stop, first, min(length, max(stop + after, first + size))))
    return spans


def tiling_of(image_size: tuple[int, int], tile: int, reach: Reach) -> Tiling | None:
    """The tiles of an image, each of about ``tile * tile`` pixels; None for one that needs none."""
    if not tile or image_size[0] * image_size[1] <= TILES_FROM * tile * tile:
        return None
    height, width = (-(-side // DEFAULT_LATENT_STRIDE) for side in image_size)
    side = tile // DEFAULT_LATENT_STRIDE
    # Long images have long tiles: see above why none should be small.
    rows = min(height, side)
    columns = min(width, side * side // rows)
    rows = min(height, side * side // columns)
    return Tiling(_cut(height, rows), _cut(width, columns), reach)


def _cut(length: int, most: int) -> tuple[tuple[int, int], ...]:
    """Parts of nearly equal length, about ``most`` at most, that start at positions of z."""
    positions = -(-length // DEFAULT_HYPER_STRIDE)
    count = -(-positions // max(1, most // DEFAULT_HYPER_STRIDE))
    edges = [positions * part // count * DEFAULT_HYPER_STRIDE for part in range(count)]
    return tuple(zip(edges, [*edges[1:], length], strict=True))


def checked_tile(tile: Any) -> int:
    """``tile`` as `Encoder` and `Decoder` take it, or OptionError."""
    whole = isinstance(tile, (int, np.integer)) and not isinstance(tile, bool)
    if not whole or (tile != 0 and not _MIN_TILE <= tile <= 2**20):
        raise OptionError(
            f"tile is {tile!r}: give the side of tiles in pixels, {_MIN_TILE} or more, or 0 for "
            "none"
        )
    return int(tile)


def plan(
    bundle: CodecBundle,
    width: float,
    task: str,
    image_size: tuple[int, int],
    tile: int,
    error: type[IcmhError],
) -> Tiling | None:
    """The tiles by which a codec computes an image of this size; None: at once.

    Raises:
        error: it is too large for that, and its tiles cannot be computed by themselves.
    """
    reach = reach_of(bundle, width, task)
    if reach is not None:
        return tiling_of(image_size, tile, reach)
    pixels = image_size[0] * image_size[1]
    if tile and pixels > MAX_WHOLE_PIXELS:
        raise error(
            f"image is {image_size[0]}x{image_size[1]} pixels (height x width): above "
            f"{MAX_WHOLE_PIXELS} pixels only the task 'human' of the default architecture is "
            f"computed by tiles, and {task!r} of bundle {bundle.name!r} would take up to "
            f"{64 * pixels / 1e9:.0f} GB; cut it up, or give tile=0 to compute it whole anyway"
        )
    return None


class _Steps:
    """Tells ``progress`` of ``count`` equal steps from one share of the work to another."""

    def __init__(self, count: int, begin: float, end: float, progress: Progress | None) -> None:
        self._count, self._begin, self._end, self._progress = count, begin, end, progress
        self._done = 0

    def done(self) -> None:
        self._done += 1
        if self._progress is not None:
            # Exactly ``end`` in the end.
            left = (self._end - self._begin) * (1.0 - self._done / self._count)
            self._progress(self._end - left)


_ANALYSIS = 0.9  # about its share of an encoder's time


def analysis(
    backend: Backend,
    image: NDArray[np.uint8],
    width: float,
    task: str,
    coding: Coding,
    tiling: Tiling,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The latent y and the symbols of z by tiles: the first part of `Backend.encode_transforms`,
    after which the image is not needed any more.

    Raises:
        ImageError: the transforms gave a value that is not finite.
    """
    size = size_of(image)
    steps = _Steps(len(tiling), 0.0, _ANALYSIS, progress)
    y = np.empty(coding.latent_shape(size), np.float32)
    symbols_z = np.empty(coding.indexes_z(size).shape, np.int32)
    before, after, _ = tiling.reach
    for rows, columns in tiling.spans(before + _HYPER_REACH, after, DEFAULT_HYPER_STRIDE):
        squares = image[_pixels(rows.window), _pixels(columns.window)]
        latent = backend.analysis(np.ascontiguousarray(squares), width, task)
        lap("g_a")
        z = backend.hyper_analysis(latent, width, task)
        lap("h_a")
        y[rows.core, columns.core] = backend.latent_to_host(latent)[rows.inside, columns.inside]
        lap("download")
        place = _hyper(rows.core), _hyper(columns.core)
        inside = _hyper(rows.inside), _hyper(columns.inside)
        symbols_z[place] = coding.quantize_hyper(z[inside])
        lap("quantize")
        steps.done()
    return y, symbols_z


def quantize(
    coding: Coding,
    y: NDArray[np.float32],
    symbols_z: NDArray[np.int32],
    image_size: tuple[int, int],
    tiling: Tiling,
    progress: Progress | None = None,
) -> Latents:
    """The rest of it: symbols take the place of the latent ``y`` that they are made of. Of the
    prediction the indexes are kept alone: ``mean`` is None.

    Raises:
        ImageError: the transforms gave a value that is not finite.
    """
    steps = _Steps(len(tiling), _ANALYSIS, 1.0, progress)
    symbols_y = y.view(np.int32)
    indexes = np.empty(y.shape, np.uint8)
    for rows, columns in tiling.spans(0, 0):
        part = rows.core, columns.core
        prediction = coding.predict_part(symbols_z, image_size, *part)
        indexes[part] = prediction.indexes
        lap("h_s")
        symbols_y[part] = coding.quantize(y[part], prediction)
        lap("quantize")
        steps.done()
    return Latents(symbols_z, symbols_y, Prediction(None, indexes))


def predict_indexes(
    coding: Coding, symbols_z: NDArray[Any], image_size: tuple[int, int], tiling: Tiling
) -> Prediction:
    """`Coding.predict` by tiles, without the means."""
    indexes = np.empty(coding.latent_shape(image_size), np.uint8)
    for rows, columns in tiling.spans(0, 0):
        part = rows.core, columns.core
        indexes[part] = coding.predict_part(symbols_z, image_size, *part).indexes
    return Prediction(None, indexes)


def dequantize(
    coding: Coding,
    symbols_z: NDArray[Any],
    symbols_y: NDArray[Any],
    image_size: tuple[int, int],
    tiling: Tiling,
) -> NDArray[Any]:
    """`Coding.dequantize` by tiles: float32 ``(h, w, M)``."""
    y_hat = np.empty(symbols_y.shape, np.float32)
    for rows, columns in tiling.spans(0, 0):
        part = rows.core, columns.core
        y_hat[part] = _dequantized(coding, symbols_z, symbols_y, image_size, *part)
    return y_hat


def synthesis(
    backend: Backend,
    coding: Coding,
    symbols_z: NDArray[Any],
    symbols_y: NDArray[Any],
    width: float,
    task: str,
    image_size: tuple[int, int],
    tiling: Tiling,
    progress: Progress | None = None,
) -> NDArray[Any]:
    """The picture of decoded symbols by tiles: uint8 ``(H, W, 3)``."""
    steps = _Steps(len(tiling), 0.0, 1.0, progress)
    image = np.empty((*image_size, 3), np.uint8)
    for rows, columns in tiling.spans(tiling.reach.synthesis, tiling.reach.synthesis):
        window = rows.window, columns.window
        y_hat = _dequantized(coding, symbols_z, symbols_y, image_size, *window)
        lap("dequantize")
        size = _side(image_size[0], rows), _side(image_size[1], columns)
        squares = backend.synthesis(y_hat, width, task, size)
        inside = _pixels(rows.inside), _pixels(columns.inside)
        image[_pixels(rows.core), _pixels(columns.core)] = squares[inside]
        lap("g_s")
        steps.done()
    return image


def _dequantized(
    coding: Coding,
    symbols_z: NDArray[Any],
    symbols_y: NDArray[Any],
    image_size: tuple[int, int],
    rows: slice,
    columns: slice,
) -> NDArray[Any]:
    prediction = coding.predict_part(symbols_z, image_size, rows, columns)
    return coding.dequantize(symbols_y[rows, columns], prediction)


def _side(length: int, span: Span) -> int:
    """Of a window's pixels, of an image that is so long."""
    return min(length, DEFAULT_LATENT_STRIDE * span.end) - DEFAULT_LATENT_STRIDE * span.first


def _pixels(positions: slice) -> slice:
    """The image's rows or columns of some of y; the last ones may be cut off by the border."""
    return slice(DEFAULT_LATENT_STRIDE * positions.start, DEFAULT_LATENT_STRIDE * positions.stop)


def _hyper(positions: slice) -> slice:
    """The positions of z that belong to some of y."""
    return slice(
        positions.start // DEFAULT_HYPER_STRIDE, -(-positions.stop // DEFAULT_HYPER_STRIDE)
    )
