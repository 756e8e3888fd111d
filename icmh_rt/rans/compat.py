"""The streams of CompressAI's coder, `compressai.ans`, written and read byte for byte.

For streams that CompressAI has to read or has written; where the choice is free, `icmh_rt.rans`
is many times faster and checks what it reads. docs/rans.md, "The CompressAI stream", defines the
bytes.

    tables = compat.Tables(model._quantized_cdf, model._cdf_length, model._offset)
    data = compat.encode(symbols, indexes, tables)
    symbols = compat.decode(data, indexes, tables)

Wherever CompressAI's own behaviour is defined, the bytes and the values are the same. Beyond that:

- No symbols give the 8 bytes of the encoder's first state. (CompressAI 1.2.8 writes out of bounds
  for fewer than two symbols.)
- A value is coded if it is at most 2**30 away from the values of its row; others raise OptionError.
  (CompressAI's encoder does not return beyond 2**27; its decoder reads what is written here.)
- A row whose escape interval has all 65536 slots is coded: the interval costs nothing. Intervals
  without slots are taken as long as no symbol falls on them; one that does raises OptionError.
  (CompressAI's encoder divides by zero in both cases; its decoder is defined.)
- Tables that do not run from 0 to 65536 or that fall, and indexes of no row, raise OptionError.
  (CompressAI reads out of bounds.)
- Data that ends early, begins with a state that no encoder leaves, or holds an escape of more than
  8 nibbles or of a value that no encoder can have been given, raises BitstreamError. The format has
  no other redundancy: altered data mostly decodes to wrong symbols.
- Bytes after the last one that the symbols need are accepted, whatever they are, as CompressAI
  does; `Decoder.at_end` tells.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icmh_rt import _native
from icmh_rt.errors import BitstreamError, OptionError
from icmh_rt.rans import _arrays
from icmh_rt.rans.tables import Tables as RansTables

__all__ = ["Decoder", "Encoder", "Tables", "decode", "encode"]

PRECISION = 16
_SYMBOL_DTYPES = (np.dtype(np.int8), np.dtype(np.int16), np.dtype(np.int32))
_INDEX_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.int32))


class Tables:
    """CompressAI's tables, checked and prepared once; immutable, for any number of threads.

    Everything here takes either this object, `icmh_rt.rans.Tables` of 16 bits, or the three arrays.
    The arrays are checked and prepared again in every call, which takes longer than coding a small
    plane.

    Attributes:
        num_tables: the number of rows T.
    """

    __slots__ = ("_arrays", "_native", "num_tables")

    num_tables: int
    _arrays: tuple[NDArray[Any], ...]
    _native: Any

    def __init__(
        self,
        cdfs: ArrayLike | RansTables,
        cdf_lengths: ArrayLike | None = None,
        offsets: ArrayLike | None = None,
    ) -> None:
        """Take `_quantized_cdf`, `_cdf_length` and `_offset` of a CompressAI entropy model.

        Args:
            cdfs: integers (T, K), or T sequences of integers of any lengths: row i has
                cdf_lengths[i] valid entries from 0, not falling, to 65536. Or an
                `icmh_rt.rans.Tables` of 16 bits, alone.
            cdf_lengths: T integers, each at least 2. The row's last interval is the escape.
            offsets: T integers in int32 range, the value of each row's first interval.

        Raises:
            OptionError: the arrays do not have this form; the message names the row.
        """
        if isinstance(cdfs, RansTables):
            _refuse_arrays(cdf_lengths, offsets)
            if cdfs.precision != PRECISION:
                raise OptionError(
                    f"the tables have a precision of {cdfs.precision} bits; CompressAI's have 16"
                )
            found = _table_arrays(cdfs.cdfs, cdfs.lengths, cdfs.offsets)
        else:
            found = _table_arrays(cdfs, cdf_lengths, offsets)
        # Copies, for pickling: the caller may write to the own arrays.
        arrays = tuple(np.array(array) for array in found)
        self._set(arrays, _build(arrays))

    def _set(self, arrays: tuple[NDArray[Any], ...], native: Any) -> None:
        object.__setattr__(self, "_arrays", arrays)
        object.__setattr__(self, "_native", native)
        object.__setattr__(self, "num_tables", len(arrays[-1]))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Tables are immutable; {name} cannot be set")

    def __repr__(self) -> str:
        return f"Tables(rows={self.num_tables})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_unpickle, self._arrays)


# What every function below takes for its tables.
TablesLike: TypeAlias = "Tables | RansTables | ArrayLike"


def encode(
    symbols: ArrayLike,
    indexes: ArrayLike,
    cdfs: TablesLike,
    cdf_lengths: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
) -> bytes:
    """Return what `compressai.ans.RansEncoder().encode_with_indexes` returns for these arguments.

    Args:
        symbols: integers of any dtype and shape, in int32 range. int8, int16 and int32 are used
            as they are (numpy arrays, torch tensors on the CPU), others are converted.
        indexes: integers of the same shape, 0 to T - 1: the row of each symbol. uint8, uint16 and
            int32 are used as they are.
        cdfs, cdf_lengths, offsets: as in `Tables`; or a `Tables` alone.

    Raises:
        OptionError: an argument has the wrong dtype, shape or range, or a symbol cannot be coded.
    """
    values, rows = _planes(symbols, indexes)
    tables = _native_tables(cdfs, cdf_lengths, offsets, expected_symbols=0)
    try:
        return _native.module().compat_encode(values, rows, tables)
    except ValueError as error:
        raise OptionError(str(error)) from None


def decode(
    data: bytes | bytearray | memoryview,
    indexes: ArrayLike,
    cdfs: TablesLike,
    cdf_lengths: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return what `compressai.ans.RansDecoder().decode_with_indexes` returns, as an array.

    Time and memory are bounded by the number of indexes and the size of the tables, whatever the
    data. Bytes after the last one that the symbols need are ignored.

    Args:
        data: the stream.
        indexes: as in `encode`.
        cdfs, cdf_lengths, offsets: as in `encode`.

    Returns:
        int32 array of the shape of `indexes`.

    Raises:
        BitstreamError: the data ends early or is no such stream.
        OptionError: an argument has the wrong dtype, shape or range.
    """
    rows = _integers("indexes", indexes, _INDEX_DTYPES)
    tables = _native_tables(cdfs, cdf_lengths, offsets, expected_symbols=rows.size)
    return Decoder(data)._decode(rows, tables)


