"""The one exception family of icmh_rt.

Everything that a caller, a file or a stream can get wrong raises a subclass of `IcmhError`, whose
message is one line: what was wrong, with what value, and what to do. Anything else that escapes
(`TypeError` inside the library, `AssertionError`, ...) is a bug in icmh_rt.
"""

from __future__ import annotations

__all__ = [
    "BackendUnavailableError",
    "BitstreamError",
    "BundleError",
    "IcmhError",
    "ImageError",
    "ModelMismatchError",
    "OptionError",
    "TrainingError",
]


class IcmhError(Exception):
    """Base of every error that icmh_rt raises on purpose.

    Shown as one line that fits a terminal, whatever a file's names or values contain.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > _MAX_CHARACTERS:
            text = f"{text[: _MAX_CHARACTERS - 200]} [...] {text[-200:]}"
        if not text.isprintable():
            text = "".join(c if c.isprintable() else _escaped(c) for c in text)
        return text


_MAX_CHARACTERS = 1000


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class BitstreamError(IcmhError, ValueError):
    """A stream is truncated, altered, of another version, or larger than the caller allows."""


class ModelMismatchError(IcmhError):
    """A sound stream was made by another model than the one it is given to; names both."""


class BackendUnavailableError(IcmhError):
    """A compiled module, package or device that was asked for is not there; says why."""


class ImageError(IcmhError):
    """An image cannot be read, has no safe meaning as 8-bit RGB, or cannot be written."""


class OptionError(IcmhError, ValueError):
    """An argument (width, quality, task, device, dtype, ...) is outside what is allowed."""


class BundleError(IcmhError):
    """A bundle (weights, tables, metadata) is missing, damaged, or fails its proofs."""


class TrainingError(IcmhError):
    """A training configuration, data folder or checkpoint cannot be used."""
