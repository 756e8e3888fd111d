"""Whole streams of two machines against each other: what one records, the other compares.

    across_machines.py latents [--threads N...]          the corpus decodes to its latents here
    across_machines.py record FILE [--backends NAME...]  also encode and decode its pictures here
                                   [--bundles NAME...]   of these bundles of the corpus only
    across_machines.py compare FILE [--json]             a record of another machine, here

Latents must be the same bits in both directions: those of the corpus on the recording machine,
those of the recorded streams on the comparing one. Pictures, and the bytes that an encoder makes of
a picture, depend on roundings of the transforms: how far they differ is told, and decides nothing.
scripts/test_aarch64_streams.sh does all three between x86-64 and aarch64 under qemu-user.

Exit code 1: latents differ, and each stream that has other ones is named.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import golden_streams
import numpy as np
from golden_streams import Golden
from make_streams import picture

import icmh_rt
from icmh_rt import _native
from icmh_rt import bundle as bundles
from icmh_rt.backends import available
from icmh_rt.errors import BackendUnavailableError

ENTRIES = golden_streams.read()
_META = "meta"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    latents = commands.add_parser("latents")
    latents.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    record = commands.add_parser("record")
    record.add_argument("file", type=Path)
    record.add_argument("--backends", nargs="+", default=["torch", "onnxruntime"])
    record.add_argument("--bundles", nargs="+", default=sorted({e.bundle for e in ENTRIES}))
    compare = commands.add_parser("compare")
    compare.add_argument("file", type=Path)
    compare.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        unpacked = golden_streams.unpack_bundles(Path(folder))
        if options.command == "latents":
            return _latents(unpacked, options.threads)
        if options.command == "record":
            return _record(unpacked, options.file, options.backends, options.bundles)
        return _compare(unpacked, options.file, options.json)


def _latents(unpacked: Path, threads: list[int]) -> int:
    """Without a backend: needs numpy, safetensors and the native module."""
    expected = {entry.name: entry.latents for entry in ENTRIES}
    wrong: list[str] = []
    for number in threads:
        started = time.perf_counter()
        found = golden_streams.digests(unpacked, number)
        wrong += [f"{name}, {number} threads" for name in expected if found[name] != expected[name]]
        print(f"{_here()}, {number} threads: {_outcome(len(found), wrong, started)}", flush=True)
    return _failed(wrong)


def _record(unpacked: Path, file: Path, backends: list[str], of_bundles: list[str]) -> int:
    """The corpus through each backend, and each of its pictures encoded."""
    wrong: list[str] = []
    streams: list[dict[str, str]] = []
    arrays: dict[str, np.ndarray] = {}
    for backend in backends:
        started = time.perf_counter()
        for entry, encoder, decoder in _codecs(unpacked, backend, of_bundles):
            name = f"{backend}/{entry.name}"
            if golden_streams.digest(decoder.latents(entry.data)) != entry.latents:
                wrong.append(name)
            made = encoder.encode(picture(*entry.image_size))
            arrays[f"{name}/stream"] = np.frombuffer(made, np.uint8)
            arrays[f"{name}/golden"] = decoder.decode(entry.data)
            streams.append(
                {
                    "backend": backend,
                    "golden": entry.name,
                    "latents": golden_streams.digest(decoder.latents(made)),
                }
            )
        done = sum(stream["backend"] == backend for stream in streams)
        print(
            f"{_here()}, {backend}: {_outcome(done, wrong, started)}, and each encoded and shown",
            flush=True,
        )
    meta = {"machine": _here(), "streams": streams}
    np.savez_compressed(file, **arrays, **{_META: np.array(json.dumps(meta))})
    return _failed(wrong)


def _compare(unpacked: Path, file: Path, as_json: bool) -> int:
    with np.load(file, allow_pickle=False) as archive:
        arrays = dict(archive)
    meta = json.loads(str(arrays.pop(_META)))
    recorded = {(stream["backend"], stream["golden"]): stream for stream in meta["streams"]}
    of_bundles = sorted({e.bundle for e in ENTRIES if any(e.name == name for _, name in recorded)})
    wrong: list[str] = []
    for backend in dict.fromkeys(name for name, _ in recorded):
        started = time.perf_counter()
        same_bytes, differences = 0, []
        for entry, encoder, decoder in _codecs(unpacked, backend, of_bundles):
            stream = recorded.pop((backend, entry.name), None)
            if stream is None:
                continue
            name = f"{backend}/{entry.name}"
            made = arrays[f"{name}/stream"].tobytes()
            if golden_streams.digest(decoder.latents(made)) != stream["latents"]:
                wrong.append(name)
            same_bytes += made == encoder.encode(picture(*entry.image_size))
            there = arrays[f"{name}/golden"].astype(int)
            differences.append(np.abs(there - decoder.decode(entry.data)).reshape(-1))
        values = np.concatenate(differences)
        found = {
            "recorded_on": meta["machine"],
            "compared_on": _here(),
            "backend": backend,
            "streams": len(differences),
            "same_bytes": same_bytes,
            "picture_values": values.size,
            "picture_values_that_differ": int(np.count_nonzero(values)),
            "largest_difference": int(values.max()),
        }
        if as_json:
            print(json.dumps(found))
            continue
        print(
            f"{meta['machine']} -> {_here()}, {backend}: "
            f"{_outcome(len(differences), wrong, started)}\n"
            f"  encoded to the same bytes: {same_bytes}\n"
            f"  pictures of the corpus: {found['picture_values_that_differ']} of {values.size} "
            f"values differ, by {values.max()} of 255 at most"
        )
    wrong += [f"{'/'.join(key)}: not in this corpus" for key in recorded]
    return _failed(wrong)


def _codecs(
    unpacked: Path, backend: str, of_bundles: list[str]
) -> Iterator[tuple[Golden, icmh_rt.Encoder, icmh_rt.Decoder]]:
    """Every entry of the bundles that the backend runs, with what encodes and decodes it.

    Raises:
        BackendUnavailableError: it is not installed.
    """
    reason = available()[backend]
    if reason is not None:
        raise BackendUnavailableError(f"{backend}: {reason}")
    for bundle in of_bundles:
        of_it = [entry for entry in ENTRIES if entry.bundle == bundle]
        loaded = bundles.load(golden_streams.model_of(of_it[0], unpacked))
        try:
            decoder = icmh_rt.Decoder(loaded, backend, "cpu")
        except BackendUnavailableError:
            if isinstance(loaded, bundles.Bundle):
                raise
            continue  # of converted checkpoints, which torch alone runs
        encoders: dict[Any, icmh_rt.Encoder] = {}
        for entry in of_it:
            key = entry.width, entry.task, entry.quality
            if key not in encoders:
                encoders[key] = icmh_rt.Encoder(*key, loaded, backend, "cpu")
            yield entry, encoders[key], decoder


def _here() -> str:
    native = _native.module()
    return f"{platform.machine()} ({native.simd_level()})"


def _outcome(streams: int, wrong: list[str], started: float) -> str:
    state = f"{len(wrong)} WITH OTHER LATENTS" if wrong else "the same latents"
    return f"{streams} streams, {state}, {time.perf_counter() - started:.1f} s"


def _failed(wrong: list[str]) -> int:
    for name in wrong:
        print(f"across_machines.py: other latents: {name}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