class Encoder:
    """`compressai.ans.BufferedRansEncoder`: several planes, each with its tables, in one stream.

    May be shared by threads: each call is one step.
    """

    __slots__ = ("_native_encoder",)

    def __init__(self) -> None:
        self._native_encoder = _native.module().CompatEncoder()

    def encode_with_indexes(
        self,
        symbols: ArrayLike,
        indexes: ArrayLike,
        cdfs: TablesLike,
        cdf_lengths: ArrayLike | None = None,
        offsets: ArrayLike | None = None,
    ) -> None:
        """Append a plane. After an error the encoder is as it was before.

        Arguments and errors as in `encode`.
        """
        values, rows = _planes(symbols, indexes)
        tables = _native_tables(cdfs, cdf_lengths, offsets, expected_symbols=0)
        try:
            self._native_encoder.append(values, rows, tables)
        except ValueError as error:
            raise OptionError(str(error)) from None

    def flush(self) -> bytes:
        """Return the stream of all planes since the last flush, and begin the next one."""
        return self._native_encoder.flush()


class Decoder:
    """`compressai.ans.RansDecoder` after `set_stream`: decodes plane after plane of one stream.

    May be shared by threads: each call is one step.
    """

    __slots__ = ("_native_decoder",)

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        """Take a copy of the stream.

        Raises:
            BitstreamError: the data has fewer than 8 bytes, or they are not a coder's state.
            OptionError: the data is not contiguous bytes.
        """
        try:
            view = memoryview(data)
        except TypeError:
            raise OptionError(f"data is a {type(data).__name__}; give bytes") from None
        if not view.c_contiguous:
            raise OptionError("data is not contiguous; give bytes")
        module = _native.module()
        try:
            self._native_decoder = module.CompatDecoder(view)
        except module.CorruptStream as error:
            raise _bitstream_error(error) from None

    def decode_stream(
        self,
        indexes: ArrayLike,
        cdfs: TablesLike,
        cdf_lengths: ArrayLike | None = None,
        offsets: ArrayLike | None = None,
    ) -> NDArray[Any]:
        """Decode the next plane. After an error the decoder is as it was before.

        Arguments, result and errors as in `decode`.
        """
        rows = _integers("indexes", indexes, _INDEX_DTYPES)
        tables = _native_tables(cdfs, cdf_lengths, offsets, expected_symbols=rows.size)
        return self._decode(rows, tables)

    def _decode(self, rows: NDArray[Any], tables: Any) -> NDArray[Any]:
        module = _native.module()
        try:
            symbols = self._native_decoder.decode(rows, tables)
        except module.CorruptStream as error:
            raise _bitstream_error(error) from None
        except ValueError as error:
            raise OptionError(str(error)) from None
        return symbols.reshape(rows.shape)

    @property
    def at_end(self) -> bool:
        """True if all bytes are used and the state is the one that encoders start from.

        It is, once everything that was encoded is decoded. Wrong tables, wrong indexes and altered
        or foreign bytes make it False nearly always: it is the only check that the format allows.
        """
        return self._native_decoder.at_end


def _bitstream_error(error: Exception) -> BitstreamError:
    return BitstreamError(
        f"the CompressAI stream is corrupt or of other indexes or tables: {error}; "
        "get an intact copy"
    )


