"""`icmh doctor`: what is installed, what works, and the one thing to mend.

Exit codes: 0 all that is installed works and a backend is, 1 there is something to mend, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from icmh_rt.doctor import BACKENDS, Examination, Result, examine

_EPILOG = "Exit codes: 0 all that is installed works, 1 there is something to mend, 2 usage."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what follows `icmh doctor` to its parser."""
    parser.description = (
        "Look at everything that icmh_rt uses, each in a process of its own, encode and decode a "
        "small picture with every backend, and name the one thing to mend."
    )
    parser.epilog = _EPILOG
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--model", default="default", help="bundle to try: a name or a folder (default: default)"
    )
    parser.add_argument(
        "--backend",
        default="auto",
        choices=("auto", *BACKENDS),
        help="the one that has to work (default: %(default)s, any)",
    )
    parser.add_argument(
        "--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:N (default: auto)"
    )


def run(options: argparse.Namespace) -> int:
    """Print the findings; returns the exit code."""
    from icmh_rt.backends import _devices

    _devices.parse(options.device)
    if not options.json and sys.stderr.isatty():
        print("looking, some seconds ...", end="\r", file=sys.stderr, flush=True)
    examination = examine(options.model, options.device, options.backend)
    if options.json:
        print(json.dumps(examination.to_dict()))
    else:
        print("\n".join(_lines(examination, options.backend)))
    return 0 if examination.ok else 1


def _lines(examination: Examination, backend: str) -> Iterator[str]:
    yield f"icmh_rt {examination.icmh_rt}, Python {examination.python}"
    yield examination.platform
    for name, value in examination.environment.items():
        yield f"{name}={value}"
    yield ""
    for result in examination.components:
        yield _line(result.name, result)
    yield ""
    yield "backends"
    for result in examination.backends:
        place = result.facts.get("place")
        yield "  " + _line(f"{result.name} on {place}" if place else result.name, result, 19)
    choice = examination.choice
    yield f"auto takes {choice['reason']}" if choice else "auto can take none"
    yield ""
    if examination.ok:
        yield f"Everything that {'is installed' if backend == 'auto' else 'it needs'} works."
    for number, problem in enumerate(examination.problems):
        yield f"{'To mend first' if not number else 'Then'}: {problem.component}: {problem.cause}"
        yield f"  -> {problem.mend}"


def _line(name: str, result: Result, width: int = 13) -> str:
    if result.state == "ok":
        said = ", ".join(part for part in (result.version, result.detail) if part)
    elif result.state == "waits":
        said = f"for {result.cause}"
    else:
        said = f"{result.cause}{f' -> {result.mend}' if result.mend else ''}"
    return f"{name:<{width}}{result.state:<9}{said}".rstrip()
