"""The coders that benchmarks/rans.py compares, each in the fastest form that it documents."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rans_compressai import Core, CoreUnavailableError
from rans_planes import MASS, Plane

from icmh_rt import rans
from icmh_rt.errors import IcmhError

CORE = "CompressAI core"
API = "CompressAI API, lists ready"
ARRAYS_API = "CompressAI API, from arrays"
AT_EACH_LEVEL = ("icmh_rt, int32", "icmh_rt, int16, out=", CORE)
"""What is measured again for every instruction set."""


@dataclass(frozen=True, eq=False)
class Contestant:
    """One way to code a plane: calls without arguments, and what the stream takes.

    copy: name of the contestant that copies arrays of the same types, for comparison ·
    moved_bytes: what such a contestant copies.
    """

    name: str
    encode: Callable[[], object]
    decode: Callable[[], object]
    stream_bytes: int | None = None
    copy: str | None = None
    moved_bytes: int | None = None


@dataclass(frozen=True)
class Missing:
    """A contestant that cannot run here, and why."""

    name: str
    reason: str


def ours(plane: Plane) -> list[Contestant]:
    """icmh_rt on one thread with each symbol type, into new arrays and into the caller's."""
    made = []
    indexes, tables = plane.indexes, plane.tables
    for dtype in _dtypes(plane):
        symbols = plane.symbols.astype(dtype)
        data = rans.encode(symbols, indexes, tables, threads=1)
        buffer = np.empty(rans.max_encoded_size(len(plane)), np.uint8)
        target = np.empty_like(symbols)
        kind = np.dtype(dtype).name

        def encode(out=None, symbols=symbols) -> object:
            return rans.encode(symbols, indexes, tables, threads=1, out=out)

        def decode(out=None, data=data, dtype=dtype) -> np.ndarray:
            return rans.decode(data, indexes, tables, dtype=dtype, threads=1, out=out)

        for name, arguments in (
            (f"icmh_rt, {kind}", (None, None)),
            (f"icmh_rt, {kind}, out=", (buffer, target)),
        ):
            _check(name, decode(arguments[1]), plane)
            made.append(
                Contestant(
                    name,
                    partial(encode, arguments[0]),
                    partial(decode, arguments[1]),
                    len(data),
                    f"memory copy, {kind}",
                )
            )
    return made


def threads(plane: Plane) -> list[Contestant]:
    """icmh_rt on one and on two threads, into arrays of the caller's."""
    indexes, tables, symbols = plane.indexes, plane.tables, plane.symbols.astype(np.int16)
    data = rans.encode(symbols, indexes, tables)
    buffer, target = np.empty(rans.max_encoded_size(len(plane)), np.uint8), np.empty_like(symbols)
    return [
        Contestant(
            f"icmh_rt, {count} thread{'s' * (count > 1)}",
            partial(rans.encode, symbols, indexes, tables, threads=count, out=buffer),
            partial(rans.decode, data, indexes, tables, threads=count, out=target),
            len(data),
        )
        for count in (1, 2)
    ]


def compat(plane: Plane) -> list[Contestant | Missing]:
    """icmh_rt reading and writing CompressAI's streams."""
    name = "icmh_rt.rans.compat"
    try:
        module = importlib.import_module("icmh_rt.rans.compat")
    except ImportError:
        return [Missing(name, "not in this version of icmh_rt")]
    tables = module.Tables(plane.narrow_tables)
    data = module.encode(plane.symbols, plane.indexes, tables)
    _check(name, module.decode(data, plane.indexes, tables), plane)
    return [
        Contestant(
            name,
            lambda: module.encode(plane.symbols, plane.indexes, tables),
            lambda: module.decode(data, plane.indexes, tables),
            len(data),
            "memory copy, int32",
        )
    ]


