"""Encoding whole folders: trees mirrored, work resumed, bad files set aside.

The output folder gets a manifest, one JSON object a line for each finished image: its path, the
SHA-256 of its file, what it was encoded with, the stream's path and size. A later run leaves out
what the manifest has with the same content and settings, so a run that was killed goes on where it
stopped, and a changed image is encoded again. Streams appear under their names only when they are
complete.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icmh_rt._files import replace_file
from icmh_rt._threads import get_num_threads
from icmh_rt.bitstream import STREAM_SUFFIX
from icmh_rt.errors import IcmhError, OptionError
from icmh_rt.images import readable_suffixes
from icmh_rt.pipeline import map_ordered

if TYPE_CHECKING:  # the command looks at its arguments first, without loading the codec
    from icmh_rt.codec import Encoder

MANIFEST = "icmh-manifest.jsonl"
FAILED = "icmh-failed.jsonl"
LIST_SUFFIX = ".txt"

_HASHED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Job:
    """An image and, relative to the output folder, its stream; or why it cannot have one."""

    source: Path
    target: Path
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Finished:
    """What became of a job.

    record: as in the manifest, None if it failed · error: why, "" if it did not · skipped: an
    earlier run had done it.
    """

    job: Job
    record: dict[str, Any] | None = None
    error: str = ""
    skipped: bool = False


def is_many(argument: str) -> bool:
    """Whether an input of the command names any number of images: a folder that has some, a
    pattern, a list.
    """
    if argument == "-":
        return True
    if os.path.isdir(argument):
        return any(True for _ in _images_in(argument, argument))
    if os.path.exists(argument):
        return argument.endswith(LIST_SUFFIX)
    return glob.has_magic(argument)


def find_jobs(arguments: Sequence[str], output: Path, lines: Iterator[str]) -> list[Job]:
    """Every image that ``arguments`` name, in order, each once.

    Args:
        arguments: image files; folders, of which all images are taken, those in ``output`` left
            out; patterns such as ``photos/**/*.jpg``; lists, ``.txt`` files of one path a line; or
            ``-``, such a list as ``lines``. Streams of a folder or pattern keep their place below
            it (below the part without wildcards), those of a list their whole path without the
            root, those of files that are named here their name alone.

    Raises:
        OptionError: an argument names no image.
    """
    jobs: list[Job] = []
    first: dict[Path, Path] = {}
    for argument in arguments:
        found = 0
        for source, below in _named_by(argument, output, lines):
            found += 1
            target = Path(below).with_suffix(STREAM_SUFFIX)
            other = first.setdefault(target, source)
            if other is source:
                jobs.append(Job(source, target))
            elif os.path.realpath(other) != os.path.realpath(source):
                jobs.append(Job(source, target, f"{target} is already the stream of {other}"))
        if not found:
            raise OptionError(f"{argument} names no image")
    return jobs


def _named_by(
    argument: str, output: Path, lines: Iterator[str]
) -> Iterator[tuple[Path, str | Path]]:
    """Images, and where below the output their streams go."""
    if argument == "-":
        yield from _listed(lines)
    elif os.path.isdir(argument):
        yield from _images_in(argument, os.path.realpath(output))
    elif glob.has_magic(argument) and not os.path.exists(argument):
        start = _without_wildcards(argument)
        for name in sorted(glob.glob(argument, recursive=True)):
            if os.path.isfile(name):
                yield Path(name), os.path.relpath(name, start)
    elif argument.endswith(LIST_SUFFIX):
        with open(argument, encoding="utf-8", errors="surrogateescape") as file:
            yield from _listed(file)
    else:
        yield Path(argument), os.path.basename(argument)


def _images_in(top: str, left_out: str) -> Iterator[tuple[Path, Path]]:
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
                source = Path(folder, name)
                yield source, source.relative_to(top)


def _listed(lines: Iterator[str]) -> Iterator[tuple[Path, str]]:
    for line in lines:
        name = line.rstrip("\r\n")
        if name:
            yield Path(name), _below(name)


def _without_wildcards(pattern: str) -> str:
    """The folder that all a pattern's matches are in."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return os.path.join("", *parts[:fixed]) or os.curdir


