"""Files of tensors with a description of themselves in their metadata: safetensors, read without
torch and never unpickled.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

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
) -> tuple[bytes, dict[str, np.ndarray], dict[str, str]]:
    """A file's bytes, arrays by name, and metadata.

    Raises:
        BundleError: it cannot be read or is damaged; ``kind`` ("adapter") says what it should be.
        BackendUnavailableError: safetensors is not installed.
    """
    reader = safetensors_numpy()
    from safetensors import SafetensorError

    try:
        data = Path(path).read_bytes()
        arrays = reader.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        shown = repr(os.fspath(path))
        raise BundleError(f"{kind} file {shown} cannot be read: {reason}") from None
    return data, arrays, header.get("__metadata__", {})


def described(text: str | None, shown: str, kind: str, version: int, maker: str) -> dict[str, Any]:
    """What the file ``shown`` says of itself in JSON; BundleError if it is no ``kind`` file of
    format ``version``. ``maker``: what makes such files.
    """
    if text is None:
        raise BundleError(f"{shown} is not {_a(kind)} file: {maker} makes them")
    try:
        found = json.loads(text)
        its = found["format"]
    except (ValueError, TypeError, KeyError):
        raise BundleError(f"{kind} file {shown} has damaged metadata") from None
    if its != version:
        raise BundleError(f"{kind} file {shown} is of format {its!r}; this icmh_rt reads {version}")
    return found


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
