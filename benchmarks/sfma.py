"""Claim: our kernels compute an SFMA several times faster than the paper's formula in PyTorch.

    python benchmarks/sfma.py [--device cpu|cuda] [--threads N] [--json F] [--markdown F]
    python benchmarks/sfma.py --whole-encode [--threads N] [--json F] [--markdown F]

Times one adapter of 128 channels, 64 in the middle, on fixed shapes: the paper's formula layer by
layer, the algebraic form without angles in plain PyTorch, `torch.compile` of that, and every kernel
of this package that can run here. In rounds that run every contestant once in random order, with
the allocator's defaults; on a GPU by events on the stream. Prints the time, the effective bandwidth
(x read and the result written, over the time), the floor (the same bytes at the speed of a copy,
measured here) and the error against the formula in float64: relative L2 of the result, and of what
the adapter adds to x alone.

--whole-encode times `Encoder.encode` of a 512x768 photograph with adapters in the encoder instead,
against the same through eager modules (ICMH_KERNELS=reference and the paper's formula): the default
codec, and TIC.

Exit code 1 if a bar is missed: on a CPU 4 times faster than the formula at 256x384 (aim 6) and 2
times at 128x192 (aim 3); on a GPU 4 times faster than the formula and 2 times than torch.compile at
544x960; 2 times the whole encode (aim 3); relative L2 of 1e-5 in fp32 and 5e-3 in fp16.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from command import run, set_threads

CHANNELS, MIDDLE = 128, 64
ERROR_BARS = {"fp32": 1e-5, "fp16": 5e-3}
SCHEMA, SCHEMA_VERSION = "icmh_rt.sfma", 1
_ALLOCATOR = ("LD_PRELOAD", "GLIBC_TUNABLES")


@dataclass(frozen=True)
class Case:
    """A shape, and how many times faster than which contestant ours must be (bar, aim)."""

    shape: tuple[int, int, int, int]
    dtype: str
    bars: dict[str, tuple[float, float | None]]


def _cases(device: str, quick: bool) -> list[Case]:
    eager, compiled = "eager formula", "torch.compile"
    if quick:
        return [Case((1, 16, 24, 36), "fp32", {eager: (0.0, None)})]
    if device == "cpu":
        return [
            Case((1, CHANNELS, 256, 384), "fp32", {eager: (4.0, 6.0)}),
            Case((1, CHANNELS, 128, 192), "fp32", {eager: (2.0, 3.0)}),
        ]
    bars = {eager: (4.0, None), compiled: (2.0, None)}
    return [Case((1, CHANNELS, 544, 960), dtype, bars) for dtype in ("fp32", "fp16")]


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    set_threads(options.threads)
    return run("sfma", _run, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda or cuda:N")
    parser.add_argument("--whole-encode", action="store_true", help="time Encoder.encode instead")
    parser.add_argument("--layout", choices=("nchw", "nhwc"), default="nchw", help="of x in memory")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="0: as the libraries choose")
    parser.add_argument("--quick", action="store_true", help="tiny shapes without bars, for tests")
    parser.add_argument("--json", help="write every single time as well")
    parser.add_argument("--markdown", help="write the tables as a page")
    return parser


def _run(options: argparse.Namespace) -> int:
    import torch
    from sfma_report import bars_of, markdown_of

    from icmh_rt.backends.torch import device_of
    from icmh_rt.errors import OptionError
    from icmh_rt.evaluation.results import provenance, write_text

    if options.rounds < 3:
        raise OptionError(f"--rounds must be at least 3, got {options.rounds}")
    device = device_of(options.device)
    if device.type == "cuda" and options.whole_encode:
        raise OptionError("--whole-encode is a claim about CPUs: leave --device out")
    torch.set_grad_enabled(False)
    if options.threads:
        torch.set_num_threads(options.threads)
    what = "--whole-encode" if options.whole_encode else f"--device {options.device}"
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance(f"python benchmarks/sfma.py {what} --threads {options.threads}"),
        "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "layout": options.layout,
        "rounds": options.rounds,
        "load_before": os.getloadavg()[0],
        "allocator": {name: os.environ[name] for name in _allocator_settings()},
        "cases": [],
    }
    if options.whole_encode:
        from sfma_encode import encode_cases

        document["cases"] = encode_cases(
            options.quick, options.rounds, options.warmup, _progress(options)
        )
    else:
        for case in _cases(device.type, options.quick):
            document["cases"].append(_measure(case, device, options))
    document["bars"] = bars_of(document["cases"])
    page = markdown_of(document)
    print(page)
    if options.json:
        write_text(json.dumps(document, indent=1) + "\n", options.json)
    if options.markdown:
        write_text(page, options.markdown)
    return 0 if all(bar["met"] for bar in document["bars"]) else 1


def _allocator_settings() -> list[str]:
    """Variables that change how memory is got: the claim is about the defaults."""
    return [k for k in os.environ if k.startswith("MALLOC_") or k in _ALLOCATOR]


def _measure(case: Case, device: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Times, errors and floors of every contestant at one shape."""
    import torch
    from sfma_contestants import EAGER, adapter, arguments_of, contestants, eager_formula
    from timing import interleaved

    dtype = {"fp32": torch.float32, "fp16": torch.float16}[case.dtype]
    module = adapter(case.shape[1], case.shape[1] // 2, device, dtype)
    layout = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}[options.layout]
    x = torch.randn(case.shape, generator=torch.Generator().manual_seed(1))
    x = x.to(device, dtype, memory_format=layout)
    arguments = arguments_of(module)
    _say(f"{case.shape} {case.dtype}: preparing")
    found, missing = contestants(x, arguments, not (options.no_compile or options.quick))
    exact = [v.double() if isinstance(v, torch.Tensor) else v for v in arguments]
    expected = eager_formula(x.double(), *exact)
    errors = {name: _errors(run(), expected, x) for name, run in found.items()}
    del exact, expected
    on_gpu = device.type == "cuda"
    timed = {name: (_by_events if on_gpu else _discarding)(run) for name, run in found.items()}
    target = torch.empty_like(x)
    timed["copy"] = _by_events(lambda: target.copy_(x)) if on_gpu else lambda: target.copy_(x)
    measured = interleaved(timed, options.rounds, options.warmup, progress=_progress(options))
    seconds = {
        name: [value if on_gpu else clock for clock, value in rows]
        for name, rows in measured.items()
    }
    return {
        "kind": "adapter",
        "name": f"{'x'.join(map(str, case.shape))} {case.dtype}",
        "dtype": case.dtype,
        "bytes": 2 * x.numel() * x.element_size(),
        "copy_s": seconds.pop("copy"),
        "judge": EAGER,
        "speed_bars": {k: list(v) for k, v in case.bars.items()},
        "error_bar": ERROR_BARS[case.dtype],
        "missing": missing,
        "rows": [
            {"name": name, "times_s": times, **errors[name]} for name, times in seconds.items()
        ],
    }


def _errors(result: Any, expected: Any, x: Any) -> dict[str, float]:
    """Relative L2 of the result, and of what was added to x."""
    result, x = result.double(), x.double()
    distance = (result - expected).norm()
    return {
        "error": (distance / expected.norm()).item(),
        "change_error": (distance / (expected - x).norm()).item(),
    }


def _discarding(run: Callable[[], object]) -> Callable[[], None]:
    """The stopwatch keeps what a call returns; a codec drops a feature map after its next layer."""

    def timed() -> None:
        run()

    return timed


def _by_events(run: Callable[[], object]) -> Callable[[], float]:
    """Seconds on the stream from before ``run``'s first kernel to behind its last."""
    import torch

    def timed() -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    return timed


def _progress(options: argparse.Namespace) -> Callable[[int], None]:
    return lambda done: _say(f"round {done}/{options.rounds}")


def _say(text: str) -> None:
    print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
