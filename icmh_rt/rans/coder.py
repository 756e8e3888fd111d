"""Encoding and decoding planes of integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from icmh_rt import _native
from icmh_rt.errors import BitstreamError, OptionError
from icmh_rt.rans import _arrays
from icmh_rt.rans.tables import Tables


def encode(symbols: ArrayLike, indexes: ArrayLike, tables: Tables, *, seal: int = 0) -> bytes:
    """Encode a plane of integers.

    Args:
        symbols: integers (any integer dtype and shape) in int32 range; values outside their row of
            the tables are coded as escapes.
        indexes: integers of the same shape, 0 to tables.num_tables - 1. uint8, uint16 and int32
            are used as they are, other dtypes are converted.
        tables: the tables.
        seal: 16 bits of the caller's, 0 to 65535, that `decode_sealed` gives back. They ride where
            the coder's state would otherwise hold a constant, so they cost no byte.

    Returns:
        The stream (docs/rans.md): at most tables.bits(symbols, indexes) * 1.003 / 8 + 8 bytes. It
        does not hold the shape, the indexes or the tables.

    Raises:
        OptionError: an argument has the wrong dtype, shape or range.
    """
    return _encode(symbols, indexes, tables, lanes=0, chunks=0, seal=seal)


def decode(data: bytes | bytearray | memoryview, indexes: ArrayLike, tables: Tables) -> np.ndarray:
    """Decode what `encode` made without a seal, given the same indexes and tables.

    Time and memory are bounded by the number of indexes, whatever the data.

    Args:
        data: the stream, all of it and nothing more.
        indexes: as in `encode`.
        tables: as in `encode`.

    Returns:
        int32 array of the shape of `indexes`.

    Raises:
        BitstreamError: the data is truncated, has bytes too many, or is not consistent. An altered
            stream may also decode to other symbols: a checksum is the container's job.
        OptionError: an argument has the wrong dtype, shape or range.
    """
    symbols, seal = decode_sealed(data, indexes, tables)
    if seal != 0:
        raise BitstreamError(
            f"the rANS stream of {symbols.size} symbols is corrupt or sealed: its seal is {seal}; "
            "decode_sealed reads sealed streams"
        )
    return symbols


def decode_sealed(
    data: bytes | bytearray | memoryview, indexes: ArrayLike, tables: Tables
) -> tuple[np.ndarray, int]:
    """`decode` for streams with a seal: the symbols, and the seal that `encode` was given.

    What the seal must be is for the caller to check; 16 bits of a checksum serve well.
    """
    _check_tables(tables)
    try:
        view = memoryview(data)
    except TypeError:
        raise OptionError(f"data is a {type(data).__name__}; give bytes") from None
    if not view.c_contiguous:
        raise OptionError("data is not contiguous; give bytes")
    index_array = np.asarray(indexes)
    rows = _arrays.take_indexes(index_array, tables.num_tables)
    module = _native.module()
    try:
        symbols, seal = module.rans_decode(view, rows, tables._native())
    except module.CorruptStream as error:
        raise BitstreamError(
            f"the rANS stream of {len(rows)} symbols is corrupt: {error}; get an intact copy"
        ) from None
    return symbols.reshape(index_array.shape), seal


def _encode(
    symbols: ArrayLike,
    indexes: ArrayLike,
    tables: Tables,
    *,
    lanes: int,
    chunks: int,
    seal: int = 0,
) -> bytes:
    """`encode` with a forced layout (0: choose), for tests and benchmarks."""
    _check_tables(tables)
    values, rows = _arrays.take_planes(symbols, indexes, tables.num_tables)
    is_whole = isinstance(seal, (int, np.integer)) and not isinstance(seal, bool)
    if not is_whole or not 0 <= seal < 2**16:
        raise OptionError(f"seal is {seal!r}; give an integer from 0 to 65535")
    try:
        return _native.module().rans_encode(
            values, rows, tables._native(), lanes, chunks, int(seal)
        )
    except ValueError as error:
        raise OptionError(f"cannot encode: {error}") from None


def _check_tables(tables: Any) -> None:
    if not isinstance(tables, Tables):
        raise OptionError(f"tables is a {type(tables).__name__}; make one with Tables.from_cdfs")
