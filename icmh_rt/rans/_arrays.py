"""Arrays at the border of the coder: what is taken as it is, what is converted, what is refused."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from icmh_rt.errors import OptionError

INT32 = np.iinfo(np.int32)


def integers(name: str, value: ArrayLike, ndim: int, low: int | None, high: int | None):
    """Return `value` as an integer array of `ndim` dimensions, all in low..high."""
    array = np.asarray(value)
    if array.size == 0 and array.dtype == np.float64:
        array = array.astype(np.int64)  # what numpy makes of []
    if array.dtype.kind not in "iu":
        raise OptionError(f"{name} has dtype {array.dtype}; give integers")
    if array.ndim != ndim:
        raise OptionError(f"{name} has shape {array.shape}; give {ndim} dimension(s)")
    check_range(name, array, low, high)
    return array


def check_range(name: str, array: np.ndarray, low: int | None, high: int | None) -> None:
    if array.size == 0 or low is None or high is None:
        return
    smallest, largest = int(array.min()), int(array.max())
    if smallest < low or largest > high:
        bad = smallest if smallest < low else largest
        raise OptionError(f"{name} holds {bad}; give values from {low} to {high}")


def take_planes(
    symbols: ArrayLike, indexes: ArrayLike, num_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return symbols int32 (N,) and indexes (N,) of a dtype that the coder takes."""
    values = np.asarray(symbols)
    index_array = np.asarray(indexes)
    if values.shape != index_array.shape:
        raise OptionError(
            f"symbols have shape {values.shape} but indexes {index_array.shape}; give equal shapes"
        )
    if values.size == 0 and values.dtype == np.float64:
        values = values.astype(np.int32)
    if values.dtype.kind not in "iu":
        raise OptionError(f"symbols have dtype {values.dtype}; give integers (round first)")
    if values.dtype.itemsize > 4 or values.dtype == np.uint32:
        check_range("symbols", values, int(INT32.min), int(INT32.max))
    values = np.ascontiguousarray(values, dtype=np.int32).reshape(-1)
    return values, take_indexes(index_array, num_rows)


def take_indexes(array: np.ndarray, num_rows: int) -> np.ndarray:
    """Return checked indexes (N,) as uint8, uint16 or int32."""
    if array.size == 0 and array.dtype == np.float64:
        array = array.astype(np.int32)
    if array.dtype.kind not in "iu":
        raise OptionError(f"indexes have dtype {array.dtype}; give integers")
    check_range("indexes", array, 0, num_rows - 1)
    if array.dtype not in (np.uint8, np.uint16, np.int32):
        array = array.astype(np.int32)
    # Also brings arrays of foreign byte order to the native one.
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(-1)
