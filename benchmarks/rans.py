"""Claim: entropy coding at memory speed, against CompressAI, constriction and torch-ans.

    python benchmarks/rans.py [--data DIR] [--json F] [--markdown F] [--quick]

Codes the same symbols with every coder in one process on one core: synthetic planes whose true
distributions are known (Gaussian and Laplacian, about 1 bit a symbol) and latents of photographs
under the default bundle. Every round runs every coder in random order; speeds are medians over
rounds, ratios are ratios of medians with 95 % bootstrap intervals, both sides from the same rounds.
Times are CPU times of the thread, which equal the wall clock on an idle machine; on a busy one the
wall clock would favour short calls, which are seldom interrupted. Further processes repeat it for
each instruction set (ICMH_SIMD) and, by the wall clock, for two threads on two cores.

CompressAI is measured three times: its C++ core without Python lists (built from its source
distribution, which pip fetches into a cache, or --compressai-source), its Python functions on lists
made beforehand, and those functions from and to arrays. What is not installed is left out and named
(`pip install compressai constriction torch-ans` has it all). Exit code 1 if a bar is missed, 2 if
it could not run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from command import run

SCHEMA, SCHEMA_VERSION = "icmh_rt.rans_benchmark", 1
FAMILIES = ("gaussian", "laplacian")
LEVELS = ("scalar", "neon", "avx2", "avx512")
REPEATS = 3
LONG_CALL_S = 0.2
"""A call of a round is the best of REPEATS, or just one if it takes longer than this."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    return run("rans", _work if options.worker else _run, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder of PNG photographs (default: examples/)")
    parser.add_argument("--images", type=int, default=6, help="at most so many of them")
    parser.add_argument("--qualities", default="50,90", help="of the latents; empty: no latents")
    parser.add_argument("--symbols", type=int, default=2_000_000, help="of a synthetic plane")
    parser.add_argument("--precision", type=int, default=13, help="bits of the synthetic tables")
    parser.add_argument(
        "--tail-mass", type=float, default=1e-4, help="what a table row leaves to the escape"
    )
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--levels", default=",".join(LEVELS), help="further runs; empty: none")
    parser.add_argument("--compressai-source", help="folder of CompressAI's unpacked sdist")
    parser.add_argument("--no-download", action="store_true", help="do not fetch that with pip")
    parser.add_argument("--cache", help="folder for what is fetched and built")
    parser.add_argument("--json", help="write all figures")
    parser.add_argument("--markdown", help="write the tables as a page")
    parser.add_argument(
        "--quick", action="store_true", help="small planes, few rounds, sizes judged only"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


def _run(options: argparse.Namespace) -> int:
    import rans_compressai
    import rans_planes as planes
    import rans_report as report

    from icmh_rt.errors import OptionError
    from icmh_rt.evaluation.results import provenance, write_text

    if options.quick:
        options.symbols, options.rounds, options.levels = 100_000, 3, ""
        options.qualities, options.no_download = "", True
    if options.rounds < 3:
        raise OptionError(f"--rounds is {options.rounds}; give at least 3")
    cache = Path(options.cache) if options.cache else rans_compressai.default_cache()
    try:
        library, made_of = rans_compressai.build(
            options.compressai_source, cache, not options.no_download
        )
        core = {"library": str(library), "made_of": made_of, "reason": None}
    except rans_compressai.CoreUnavailableError as error:
        core = {"library": None, "made_of": None, "reason": str(error)}
    _tell("planes")
    shape = (options.precision, options.tail_mass)
    sizes = _sizes(*shape, options.quick)
    measured = [planes.synthetic(family, options.symbols, 0, *shape) for family in FAMILIES]
    images: list[str] = []
    if options.qualities:
        photographs = planes.photographs(options.data, options.images)
        for quality in _numbers("--qualities", options.qualities):
            plane, images = planes.latents(photographs, quality, *shape)
            measured.append(plane)
    with tempfile.TemporaryDirectory() as folder:
        for position, plane in enumerate(measured):
            planes.save(plane, Path(folder) / f"plane{position}.npz")
        job = {"folder": folder, "rounds": options.rounds, "core": core["library"]}
        count = len(measured)
        runs = [_worker(job | {"kind": "all", "planes": count}, _levels(",".join(LEVELS))[-1])]
        for level in _levels(options.levels):
            runs.append(_worker(job | {"kind": "level", "planes": count}, level))
        if not options.quick:
            big = planes.synthetic("gaussian", 8_000_000, 1, *shape)
            planes.save(big, Path(folder) / "plane0.npz")
            runs.append(_worker(job | {"kind": "threads", "planes": 1}, runs[0]["level"]))
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance(_command(options)),
        "packages": report.package_versions(),
        "compressai_core": core | {"library": None},
        "precision": options.precision,
        "tail_mass": options.tail_mass,
        "rounds": options.rounds,
        "images": images,
        "planes": [_facts(plane) for plane in measured],
        "sizes": sizes,
        "runs": runs,
    }
    document["bars"] = report.bars(document)
    print(report.text(document))
    if options.json:
        write_text(json.dumps(document, indent=1) + "\n", options.json)
    if options.markdown:
        write_text(report.markdown(document), options.markdown)
    judged = [bar for bar in document["bars"] if bar["kind"] == "size" or not options.quick]
    return 1 if any(bar["met"] is False for bar in judged) else 0


