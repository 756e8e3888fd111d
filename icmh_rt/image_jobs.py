"""Which images the arguments of a command name, and where below the output their streams go."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from icmh_rt.bitstream import STREAM_SUFFIX
from icmh_rt.errors import OptionError
from icmh_rt.images import readable_suffixes
from icmh_rt.places import images_of, is_uri

LIST_SUFFIX = ".txt"


@dataclass(frozen=True)
class Job:
    """An image, a path or a URI, and its stream's name below the output; or why it cannot have
    one.
    """

    source: str
    target: str
    problem: str = ""


def is_many(argument: str) -> bool:
    """Whether an input of the command names any number of images: a folder that has some, a
    pattern, a list, a URI.
    """
    if argument == "-" or is_uri(argument):
        return True
    if os.path.isdir(argument):
        return any(True for _ in _images_in(argument, argument))
    if os.path.exists(argument):
        return argument.endswith(LIST_SUFFIX)
    return glob.has_magic(argument)


def find_jobs(
    arguments: Sequence[str], output: str | os.PathLike[str], lines: Iterable[str]
) -> list[Job]:
    """Every image that ``arguments`` name, in order, each once.

    Args:
        arguments: image files; folders, of which all images are taken, those in ``output`` left
            out; patterns such as ``photos/**/*.jpg``; lists, ``.txt`` files of one path a line;
            ``-``, such a list as ``lines``; or URIs of images and folders. Streams of a folder or
            pattern keep their place below it (below the part without wildcards), those of a list
            their whole path without the root, those of files that are named here their name alone.

    Raises:
        OptionError: an argument names no image.
    """
    jobs: list[Job] = []
    first: dict[str, str] = {}
    for argument in arguments:
        found = 0
        for source, below in _named_by(argument, os.fspath(output), lines):
            found += 1
            if not below:  # ".." and "/" in a list
                jobs.append(Job(source, STREAM_SUFFIX, f"{source} is a folder: name an image file"))
                continue
            target = os.path.splitext(below)[0] + STREAM_SUFFIX
            other = first.setdefault(target, source)
            if other is source:
                jobs.append(Job(source, target))
            elif _real(other) != _real(source):
                jobs.append(Job(source, target, f"{target} is already the stream of {other}"))
        if not found:
            raise OptionError(f"{argument} names no image")
    return jobs


def _real(source: str) -> str:
    return source if is_uri(source) else os.path.realpath(source)


def _named_by(argument: str, output: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Images, and where below the output their streams go."""
    if argument == "-":
        yield from _listed(lines, "standard input")
    elif is_uri(argument):
        yield from images_of(argument, readable_suffixes(), output)
    elif os.path.isdir(argument):
        yield from _images_in(argument, os.path.realpath(output))
    elif glob.has_magic(argument) and not os.path.exists(argument):
        start = _without_wildcards(argument)
        for name in sorted(glob.glob(argument, recursive=True)):
            if os.path.isfile(name):
                yield name, _with_slashes(os.path.relpath(name, start))
    elif argument.endswith(LIST_SUFFIX):
        with open(argument, encoding="utf-8", errors="surrogateescape") as file:
            yield from _listed(file, argument)
    else:
        yield argument, os.path.basename(os.path.normpath(argument))


def _images_in(top: str, left_out: str) -> Iterator[tuple[str, str]]:
    """Images of a tree and their places in it, without hidden ones and a folder in it."""
    suffixes = readable_suffixes()
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(folder, name)) != left_out
        )
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(suffixes):
                source = os.path.join(folder, name)
                yield source, _with_slashes(os.path.relpath(source, top))


def _listed(lines: Iterable[str], where: str) -> Iterator[tuple[str, str]]:
    for line in lines:
        name = line.rstrip("\r\n")
        if "\0" in name:
            raise OptionError(f"{where} is no list of paths: it has a NUL byte")
        if name:
            yield name, _below(name)


def _without_wildcards(pattern: str) -> str:
    """The folder that all a pattern's matches are in."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return os.path.join("", *parts[:fixed]) or os.curdir


def _below(name: str) -> str:
    """A path without its root and without steps upwards: nothing may leave the output folder."""
    if is_uri(name):
        name = name.partition("://")[2]
    path = Path(os.path.normpath(name))
    left_out = (path.anchor, os.pardir, os.curdir)
    return "/".join(part for part in path.parts if part not in left_out)


def _with_slashes(path: str) -> str:
    return path.replace(os.sep, "/")