def _integers(name: str, value: ArrayLike, dtypes: tuple[np.dtype[Any], ...]) -> NDArray[Any]:
    """Return integers as one of the dtypes, the last of which is int32, ready for the module."""
    array = _arrays.as_array(name, value)
    if array.size == 0 and array.dtype == np.float64:
        array = array.astype(np.int32)  # what numpy makes of []
    if array.dtype.kind not in "iu":
        raise OptionError(f"{name} must be integers, not {array.dtype}; round first")
    if array.dtype not in dtypes:
        _arrays.check_range(name, array, int(_arrays.INT32.min), int(_arrays.INT32.max))
        array = array.astype(np.int32)
    return np.require(array, requirements=("C", "A"))


def _planes(symbols: ArrayLike, indexes: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    values = _integers("symbols", symbols, _SYMBOL_DTYPES)
    rows = _integers("indexes", indexes, _INDEX_DTYPES)
    if values.shape != rows.shape:
        raise OptionError(
            f"symbols have shape {values.shape} but indexes {rows.shape}; give equal shapes"
        )
    return values, rows


def _table_arrays(
    cdfs: ArrayLike, cdf_lengths: ArrayLike | None, offsets: ArrayLike | None
) -> tuple[NDArray[Any], ...]:
    """Return cdfs int32 (N,), starts int64 (T,), lengths int32 (T,), offsets int32 (T,)."""
    if cdf_lengths is None or offsets is None:
        raise OptionError("cdf_lengths or offsets are missing; give both, or a Tables alone")
    int32 = (np.dtype(np.int32),)
    lengths = _integers("cdf_lengths", cdf_lengths, int32).reshape(-1)
    first_values = _integers("offsets", offsets, int32).reshape(-1)
    if isinstance(cdfs, (list, tuple)):
        rows = [_integers(f"cdfs[{i}]", row, int32) for i, row in enumerate(cdfs)]
        for i, row in enumerate(rows):
            if row.ndim != 1:
                raise OptionError(f"cdfs[{i}] has shape {row.shape}; give one dimension")
        sizes = np.array([row.size for row in rows], dtype=np.int64)
        flat = np.concatenate(rows) if rows else np.empty(0, np.int32)
    else:
        array = _integers("cdfs", cdfs, int32)
        if array.ndim != 2:
            raise OptionError(f"cdfs has shape {array.shape}; give (T, K)")
        sizes = np.full(array.shape[0], array.shape[1], dtype=np.int64)
        flat = array.reshape(-1)
    if not len(sizes) == len(lengths) == len(first_values):
        raise OptionError(
            f"there are {len(sizes)} cdfs, {len(lengths)} cdf_lengths and {len(first_values)} "
            "offsets; give one of each per row"
        )
    wrong = np.flatnonzero((lengths < 2) | (lengths > sizes))
    if wrong.size:
        row = wrong[0]
        raise OptionError(
            f"cdf_lengths[{row}] is {lengths[row]}; give 2 to {sizes[row]}, the entries of the row"
        )
    return flat, np.cumsum(sizes) - sizes, lengths, first_values


def _build(arrays: tuple[NDArray[Any], ...], expected_symbols: int = -1) -> Any:
    try:
        return _native.module().CompatTables(*arrays, expected_symbols)
    except ValueError as error:
        raise OptionError(f"the tables cannot be used: {error}") from None


def _unpickle(*arrays: NDArray[Any]) -> Tables:
    tables = object.__new__(Tables)
    tables._set(arrays, _build(arrays))
    return tables


def _refuse_arrays(cdf_lengths: Any, offsets: Any) -> None:
    if cdf_lengths is not None or offsets is not None:
        raise OptionError("cdf_lengths and offsets are part of the Tables; leave them out")


def _native_tables(
    cdfs: TablesLike,
    cdf_lengths: ArrayLike | None,
    offsets: ArrayLike | None,
    expected_symbols: int,
) -> Any:
    if isinstance(cdfs, Tables):
        _refuse_arrays(cdf_lengths, offsets)
        return cdfs._native
    if isinstance(cdfs, RansTables):
        _refuse_arrays(cdf_lengths, offsets)
        return _recent.prepared(cdfs)._native
    return _build(_table_arrays(cdfs, cdf_lengths, offsets), expected_symbols)


class _RecentTables:
    """The prepared forms of the last few `icmh_rt.rans.Tables` that were used."""

    CAPACITY = 8

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By identity: Tables are immutable, and being kept here they keep their id.
        self._entries: OrderedDict[int, tuple[RansTables, Tables]] = OrderedDict()

    def prepared(self, tables: RansTables) -> Tables:
        with self._lock:
            entry = self._entries.get(id(tables))
            if entry is not None:
                self._entries.move_to_end(id(tables))
                return entry[1]
        prepared = Tables(tables)  # outside of the lock: two threads may both prepare
        with self._lock:
            self._entries[id(tables)] = (tables, prepared)
            while len(self._entries) > self.CAPACITY:
                self._entries.popitem(last=False)
        return prepared


_recent = _RecentTables()
