"""Encoding a dataset with the machines of a Ray cluster, by Ray Data.

The same jobs, manifest and list of failures as `icmh_rt.folder_encoding` on one machine, so either
goes on where the other was stopped. This process finds the images and writes the manifest; a pool
of actors, each with an encoder of its own, reads, encodes and writes the streams. Images and
streams are where all machines see them: in buckets, or in folders that they share.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icmh_rt import bitstream, tiles
from icmh_rt import bundle as bundles
from icmh_rt.bundle import DEFAULT_BUNDLE, CodecBundle
from icmh_rt.codec import Encoder
from icmh_rt.errors import BackendUnavailableError, IcmhError, OptionError
from icmh_rt.folder_encoding import (
    Finished,
    Job,
    JobEncoder,
    Manifest,
    Record,
    find_jobs,
)
from icmh_rt.places import is_uri, place_of

try:
    import ray
    import ray.data
    from ray.exceptions import RayError
except ImportError as _error:
    raise BackendUnavailableError(
        f"encoding on a Ray cluster needs ray[data], which cannot be imported "
        f"({' '.join(str(_error).split())}): pip install 'icmh-rt[ray]'"
    ) from _error

_BLOCK_IMAGES = 8
"""Images of a task: their records reach the manifest together, their streams one by one."""

_MOST_BLOCKS = 10_000


def encode_dataset(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    width: float = 1.0,
    task: str = "human",
    quality: int = 50,
    model: str | Path | CodecBundle = DEFAULT_BUNDLE,
    **options: Any,
) -> Iterator[Finished]:
    """Encode everything that ``inputs`` name into ``output``.

    Args:
        inputs: folders, patterns, lists and images as for `icmh encode`, or their URIs.
        output: folder or URI; what earlier runs did there is left out.
        width, task, quality, model: as for `icmh_rt.Encoder`. The bundle goes to the actors from
            here.
        options: those of `RayEncoding`.

    Yields:
        What became of each image, as they are done, in no order.

    Raises:
        OptionError: nothing is named, or an option is not allowed.
        BackendUnavailableError: there is no such cluster.
    """
    several = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    names = [os.fspath(name) for name in several]
    encoding = RayEncoding(output, width, task, quality, model, **options)
    yield from encoding.run(find_jobs(names, output, ()))


@dataclass(frozen=True)
class _Actor:
    """What an actor is made of; the bundle stays in Ray's store, for actors that start later."""

    bundle: ray.ObjectRef
    encoder: dict[str, Any]
    output: str
    force: bool
    threads: int


