"""What a bundle's manifest may say; what its numbers mean is for those who use them to check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from icmh_rt.bitstream import TASKS, width_to_id
from icmh_rt.errors import BundleError, OptionError

BUNDLE_FORMAT = 1
"""Of the default architecture's bundles."""

PUBLISHED_BUNDLE_FORMAT = 2
"""Of converted checkpoints."""

MAX_NAME = 200  # characters


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def _tasks(value: Any) -> bool:
    known = isinstance(value, list) and all(isinstance(task, str) for task in value)
    return known and set(value) <= set(TASKS) and len(set(value)) == len(value)


def _width(value: Any) -> bool:
    try:
        width_to_id(value)
    except OptionError:
        return False
    return True


def _widths(value: Any) -> bool:
    """A list of numbers, as format 1 has it."""
    fits = isinstance(value, list) and all(type(width) in (int, float) for width in value)
    return fits and 0 < len(set(value)) == len(value) and all(map(_width, value))


def _width_table(value: Any) -> bool:
    """An object with numbers for keys, as format 2 has it."""
    return isinstance(value, dict) and bool(value) and all(map(_width, value))


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _padding(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {"multiple", "centred"}:
        return False
    multiple = value["multiple"]
    # z has a position for every 64 padded pixels, so only their multiples are whole.
    whole = type(multiple) is int and 0 < multiple <= 1024 and multiple % 64 == 0
    return whole and isinstance(value["centred"], bool)


_Check = Callable[[Any], bool]
_COMMON: dict[str, tuple[_Check, str]] = {
    "name": (_text, f"1 to {MAX_NAME} printable characters"),
    "architecture": (_text, "a name"),
    "fingerprint": (_text, "8 hex digits"),
    "config": (_object, "an object"),
    "tasks": (_tasks, f"a list of {', '.join(TASKS)}, each once"),
}
_FIELDS: dict[int, dict[str, tuple[_Check, str]]] = {
    BUNDLE_FORMAT: {
        **_COMMON,
        "widths": (_widths, "a list of numbers 0.01 to 2.0, each once"),
        "hyper_synthesis": (_object, "an object"),
    },
    PUBLISHED_BUNDLE_FORMAT: {
        **_COMMON,
        "adapted_tasks": (_tasks, f"a list of {', '.join(TASKS)}, each once"),
        "widths": (_width_table, "an object of numbers 0.01 to 2.0"),
        "padding": (_padding, "a multiple of 64 up to 1024, and whether it is centred"),
        "entropy": (
            lambda value: isinstance(value, list) and all(map(_text, value)),
            "a list of names",
        ),
        "qualities": (
            lambda value: isinstance(value, list) and all(type(q) is int for q in value),
            "a list of whole numbers",
        ),
    },
}


def check(manifest: Any, shown: str) -> dict[str, Any]:
    """``manifest`` if it is one of a format that is read here.

    Raises:
        BundleError: it is not; names ``shown``, the field and what it should be.
    """
    found = manifest.get("bundle_format") if isinstance(manifest, dict) else None
    if type(found) is not int or found not in _FIELDS:
        raise BundleError(
            f"{shown} is of bundle format {_short(found)}; this icmh_rt reads "
            f"{' and '.join(map(str, _FIELDS))}"
        )
    for key, (fits, wanted) in _FIELDS[found].items():
        if key not in manifest:
            raise BundleError(f"{shown} lacks {key!r}")
        if not fits(manifest[key]):
            raise BundleError(f"{shown} has {key} {_short(manifest[key])}: it must be {wanted}")
    if not isinstance(manifest.get("training", {}), Mapping):
        raise BundleError(f"{shown} has training {_short(manifest['training'])}: not an object")
    return manifest


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # an integer of thousands of digits
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:60]}..."