def copies(plane: Plane) -> list[Contestant]:
    """What moving the same arrays costs: symbols and indexes, once each."""
    made = []
    for dtype in _dtypes(plane):
        symbols = plane.symbols.astype(dtype)
        pair = [(np.empty_like(a), a) for a in (symbols, plane.indexes)]

        def into(pair=pair) -> None:
            for target, source in pair:
                np.copyto(target, source)

        name = f"memory copy, {np.dtype(dtype).name}"
        moved = symbols.nbytes + plane.indexes.nbytes
        made.append(Contestant(name, into, into, moved_bytes=moved))
        if dtype is np.int32:

            def fresh(pair=pair) -> list[np.ndarray]:
                return [source.copy() for _, source in pair]

            made.append(Contestant(f"{name}, new arrays", fresh, fresh, moved_bytes=moved))
    return made


def compressai_core(plane: Plane, library: Path) -> list[Contestant | Missing]:
    """CompressAI's C++ coder, on the support of our tables and on the wider one of its own."""
    made: list[Contestant | Missing] = []
    for name, tables in ((CORE, plane.narrow_tables), (f"{CORE}, wide", plane.wide_tables)):
        try:
            core = Core(
                library,
                plane.symbols,
                plane.indexes,
                tables.cdfs,
                tables.lengths,
                tables.offsets,
            )
        except CoreUnavailableError as error:
            made.append(Missing(name, str(error)))
            continue
        made.append(Contestant(name, core.encode, core.decode, len(core.stream)))
        ans = _import("compressai.ans")
        if ans is not None:
            rows = (tables.cdfs.tolist(), tables.lengths.tolist(), tables.offsets.tolist())
            wheel = ans.RansEncoder().encode_with_indexes(
                plane.symbols.tolist(), plane.indexes.tolist(), *rows
            )
            if wheel != core.stream:
                raise IcmhError(f"{name} writes another stream than compressai.ans: wrong source?")
    return made


def compressai_api(plane: Plane) -> list[Contestant | Missing]:
    """CompressAI's Python functions, from lists made beforehand and from arrays."""
    ans = _import("compressai.ans")
    if ans is None:
        return [Missing("CompressAI API", "not installed (pip install compressai)")]
    tables = plane.narrow_tables
    rows = (tables.cdfs.tolist(), tables.lengths.tolist(), tables.offsets.tolist())
    symbols, indexes = plane.symbols.tolist(), plane.indexes.tolist()
    data = ans.RansEncoder().encode_with_indexes(symbols, indexes, *rows)

    def encode_arrays() -> bytes:
        return ans.RansEncoder().encode_with_indexes(
            plane.symbols.tolist(), plane.indexes.tolist(), *rows
        )

    def decode_arrays() -> np.ndarray:
        values = ans.RansDecoder().decode_with_indexes(data, plane.indexes.tolist(), *rows)
        return np.array(values, np.int32)

    _check("CompressAI API", decode_arrays(), plane)
    return [
        Contestant(
            API,
            lambda: ans.RansEncoder().encode_with_indexes(symbols, indexes, *rows),
            lambda: ans.RansDecoder().decode_with_indexes(data, indexes, *rows),
            len(data),
        ),
        Contestant(ARRAYS_API, encode_arrays, decode_arrays, len(data)),
    ]