class RayEncoding:
    """One run into one output folder.

    Args:
        output: a folder that all machines share, or a URI.
        width, task, quality, model, backend, device: as for `icmh_rt.Encoder`; the last two on the
            actors.
        address: of the cluster: "auto" for the one that this machine is part of, "local" for one of
            this machine alone, started here; host and port; a program that has called `ray.init`
            needs none.
        actors: how many; 0 for as many as the cluster has room for.
        threads: of each, and so many CPUs: images in work at a time.
        gpus: of each, may be a fraction; None for 1 where ``device`` is "cuda" and else 0.
        max_pixels, tile: as for `Encoder`.
        force: replace streams that the manifest does not know.

    Raises:
        OptionError, BundleError: a value that is not allowed; no such bundle.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        width: float = 1.0,
        task: str = "human",
        quality: int = 50,
        model: str | Path | CodecBundle = DEFAULT_BUNDLE,
        *,
        backend: str = "auto",
        device: str = "auto",
        address: str = "auto",
        actors: int = 0,
        threads: int = 1,
        gpus: float | None = None,
        max_pixels: int = bitstream.DEFAULT_MAX_PIXELS,
        tile: int = tiles.DEFAULT_TILE,
        force: bool = False,
    ) -> None:
        if actors < 0 or threads < 1:
            raise OptionError(
                f"actors is {actors} and threads {threads}: give 1 or more, or 0 actors for as "
                "many as there is room for"
            )
        if gpus is not None and gpus < 0:
            raise OptionError(f"gpus is {gpus}: give 0 or more for each actor")
        # An actor would refuse it too, and nobody would know that it is the caller's.
        if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
            raise OptionError(f"max_pixels is {max_pixels!r}: give a whole number of 1 or more")
        self._bundle = bundles.load(model)
        self._encoder = {
            "width": self._bundle.width(width)[0],
            "task": self._bundle.task(task),
            "quality": self._bundle.quality(quality),
            "backend": backend,
            "device": device,
            "max_pixels": max_pixels,
            "tile": tiles.checked_tile(tile),
        }
        self._address, self._actors, self._threads, self._force = address, actors, threads, force
        self._gpus = gpus if gpus is not None else float(device.startswith("cuda"))
        self._place = place_of(output)
        self._manifest = Manifest(self._place)

    def run(self, jobs: Sequence[Job]) -> Iterator[Finished]:
        """Do every job, yielding them as they are done, in no order; what failed is in the folder's
        list of failures afterwards.
        """
        if not jobs:
            return
        self._place.tidy(job.target for job in jobs)
        with self._manifest.recording() as record, _cluster(self._address):
            for finished in self._results(jobs):
                record(finished)
                yield finished

    def _results(self, jobs: Sequence[Job]) -> Iterator[Finished]:
        most = self._room() if self._actors == 0 else self._actors
        size = max(min(_BLOCK_IMAGES, len(jobs) // most), math.ceil(len(jobs) / _MOST_BLOCKS), 1)
        blocks = math.ceil(len(jobs) / size)
        rows = [{"job": _row(i, job, self._manifest.known(job))} for i, job in enumerate(jobs)]
        dataset = ray.data.from_items(rows, override_num_blocks=blocks)
        dataset.context.enable_progress_bars = False
        dataset.context.print_on_execution_start = False
        output = str(self._place)
        made_of = _Actor(
            bundle=ray.put(self._bundle),
            encoder=self._encoder,
            output=output if is_uri(output) else os.path.abspath(output),
            force=self._force,
            threads=self._threads,
        )
        dataset = dataset.map_batches(
            _EncodingActor,
            fn_constructor_kwargs={"made_of": made_of},
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(most, blocks)),
            batch_size=None,  # a block
            num_cpus=self._threads,
            num_gpus=self._gpus,
        )
        try:
            for row in dataset.iter_rows():
                yield _finished(json.loads(row["finished"]), jobs)
        except RayError as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise BackendUnavailableError(
                f"the actors failed: {reason[-1]}; what they did before is kept, start it again"
            ) from error

    def _room(self) -> int:
        """How many actors the cluster has room for."""
        have = ray.cluster_resources()
        room = have.get("CPU", 0.0) // self._threads
        if self._gpus:
            room = min(room, have.get("GPU", 0.0) // self._gpus)
        if room < 1:
            raise BackendUnavailableError(
                f"an actor needs {self._threads} CPUs and {self._gpus:g} GPUs, the cluster "
                f"has {have.get('CPU', 0):g} and {have.get('GPU', 0):g}"
            )
        return int(room)


class _EncodingActor:
    """An encoder in a process of its own; a batch is an array of jobs, its result what became of
    each.
    """

    def __init__(self, made_of: _Actor) -> None:
        self._obstacle = ""
        try:
            encoder = Encoder(model=ray.get(made_of.bundle), **made_of.encoder)
            self._encode = JobEncoder(encoder, place_of(made_of.output), made_of.force)
            self._executor = encoder.backend.workers(made_of.threads)
        except IcmhError as error:  # Ray would print pages about it, and try again
            self._obstacle = str(error)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        rows = map(json.loads, batch["job"])
        results: Iterable[dict[str, Any]]
        if self._obstacle:
            results = ({"obstacle": self._obstacle} for _ in rows)
        else:
            results = self._executor.map(self._do, rows)
        return {"finished": np.array([json.dumps(result) for result in results], object)}

    def _do(self, row: dict[str, Any]) -> dict[str, Any]:
        finished = self._encode(Job(**row["job"]), row["known"])
        return {
            "number": row["number"],
            "record": finished.record,
            "error": finished.error,
            "skipped": finished.skipped,
        }


def _row(number: int, job: Job, known: Record | None) -> str:
    """JSON, whose ASCII holds file names of any bytes."""
    job = replace(job, source=_path(job))
    return json.dumps({"number": number, "job": asdict(job), "known": known})


def _path(job: Job) -> str:
    """Actors have another working folder."""
    return job.source if is_uri(job.source) else os.path.abspath(job.source)


def _finished(result: dict[str, Any], jobs: Sequence[Job]) -> Finished:
    if "obstacle" in result:
        raise BackendUnavailableError(f"an actor cannot encode: {result['obstacle']}")
    job, record = jobs[result["number"]], result["record"]
    if record is not None and not result["skipped"]:
        record["input"] = job.source
    error = result["error"].replace(_path(job), job.source)
    return Finished(job, record, error, result["skipped"])


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Connected; what was so before stays so."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what is of use comes as an exception
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else one that starts here reports home
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
    if address == "local":
        options["include_dashboard"] = False
    try:
        ray.init(**options)
    except (RayError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise BackendUnavailableError(f"no Ray cluster at {address!r}: {reason}") from error
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it tells about every dataset
    try:
        yield
    finally:
        ray.shutdown()
        logger.setLevel(level)
