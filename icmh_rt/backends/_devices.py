"""Names of devices, and how many CUDA devices there are, found out without torch."""

from __future__ import annotations

import ctypes
import re
import sys
from functools import cache
from typing import NamedTuple

from icmh_rt.errors import OptionError

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_ALLOWED = "use auto, cpu, cuda or cuda:N"


class Device(NamedTuple):
    """kind: "auto", "cpu" or "cuda" · index: of "cuda:N", else None."""

    kind: str
    index: int | None = None  # type: ignore[assignment]  # not tuple's method

    def __str__(self) -> str:
        return self.kind if self.index is None else f"{self.kind}:{self.index}"


class Driver(NamedTuple):
    """devices: how many CUDA devices the driver has · problem: why none, if it is no usual one."""

    devices: int
    problem: str | None = None


def parse(name: str) -> Device:
    """The device of that name; OptionError if there can be none."""
    if not isinstance(name, str):
        raise OptionError(f"device is {name!r}: {_ALLOWED}")
    match = re.fullmatch(r"(auto|cpu)|cuda(?::(\d{1,4}))?", name)
    if match is None:
        raise OptionError(f"device {name!r} is unknown: {_ALLOWED}")
    return Device(match[1] or "cuda", int(match[2]) if match[2] else None)


@cache
def driver() -> Driver:
    """What NVIDIA's driver says. Asking it takes some milliseconds, once in a process."""
    try:
        library = ctypes.CDLL(_DRIVER)
    except OSError:
        return Driver(0)
    code = library.cuInit(0)
    if code == _NO_DEVICE:
        return Driver(0)
    count = ctypes.c_int()
    code = code or library.cuDeviceGetCount(ctypes.byref(count))
    if code:
        return Driver(0, f"{_DRIVER} is there and its cuInit fails with error {code}")
    return Driver(count.value)


def cuda_devices() -> int:
    """How many CUDA devices this process can use."""
    return driver().devices


def missing(device: Device) -> str | None:
    """Why that device is not on this machine; None if it may be."""
    if device.kind != "cuda" or (device.index or 0) < cuda_devices():
        return None
    problem = driver().problem
    return (
        f"device {str(device)!r} is not here: this machine has {cuda_devices()} CUDA device(s)"
        f"{f' ({problem})' if problem else ''}; use device='cpu'"
    )
