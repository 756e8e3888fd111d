"""Encoding whole folders: trees mirrored, work resumed, bad files set aside.

The output folder gets a manifest, one JSON object a line for each finished image: its path, the
SHA-256 of its file, what it was encoded with, the stream's path and size. A later run leaves out
what the manifest has with the same content and settings, so a run that was killed goes on where it
stopped, and a changed image is encoded again. Streams appear under their names only when they are
complete.

`FolderEncoding` does it with the threads of this machine, `icmh_rt.distributed` with many machines;
`JobEncoder` and `Manifest` are what they share.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icmh_rt._threads import get_num_threads
from icmh_rt.errors import IcmhError, ImageError
from icmh_rt.image_jobs import Job, find_jobs, is_many
from icmh_rt.images import ImageLike, load_image_bytes
from icmh_rt.pipeline import map_ordered
from icmh_rt.places import Place, is_uri, place_of, read_uri

if TYPE_CHECKING:  # the command looks at its arguments first, without loading the codec
    from icmh_rt.codec import Encoder

__all__ = [
    "FAILED",
    "MANIFEST",
    "Finished",
    "FolderEncoding",
    "Job",
    "find_jobs",
    "is_many",
    "is_uri",
]

MANIFEST = "icmh-manifest.jsonl"
FAILED = "icmh-failed.jsonl"

Record = dict[str, Any]

_HASHED_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Finished:
    """What became of a job.

    record: as in the manifest, None if it failed · error: why, "" if it did not · skipped: an
    earlier run had done it.
    """

    job: Job
    record: Record | None = None
    error: str = ""
    skipped: bool = False


class FolderEncoding:
    """One run into one output folder.

    Args:
        encoder: what encodes.
        output: the folder, a path or a URI; made if missing.
        workers: images in work at a time; 0 for as many as there are threads.
        force: replace streams that the manifest does not know.

    Raises:
        OptionError: ``output`` is a file.
    """

    def __init__(
        self,
        encoder: Encoder,
        output: str | os.PathLike[str],
        workers: int = 0,
        *,
        force: bool = False,
    ) -> None:
        self._encoder = encoder
        self._workers = workers
        self._place = place_of(output)
        self._manifest = Manifest(self._place)
        self._encode = JobEncoder(encoder, self._place, force)

    def run(self, jobs: Sequence[Job]) -> Iterator[Finished]:
        """Do every job, in order; what failed is in the folder's list of failures afterwards."""
        workers = self._workers or get_num_threads()
        self._place.tidy(job.target for job in jobs)
        with (
            self._manifest.recording() as record,
            self._encoder.backend.workers(workers) as executor,
            closing(
                map_ordered(self._do, jobs, executor, workers, self._encoder.images_together)
            ) as calls,
        ):
            for _, call in calls:
                finished = call.result()
                record(finished)
                yield finished

    def _do(self, jobs: Sequence[Job]) -> list[Finished]:
        return self._encode.together([(job, self._manifest.known(job)) for job in jobs])


class Manifest:
    """What earlier runs into a folder have done, and what this one adds."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._records = _by_output(place.lines(MANIFEST))

    def known(self, job: Job) -> Record | None:
        """The last record of the job's stream, with any image and any settings."""
        return self._records.get(job.target)

    @contextmanager
    def recording(self) -> Iterator[Callable[[Finished], None]]:
        """A function that takes down what became of each job. At the end the list of failures is
        that of this run.
        """
        failures: list[str] = []
        # Line by line, so that a run that is killed has lost nothing that was done.
        with self._place.appending(MANIFEST) as append:

            def record(finished: Finished) -> None:
                if finished.record is None:
                    failure = {"input": finished.job.source, "error": finished.error}
                    failures.append(json.dumps(failure) + "\n")
                elif not finished.skipped:
                    append(json.dumps(finished.record))

            yield record
        if failures:
            self._place.write(FAILED, "".join(failures).encode())
        else:
            self._place.remove(FAILED)


@dataclass(frozen=True, eq=False)
class _Begun:
    """A job whose image is to be encoded; digest: of its file."""

    job: Job
    known: Record | None
    digest: str
    image: ImageLike


