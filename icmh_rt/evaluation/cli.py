"""`icmh eval`: measure rate-distortion curves and compare them with anchors.

Data goes to standard output, progress and errors to standard error. Exit codes: 0 done, 1 bad input
or data, 2 usage.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from icmh_rt.errors import IcmhError, OptionError
from icmh_rt.evaluation import csv_table, plot, published, report, results, task_cli
from icmh_rt.evaluation.anchors import SETTINGS, PillowAnchor
from icmh_rt.evaluation.exhibits import Exhibit, rd_exhibits
from icmh_rt.evaluation.options import (
    add_list,
    add_outputs,
    check_outputs,
    figure_beside,
    parse_anchors,
    parse_jobs,
    parse_published,
    parse_qualities,
    parse_widths,
)
from icmh_rt.evaluation.rd import CodecSource, Source, find_images, measure, read_records

DEFAULT_WIDTHS = "0.25,0.5,0.75,1.0"
DEFAULT_QUALITIES = "1,10,20,...,100"
DEFAULT_ANCHORS = "jpeg,webp"
SECONDS_BETWEEN_LINES = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what follows `icmh eval` to its parser."""
    commands = parser.add_subparsers(dest="evaluation", required=True, metavar="rd|task|report")
    rd = commands.add_parser(
        "rd",
        help="rate-distortion curves over a folder of images, with BD-rates against anchors",
        description="Encode and decode every image of a folder at several widths and qualities,"
        " and compare bytes and PSNR with anchors.",
    )
    rd.add_argument("--data", required=True, metavar="DIR", help="folder of images")
    add_list(
        rd,
        "--widths",
        parse_widths,
        DEFAULT_WIDTHS,
        metavar="W",
        help="widths of this codec, or 'none'",
    )
    add_list(
        rd,
        "--qualities",
        parse_qualities,
        DEFAULT_QUALITIES,
        metavar="Q",
        help="qualities 1-100; 'a,b,...,z' goes on in steps of b-a",
    )
    add_list(
        rd,
        "--anchors",
        parse_anchors,
        DEFAULT_ANCHORS,
        metavar="NAME",
        help=f"from {', '.join(SETTINGS)}; 'all' that are installed, or 'none'",
    )
    add_list(
        rd,
        "--published",
        parse_published,
        "auto",
        metavar="NAME",
        help="CompressAI's published Kodak curves as references: from "
        f"{', '.join(published.kodak())}, 'all' or 'none'; auto is three of them where the images "
        "are Kodak's",
    )
    rd.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="F",
        help="add the curves of an earlier --json file over the same images; may be repeated",
    )
    rd.add_argument("--model", default="default", help="bundle name or path (default: %(default)s)")
    rd.add_argument("--backend", default="auto", help="default: %(default)s")
    rd.add_argument("--device", default="auto", help="default: %(default)s")
    rd.add_argument(
        "--jobs", type=parse_jobs, default=1, metavar="N", help="processes (default: %(default)s)"
    )
    rd.add_argument("--json", metavar="F", help="write all figures; '-': to standard output")
    rd.add_argument("--csv", metavar="F", help="write a row for every curve, quality and image")
    add_outputs(rd)
    rd.add_argument("--quiet", action="store_true", help="no progress")

    task_cli.add_arguments(
        commands.add_parser("task", help="rate against the accuracy of a machine task")
    )

    again = commands.add_parser("report", help="table, page and figure from an earlier --json file")
    again.add_argument("results", metavar="F", help="a file written by `rd --json`")
    add_outputs(again)


