"""Encoding and decoding planes of integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from icmh_rt import _native
from icmh_rt.errors import BitstreamError, OptionError
from icmh_rt.rans import _arrays
from icmh_rt.rans.tables import Tables


def max_encoded_size(num_symbols: int) -> int:
    """Return how many bytes `encode` gives at most for so many symbols, whatever they are.

    A symbol takes at most one word of 16 bits, and 66 bits if it is an escape; what a chunk costs
    besides is far below what this counts for its symbols.
    """
    if isinstance(num_symbols, bool) or not isinstance(num_symbols, (int, np.integer)):
        raise OptionError(f"num_symbols is {num_symbols!r}; give an integer")
    if num_symbols < 0:
        raise OptionError(f"num_symbols is {num_symbols}; give 0 or more")
    return 11 * int(num_symbols) + 320


def encode(
    symbols: ArrayLike,
    indexes: ArrayLike,
    tables: Tables,
    *,
    seal: int = 0,
    threads: int | None = None,
    out: Any = None,
) -> bytes | memoryview:
    """Encode a plane of integers.

    Arrays are used where they are, without a copy, if they are contiguous and of the dtypes named;
    torch tensors on the CPU and other arrays that speak DLPack too. The GIL is released meanwhile:
    do not write to the arrays until the call returns.

    Args:
        symbols: integers of any shape, int8, int16 or int32 (other integers are converted), in
            int32 range. Values outside their row of the tables are coded as escapes.
        indexes: integers of the same shape, uint8, uint16 or int32 (others are converted), 0 to
            tables.num_tables - 1.
        tables: the tables.
        seal: 16 bits of the caller's, 0 to 65535, that `decode_sealed` gives back. They ride where
            the coder's state would otherwise hold a constant, so they cost no byte.
        threads: at most so many for large planes (default: icmh_rt.get_num_threads()). The bytes
            do not depend on it.
        out: a writable contiguous buffer for the stream (default: a new bytes object).
            `max_encoded_size` bytes are always enough.

    Returns:
        The stream (docs/rans.md): at most tables.bits(symbols, indexes) * 1.003 / 8 + 8 bytes. It
        does not hold the shape, the indexes or the tables. With `out`, a memoryview of its part
        that was filled.

    Raises:
        OptionError: an argument has the wrong dtype, shape or range, or `out` is too small (and
            its contents are as they were).
    """
    data = _encode(symbols, indexes, tables, seal=seal, threads=threads)
    if out is None:
        return data
    view = _byte_view("out", out)
    if view.readonly:
        raise OptionError("out is read-only; give a writable buffer")
    if view.nbytes < len(data):
        raise OptionError(f"out has {view.nbytes} bytes; the stream takes {len(data)}")
    view[: len(data)] = data
    return view[: len(data)]


def decode(
    data: bytes | bytearray | memoryview,
    indexes: ArrayLike,
    tables: Tables,
    *,
    dtype: DTypeLike = np.int32,
    threads: int | None = None,
    out: Any = None,
) -> Any:
    """Decode what `encode` made without a seal, given the same indexes and tables.

    Time and memory are bounded by the number of indexes, whatever the data.

    Args:
        data: the stream, all of it and nothing more: bytes or any contiguous buffer.
        indexes: as in `encode`.
        tables: as in `encode`.
        dtype: of the symbols: int8, int16 or int32.
        threads: as in `encode`.
        out: an int8, int16 or int32 array (or CPU tensor) of the shape of `indexes` to fill, in
            place of a new one; `dtype` is then its own.

    Returns:
        The symbols, an array of the shape of `indexes`, or `out`.

    Raises:
        BitstreamError: the data is truncated, has bytes too many, is not consistent, or holds a
            symbol that the dtype cannot. An altered stream may also decode to other symbols: a
            checksum is the container's job. What is in `out` is then undefined.
        OptionError: an argument has the wrong dtype, shape or range.
    """
    symbols, seal = decode_sealed(data, indexes, tables, dtype=dtype, threads=threads, out=out)
    if seal != 0:
        raise BitstreamError(
            f"the rANS stream is corrupt or sealed: its seal is {seal}; decode_sealed reads sealed "
            "streams"
        )
    return symbols


def decode_sealed(
    data: bytes | bytearray | memoryview,
    indexes: ArrayLike,
    tables: Tables,
    *,
    dtype: DTypeLike = np.int32,
    threads: int | None = None,
    out: Any = None,
) -> tuple[Any, int]:
    """`decode` for streams with a seal: the symbols, and the seal that `encode` was given.

    What the seal must be is for the caller to check; 16 bits of a checksum serve well.
    """
    return _decode(data, indexes, tables, dtype=dtype, threads=threads, out=out)


def decode_beginning(
    data: bytes | bytearray | memoryview,
    indexes: ArrayLike,
    tables: Tables,
    *,
    level: str = "",
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """What the first bytes of a stream tell, for streams that were cut.

    Told is what docs/rans.md says: nearly all symbols before the cut, but for the values outside of
    their tables, which stand at the end of a chunk.

    Args:
        data: the beginning of a stream, down to no byte at all.
        indexes, tables: as in `decode`.
        level: instruction set, for tests.

    Returns:
        The symbols and which of them are the stream's, arrays of the shape of ``indexes``; the
        others are 0. Nothing says whether ``data`` was altered.

    Raises:
        OptionError: an argument has the wrong dtype, shape or range.
    """
    _check_tables(tables)
    view = _byte_view("data", data)
    rows = _arrays.take_indexes(indexes)
    symbols = np.empty(rows.shape, np.int32)
    known = np.empty(rows.shape, np.bool_)
    try:
        _native.module().rans_decode_beginning(
            view, rows, tables._native(), symbols, known.reshape(-1).view(np.uint8), level=level
        )
    except ValueError as error:
        _arrays.check_indexes(indexes, tables.num_tables)
        raise OptionError(f"cannot decode: {error}") from None
    return symbols, known


def _encode(
    symbols: ArrayLike,
    indexes: ArrayLike,
    tables: Tables,
    *,
    lanes: int = 0,
    chunks: int = 0,
    seal: int = 0,
    threads: int | None = None,
    level: str = "",
) -> bytes:
    """`encode` with a forced layout (0: choose) and instruction set, for tests and benchmarks."""
    _check_tables(tables)
    values, rows = _arrays.take_planes(symbols, indexes)
    is_whole = isinstance(seal, (int, np.integer)) and not isinstance(seal, bool)
    if not is_whole or not 0 <= seal < 2**16:
        raise OptionError(f"seal is {seal!r}; give an integer from 0 to 65535")
    try:
        return _native.module().rans_encode(
            values,
            rows,
            tables._native(),
            lanes=lanes,
            chunks=chunks,
            seal=int(seal),
            threads=_check_threads(threads),
            level=level,
        )
    except ValueError as error:
        _arrays.check_indexes(indexes, tables.num_tables)
        raise OptionError(f"cannot encode: {error}") from None


def _decode(
    data: bytes | bytearray | memoryview,
    indexes: ArrayLike,
    tables: Tables,
    *,
    dtype: DTypeLike = np.int32,
    threads: int | None = None,
    out: Any = None,
    level: str = "",
) -> tuple[Any, int]:
    """`decode_sealed` with a forced instruction set."""
    _check_tables(tables)
    view = _byte_view("data", data)
    rows = _arrays.take_indexes(indexes)
    if out is None:
        symbols = np.empty(rows.shape, _arrays.symbol_type(dtype))
    else:
        symbols = _arrays.take_output(out, rows.shape)
    module = _native.module()
    try:
        seal = module.rans_decode(
            view, rows, tables._native(), symbols, threads=_check_threads(threads), level=level
        )
    except ValueError as error:
        _arrays.check_indexes(indexes, tables.num_tables)
        if not isinstance(error, module.CorruptStream):
            raise OptionError(f"cannot decode: {error}") from None
        raise BitstreamError(
            f"the rANS stream of {rows.size} symbols is corrupt: {error}; get an intact copy"
        ) from None
    return (symbols if out is None else out), seal


def _check_tables(tables: Any) -> None:
    if not isinstance(tables, Tables):
        raise OptionError(f"tables is a {type(tables).__name__}; make one with Tables.from_cdfs")


def _check_threads(threads: Any) -> int:
    if threads is None:
        return 0
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or threads < 1:
        raise OptionError(f"threads is {threads!r}; give an integer of at least 1, or None")
    return min(int(threads), 2**16)


def _byte_view(name: str, value: Any) -> memoryview:
    try:
        view = memoryview(value)
    except TypeError:
        raise OptionError(f"{name} is a {type(value).__name__}; give bytes") from None
    if not view.c_contiguous:
        raise OptionError(f"{name} is not contiguous; give bytes")
    # cast() refuses views without elements.
    return view.cast("B") if view.nbytes else memoryview(bytearray())
