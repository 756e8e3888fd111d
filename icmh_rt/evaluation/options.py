"""Values of the `icmh eval` command's options."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from icmh_rt.errors import IcmhError, OptionError
from icmh_rt.evaluation import plot, published
from icmh_rt.evaluation.anchors import SETTINGS, installed

OUTPUTS = ("plot", "markdown", "html")


class Listed(argparse.Action):
    """Values with commas, spaces or both between them: `--widths 0.25,0.5 1.0`.

    parse: takes the text with commas alone.
    """

    def __init__(self, option_strings: Sequence[str], dest: str, **rest: Any) -> None:
        self._parse = rest.pop("parse")
        super().__init__(option_strings, dest, nargs="+", **rest)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            setattr(namespace, self.dest, self._parse(",".join(v.strip(",") for v in values)))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None


def add_list(
    parser: argparse.ArgumentParser,
    name: str,
    parse: Callable[[str], Any],
    default: str,
    **rest: Any,
) -> None:
    """An option of several values; its help names the default, in the form it is typed in."""
    rest["help"] += f" (default: {default})"
    parser.add_argument(name, action=Listed, parse=parse, default=parse(default), **rest)


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Where figure and pages go."""
    parser.add_argument("--plot", metavar="F", help="draw the curves (.svg, .png or .pdf)")
    parser.add_argument("--markdown", metavar="F", help="write a page with tables and the figure")
    parser.add_argument(
        "--html", metavar="F", help="write one page with everything in it, for a browser"
    )
    parser.add_argument("--title", help="title of page and figure (default: the folder's name)")


def check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse what could not be written, before time is spent measuring."""
    if arguments.plot:
        plot.require(arguments.plot)
    paths = [getattr(arguments, name, None) for name in ("json", "csv", *OUTPUTS)]
    if paths.count("-") > 1:
        raise OptionError("more than one output is '-': standard output takes only one")
    for path in paths:
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
    """'jpeg,webp' to distinct anchor names; 'none' to (), 'all' to those that are installed."""
    return installed() if text == "all" else _names(text, tuple(SETTINGS), "anchor")


def parse_published(text: str) -> tuple[str, ...] | None:
    """Names of published curves; 'none' to (), 'all' to all, 'auto' to None."""
    known = tuple(published.kodak())
    if text in ("auto", "all"):
        return known if text == "all" else None
    return _names(text, known, "published curve")


def _names(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(dict.fromkeys(n.strip() for n in text.split(",")))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(
                f"unknown {what} {name!r}: choose from {', '.join(known)}"
            )
    return names


def parse_jobs(text: str) -> int:
    """A positive integer."""
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"jobs {text!r} is not a positive integer")
    return int(text)
