"""icmh_rt: learned image compression for machines and humans.

The whole public face is here: `Encoder`, `Decoder`, `read_header`, `set_num_threads`, the errors,
and the entropy coder `rans`. Names are loaded when first used, so `import icmh_rt` and
`read_header` work without torch; `Encoder` and `Decoder` need the `torch` extra.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from icmh_rt.errors import (
    BackendUnavailableError,
    BitstreamError,
    BundleError,
    IcmhError,
    ImageError,
    ModelMismatchError,
    OptionError,
    TrainingError,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from icmh_rt import bitstream as bitstream
    from icmh_rt import bundle as bundle
    from icmh_rt import codec as codec
    from icmh_rt import images as images
    from icmh_rt import models as models
    from icmh_rt import rans as rans
    from icmh_rt._threads import get_num_threads, set_num_threads
    from icmh_rt.bitstream import Header
    from icmh_rt.codec import Decoder, Encoder

    __version__: str

__all__ = [
    "BackendUnavailableError",
    "BitstreamError",
    "BundleError",
    "Decoder",
    "Encoder",
    "IcmhError",
    "ImageError",
    "ModelMismatchError",
    "OptionError",
    "TrainingError",
    "get_num_threads",
    "read_header",
    "set_num_threads",
]

_LAZY_NAMES = {
    "Decoder": "icmh_rt.codec",
    "Encoder": "icmh_rt.codec",
    "get_num_threads": "icmh_rt._threads",
    "set_num_threads": "icmh_rt._threads",
}
_LAZY_MODULES = frozenset({"bitstream", "bundle", "codec", "images", "models", "rans"})


def read_header(data: Buffer, *, max_pixels: int | None = None) -> Header:
    """Read what a stream says about itself, without torch and without decoding it.

    Args:
        data: a whole ICMH stream as bytes, bytearray or memoryview.
        max_pixels: refuse images of more pixels than this (default
            `icmh_rt.bitstream.DEFAULT_MAX_PIXELS`).

    Returns:
        A `icmh_rt.bitstream.Header`; its `model` is the name of the installed bundle that made
        the stream, or None when no installed bundle has its fingerprint.

    Raises:
        BitstreamError: the stream is truncated, altered, of another version, or too large.
    """
    import dataclasses

    from icmh_rt import bitstream
    from icmh_rt.bundle import name_of

    limit = bitstream.DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels
    header = bitstream.read_header(data, max_pixels=limit)
    return dataclasses.replace(header, model=name_of(header.fingerprint))


def _version() -> str:
    """The installed version; pyproject.toml is its only home."""
    from importlib import metadata

    try:
        return metadata.version("icmh-rt")
    except metadata.PackageNotFoundError:
        return "0+not.installed"


def _load(name: str) -> Any:
    if name in _LAZY_NAMES:
        value = getattr(importlib.import_module(_LAZY_NAMES[name]), name)
    elif name in _LAZY_MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of these
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY_NAMES, *_LAZY_MODULES, "__version__"})
