"""Files that nobody vouches for: read whole within limits, and JSON without surprises."""

from __future__ import annotations

import json
import math
import os
import stat
from typing import Any

MAX_JSON_BYTES = 2**24
"""Of a bundle's manifest; the largest known has a few kilobytes."""

MAX_TENSORS_BYTES = 2**32
"""Of a file of tensors: larger ones than any model here has."""


def read_file(path: str | os.PathLike[str], limit: int) -> bytes:
    """The bytes of an ordinary file; what is none (a pipe, a device) is not opened.

    Raises:
        OSError: it cannot be read, is no ordinary file, or has more than ``limit`` bytes.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is not an ordinary file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(f"it has {size} bytes, more than {limit}, which is the limit")
        return file.read(size)


def parse_json(text: str | bytes) -> Any:
    """What ``json.loads`` gives, of documents that every reader understands alike.

    Raises:
        ValueError: it is no JSON, has a key twice in one object or a number that is not finite, or
            is nested so deeply that the parser gives up. One line.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_without_repetition,
            parse_constant=_refuse,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def one_line(error: BaseException) -> str:
    """What an exception says, as one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for number, key in enumerate(names) if key in names[:number])
        raise ValueError(f"it has {_shown(twice)} twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it has the number {_shown(text)}, which no float holds")
    return number


def _refuse(text: str) -> None:
    raise ValueError(f"it has the number {text}, which is no JSON")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