class JobEncoder:
    """Does jobs, on any number of threads."""

    def __init__(self, encoder: Encoder, place: Place, force: bool) -> None:
        self._encoder = encoder
        self._place = place
        self._force = force
        # What a record says about the encoder: with another one it is other work.
        self._settings = {
            "fingerprint": encoder.fingerprint,
            "width": encoder.width,
            "task": encoder.task,
            "quality": encoder.quality,
        }

    def __call__(self, job: Job, known: Record | None) -> Finished:
        """Do the job, unless ``known``, its record of an earlier run, says that it is done."""
        return self.together([(job, known)])[0]

    def together(self, jobs: Sequence[tuple[Job, Record | None]]) -> list[Finished]:
        """Several jobs, of which each is done as if alone, on the calling thread."""
        started = time.perf_counter()
        begun = [self._begin(job, known) for job, known in jobs]
        streams = iter(
            self._encoder.encode_together(
                [each.image for each in begun if isinstance(each, _Begun)]
            )
        )
        finished = [
            self._finish(each, next(streams)) if isinstance(each, _Begun) else each
            for each in begun
        ]
        seconds = round((time.perf_counter() - started) / max(1, len(jobs)), 4)
        for each in finished:
            if each.record is not None and not each.skipped:
                each.record["seconds"] = seconds
        return finished

    def _begin(self, job: Job, known: Record | None) -> _Begun | Finished:
        """What there is to encode, or what became of the job already."""
        try:
            if job.problem:
                raise ImageError(job.problem)
            digest, content = _opened(job.source)
            if known is not None and self._is_done(known, digest):
                return Finished(job, known, skipped=True)
            image: ImageLike = job.source
            if content is not None:
                image = load_image_bytes(content, job.source, max_pixels=self._encoder.max_pixels)
            return _Begun(job, known, digest, image)
        except (IcmhError, OSError) as error:
            return Finished(job, error=_reason(error, job.source))

    def _finish(self, begun: _Begun, data: bytes | ImageError) -> Finished:
        job = begun.job
        try:
            if isinstance(data, ImageError):
                raise data
            # One that this run's settings give, or an earlier version of it, is no one else's.
            if begun.known is None and not self._force and self._is_another(job.target, data):
                raise OSError(
                    f"{self._place.join(job.target)} exists and is not this image's stream: "
                    "give --force to replace it"
                )
            self._place.write(job.target, data)
        except (IcmhError, OSError) as error:
            return Finished(job, error=_reason(error, job.source))
        return Finished(
            job,
            {
                "input": job.source,
                "sha256": begun.digest,
                "output": job.target,
                "stream_bytes": len(data),
                **self._settings,
            },
        )

    def _is_done(self, known: Record, digest: str) -> bool:
        settings = {name: known.get(name) for name in self._settings}
        if known.get("sha256") != digest or settings != self._settings:
            return False
        return self._place.size(known["output"]) == known.get("stream_bytes")

    def _is_another(self, target: str, data: bytes) -> bool:
        with suppress(FileNotFoundError):
            return self._place.read(target) != data
        return False


def _opened(source: str) -> tuple[str, bytes | None]:
    """The SHA-256 of an image's file; and what is in it, of one that is no path."""
    if is_uri(source):
        content = read_uri(source)
        return hashlib.sha256(content).hexdigest(), content
    if not stat.S_ISREG(os.stat(source).st_mode):  # opening a pipe would wait for its writer
        raise ImageError(f"{source}: is not an ordinary file: name an image file")
    digest = hashlib.sha256()
    with open(source, "rb") as file:
        while block := file.read(_HASHED_AT_ONCE):
            digest.update(block)
    return digest.hexdigest(), None


def _by_output(lines: Iterator[str]) -> dict[str, Record]:
    """By output, the last record of each; lines that a killed run left torn count for nothing."""
    records: dict[str, Record] = {}
    for line in lines:
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("output"), str):
                records[record["output"]] = record
    return records


def _reason(error: Exception, source: str) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or source}: {error.strerror}"
    return " ".join(str(error).split())
