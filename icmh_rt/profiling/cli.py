"""`icmh profile`: how fast the codec is here and where the time goes.

Tables and JSON go to standard output, progress to standard error. Exit codes: 0 measured (or, with
--compare, nothing got slower), 1 something got slower or could not be measured, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from icmh_rt.errors import BackendUnavailableError, IcmhError, OptionError
from icmh_rt.evaluation import plot, results

SECONDS_BETWEEN_LINES = 10.0
_SWEEP = "256x256 512x512 1024x1024 2048x2048 2160x3840"
_EPILOG = (
    "Examples: icmh profile --widths 0.25 1.0 --json a.json; "
    f"icmh profile --sizes {_SWEEP} --plot-growth growth.svg; "
    "icmh profile --compare a.json b.json. "
    "Exit codes: 0 measured and, with --compare, nothing slower; 1 something slower, or it could "
    "not be measured; 2 usage."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what follows `icmh profile` to its parser."""
    parser.description = (
        "Measure encoding and decoding on this machine, stage by stage, until the figures have "
        "settled, or say that they did not. Docs: docs/profiling.md."
    )
    parser.epilog = _EPILOG
    what = parser.add_argument_group("what is measured")
    what.add_argument("--widths", nargs="+", metavar="W", help="of the bundle (default: all)")
    what.add_argument("--tasks", nargs="+", metavar="T", help="(default: human)")
    what.add_argument("--backends", nargs="+", metavar="B", help="names, or auto (the default)")
    what.add_argument(
        "--sizes", nargs="+", metavar="HxW", help="of images, height x width (default: 512x768)"
    )
    what.add_argument(
        "--batch",
        nargs="+",
        metavar="N",
        help="also throughput: N images through encode_many, beside a plain loop",
    )
    what.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:N")
    what.add_argument("--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    what.add_argument("--quality", type=int, default=50, metavar="Q", help="1 to 100 (50)")
    what.add_argument("--model", default="default", help="bundle: a name or a folder")
    what.add_argument("--image", metavar="F", help="photograph (default: one that comes along)")
    what.add_argument(
        "--input",
        default="array",
        metavar="KIND",
        help="give the encoder pixels (array), or a file to read (png, jpeg)",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--iterations",
        type=int,
        default=10,
        metavar="N",
        help="calls of a window, at least; short ones are repeated more often (%(default)s)",
    )
    how.add_argument(
        "--max-windows",
        type=int,
        default=10,
        metavar="N",
        help="give up after N windows that did not settle (%(default)s)",
    )
    how.add_argument(
        "--rounds",
        type=int,
        default=5,
        metavar="N",
        help="of a window; each gives every configuration a turn (%(default)s)",
    )
    how.add_argument("--max-seconds", type=float, metavar="S", help="begin no window after that")
    how.add_argument(
        "--cold-start",
        type=int,
        default=0,
        metavar="N",
        help="also import to first stream, in N fresh processes",
    )
    how.add_argument("--no-memory", action="store_true", help="no peaks of memory (a process each)")
    how.add_argument("--no-energy", action="store_true", help="no power, where it could be read")
    out = parser.add_argument_group("results")
    out.add_argument("--json", metavar="F", help="write the document; '-': to standard output")
    out.add_argument("--html", metavar="F", help="write one page with tables and curves")
    out.add_argument("--plot-widths", metavar="F", help="draw time by width (.svg, .png, .pdf)")
    out.add_argument("--plot-growth", metavar="F", help="draw growth over the sizes")
    out.add_argument("--quiet", action="store_true", help="no progress")
    out.add_argument(
        "--report", metavar="F", help="measure nothing: tables, page and figures of a --json file"
    )
    out.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="measure nothing: what got slower from A to B",
    )
    out.add_argument(
        "--tolerance",
        type=float,
        default=5.0,
        metavar="P",
        help="percent that do not count in --compare (%(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Do what was parsed. Returns the exit code."""
    _check_outputs(options)
    if options.compare:
        return _compare(options)
    from icmh_rt.profiling import schema

    if options.report:
        document = schema.load(options.report)
    else:
        from icmh_rt.profiling.run import profile

        plan = plan_of(options)
        with _Line(options.quiet) as show:
            document = profile(plan, _command(options), show)
    _write(document, options)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from icmh_rt.profiling import report, schema
    from icmh_rt.profiling.compare import compare

    for name in ("html", "plot_widths", "plot_growth", "report"):
        if getattr(options, name):
            raise OptionError(f"--{name.replace('_', '-')} does not go with --compare")
    before, after = (schema.load(path) for path in options.compare)
    found = compare(before, after, options.tolerance / 100)
    if options.json:
        results.write_text(json.dumps(found, indent=1) + "\n", options.json)
    if options.json != "-":
        sys.stdout.write(report.comparison(found))
    return 1 if found["slower"] else 0


def _write(document: dict[str, Any], options: argparse.Namespace) -> None:
    from icmh_rt.profiling import figures, report

    if options.json:
        results.write_text(json.dumps(document, indent=1) + "\n", options.json)
    if options.html:
        results.write_text(_page(document), options.html)
    if options.plot_widths:
        figures.draw_widths(document, options.plot_widths)
    if options.plot_growth:
        figures.draw_growth(document, options.plot_growth)
    if "-" not in (options.json, options.html):
        sys.stdout.write(report.table(document))


def _page(document: dict[str, Any]) -> str:
    try:
        from icmh_rt.reports import profile_page
    except ImportError:
        raise BackendUnavailableError("this icmh_rt was installed without its pages") from None
    return profile_page(document)


# -- options ---------------------------------------------------------------------------------------


def plan_of(options: argparse.Namespace) -> Any:
    """What was asked for, checked as far as it can be without loading anything.

    Raises:
        OptionError: a value that cannot be.
    """
    from icmh_rt.profiling.plan import Plan

    chosen: dict[str, Any] = {
        "widths": tuple(_number("width", text, float) for text in _fields(options.widths)),
        "batches": tuple(_number("batch", text, int) for text in _fields(options.batch)),
    }
    for name, values in (("tasks", options.tasks), ("backends", options.backends)):
        if values:
            chosen[name] = tuple(_fields(values))
    if options.sizes:
        chosen["sizes"] = tuple(_size(text) for text in _fields(options.sizes))
    if options.cold_start < 0:
        raise OptionError(f"--cold-start is {options.cold_start}: give 0 or more processes")
    return Plan(
        **chosen,
        iterations=options.iterations,
        max_windows=options.max_windows,
        rounds=options.rounds,
        most_s=options.max_seconds,
        device=options.device,
        dtype=options.dtype,
        quality=options.quality,
        model=options.model,
        image=options.image,
        given_as=options.input,
        with_memory=not options.no_memory,
        with_energy=not options.no_energy,
        cold_starts=options.cold_start,
    )


def _fields(values: Sequence[str] | None) -> list[str]:
    """Of values between spaces or commas."""
    return [field for value in values or () for field in value.split(",") if field]


def _number(what: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise OptionError(f"{what} {text!r} is not a number") from None


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", text)
    if match is None:
        raise OptionError(f"size {text!r} is none: give HEIGHTxWIDTH, as 1080x1920")
    return int(match[1]), int(match[2])


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse what could not be written, before time is spent measuring."""
    for path in (options.plot_widths, options.plot_growth):
        if path:
            plot.require(path)
    for path in (options.json, options.html, options.plot_widths, options.plot_growth):
        if path and path != "-" and not Path(path).resolve().parent.is_dir():
            raise IcmhError(f"cannot write {path}: its folder does not exist")
    if options.json == "-" == options.html:
        raise OptionError("--json and --html cannot both go to standard output")


def _command(options: argparse.Namespace) -> str:
    """The command that measures this again, with names in place of this machine's paths."""
    parts = ["icmh", "profile"]
    for name in ("widths", "tasks", "backends", "sizes", "batch"):
        if getattr(options, name):
            parts += [f"--{name}", *_fields(getattr(options, name))]
    for name, usual in (
        ("device", "auto"),
        ("dtype", "auto"),
        ("quality", 50),
        ("input", "array"),
        ("iterations", 10),
        ("max_windows", 10),
        ("rounds", 5),
        ("max_seconds", None),
        ("cold_start", 0),
    ):
        if getattr(options, name) != usual:
            parts += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    for name in ("model", "image"):
        if getattr(options, name) not in (None, "default"):
            parts += [f"--{name}", Path(getattr(options, name)).name]
    parts += [
        f"--{name}"
        for name in ("no-memory", "no-energy")
        if getattr(options, name.replace("-", "_"))
    ]
    return shlex.join(parts)


class _Line:
    """A line that renews itself on a terminal, a line every few seconds in a log."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._terminal = quiet, sys.stderr.isatty()
        self._shown = float("-inf")

    def __enter__(self) -> Callable[[str], None]:
        return self._show

    def __exit__(self, *_: Any) -> None:
        if self._terminal and not self._quiet:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _show(self, text: str) -> None:
        now = time.monotonic()
        least = 0.1 if self._terminal else SECONDS_BETWEEN_LINES
        if self._quiet or now - self._shown < least:
            return
        self._shown = now
        if self._terminal:
            print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
