"""Files of tensors with a description of themselves in their metadata: safetensors, read without
torch and never unpickled.
"""

from __future__ import annotations

import json
import os
from typing import Any

from numpy.typing import NDArray

from icmh_rt._foreign import MAX_TENSORS_BYTES, one_line, parse_json, read_file
from icmh_rt.errors import BackendUnavailableError, BundleError


def safetensors_numpy() -> Any:
    """The module ``safetensors.numpy``; BackendUnavailableError without the package."""
    try:
        import safetensors.numpy
    except ImportError:
        raise BackendUnavailableError(
            "reading a bundle needs safetensors: pip install 'icmh-rt[onnx]' or 'icmh-rt[torch]'"
        ) from None
    return safetensors.numpy


def read_tensors(
    path: str | os.PathLike[str], kind: str
) -> tuple[bytes, dict[str, NDArray[Any]], dict[str, str]]:
    """A file's bytes, arrays by name, and metadata.

    Raises:
        BundleError: it cannot be read or is damaged; ``kind`` ("adapter") says what it should be.
        BackendUnavailableError: safetensors is not installed.
    """
    shown = f"{kind} file {os.fspath(path)!r}"
    try:
        data = read_file(path, MAX_TENSORS_BYTES)
    except OSError as error:
        raise BundleError(f"{shown} cannot be read: {one_line(error)}") from None
    arrays = arrays_of(data, shown)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return data, arrays, header.get("__metadata__") or {}


def arrays_of(data: bytes, shown: str) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file's bytes, by name.

    Raises:
        BundleError: it is damaged or none; names it as ``shown``.
        BackendUnavailableError: safetensors is not installed.
    """
    reader = safetensors_numpy()
    from safetensors import SafetensorError

    try:
        return reader.load(data)
    except KeyError as error:  # a dtype that numpy has not
        raise BundleError(f"{shown} cannot be read: it has a {one_line(error)} array") from None
    except (SafetensorError, ValueError, TypeError, OverflowError) as error:
        raise BundleError(f"{shown} cannot be read: {one_line(error)}") from None


def described(text: str | None, shown: str, kind: str, version: int, maker: str) -> dict[str, Any]:
    """What the file ``shown`` says of itself in JSON; BundleError if it is no ``kind`` file of
    format ``version``. ``maker``: what makes such files.
    """
    if text is None:
        raise BundleError(f"{shown} is not {_a(kind)} file: {maker} makes them")
    try:
        found = parse_json(text)
        its = found["format"]
    except (ValueError, TypeError, KeyError):
        raise BundleError(f"{kind} file {shown} has damaged metadata") from None
    if type(its) is not int or its != version:
        its = its if type(its) in (int, str) and len(str(its)) < 20 else type(its).__name__
        raise BundleError(f"{kind} file {shown} is of format {its!r}; this icmh_rt reads {version}")
    return found


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