def _sizes(precision: int, tail_mass: float, quick: bool) -> list[dict]:
    """What streams take beyond the true model's cross-entropy, split into tables and coder."""
    import rans_planes as planes

    from icmh_rt import rans

    rows = []
    for family in FAMILIES:
        for count, seeds in ((100_000, 1 if quick else 5), (1_000_000, 0 if quick else 3)):
            for seed in range(seeds):
                plane = planes.synthetic(family, count, 100 + seed, precision, tail_mass)
                data = rans.encode(plane.symbols, plane.indexes, plane.tables)
                rows.append(
                    {
                        "plane": family,
                        "symbols": count,
                        "seed": 100 + seed,
                        "ideal_bits": plane.ideal_bits,
                        "table_bits": plane.tables.bits(plane.symbols, plane.indexes),
                        "bytes": len(data),
                    }
                )
    return rows


def _facts(plane) -> dict:
    return {
        "name": plane.name,
        "symbols": len(plane),
        "bits_per_symbol": plane.ideal_bits / len(plane),
        "ideal_bits": plane.ideal_bits,
        "table_bits": plane.tables.bits(plane.symbols, plane.indexes),
        "is_real": plane.is_real,
        "precision": plane.tables.precision,
        "largest_row": int(plane.tables.lengths.max()) - 1,
    }


def _levels(names: str) -> list[str]:
    """Those of the named instruction sets that this build and CPU have, in the order of LEVELS."""
    from icmh_rt import rans
    from icmh_rt.errors import OptionError
    from icmh_rt.rans import coder

    tables = rans.Tables.from_pmfs([[1.0]])
    found = []
    wanted = [name for name in names.split(",") if name]
    for name in wanted:
        if name not in LEVELS:
            raise OptionError(f"--levels has {name!r}; choose from {', '.join(LEVELS)}")
    for name in (level for level in LEVELS if level in wanted):
        try:
            coder._encode([0], [0], tables, level=name)
        except OptionError:
            continue
        found.append(name)
    return found


def _numbers(name: str, text: str) -> list[int]:
    from icmh_rt.errors import OptionError

    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise OptionError(f"{name} is {text!r}; give whole numbers with commas") from None


def _command(options: argparse.Namespace) -> str:
    words = ["python benchmarks/rans.py"]
    words += ["--data DIR"] if options.data else []
    words += ["--quick"] if options.quick else []
    for name in ("images", "qualities", "symbols", "precision", "tail_mass", "rounds", "levels"):
        value = getattr(options, name)
        if not options.quick and value != _parser().get_default(name):
            words.append(f"--{name.replace('_', '-')} {value}")
    return " ".join(words)


def _tell(what: str) -> None:
    print(f"rans: {what}", file=sys.stderr, flush=True)


