"""Pictures to look at beside the figures: original, decoded, and other codecs at like bytes.

Only a few pictures are coded once more, after the measurement, at qualities chosen from what was
measured; their sizes are therefore known before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icmh_rt.evaluation.metrics import psnr
from icmh_rt.evaluation.ms_ssim import ms_ssim
from icmh_rt.evaluation.rd import CodecCoder, Source
from icmh_rt.evaluation.results import Results
from icmh_rt.images import load_image, size_of

Prepare = Callable[[np.ndarray], np.ndarray]
"""Pictures as they are read -> as they are encoded."""

if TYPE_CHECKING:
    from icmh_rt.evaluation.bit_map import BitMap
    from icmh_rt.evaluation.task_curves import TaskResults

SHOWN_BPP = 0.3
"""The rate that pictures are shown near: low enough to see codecs differ."""
MAX_OTHERS = 6


@dataclass(frozen=True, eq=False)
class Picture:
    """One codec's version of a picture.

    data: its stream · pixels: uint8 (H, W, 3), decoded · psnr, ms_ssim: of the whole picture.
    """

    name: str
    kind: str
    quality: int
    data: bytes
    pixels: np.ndarray
    psnr: float
    ms_ssim: float | None

    @property
    def bpp(self) -> float:
        return 8.0 * len(self.data) / (self.pixels.shape[0] * self.pixels.shape[1])


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A picture as it was, uint8 (H, W, 3), and what codecs made of it; the first one is what the
    others' bytes were matched to, and what the bit map is of.
    """

    name: str
    original: np.ndarray
    pictures: tuple[Picture, ...]
    bit_map: BitMap | None


@dataclass(frozen=True)
class Measured:
    """A source with its qualities (Q,) and the bytes of every picture at each: Q rows."""

    source: Source
    qualities: tuple[int, ...]
    byte_counts: tuple[tuple[int, ...], ...]

    def nearest(self, image: int, byte_count: float) -> int:
        """The quality at which a picture takes the number of bytes closest to that, as a ratio."""
        distances = [abs(math.log(row[image] / byte_count)) for row in self.byte_counts]
        return self.qualities[int(np.argmin(distances))]


def rd_exhibits(
    results: Results, sources: Sequence[Source], paths: Sequence[Path]
) -> list[Exhibit]:
    """The picture that the widest codec does worst (lowest PSNR), and the median one."""
    curves = {curve.name: curve for curve in results.curves}
    found = [
        Measured(source, curves[source.name].qualities, curves[source.name].byte_counts or ())
        for source in sources
    ]
    reference = _reference(found)
    curve = curves[reference.source.name]
    quality = _shown_quality(curve.qualities, [point.bpp for point in curve.points])
    row = curve.qualities.index(quality)
    psnrs = [curve.of_image(i)[1][row] for i in range(len(paths))]
    return _exhibits(found, reference, quality, paths, np.argsort(psnrs, kind="stable").tolist())


def task_exhibits(
    results: TaskResults,
    sources: Sequence[Source],
    paths: Sequence[Path],
    prepare: Prepare = lambda image: image,
) -> list[Exhibit]:
    """The picture that takes most bytes, and the median one; of the widest codec, with the task's
    adapters where it has them. prepare: what happened to pictures before they were encoded. Streams
    that are decoded to features have no picture to show.
    """
    curves = {curve.name: curve for curve in results.curves}
    found = []
    for source in sources:
        if "decoded_to" in source.settings:
            continue
        points = curves[source.name].points
        counts = tuple(point.byte_counts for point in points)
        found.append(Measured(source, tuple(point.quality for point in points), counts))
    if not found:
        return []
    reference = _reference(found)
    rates = [point.bpp for point in curves[reference.source.name].points]
    quality = _shown_quality(reference.qualities, rates)
    row = reference.byte_counts[reference.qualities.index(quality)]
    order = np.argsort([-count for count in row], kind="stable").tolist()
    return _exhibits(found, reference, quality, paths, order, prepare)


def _reference(found: Sequence[Measured]) -> Measured:
    """The widest codec (of equals the last one), or the first anchor."""
    ours = [item for item in found if item.source.kind == "codec"]
    if not ours:
        return found[0]
    return max(enumerate(ours), key=lambda pair: (pair[1].source.settings["width"], pair[0]))[1]


def _shown_quality(qualities: Sequence[int], rates: Sequence[float]) -> int:
    return qualities[int(np.argmin([abs(math.log(rate / SHOWN_BPP)) for rate in rates]))]


def _exhibits(
    found: Sequence[Measured],
    reference: Measured,
    quality: int,
    paths: Sequence[Path],
    order: Sequence[int],
    prepare: Prepare = lambda image: image,
) -> list[Exhibit]:
    chosen = list(dict.fromkeys((order[0], order[len(order) // 2])))
    others = [item for item in found if item is not reference]
    # The other extreme of this codec first, then anchors: widths in between look like their ends.
    ours = [item for item in others if item.source.kind == "codec"]
    others = [*ours[:1], *(item for item in others if item.source.kind != "codec")][:MAX_OTHERS]
    images = {index: prepare(load_image(paths[index])) for index in chosen}
    return [
        _exhibit(index, paths[index].name, image, reference, quality, others)
        for index, image in images.items()
    ]


def _exhibit(
    index: int,
    name: str,
    original: np.ndarray,
    reference: Measured,
    quality: int,
    others: Sequence[Measured],
) -> Exhibit:
    coder = reference.source.open(quality)
    byte_count = reference.byte_counts[reference.qualities.index(quality)][index]
    pictures = [_picture(reference.source, quality, original)]
    pictures += [
        _picture(other.source, other.nearest(index, byte_count), original) for other in others
    ]
    found = None
    if isinstance(coder, CodecCoder):
        from icmh_rt.evaluation.bit_map import bit_map

        found = bit_map(coder.detailed(original), size_of(original))
    return Exhibit(name, original, tuple(pictures), found)


def _picture(source: Source, quality: int, original: np.ndarray) -> Picture:
    coder = source.open(quality)
    data = coder.encode(original).data
    pixels = coder.decode(data)
    return Picture(
        source.name,
        source.kind,
        quality,
        data,
        pixels,
        psnr(original, pixels),
        ms_ssim(original, pixels),
    )
