"""Files that nobody should trust, generated systematically from good ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    7,
    2**31,
    2**63,
    10**30,
    1.5,
    -0.0,
    1e308,
    "",
    "x",
    "1",
    "../../outside",
    "/etc/passwd",
    "two\nlines",
    "\0",
    "\ud800",
    "a" * 100_000,
    [],
    [[]],
    [0, 0],
    [10**9],
    {},
    {"a": 1},
)
"""What every field of a description is replaced with."""

BOMBS: tuple[bytes, ...] = (
    b"",
    b" ",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b"null",
    b"0",
    b'"text"',
    b"[]",
    b"{",
    b"{}",
    b"{}{}",
    b"NaN",
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": 1e999}',
    b'{"a": ' + b"9" * 100_000 + b"}",
    b'{"a": 1, "a": 2}',
    b"[" * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b'{"a": "' + b"\\u0000" * 10_000 + b'"}',
    b"{'a': 1}",
    b"// comment\n{}",
    bytes(1000),
)
"""Documents in place of a description."""


def paths(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a JSON document is, the document's own place left out."""
    if path:
        yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from paths(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from paths(value, (*path, index))


def changed_documents(document: Any, values: tuple[Any, ...] = VALUES) -> Iterator[tuple[str, Any]]:
    """(what was done, the document) for each place: other values; gone; under another name; twice
    over in its list.
    """
    for path in paths(document):
        shown = "/".join(map(str, path))
        for value in values:
            if _same(_get(document, path), value):
                continue
            yield f"{shown} = {str(value)[:20]!r}", _with(document, path, value)
        removed = copy.deepcopy(document)
        parent = _get(removed, path[:-1])
        value = parent.pop(path[-1])
        yield f"without {shown}", removed
        if isinstance(parent, dict):
            renamed = copy.deepcopy(removed)
            _get(renamed, path[:-1])[f"{path[-1]}_"] = value
            yield f"{shown} renamed", renamed
        else:
            doubled = copy.deepcopy(document)
            _get(doubled, path[:-1]).append(value)
            yield f"{shown} once more", doubled


def _get(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def _with(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(document)
    _get(made, path[:-1])[path[-1]] = copy.deepcopy(value)
    return made


def _same(found: Any, value: Any) -> bool:
    return type(found) is type(value) and found == value


def changed_arrays(
    arrays: dict[str, np.ndarray],
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(what was done, the arrays) for each array: gone, renamed, of another dtype, shape, value."""
    for name, array in arrays.items():
        rest = {k: v for k, v in arrays.items() if k != name}
        yield f"without {name}", rest
        yield f"{name} renamed", {**rest, f"{name}_": array}
        for what, other in _other_arrays(array):
            yield f"{name}: {what}", {**rest, name: other}


def _other_arrays(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for dtype in ("?", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8"):
        if np.dtype(dtype) != array.dtype:
            with np.errstate(all="ignore"):
                yield dtype, array.astype(dtype)
    if not array.size:
        return
    yield "no dimension", np.zeros((), array.dtype)
    yield "empty", np.zeros((0, *array.shape[1:]), array.dtype)
    yield "flat", np.append(array.ravel(), array.dtype.type(0))
    yield "one more row", np.concatenate([array, array[:1]])
    yield "one row", array[:1].copy()
    yield "one more dimension", array[None].copy()
    if array.ndim > 1:
        yield "turned", np.ascontiguousarray(array.T)
    if array.dtype.kind == "f":
        for value in (np.nan, np.inf, -np.inf, 0.0, -1.0, np.finfo(array.dtype).max):
            yield f"one {value}", _with_first(array, value)
    else:
        info = np.iinfo(array.dtype)
        for value in (info.min, info.max, 0):
            yield f"one {value}", _with_first(array, value)
            yield f"all {value}", np.full_like(array, value)


def _with_first(array: np.ndarray, value: Any) -> np.ndarray:
    made = array.copy()
    made.flat[0] = value
    return made


def damaged_tensor_files(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """(what was done, the bytes) of safetensors files that are none, or lie about themselves."""
    length = int.from_bytes(whole[:8], "little")
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    for count in (0, 1, 7, 8, 9, 8 + length - 1, 8 + length, 9 + length, len(whole) - 1):
        yield f"cut to {count}", whole[:count]
    for count in np.linspace(10, len(whole) - 2, 20).astype(int):
        yield f"cut to {count}", whole[:count]
    for claimed in (0, 1, length - 1, length + 1, len(whole), 2**31, 2**32, 2**63, 2**64 - 1):
        yield f"header of {claimed}", claimed.to_bytes(8, "little") + whole[8:]
    yield "more behind", whole + b"\0"
    yield "twice", whole + whole

    def file(document: Any, data: bytes = body) -> bytes:
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        return len(text).to_bytes(8, "little") + text + data

    for bomb in BOMBS:
        yield f"header {bomb[:20]!r}", file(bomb)
    yield "body gone", file(header, b"")
    names = [name for name in header if name != "__metadata__"]
    first = header[names[0]]
    for key, values in (
        ("dtype", ("F16", "BF16", "F8_E4M3", "I64", "BOOL", "", "?", None, 7, "U128")),
        ("shape", ([], [0], [-1], [2**63], [2**32, 2**32], [1.5], "3", None, [[1]], [10**30])),
        ("data_offsets", ([0, 0], [0, 2**63], [1, 0], [-1, 4], [0], [], None, "x", [0, 1, 2])),
    ):
        for value in values:
            if value != first[key]:
                yield f"{key} {value}", file({**header, names[0]: {**first, key: value}})
    if len(names) > 1:
        yield "overlapping", file({**header, names[1]: first})
    for value in (None, [], "x", 7, {"a": 1}, {"a": None}, {"a": ["b"]}, {}):
        yield f"metadata {value}", file({**header, "__metadata__": value})
    text = json.dumps(header)
    again = f"{text[:-1]}, {json.dumps(names[0])}: {json.dumps(first)}}}"
    yield "a name twice", file(again.encode())
    for name in ("", "../x", "/etc/passwd", "a\nb", "\0", "x" * 100_000):
        rest = {k: v for k, v in header.items() if k != names[0]}
        yield f"named {name[:12]!r}", file({name: first, **rest})
