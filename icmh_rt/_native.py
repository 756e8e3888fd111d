"""The only importer of the compiled module icmh_rt._C: lazy, and clear about why it failed."""

from __future__ import annotations

import importlib
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from icmh_rt.errors import BackendUnavailableError

_module: ModuleType | None = None
_failure: str | None = None


def module() -> ModuleType:
    """Return icmh_rt._C, imported on the first call.

    Raises:
        BackendUnavailableError: the module is missing or does not load; the message gives the
            cause and the modules that were found. Or ICMH_SIMD or ICMH_NUM_THREADS has a value
            that it refuses. The failure is remembered: a later call does not try again.
    """
    global _module, _failure
    if _module is not None:
        return _module
    if _failure is None:
        try:
            _module = importlib.import_module("icmh_rt._C")
            return _module
        except ImportError as error:
            _failure = _explain(error)
    raise BackendUnavailableError(_failure)


def _explain(error: ImportError) -> str:
    """Say in one line what is wrong with the native module, or with its environment."""
    if str(error).startswith("the environment variable "):
        return str(error)
    folder = Path(__file__).resolve().parent
    wanted = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    found = sorted(path.name for path in folder.glob("_C*") if path.suffix in (".so", ".pyd"))
    if wanted in found:
        state = f"{folder / wanted} exists but does not load"
    elif found:
        state = f"{folder} has only {', '.join(found)}, built for another Python than this one"
    else:
        state = f"{folder} has no {wanted}"
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        f"the native module icmh_rt._C is not available on Python {version}: {state} "
        f"({type(error).__name__}: {error}); reinstall with "
        "`pip install --force-reinstall icmh-rt` or, in a checkout, `pip install -e .`"
    )


def crc32c(buffer: Any, initial: int = 0) -> int:
    """Return the CRC-32C (RFC 3720) of a contiguous buffer.

    Args:
        buffer: bytes, bytearray, memoryview or C-contiguous array.
        initial: the CRC of what came before, 0 at the start.
    """
    return module().crc32c(buffer, initial)
