"""Rate-distortion results as CSV: one row of figures for every curve, quality and image.

A row with an empty `image` is the mean over the images; published curves have only these. What is
not known stays empty; an infinite PSNR (an image reproduced exactly) is "inf".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from icmh_rt.evaluation.curves import Curve
from icmh_rt.evaluation.results import Results

COLUMNS = (
    "curve",
    "kind",
    "quality",
    "image",
    "height",
    "width",
    "bytes",
    "bpp",
    "psnr_db",
    "ms_ssim",
    "estimated_bits",
    "encode_ms",
    "decode_ms",
)


def to_csv(results: Results) -> str:
    """RFC 4180 text with a head line; lines end in a line feed."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(COLUMNS)
    for curve in results.curves:
        writer.writerows(_rows(curve))
    return target.getvalue()


def _rows(curve: Curve) -> Iterator[list[object]]:
    of_images = [curve.of_image(i) for i in range(len(curve.images))] if curve.has_images else []
    for index, point in enumerate(curve.points):
        quality = "" if point.quality is None else f"{point.quality:g}"
        first = [curve.name, curve.kind, quality]
        times = [_cell(t[index] if t else None) for t in (curve.encode_ms, curve.decode_ms)]
        figures = [_cell(value) for value in (point.bpp, point.psnr, point.ms_ssim)]
        yield [*first, "", "", "", "", *figures, "", *times]
        for number, (rates, psnrs) in enumerate(of_images):
            image = curve.images[number]
            more = [
                rows[index][number] if rows else None
                for rows in (curve.byte_counts, curve.ms_ssims, curve.estimated_bits)
            ]
            yield [
                *first,
                image.name,
                image.height,
                image.width,
                more[0],
                _cell(rates[index]),
                _cell(psnrs[index]),
                *map(_cell, more[1:]),
                "",
                "",
            ]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}"
