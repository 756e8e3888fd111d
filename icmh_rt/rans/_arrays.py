"""Arrays at the border of the coder: what is taken as it is, what is converted, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from icmh_rt.errors import OptionError

INT32 = np.iinfo(np.int32)

_SYMBOL_TYPES = (np.dtype(np.int8), np.dtype(np.int16), np.dtype(np.int32))
_INDEX_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.int32))


def as_array(name: str, value: Any) -> NDArray[Any]:
    """Return `value` as a numpy array, sharing its memory if it is an array or a tensor on the CPU.

    Takes everything that numpy takes (torch CPU tensors among it), and what speaks DLPack.
    """
    try:
        if not isinstance(value, np.ndarray) and not hasattr(value, "__array__"):
            if hasattr(value, "__dlpack__"):
                return np.from_dlpack(value)
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        kind = type(value).__name__
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OptionError(
            f"{name} is a {kind} that numpy cannot take ({reason}); give an array on the CPU"
        ) from None


def integers(
    name: str, value: ArrayLike, ndim: int, low: int | None, high: int | None
) -> NDArray[Any]:
    """Return `value` as an integer array of `ndim` dimensions, all in low..high."""
    array = _integer_array(name, value, "")
    if array.ndim != ndim:
        raise OptionError(f"{name} has shape {array.shape}; give {ndim} dimension(s)")
    check_range(name, array, low, high)
    return array


def check_range(name: str, array: NDArray[Any], low: int | None, high: int | None) -> None:
    if array.size == 0 or low is None or high is None:
        return
    smallest, largest = int(array.min()), int(array.max())
    if smallest < low or largest > high:
        bad = smallest if smallest < low else largest
        raise OptionError(f"{name} holds {bad}; give values from {low} to {high}")


def take_planes(symbols: ArrayLike, indexes: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both as contiguous arrays that the coder takes, shared with the caller if possible."""
    values = _integer_array("symbols", symbols, " (round first)")
    rows = take_indexes(indexes)
    if values.shape != rows.shape:
        raise OptionError(
            f"symbols have shape {values.shape} but indexes {rows.shape}; give equal shapes"
        )
    if values.dtype not in _SYMBOL_TYPES:
        check_range("symbols", values, int(INT32.min), int(INT32.max))
        values = values.astype(np.int32)
    return np.require(values, requirements=("C", "A")), rows


def take_indexes(indexes: ArrayLike) -> NDArray[Any]:
    """Return indexes as a contiguous uint8, uint16 or int32 array. Whether they are rows of the
    tables is for the coder to see, in the same pass in which it uses them.
    """
    array = _integer_array("indexes", indexes, "")
    if array.dtype not in _INDEX_TYPES:
        # Out of range for every table, and kept so: what int32 cannot hold becomes -1.
        fits = (array >= 0) & (array <= 2**16)
        array = np.where(fits, array, -1).astype(np.int32)
    return np.require(array, requirements=("C", "A"))


def check_indexes(indexes: ArrayLike, num_rows: int) -> None:
    """Raise OptionError if an index is no row of the tables: the message that the coder cannot
    give.
    """
    check_range("indexes", np.asarray(as_array("indexes", indexes)), 0, num_rows - 1)


def take_output(out: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the caller's array as one that the decoder can fill in place."""
    array = as_array("out", out)
    if array.dtype not in _SYMBOL_TYPES:
        raise OptionError(f"out has dtype {array.dtype}; give int8, int16 or int32")
    if array.shape != shape:
        raise OptionError(f"out has shape {array.shape} but indexes {shape}; give equal shapes")
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned and flags.writeable):
        raise OptionError("out is read-only or not contiguous; give an array of its own memory")
    return array


def symbol_type(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of decoded symbols."""
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        wanted = None
    if wanted is None or wanted not in _SYMBOL_TYPES:
        raise OptionError(f"dtype is {dtype!r}; give int8, int16 or int32")
    return wanted


def _integer_array(name: str, value: Any, hint: str) -> NDArray[Any]:
    array = as_array(name, value)
    if array.size == 0 and array.dtype == np.float64:
        array = array.astype(np.int32)  # what numpy makes of []
    if array.dtype.kind not in "iu":
        raise OptionError(f"{name} {_verb(name)} dtype {array.dtype}; give integers{hint}")
    return array


def _verb(name: str) -> str:
    return "have" if name in ("symbols", "indexes") else "has"
