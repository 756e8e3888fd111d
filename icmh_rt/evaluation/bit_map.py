"""Where in a picture the bits of its stream go: what the symbols at each latent position cost.

The cost is what the coder's own integer tables charge, escapes included; the stream is within a
fraction of a percent of the sum, plus its header. What a position of the hyper-latent costs is
shared out equally among the latent positions that it describes, so that nothing is left over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from icmh_rt.codec import EncodeReport
from icmh_rt.coding import DEFAULT_HYPER_STRIDE as HYPER_STEP


@dataclass(frozen=True, eq=False)
class BitMap:
    """Bits by latent position.

    bits: float64 (h, w).  stride: pixels of the picture between positions.  origin: row and column
    of the pixel where the first position's square begins; negative where the codec pads in front.
    """

    bits: np.ndarray
    stride: int
    origin: tuple[int, int]


def bit_map(report: EncodeReport, image_size: tuple[int, int]) -> BitMap:
    """The map of one encoded picture of (height, width)."""
    coding, latents = report.coding, report.latents
    bits = coding.tables_y.symbol_bits(latents.symbols_y, latents.indexes_y).sum(axis=2)
    if latents.symbols_z.size:
        of_z = coding.tables_z.symbol_bits(latents.symbols_z, report.indexes_z).sum(axis=2)
        bits = bits + _shared(of_z, bits.shape)
    return BitMap(bits, coding.latent_stride, coding.latent_origin(image_size))


def _shared(of_z: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(hz, wz) to ``shape`` with the same sum: equal parts within each position's block."""
    rows, columns = (np.arange(side) // HYPER_STEP for side in shape)
    covered = np.outer(
        np.bincount(rows, minlength=of_z.shape[0]), np.bincount(columns, minlength=of_z.shape[1])
    )
    return (of_z / np.maximum(covered, 1))[np.ix_(rows, columns)]
