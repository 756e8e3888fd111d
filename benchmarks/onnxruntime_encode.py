"""Claim: on a CPU, onnxruntime encodes faster than eager PyTorch at every width.

    python benchmarks/onnxruntime_encode.py [--image FILE] [--rounds N] [--threads N] [--json F]
        [--markdown F]

Times whole `Encoder.encode` calls at 512x768, from pixels in memory to bytes, of three contestants:

    eager        the torch backend with ICMH_KERNELS=reference: PyTorch's own operations
    torch        the torch backend as it is, with this package's C++ kernels
    onnxruntime  the onnxruntime backend

Each lives in a process of its own (their allocators and threads disturb each other), and only one
works at a time. They run in rounds, each of which has every contestant at every width once, in
random order. Prints medians with their 95 % bootstrap intervals and the ratios; and, from a profile
of its own, how long onnxruntime's products (convolutions) take and how many multiply-adds a second
that is, which bounds what could be gained. Exit code 1 if onnxruntime is less than 1.5 times as
fast as eager at any width, the bar, or if its symbols are others than torch's in
more than 1e-4 of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HEIGHT, WIDTH = 512, 768
WIDTHS = (0.25, 0.5, 0.75, 1.0)
RATIO_BAR = 1.5
SYMBOLS_BAR = 1e-4
PROFILED_RUNS = 7
SCHEMA, SCHEMA_VERSION = "icmh_rt.onnxruntime_encode", 1
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# Contestant: its backend and what its environment has besides.
CONTESTANTS = {
    "eager": ("torch", {"ICMH_KERNELS": "reference"}),
    "torch": ("torch", {}),
    "onnxruntime": ("onnxruntime", {}),
}


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.contestant:
        return _contest(options)
    from icmh_rt.errors import IcmhError

    try:
        return _run(options)
    except IcmhError as error:
        print(f"onnxruntime_encode: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--image", help="photograph to encode (default: the one in examples/)")
    parser.add_argument("--quality", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="0: as the libraries choose")
    parser.add_argument("--json", help="write every single time as well")
    parser.add_argument("--markdown", help="write the table")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    return parser


# -- a contestant, in its process ------------------------------------------------------------------


def _contest(options: argparse.Namespace) -> int:
    """Encode once for every line on stdin, which is a width; answer with JSON. "profile" before the
    width: what its products take.
    """
    import time

    import numpy as np

    from icmh_rt.codec import Encoder

    image, _ = _image(options.image)
    encoders = {}
    for line in sys.stdin:
        *profile, word = line.split()
        width = float(word)
        if profile:
            print(json.dumps(_profile(encoders[width].backend, width, image)), flush=True)
            continue
        if width not in encoders:
            encoders[width] = Encoder(
                width=width,
                quality=options.quality,
                backend=CONTESTANTS[options.contestant][0],
                device="cpu",
            )
            report = encoders[width].encode_detailed(image)
            np.save(f"{options.json}-{width}.npy", report.latents.symbols_y)
        started = time.perf_counter()
        data = encoders[width].encode(image)
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "bytes": len(data)}), flush=True)
    return 0


def _profile(backend: Any, width: float, image: Any) -> dict[str, float]:
    """Multiply-adds of g_a and h_a, and the median milliseconds of their convolutions."""
    import tempfile

    from icmh_rt import get_num_threads, graphs
    from icmh_rt._onnxruntime import ort

    model = graphs.build(backend.bundle, "analysis", width, size=image.shape[:2], batch=1)
    with tempfile.TemporaryDirectory() as folder:
        session_options = ort.SessionOptions()
        session_options.intra_op_num_threads = get_num_threads()
        session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session_options.enable_profiling = True
        session_options.profile_file_prefix = f"{folder}/profile"
        session = ort.InferenceSession(
            model.SerializeToString(), session_options, providers=["CPUExecutionProvider"]
        )
        for _ in range(PROFILED_RUNS):
            session.run(None, {"image": image[None]})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[str, list[float]] = {}
    for event in events:
        if event.get("args", {}).get("op_name") == "Conv" and "kernel_time" in event["name"]:
            times.setdefault(event["name"], []).append(event["dur"] / 1e3)
    milliseconds = sum(statistics.median(values) for values in times.values())
    return {"multiply_adds": _multiply_adds(model), "products_ms": milliseconds}


def _multiply_adds(model: Any) -> int:
    """Of all convolutions of a graph of one size."""
    import math

    import onnx

    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.value_info, *graph.output)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    weights = {initializer.name: initializer.dims for initializer in graph.initializer}
    return sum(
        math.prod(weights[node.input[1]][1:]) * math.prod(shapes[node.output[0]])
        for node in graph.node
        if node.op_type == "Conv"
    )


class Contestant:
    """A process that encodes when it is asked to."""

    def __init__(self, name: str, options: argparse.Namespace, scratch: str) -> None:
        self.name = name
        self._scratch = f"{scratch}/{name}"
        environment = {k: v for k, v in os.environ.items() if k != "ICMH_KERNELS"}
        environment |= CONTESTANTS[name][1]
        if options.threads:
            for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ICMH_NUM_THREADS"):
                environment[variable] = str(options.threads)
        command = [sys.executable, __file__, "--contestant", name, "--json", self._scratch]
        command += ["--quality", str(options.quality)]
        if options.image:
            command += ["--image", options.image]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def encode(self, width: float) -> dict[str, float]:
        return self._ask(f"{width}")

    def profile(self, width: float) -> dict[str, float]:
        return self._ask(f"profile {width}")

    def _ask(self, question: str) -> dict[str, float]:
        from icmh_rt.errors import BackendUnavailableError

        try:
            self._process.stdin.write(f"{question}\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            raise BackendUnavailableError(f"contestant {self.name} ended early") from None

    def symbols(self, width: float):  # -> np.ndarray
        import numpy as np

        return np.load(f"{self._scratch}-{width}.npy")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


@contextmanager
def _contestants(options: argparse.Namespace) -> Iterator[dict[str, Contestant]]:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        made = {}
        for name in CONTESTANTS:
            made[name] = Contestant(name, options, scratch)
            stack.callback(made[name].close)
        yield made


# -- the measurement -------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from timing import interleaved, median_interval, ratio_interval

    from icmh_rt.errors import OptionError
    from icmh_rt.evaluation.results import provenance, write_text

    if options.rounds < 3:
        raise OptionError(f"--rounds must be at least 3, got {options.rounds}")
    if not 1 <= options.quality <= 100:
        raise OptionError(f"--quality must be 1 to 100, got {options.quality}")
    _, image = _image(options.image)
    with _contestants(options) as contestants:
        timed = interleaved(
            {
                (name, width): lambda c=contestant, w=width: c.encode(w)
                for name, contestant in contestants.items()
                for width in WIDTHS
            },
            options.rounds,
            options.warmup,
            progress=lambda done: print(
                f"\rround {done}/{options.rounds}", end="", file=sys.stderr
            ),
        )
        print(file=sys.stderr)
        profiles = {width: contestants["onnxruntime"].profile(width) for width in WIDTHS}
        differing = {
            w: _differing(*(contestants[n].symbols(w) for n in CONTESTANTS)) for w in WIDTHS
        }
    rows = []
    for width in WIDTHS:
        seconds = {n: [value["seconds"] for _, value in timed[n, width]] for n in CONTESTANTS}
        rows.append(
            {
                "width": width,
                "median_ms": {n: _scaled(median_interval(s), 1e3) for n, s in seconds.items()},
                "against_eager": _scaled(ratio_interval(seconds["eager"], seconds["onnxruntime"])),
                "against_torch": _scaled(ratio_interval(seconds["torch"], seconds["onnxruntime"])),
                "differing_symbols": differing[width],
                **profiles[width],
                "bytes": {n: timed[n, width][0][1]["bytes"] for n in CONTESTANTS},
                "times_ms": {n: [1e3 * s for s in values] for n, values in seconds.items()},
            }
        )
    heading = (
        f"{image} {HEIGHT}x{WIDTH}, quality {options.quality}, {options.rounds} rounds, "
        f"{options.threads or os.cpu_count()} threads; medians in ms [95 %]"
    )
    table = _table(rows)
    print(heading, table, sep="\n\n")
    good = min(row["against_eager"][0] for row in rows) >= RATIO_BAR
    good &= max(row["differing_symbols"] for row in rows) <= SYMBOLS_BAR
    print(f"\n{_verdict(rows)}\n{'meets' if good else 'MISSES'} the bars")
    command = "python benchmarks/onnxruntime_encode.py"
    if options.json:
        document = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "provenance": provenance(command),
            "image": image,
            "size": [HEIGHT, WIDTH],
            "quality": options.quality,
            "threads": options.threads or None,
            "widths": rows,
        }
        write_text(json.dumps(document, indent=1) + "\n", options.json)
    if options.markdown:
        origin = provenance(command)
        machine, versions = origin["machine"], origin["versions"]
        made = (
            f"Made by `{command}` on {origin['created'][:10]}: {machine['cpu']}, "
            f"{machine['cores']} cores, torch {versions.get('torch')}, "
            f"onnxruntime {_version('onnxruntime')}."
        )
        page = (
            f"# Encoding with onnxruntime\n\n{made}\n\n{heading}.\n\n{table}\n\n{_verdict(rows)}\n"
        )
        write_text(page, options.markdown)
    return 0 if good else 1


def _verdict(rows: list[dict]) -> str:
    """The bars, and what bounds the ratio."""
    ratios = ", ".join(f"{row['against_eager'][0]:.2f}" for row in rows)
    worst = max(row["differing_symbols"] for row in rows)
    row = rows[-1]
    eager, found = (row["median_ms"][name][0] for name in ("eager", "onnxruntime"))
    products = row["products_ms"]
    return (
        f"onnxruntime is {ratios} times as fast as eager (bar {RATIO_BAR:g}); "
        f"{worst:.1e} of its symbols are others (bar {SYMBOLS_BAR:g}). At width 1.0 products take "
        f"{products:.0f} of its {found:.0f} ms: with all else for nothing, entropy coding and h_s "
        f"among it, it would be {eager / products:.2f} times as fast."
    )


def _differing(eager, torch, onnxruntime) -> float:
    """The larger part of onnxruntime's symbols that are not torch's."""
    return max(float((onnxruntime != other).mean()) for other in (eager, torch))


def _scaled(interval, factor: float = 1.0) -> list[float]:
    return [factor * value for value in (interval.value, interval.low, interval.high)]


def _table(rows: list[dict]) -> str:
    lines = [
        "| width | torch eager | torch with kernels | onnxruntime | × eager | × kernels "
        "| of it products | billion multiply-adds a second | other symbols |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        medians = [_shown(row["median_ms"][name], 1) for name in CONTESTANTS]
        ratios = [_shown(row[name], 2) for name in ("against_eager", "against_torch")]
        speed = row["multiply_adds"] / row["products_ms"] / 1e6
        products = [f"{row['products_ms']:.1f}", f"{speed:.0f}"]
        other = f"{row['differing_symbols']:.1e}"
        cells = [f"{row['width']:g}", *medians, *ratios, *products, other]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(interval: list[float], digits: int) -> str:
    value, low, high = (f"{x:.{digits}f}" for x in interval)
    return f"{value} [{low}, {high}]"


def _version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


def _image(path: str | None):  # -> tuple[np.ndarray, str]
    """A real photograph of 512x768, since entropy coding's time depends on what is in it."""
    from icmh_rt.errors import ImageError
    from icmh_rt.images import load_image

    chosen = Path(path) if path else next(iter(sorted(EXAMPLES.glob("*.png"))), None)
    if chosen is None:
        raise ImageError(f"no photograph in {EXAMPLES.name}/: name one with --image")
    image = load_image(chosen)
    if image.shape[0] < HEIGHT or image.shape[1] < WIDTH:
        raise ImageError(f"{chosen.name} is {image.shape[:2]}: need at least {HEIGHT}x{WIDTH}")
    return image[:HEIGHT, :WIDTH].copy(), chosen.name


if __name__ == "__main__":
    sys.exit(main())