def constriction(plane: Plane) -> list[Contestant | Missing]:
    """constriction's stack coder in its two vectorised forms.

    With a family of models, whose scale is given per symbol (already an array); and with one
    categorical model a row, for which symbols are sorted by row, within the time taken.
    """
    module = _import("constriction")
    if module is None:
        return [Missing("constriction", "not installed (pip install constriction)")]
    coder, model = module.stream.stack.AnsCoder, module.stream.model
    reach = int(np.abs(plane.symbols).max()) + 1
    if plane.family == "gaussian":
        family, scales = model.QuantizedGaussian(-reach, reach, mean=0.0), plane.scales
    else:
        family, scales = model.QuantizedLaplace(-reach, reach, mean=0.0), plane.scales / 2**0.5
    parameters = scales.astype(np.float32)[plane.indexes]

    def encode_family() -> np.ndarray:
        stack = coder()
        stack.encode_reverse(plane.symbols, family, parameters)
        return stack.get_compressed()

    family_data = encode_family()

    def decode_family() -> np.ndarray:
        return coder(family_data).decode(family, parameters)

    count = len(plane.scales)
    mass = MASS[plane.family]
    # lazy=True is quicker here as well, and the same stream.
    models = [
        model.Categorical(
            np.array([mass(s, sigma) for s in range(-reach, reach + 1)], np.float32),
            lazy=True,
            perfect=False,
        )
        for sigma in plane.scales
    ]

    def encode_rows() -> np.ndarray:
        order = np.argsort(plane.indexes, kind="stable")
        grouped = plane.symbols[order] + reach
        starts = np.concatenate([[0], np.cumsum(np.bincount(plane.indexes, minlength=count))])
        stack = coder()
        for row in reversed(range(count)):
            stack.encode_reverse(grouped[starts[row] : starts[row + 1]], models[row])
        return stack.get_compressed()

    row_data = encode_rows()

    def decode_rows() -> np.ndarray:
        order = np.argsort(plane.indexes, kind="stable")
        counts = np.bincount(plane.indexes, minlength=count).tolist()
        stack = coder(row_data)
        grouped = [stack.decode(models[row], counts[row]) for row in range(count)]
        symbols = np.empty(len(plane), np.int32)
        symbols[order] = np.concatenate(grouped) - reach
        return symbols

    names = ("constriction, model family", "constriction, model a row")
    _check(names[0], decode_family(), plane)
    _check(names[1], decode_rows(), plane)
    return [
        Contestant(names[0], encode_family, decode_family, family_data.nbytes),
        Contestant(names[1], encode_rows, decode_rows, row_data.nbytes),
    ]


def torch_ans(plane: Plane) -> list[Contestant | Missing]:
    """torch-ans with 16-bit tables, alone and with the four states that it advises on CPUs.

    Its lookup tables for decoding are left out: it advises against them below 64 values a row.
    """
    utils = _import("torch_ans.utils")
    if utils is None:
        return [Missing("torch-ans", "not installed (pip install torch-ans)")]
    import torch

    torch.set_num_threads(1)
    tables = plane.narrow_tables
    cdfs = tables.cdfs.astype(np.int32)
    # It searches the whole row, so what lies behind a row's end must not be small.
    cdfs[np.arange(cdfs.shape[1]) >= tables.lengths[:, None]] = 1 << 16
    rows = [torch.from_numpy(np.array(a)) for a in (cdfs, tables.lengths, tables.offsets)]
    symbols = torch.from_numpy(plane.symbols)[None]
    indexes = torch.from_numpy(plane.indexes.astype(np.int32))[None]
    made: list[Contestant | Missing] = []
    for name, states in (("torch-ans, rans64", 1), ("torch-ans, rans64 with 4 states", 4)):
        coder = utils.TorchANSInterface(
            impl="rans64", freq_precision=16, device="cpu", num_interleaves=states
        )
        coder.set_cdfs(*rows)
        data = coder.encode_with_indexes(symbols, indexes)
        _check(name, coder.decode_with_indexes(data, indexes).numpy()[0], plane)
        made.append(
            Contestant(
                name,
                lambda c=coder: c.encode_with_indexes(symbols, indexes),
                lambda c=coder, d=data: c.decode_with_indexes(d, indexes),
                len(data),
            )
        )
    return made


def _dtypes(plane: Plane) -> list[type]:
    low, high = int(plane.symbols.min()), int(plane.symbols.max())
    kinds = (np.int32, np.int16, np.int8)
    return [kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max]


def _check(name: str, symbols: np.ndarray, plane: Plane) -> None:
    if not np.array_equal(np.asarray(symbols).reshape(-1), plane.symbols):
        raise IcmhError(f"{name} does not decode what it encoded: its figures mean nothing")


def _import(name: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