def run(arguments: argparse.Namespace) -> int:
    """Do what was parsed. Returns the exit code; an IcmhError becomes one line on stderr."""
    try:
        if arguments.evaluation == "report":
            return _report(arguments)
        if arguments.evaluation == "task":
            return task_cli.run(arguments, _progress)
        return _rate_distortion(arguments)
    except IcmhError as error:
        print(f"icmh: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, OptionError) else 1


def _rate_distortion(arguments: argparse.Namespace) -> int:
    check_outputs(arguments)
    sources = [
        (CodecSource(w, arguments.model, arguments.backend, arguments.device), arguments.qualities)
        for w in arguments.widths
    ]
    anchors = [PillowAnchor(name) for name in arguments.anchors]
    if not sources and not anchors:
        raise OptionError("nothing to measure: give --widths, --anchors or both")
    references = [results.load(path) for path in arguments.reference]
    paths = find_images(arguments.data)
    records = read_records(paths)
    for path, reference in zip(arguments.reference, references, strict=True):
        if reference.images != records:
            raise IcmhError(
                f"{path} was measured on other images than those in {arguments.data}:"
                " names, sizes and contents must agree"
            )
    known = {curve.name for reference in references for curve in reference.curves}
    named = published.references(arguments.published, records)
    named = [curve for curve in named if curve.name not in known]
    progress = None if arguments.quiet else _progress()
    measured = measure(
        [*sources, *((anchor, anchor.qualities) for anchor in anchors)],
        paths,
        records,
        jobs=arguments.jobs,
        progress=progress,
    )
    parts = [results.Results((*measured, *named)), *references]
    merged = results.merge(parts, results.provenance(_command(arguments)))
    exhibits: list[Exhibit] = []
    if arguments.html:
        shown: list[Source] = [*(source for source, _ in sources), *anchors]
        exhibits = rd_exhibits(merged, shown, paths)
    _write(merged, arguments, arguments.title or Path(arguments.data).resolve().name, exhibits)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    check_outputs(arguments)
    loaded = results.load(arguments.results)
    _write(loaded, arguments, arguments.title or Path(arguments.results).stem)
    return 0


def _write(
    found: results.Results,
    arguments: argparse.Namespace,
    title: str,
    exhibits: Sequence[Exhibit] = (),
) -> None:
    json_path = getattr(arguments, "json", None)
    if json_path:
        results.write_text(results.to_json(found), json_path)
    if arguments.plot:
        plot.draw(found, arguments.plot, title)
    if arguments.markdown:
        page = report.markdown(found, title, figure_beside(arguments))
        results.write_text(page, arguments.markdown)
    csv_path = getattr(arguments, "csv", None)
    if csv_path:
        results.write_text(csv_table.to_csv(found), csv_path)
    if arguments.html:
        page = importlib.import_module("icmh_rt.reports").evaluation_page(found, title, exhibits)
        results.write_text(page, arguments.html)
    if "-" not in (json_path, csv_path, arguments.markdown, arguments.html):
        sys.stdout.write(report.table(found))


def _command(arguments: argparse.Namespace) -> str:
    """The command that gives these figures again, with names in place of this machine's paths."""
    parts = ["icmh eval rd", f"--data {Path(arguments.data).resolve().name}"]
    if arguments.widths:
        parts.append("--widths " + ",".join(f"{width:g}" for width in arguments.widths))
        parts.append("--qualities " + ",".join(map(str, arguments.qualities)))
        parts.append(f"--model {Path(arguments.model).name}")
        parts += [f"--backend {arguments.backend}", f"--device {arguments.device}"]
    else:
        parts.append("--widths none")
    parts.append("--anchors " + (",".join(arguments.anchors) or "none"))
    parts += [f"--reference {Path(path).name}" for path in arguments.reference]
    if arguments.published is not None:
        parts.append("--published " + (",".join(arguments.published) or "none"))
    if arguments.jobs != 1:
        parts.append(f"--jobs {arguments.jobs}")
    return " ".join(parts)


def _progress() -> Callable[[int, int, str], None]:
    """A line that renews itself on a terminal, a line every few seconds in a log."""
    start = shown = time.monotonic()
    terminal = sys.stderr.isatty()

    def show(done: int, total: int, what: str) -> None:
        nonlocal shown
        now = time.monotonic()
        left = (now - start) / done * (total - done)
        line = f"[{done:{len(str(total))}}/{total}] {what}, about {_duration(left)} left"
        if terminal:
            print(f"\r\033[K{line}", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif done == total or now - shown >= SECONDS_BETWEEN_LINES:
            shown = now
            print(line, file=sys.stderr, flush=True)

    return show


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
