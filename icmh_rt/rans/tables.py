"""Quantized CDF tables."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icmh_rt import _native
from icmh_rt.errors import OptionError
from icmh_rt.rans import _arrays

MIN_PRECISION = 12
MAX_PRECISION = 16
# Measured in docs/rans.md: of 12 to 16 bits, 14 costs least in all (rounding of the tables plus
# coder), 0.05 % at 1 to 6 bits per symbol.
RECOMMENDED_PRECISION = 14


class Tables:
    """Quantized CDF tables, immutable: one row per index value.

    Make them with `from_cdfs`, `from_pmfs` or `from_arrays`.

    Attributes:
        cdfs: uint32 (T, K), read-only. Row i uses its first lengths[i] entries, from 0 rising
            strictly to 2**precision; the rest is 0.
        lengths: int32 (T,), read-only, 2 to K. Row i has lengths[i] - 1 intervals; the last one
            is the escape.
        offsets: int32 (T,), read-only: the value that the first interval of each row codes.
        precision: bits of the probabilities, 12 to 16.
    """

    __slots__ = ("_native_tables", "cdfs", "lengths", "offsets", "precision")

    cdfs: NDArray[np.uint32]
    lengths: NDArray[np.int32]
    offsets: NDArray[np.int32]
    precision: int
    _native_tables: Any

    def __init__(
        self, cdfs: ArrayLike, lengths: ArrayLike, offsets: ArrayLike, precision: int
    ) -> None:
        precision = _check_precision(precision)
        counts = _arrays.integers("lengths", lengths, 1, 0, 2**16 + 1).astype(np.int32)
        firsts = _arrays.integers(
            "offsets", offsets, 1, _arrays.INT32.min, _arrays.INT32.max
        ).astype(np.int32)
        rows = np.asarray(cdfs)
        num_rows = len(counts)
        if rows.ndim != 2 or not len(rows) == num_rows == len(firsts):
            raise OptionError(
                f"cdfs {rows.shape}, lengths {counts.shape} and offsets {firsts.shape} do not "
                "fit together; give (T, K), (T,) and (T,)"
            )
        if not 1 <= num_rows <= 2**16:
            raise OptionError(f"there are {num_rows} table rows; give 1 to 65536")
        used = np.arange(rows.shape[1]) < counts[:, None]
        # What lies behind a row's length has no meaning: it is cleared, so that equal tables are
        # equal arrays whatever was there.
        rows = np.where(used, _arrays.integers("cdfs", rows, 2, None, None), 0)
        _check_rows(rows, counts, firsts, precision)
        arrays: dict[str, NDArray[Any]] = {
            "cdfs": np.ascontiguousarray(rows, dtype=np.uint32),
            "lengths": counts,
            "offsets": firsts,
        }
        for name, array in arrays.items():
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "precision", precision)
        object.__setattr__(self, "_native_tables", None)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Tables are immutable; {name} cannot be set")

    def __repr__(self) -> str:
        return f"Tables(rows={self.num_tables}, precision={self.precision})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tables):
            return NotImplemented
        columns = max(self.cdfs.shape[1], other.cdfs.shape[1])
        return (
            self.precision == other.precision
            and np.array_equal(self.lengths, other.lengths)
            and np.array_equal(self.offsets, other.offsets)
            and np.array_equal(_widened(self.cdfs, columns), _widened(other.cdfs, columns))
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return (Tables, (self.cdfs, self.lengths, self.offsets, self.precision))

    @classmethod
    def from_cdfs(
        cls,
        cdfs: ArrayLike,
        lengths: ArrayLike,
        offsets: ArrayLike,
        precision: int = 16,
    ) -> Tables:
        """Take tables in CompressAI's layout (`_quantized_cdf`, `_cdf_length`, `_offset`).

        Args:
            cdfs: integers (T, K): row i has lengths[i] valid entries, the first 0, strictly
                rising, the last 2**precision. Its last interval is the escape.
            lengths: integers (T,), 2 to K.
            offsets: integers (T,), the value of each row's first interval.
            precision: 12 to 16 bits; CompressAI uses 16.

        Raises:
            OptionError: the arrays do not have this form; the message names the row.
        """
        return cls(cdfs, lengths, offsets, precision)

    @classmethod
    def from_pmfs(
        cls,
        pmfs: Sequence[ArrayLike] | ArrayLike,
        lengths: ArrayLike | None = None,
        offsets: ArrayLike | None = None,
        precision: int = RECOMMENDED_PRECISION,
        tail_masses: ArrayLike | None = None,
    ) -> Tables:
        """Quantize probabilities so that every interval has at least one slot of 2**precision.

        The result depends on the arguments alone (IEEE divisions and additions, no logarithm), so
        equal probabilities give equal tables on every machine.

        Args:
            pmfs: T rows of probabilities, a list of 1-D arrays or one (T, K) array: entry k of row
                i is the probability of the value offsets[i] + k. Not negative; scaled together
                with the row's tail mass to sum 1.
            lengths: integers (T,): how many entries of each row to use (default: all). A row may
                have none: then every value is an escape.
            offsets: integers (T,), the value of each row's first entry (default 0).
            precision: 12 to 16 bits.
            tail_masses: (T,) probability of all values outside each row (default: what is missing
                to 1, at least 0).

        Raises:
            OptionError: an argument is not of this form, or a row has more than
                2**precision - 1 entries.
        """
        precision = _check_precision(precision)
        given: Any = pmfs
        rows = [np.asarray(row, dtype=np.float64) for row in given]
        num_rows = len(rows)
        for i, row in enumerate(rows):
            if row.ndim != 1:
                raise OptionError(f"pmf {i} has shape {row.shape}; give one dimension")
        if lengths is not None:
            counts = _arrays.integers("lengths", lengths, 1, 0, 2**16)
            if len(counts) != num_rows:
                raise OptionError(f"{num_rows} pmfs but {len(counts)} lengths; give one each")
            for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
                if count > row.size:
                    raise OptionError(
                        f"lengths[{i}] is {count}, but pmf {i} has {row.size} entries"
                    )
            rows = [row[:count] for row, count in zip(rows, counts, strict=True)]
        if tail_masses is None:
            tails = [max(0.0, 1.0 - math.fsum(row)) for row in rows]
        else:
            tails = [float(mass) for mass in np.asarray(tail_masses, dtype=np.float64).ravel()]
        if len(tails) != num_rows:
            raise OptionError(f"{num_rows} pmfs but {len(tails)} tail masses; give one each")

        cdfs = np.zeros((num_rows, max((row.size for row in rows), default=0) + 2), dtype=np.uint32)
        for i, (row, tail) in enumerate(zip(rows, tails, strict=True)):
            frequencies = _quantize(f"pmf {i}", np.append(row, tail), 1 << precision)
            cdfs[i, 1 : row.size + 2] = np.cumsum(frequencies)
        return cls(
            cdfs,
            [row.size + 2 for row in rows],
            np.zeros(num_rows, np.int32) if offsets is None else offsets,
            precision,
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Tables:
        """Rebuild tables from what `to_arrays` returned.

        Raises:
            OptionError: an array is missing or not of that form.
        """
        missing = [name for name in _ARRAY_NAMES if name not in arrays]
        if missing:
            raise OptionError(
                f"table arrays lack {', '.join(missing)}; give all that to_arrays gave"
            )
        precision = np.asarray(arrays["precision"])
        if precision.size != 1:
            raise OptionError(f"precision has shape {precision.shape}; give one number")
        cdfs, lengths, offsets = (arrays[name] for name in _ARRAY_NAMES[:3])
        return cls(cdfs, lengths, offsets, int(precision.ravel()[0]))

    def to_arrays(self) -> dict[str, NDArray[np.int32]]:
        """Return cdfs int32 (T, K), lengths int32 (T,), offsets int32 (T,), precision int32 (1,).

        All are int32 because every container format stores that dtype.
        """
        return {
            "cdfs": self.cdfs.astype(np.int32),
            "lengths": self.lengths.copy(),
            "offsets": self.offsets.copy(),
            "precision": np.array([self.precision], dtype=np.int32),
        }

    @property
    def num_tables(self) -> int:
        """Number of rows T; indexes are 0 to T - 1."""
        return len(self.lengths)

    def bits(self, symbols: ArrayLike, indexes: ArrayLike) -> float:
        """Return the information of `symbols` under these tables in bits, escapes included.

        This is what an ideal coder would need; `encode` stays within 0.3 % and 8 bytes of it.

        Args:
            symbols: integers in int32 range, any shape.
            indexes: integers 0 to T - 1, the same shape.

        Raises:
            OptionError: as in `encode`.
        """
        return float(np.sum(self.symbol_bits(symbols, indexes)))

    def symbol_bits(self, symbols: ArrayLike, indexes: ArrayLike) -> NDArray[np.float64]:
        """Return the information of each symbol, float64 of their shape; arguments as `bits`."""
        values, rows = _arrays.take_planes(symbols, indexes)
        _arrays.check_indexes(indexes, self.num_tables)
        values = values.astype(np.int64)
        rows = rows.astype(np.intp)
        counts = self.lengths.astype(np.int64)[rows] - 2
        first = self.offsets.astype(np.int64)[rows]
        above = values - first
        escaped = (above < 0) | (above >= counts)
        intervals = np.where(escaped, counts, above)
        frequencies = self.cdfs[rows, intervals + 1].astype(np.float64) - self.cdfs[rows, intervals]
        bits = np.asarray(self.precision - np.log2(frequencies))
        distances = np.where(above < 0, -1 - above, above - counts)[escaped]
        # frexp's exponent is the bit length, exactly, for integers below 2**53.
        lengths = np.frexp((distances + 1).astype(np.float64))[1]
        bits[escaped] += 2.0 * lengths
        return bits.reshape(np.shape(symbols))

    def _native(self) -> Any:
        """The compiled form, built on first use: parsing tables must not need the module."""
        if self._native_tables is None:
            native = _native.module().RansTables(
                self.cdfs, self.lengths, self.offsets, self.precision
            )
            object.__setattr__(self, "_native_tables", native)
        return self._native_tables


_ARRAY_NAMES = ("cdfs", "lengths", "offsets", "precision")


def _check_precision(precision: Any) -> int:
    if isinstance(precision, bool) or not isinstance(precision, (int, np.integer)):
        raise OptionError(f"precision is {precision!r}; give an integer from 12 to 16")
    if not MIN_PRECISION <= precision <= MAX_PRECISION:
        raise OptionError(f"precision is {precision}; give 12 to 16 bits")
    return int(precision)


def _check_rows(
    cdfs: NDArray[Any], lengths: NDArray[Any], offsets: NDArray[Any], precision: int
) -> None:
    """Raise OptionError naming the first row that is not a table."""
    columns = cdfs.shape[1]
    for i, length in enumerate(lengths.tolist()):
        if not 2 <= length <= columns:
            raise OptionError(
                f"lengths[{i}] is {length}; give 2 to {columns} (the columns of cdfs)"
            )
        row = cdfs[i, :length]
        if row[0] != 0 or row[-1] != 1 << precision:
            raise OptionError(
                f"cdfs[{i}] runs from {row[0]} to {row[-1]}; it must run from 0 to 2**{precision}"
            )
        if not np.all(row[1:] > row[:-1]):
            raise OptionError(f"cdfs[{i}] does not rise strictly; give every interval a slot")
        if int(offsets[i]) + length - 3 > _arrays.INT32.max:
            raise OptionError(
                f"offsets[{i}] is {offsets[i]}; with {length - 2} values it leaves int32"
            )


def _widened(cdfs: NDArray[Any], columns: int) -> NDArray[Any]:
    return np.pad(cdfs, ((0, 0), (0, columns - cdfs.shape[1])))


def _quantize(name: str, masses: NDArray[Any], total: int) -> NDArray[Any]:
    """Return integers >= 1 of sum `total`, near-optimal for coding symbols of these masses.

    Starts from rounding and moves single slots where the coding cost sum(-p log2 f) changes
    least; the derivative p / f at the middle of the step stands for the logarithm's difference,
    because a division is exact everywhere and a logarithm is not.
    """
    if not np.all(np.isfinite(masses)) or np.any(masses < 0):
        raise OptionError(f"{name} has a negative or non-finite probability; give a pmf")
    if masses.size > total:
        raise OptionError(f"{name} has {masses.size - 1} entries; {total} slots hold {total - 1}")
    mass = math.fsum(masses)  # exact, whatever order numpy would add in
    if not mass > 0.0:
        raise OptionError(f"{name} and its tail have no mass; give a pmf")
    probabilities = (masses / mass).tolist()
    frequencies = [max(1, int(p * total + 0.5)) for p in probabilities]
    excess = sum(frequencies) - total
    if excess > 0:
        heap = [
            (p / (f - 0.5), i)
            for i, (p, f) in enumerate(zip(probabilities, frequencies, strict=True))
            if f > 1
        ]
        heapq.heapify(heap)
        for _ in range(excess):
            _, i = heapq.heappop(heap)
            frequencies[i] -= 1
            if frequencies[i] > 1:
                heapq.heappush(heap, (probabilities[i] / (frequencies[i] - 0.5), i))
    elif excess < 0:
        heap = [
            (-p / (f + 0.5), i)
            for i, (p, f) in enumerate(zip(probabilities, frequencies, strict=True))
        ]
        heapq.heapify(heap)
        for _ in range(-excess):
            _, i = heapq.heappop(heap)
            frequencies[i] += 1
            heapq.heappush(heap, (-probabilities[i] / (frequencies[i] + 0.5), i))
    return np.array(frequencies, dtype=np.uint32)