def _below(name: str) -> str:
    """A path without its root and without steps upwards: nothing may leave the output folder."""
    path = Path(os.path.normpath(name))
    parts = [part for part in path.parts if part not in (path.anchor, os.pardir)]
    return os.path.join(*parts)


# -- running ---------------------------------------------------------------------------------------


@dataclass(eq=False)
class FolderEncoding:
    """One run into one output folder.

    Args:
        encoder: what encodes.
        output: the folder, made if missing.
        workers: images in work at a time; 0 for as many as there are threads.
        force: replace streams that the manifest does not know.

    Raises:
        OptionError: ``output`` is a file.
    """

    encoder: Encoder
    output: Path
    workers: int = 0
    force: bool = False
    _done: dict[str, dict[str, Any]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.output.exists() and not self.output.is_dir():
            raise OptionError(f"-o {self.output} is a file: a folder is needed here")
        self.output.mkdir(parents=True, exist_ok=True)
        self._done = _read_manifest(self.output / MANIFEST)
        self._settings = {
            "fingerprint": self.encoder.fingerprint,
            "width": self.encoder.width,
            "task": self.encoder.task,
            "quality": self.encoder.quality,
        }

    def run(self, jobs: Sequence[Job]) -> Iterator[Finished]:
        """Do every job, in order; what failed is in the folder's list of failures afterwards."""
        failures: list[dict[str, str]] = []
        workers = self.workers or get_num_threads()
        # Line by line, so that a run that is killed has lost nothing that was done.
        with (
            open(self.output / MANIFEST, "a", encoding="utf-8") as manifest,
            self.encoder.backend.workers(workers) as executor,
            closing(map_ordered(self._do, jobs, executor, 2 * workers)) as calls,
        ):
            _end_line(manifest)
            for job, call in calls:
                try:
                    finished = call.result()
                except (IcmhError, OSError) as error:
                    finished = Finished(job, error=_reason(error, job.source))
                    failures.append({"input": str(job.source), "error": finished.error})
                if finished.record is not None and not finished.skipped:
                    manifest.write(json.dumps(finished.record) + "\n")
                    manifest.flush()
                yield finished
        self._list_failures(failures)

    def _do(self, job: Job) -> Finished:
        if job.problem:
            raise OptionError(job.problem)
        started = time.perf_counter()
        target = self.output / job.target
        with open(job.source, "rb") as file:
            digest = _sha256(file)
        known = self._done.get(job.target.as_posix())
        if known is not None and self._is_done(known, digest, target):
            return Finished(job, known, skipped=True)
        data = self.encoder.encode(job.source)
        # One that this run's settings give, or an earlier version of it, is no one else's.
        if known is None and not self.force and target.exists() and target.read_bytes() != data:
            raise OSError(
                f"{target} exists and is not this image's stream: give --force to replace it"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(target) as file:
            file.write(data)
        return Finished(
            job,
            {
                "input": str(job.source),
                "sha256": digest,
                "output": job.target.as_posix(),
                "stream_bytes": len(data),
                **self._settings,
                "seconds": round(time.perf_counter() - started, 4),
            },
        )

    def _is_done(self, known: dict[str, Any], digest: str, target: Path) -> bool:
        settings = {name: known.get(name) for name in self._settings}
        if known.get("sha256") != digest or settings != self._settings:
            return False
        with suppress(OSError):
            return target.stat().st_size == known.get("stream_bytes")
        return False

    def _list_failures(self, failures: list[dict[str, str]]) -> None:
        path = self.output / FAILED
        if not failures:
            path.unlink(missing_ok=True)
            return
        with replace_file(path) as file:
            for failure in failures:
                file.write((json.dumps(failure) + "\n").encode())


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(_HASHED_AT_ONCE):
        digest.update(block)
    return digest.hexdigest()


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """By output, the last record of each; lines that a killed run left torn count for nothing."""
    records: dict[str, dict[str, Any]] = {}
    with suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("output"), str):
                    records[record["output"]] = record
    return records


def _end_line(manifest: Any) -> None:
    """Begin a new line where a killed run left one torn."""
    with open(manifest.name, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                manifest.write("\n")


def _reason(error: Exception, source: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or source}: {error.strerror}"
    return " ".join(str(error).split())
