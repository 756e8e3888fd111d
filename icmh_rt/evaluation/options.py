"""Values of the `icmh eval` command's options."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from icmh_rt.errors import IcmhError
from icmh_rt.evaluation import plot
from icmh_rt.evaluation.anchors import SETTINGS


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Where figure and page go."""
    parser.add_argument("--plot", metavar="F", help="draw the curves (.svg, .png or .pdf)")
    parser.add_argument("--markdown", metavar="F", help="write a page with tables and the figure")
    parser.add_argument("--title", help="title of page and figure (default: the folder's name)")


def check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse what could not be written, before time is spent measuring."""
    if arguments.plot:
        plot.require(arguments.plot)
    for path in (getattr(arguments, "json", None), arguments.plot, arguments.markdown):
        if path and path != "-" and not Path(path).resolve().parent.is_dir():
            raise IcmhError(f"cannot write {path}: its folder does not exist")


def figure_beside(arguments: argparse.Namespace) -> str | None:
    """The figure's path relative to the page, where both are written."""
    if not arguments.plot:
        return None
    folder = Path(arguments.markdown).resolve().parent
    return Path(os.path.relpath(Path(arguments.plot).resolve(), folder)).as_posix()


def parse_qualities(text: str) -> tuple[int, ...]:
    """'1,10,20,...,100' to rising integers 1-100; an ellipsis continues the step before it."""
    fields = [field.strip() for field in text.split(",")]
    values: list[int] = []
    for position, field in enumerate(fields):
        if field == "...":
            values += _between(values, fields[position + 1 : position + 2], text)
        elif re.fullmatch(r"[0-9]{1,3}", field) and 1 <= int(field) <= 100:
            values.append(int(field))
        else:
            raise argparse.ArgumentTypeError(f"quality {field!r} is not an integer from 1 to 100")
    return tuple(sorted(set(values)))


def _between(values: Sequence[int], following: Sequence[str], text: str) -> range:
    step = values[-1] - values[-2] if len(values) >= 2 else 0
    stop = int(following[0]) if following and re.fullmatch(r"[0-9]+", following[0]) else 0
    if step < 1 or stop <= values[-1] or (stop - values[-1]) % step:
        raise argparse.ArgumentTypeError(
            f"in {text!r} '...' must stand between two rising values and one their step reaches"
        )
    return range(values[-1] + step, stop, step)


def parse_widths(text: str) -> tuple[float, ...]:
    """'0.25,1.0' to distinct rising widths; 'none' to ()."""
    if text == "none":
        return ()
    try:
        widths = sorted({float(field) for field in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"widths {text!r} are not numbers with commas") from None
    if not all(0 < width <= 2 for width in widths):
        raise argparse.ArgumentTypeError(f"widths {text!r} must be above 0 and at most 2")
    return tuple(widths)


def parse_anchors(text: str) -> tuple[str, ...]:
    """'jpeg,webp' to distinct anchor names; 'none' to ()."""
    names = () if text == "none" else tuple(dict.fromkeys(n.strip() for n in text.split(",")))
    for name in names:
        if name not in SETTINGS:
            known = ", ".join(SETTINGS)
            raise argparse.ArgumentTypeError(f"unknown anchor {name!r}: choose from {known}")
    return names


def parse_jobs(text: str) -> int:
    """A positive integer."""
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"jobs {text!r} is not a positive integer")
    return int(text)
