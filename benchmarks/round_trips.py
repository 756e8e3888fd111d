"""Claim: 100,000 round trips later a process has the memory and the open files that it began with.

    python benchmarks/round_trips.py [--count N] [--backend B] [--threads N] [--json F]
        [--markdown F]

One decoder and an encoder of every width and task work on small pictures of several sizes in turn.
Every stream and every picture must be what the first round trip of its kind gave. Resident memory,
open files and threads are looked at 200 times. After the warm-up, a tenth of all round trips, the
medians of the first and of the last tenth of what is left may differ by 1 % in memory and not at
all in files and threads. Exit code 1 if they do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command import run, set_threads

SIZES = ((1, 1), (7, 3), (16, 16), (17, 31), (24, 40))
SAMPLES = 200
BAR = 0.01


class Sample(NamedTuple):
    """What the system says of this process: bytes in memory, open files, threads."""

    trips: int
    resident: int
    files: int
    threads: int


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: as the libraries choose")
    parser.add_argument("--json", help="write every sample to this file")
    parser.add_argument("--markdown", help="write the table to this file")
    options = parser.parse_args(arguments)
    if options.count < 10 * SAMPLES:
        parser.error(f"--count is {options.count}: give {10 * SAMPLES} or more")
    set_threads(options.threads)
    return run("round_trips", _measure, options)


def _measure(options: argparse.Namespace) -> int:
    from icmh_rt.evaluation.results import provenance, write_text

    started = time.perf_counter()
    backend, samples = round_trips(options.count, options.backend)
    command = f"python benchmarks/round_trips.py --count {options.count}"
    if options.threads:
        command += f" --threads {options.threads}"
    document = {
        "provenance": provenance(command),
        "count": options.count,
        "backend": backend,
        "seconds": round(time.perf_counter() - started, 1),
        **verdict(samples),
        "samples": [sample._asdict() for sample in samples],
    }
    print(table(document))
    if options.json:
        write_text(json.dumps(document, indent=1) + "\n", options.json)
    if options.markdown:
        write_text(page(document), options.markdown)
    return 0 if document["passed"] else 1


def round_trips(count: int, backend: str) -> tuple[str, list[Sample]]:
    """``count`` round trips; the backend's description, and the samples."""
    import icmh_rt
    from icmh_rt.bundle import load

    bundle = load("default")
    encoders = [
        icmh_rt.Encoder(width, task, quality, bundle, backend, "cpu")
        for task in bundle.tasks
        for width, quality in zip(bundle.widths, (1, 40, 70, 100), strict=True)
    ]
    decoder = icmh_rt.Decoder(bundle, backend, "cpu")
    pictures = [_picture(size, seed) for seed, size in enumerate(SIZES)]
    kinds = [(encoder, picture) for encoder in encoders for picture in pictures]
    expected: list[tuple[int, int] | None] = [None] * len(kinds)
    samples = []
    every = count // SAMPLES
    for trip in range(1, count + 1):
        kind = trip % len(kinds)
        encoder, picture = kinds[kind]
        data = encoder.encode(picture)
        found = zlib.crc32(data), zlib.crc32(decoder.decode(data))
        if expected[kind] is None:
            expected[kind] = found
        elif found != expected[kind]:
            raise SystemExit(f"round trip {trip} of {encoder} gave {found}, not {expected[kind]}")
        if trip % every == 0:
            samples.append(_sample(trip))
    return repr(decoder.backend), samples


def verdict(samples: list[Sample]) -> dict[str, Any]:
    """What became of memory, files and threads after the warm-up, and whether it is allowed."""
    settled = [sample for sample in samples if sample.trips > samples[-1].trips // 10]
    tenth = max(1, len(settled) // 10)
    first, last = settled[:tenth], settled[-tenth:]
    before, after = (
        statistics.median(sample.resident for sample in part) for part in (first, last)
    )
    peak = max(sample.resident for sample in settled)
    same = all(
        {getattr(sample, what) for sample in first} == {getattr(sample, what) for sample in last}
        for what in ("files", "threads")
    )
    return {
        "resident_before": int(before),
        "resident_after": int(after),
        "resident_peak": peak,
        "growth": after / before - 1.0,
        "files": [first[0].files, last[-1].files],
        "threads": [first[0].threads, last[-1].threads],
        "passed": abs(after / before - 1.0) <= BAR and same,
    }


def _picture(size: tuple[int, int], seed: int) -> np.ndarray:
    """Waves and noise, uint8 ``(H, W, 3)``."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(rows / (3 + k) + columns / (5 - k)) for k in range(3)]
    noise = generator.normal(0, 12, (*size, 3))
    return (127 + 90 * np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)


def _sample(trips: int) -> Sample:
    status = dict(_fields("/proc/self/status"))
    return Sample(
        trips,
        1024 * int(status["VmRSS"].split()[0]),
        len(os.listdir("/proc/self/fd")),
        int(status["Threads"]),
    )


def _fields(path: str) -> Iterator[list[str]]:
    return (line.split(":", 1) for line in Path(path).read_text().splitlines())


def table(found: dict[str, Any]) -> str:
    mebi = 2**20
    return "\n".join(
        [
            f"{found['count']:,} round trips in {found['seconds']:,} s, {found['backend']}",
            "",
            "| after the warm-up | first tenth | last tenth | most |",
            "| --- | --- | --- | --- |",
            f"| resident memory, MiB | {found['resident_before'] / mebi:.1f} "
            f"| {found['resident_after'] / mebi:.1f} ({found['growth']:+.2%}) "
            f"| {found['resident_peak'] / mebi:.1f} |",
            f"| open files | {found['files'][0]} | {found['files'][1]} | |",
            f"| threads | {found['threads'][0]} | {found['threads'][1]} | |",
            "",
            f"{'meets' if found['passed'] else 'MISSES'} the bar: memory within {BAR:.0%}, files "
            "and threads unchanged",
        ]
    )


def page(document: dict[str, Any]) -> str:
    from icmh_rt.evaluation.report import page_head

    head = page_head("Many round trips", document["provenance"])
    return "\n".join([*head, table(document)]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
