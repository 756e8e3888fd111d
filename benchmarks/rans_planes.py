"""What benchmarks/rans.py codes: planes of symbols whose true distributions are known, and latents.

A synthetic symbol is a Gaussian or Laplacian of mean 0, rounded, whose standard deviation is drawn
per symbol from a geometric table of 64; the largest is chosen so that the mean entropy is 1 bit.
Its probabilities are integrals over unit bins in float64, so the cross-entropy that sizes are held
against owes nothing to quantised tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from icmh_rt import rans
from icmh_rt.errors import ImageError
from icmh_rt.gaussian import bin_mass

SCALES = 64
SCALE_MIN = 0.11
"""CompressAI's smallest scale; its symbols are nearly always 0."""
MEAN_BITS = 1.0
_ENTROPY_REACH = 30
_REACH = 60
"""Values -60 to 60 hold all the mass that float64 can tell from none, at the scales used here."""


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane of symbols, what codes it, and what it should take.

    symbols: int32 (N,) · indexes: uint8 (N,) · tables: ours · wide_tables: the same model at 16
    bits with the support that CompressAI chooses (tail mass 1e-9) · narrow_tables: at 16 bits with
    the support of `tables` · family: "gaussian" or "laplacian" · scales: float64 (T,), standard
    deviation of each row · ideal_bits: cross-entropy under the true model, or under the trained
    one if `is_real`.
    """

    name: str
    family: str
    symbols: np.ndarray
    indexes: np.ndarray
    tables: rans.Tables
    narrow_tables: rans.Tables
    wide_tables: rans.Tables
    scales: np.ndarray
    ideal_bits: float
    is_real: bool = False

    def __len__(self) -> int:
        return len(self.symbols)


def laplacian_mass(symbol: int, sigma: float) -> float:
    """P(symbol - 1/2 < X < symbol + 1/2), X Laplacian of mean 0 and standard deviation sigma."""
    b = sigma / math.sqrt(2.0)
    if symbol == 0:
        return -math.expm1(-0.5 / b)
    return 0.5 * math.exp(-(abs(symbol) - 0.5) / b) * -math.expm1(-1.0 / b)


MASS: dict[str, Callable[[int, float], float]] = {
    "gaussian": bin_mass,
    "laplacian": laplacian_mass,
}


def synthetic(family: str, size: int, seed: int, precision: int, tail_mass: float) -> Plane:
    """Draw a plane of `size` symbols and make tables of the true probabilities for it."""
    scales = scale_table(family)
    # One-sided: entry s is P(s) = P(-s).
    masses = np.array([[MASS[family](s, sigma) for s in range(_REACH + 1)] for sigma in scales])
    generator = np.random.default_rng(seed)
    indexes = generator.integers(0, SCALES, size).astype(np.uint8)
    sigmas = scales[indexes]
    if family == "gaussian":
        values = generator.normal(size=size) * sigmas
    else:
        values = generator.laplace(size=size) * (sigmas / math.sqrt(2.0))
    symbols = np.rint(values).astype(np.int32)
    return Plane(
        name=family,
        family=family,
        symbols=symbols,
        indexes=indexes,
        tables=tables_of(masses, tail_mass, precision),
        narrow_tables=tables_of(masses, tail_mass, 16),
        wide_tables=tables_of(masses, 1e-9, 16),
        scales=scales,
        ideal_bits=float(-np.log2(masses[indexes, np.abs(symbols)]).sum()),
    )


@cache
def scale_table(family: str) -> np.ndarray:
    """64 standard deviations in geometric steps from 0.11, of mean entropy 1 bit."""
    low, high = SCALE_MIN, 10.0
    for _ in range(40):
        middle = math.sqrt(low * high)
        table = np.geomspace(SCALE_MIN, middle, SCALES)
        if np.mean([_entropy(family, sigma) for sigma in table]) < MEAN_BITS:
            low = middle
        else:
            high = middle
    return np.geomspace(SCALE_MIN, low, SCALES)


def tables_of(masses: np.ndarray, tail_mass: float, precision: int) -> rans.Tables:
    """Tables of symmetric rows, each cut where at most `tail_mass` lies outside."""
    rows, offsets = [], []
    for row in masses:
        # From the far end, so that the small ones are not lost in the large ones.
        outside = 2.0 * np.cumsum(row[::-1])[::-1]
        reach = int(np.argmax(np.append(outside[1:], 0.0) <= tail_mass))
        rows.append(np.concatenate([row[reach:0:-1], row[: reach + 1]]))
        offsets.append(-reach)
    return rans.Tables.from_pmfs(rows, offsets=offsets, precision=precision)


def latents(
    images: Sequence[Path], quality: int, precision: int, tail_mass: float
) -> tuple[Plane, list[str]]:
    """The latents of photographs under the default bundle, one after the other.

    They are coded with the bundle's own tables. The ideal is the trained model's estimate; what
    really made the symbols is unknown.
    """
    from icmh_rt.codec import Encoder
    from icmh_rt.gaussian import ScaleTable

    encoder = Encoder(width=1.0, quality=quality, device="cpu")
    config = encoder.backend.bundle.config
    table = ScaleTable(config["scale_min"], config["scale_max"], config["scale_levels"])
    symbols, indexes, bits = [], [], 0.0
    reports = [encoder.encode_detailed(image) for image in images]
    for report in reports:
        symbols.append(report.latents.symbols_y.reshape(-1))
        indexes.append(report.latents.indexes_y.reshape(-1))
        bits += table.bits(symbols[-1], indexes[-1])
    tables = encoder.backend.bundle.tables
    narrow, narrow_offsets = table.pmf_rows(tail_mass)
    wide, wide_offsets = table.pmf_rows(1e-9)
    plane = Plane(
        name=f"latents q{quality}",
        family="gaussian",
        symbols=np.concatenate(symbols).astype(np.int32, copy=False),
        indexes=np.concatenate(indexes),
        tables=tables,
        narrow_tables=rans.Tables.from_pmfs(narrow, offsets=narrow_offsets, precision=16),
        wide_tables=rans.Tables.from_pmfs(wide, offsets=wide_offsets, precision=16),
        scales=np.array(table.sigmas),
        ideal_bits=bits,
        is_real=True,
    )
    return plane, [path.name for path in images]


def photographs(folder: str | None, count: int) -> list[Path]:
    """At most `count` PNG files spread evenly over the sorted ones of a folder."""
    root = Path(folder) if folder else Path(__file__).resolve().parent.parent / "examples"
    found = sorted(root.glob("*.png"))
    if not found:
        raise ImageError(f"there is no *.png in {root}: name a folder of photographs with --data")
    steps = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[step] for step in steps]


def save(plane: Plane, path: Path) -> None:
    """Write a plane for another process."""
    arrays = {"symbols": plane.symbols, "indexes": plane.indexes, "scales": plane.scales}
    for key in _TABLES:
        for name, array in getattr(plane, key).to_arrays().items():
            arrays[f"{key}.{name}"] = array
    arrays["facts"] = np.array([plane.name, plane.family])
    arrays["ideal_bits"] = np.array(plane.ideal_bits)
    arrays["is_real"] = np.array(plane.is_real)
    np.savez(path, **arrays)


def load(path: Path) -> Plane:
    """What `save` wrote."""
    with np.load(path) as arrays:
        tables = {}
        for key in _TABLES:
            names = [name for name in arrays if name.startswith(f"{key}.")]
            parts = {name[len(key) + 1 :]: arrays[name] for name in names}
            tables[key] = rans.Tables.from_arrays(parts)
        name, family = arrays["facts"].tolist()
        return Plane(
            name=name,
            family=family,
            symbols=arrays["symbols"],
            indexes=arrays["indexes"],
            scales=arrays["scales"],
            ideal_bits=float(arrays["ideal_bits"]),
            is_real=bool(arrays["is_real"]),
            **tables,
        )


_TABLES = ("tables", "narrow_tables", "wide_tables")


def _entropy(family: str, sigma: float) -> float:
    masses = [MASS[family](s, sigma) for s in range(_ENTROPY_REACH + 1)]
    return -sum((1 if s == 0 else 2) * p * math.log2(p) for s, p in enumerate(masses) if p > 0.0)