def _worker(job: dict, level: str) -> dict:
    """Run a job in a process of its own and return what it measured."""
    from icmh_rt.errors import IcmhError

    _tell(f"{job['kind']}, level {level}")
    environment = os.environ | {"ICMH_SIMD": level}
    result = Path(job["folder"]) / "result.json"
    command = [sys.executable, "-W", "ignore", __file__, "--worker"]
    command.append(json.dumps(job | {"result": str(result)}))
    if subprocess.run(command, env=environment).returncode != 0:
        raise IcmhError(f"the process that measures {job['kind']!r} failed: see above")
    return {"kind": job["kind"], "level": level} | json.loads(result.read_text())


def _work(options: argparse.Namespace) -> int:
    """The worker's side: measure the planes that the job names, on one core."""
    import rans_contestants as contestants
    import rans_planes as planes

    job = json.loads(options.worker)
    if job["kind"] != "threads" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows: list[dict] = []
    missing: dict[str, str] = {}
    for position in range(job["planes"]):
        plane = planes.load(Path(job["folder"]) / f"plane{position}.npz")
        if job["kind"] == "threads":
            entries = contestants.threads(plane)
        else:
            entries = contestants.ours(plane) + contestants.copies(plane)
            if job["core"] is not None:
                entries += contestants.compressai_core(plane, Path(job["core"]))
            if job["kind"] == "all":
                for make in (
                    contestants.compat,
                    contestants.compressai_api,
                    contestants.constriction,
                    contestants.torch_ans,
                ):
                    entries += make(plane)
        for entry in entries:
            if isinstance(entry, contestants.Missing):
                missing[entry.name] = entry.reason
        usable = [entry for entry in entries if isinstance(entry, contestants.Contestant)]
        if job["kind"] == "level":
            usable = [entry for entry in usable if entry.name in contestants.AT_EACH_LEVEL]
        clock = time.perf_counter if job["kind"] == "threads" else time.thread_time
        rows += _measure(plane.name, len(plane), usable, job["rounds"], clock)
    waited = _Timed.wall_s / max(_Timed.clock_s, 1e-9)
    result = {"rows": rows, "missing": missing, "wall_over_cpu": waited}
    Path(job["result"]).write_text(json.dumps(result))
    return 0


def _measure(
    plane: str, count: int, entries: list, rounds: int, clock: Callable[[], float]
) -> list[dict]:
    """Seconds of every contestant and direction in every round."""
    from timing import interleaved

    calls: dict[tuple[str, str], Callable[[], float]] = {}
    for entry in entries:
        for direction in ("encode", "decode"):
            calls[entry.name, direction] = _Timed(getattr(entry, direction), clock)
    timed = interleaved(
        calls,
        rounds,
        warmup=1,
        progress=lambda done: print(
            f"\rrans: {plane}: round {done}/{rounds}", end="", file=sys.stderr, flush=True
        ),
    )
    print(file=sys.stderr)
    return [
        {
            "plane": plane,
            "symbols": count,
            "name": entry.name,
            "bytes": entry.stream_bytes,
            "copy": entry.copy,
            "moved_bytes": entry.moved_bytes,
            "encode_s": [value for _, value in timed[entry.name, "encode"]],
            "decode_s": [value for _, value in timed[entry.name, "decode"]],
        }
        for entry in entries
    ]


class _Timed:
    """Seconds of a call by `clock`: the best of REPEATS in a row, or of one if it is long.

    wall_s, clock_s: what all calls took by the wall clock and by their own.
    """

    wall_s = clock_s = 0.0

    def __init__(self, call: Callable[[], object], clock: Callable[[], float]) -> None:
        self._call = call
        self._clock = clock
        self._repeats = REPEATS

    def __call__(self) -> float:
        seconds = []
        for _ in range(self._repeats):
            wall, start = time.perf_counter(), self._clock()
            self._call()
            seconds.append(self._clock() - start)
            _Timed.wall_s += time.perf_counter() - wall
        _Timed.clock_s += sum(seconds)
        if min(seconds) > LONG_CALL_S:
            self._repeats = 1
        return min(seconds)


if __name__ == "__main__":
    sys.exit(main())
