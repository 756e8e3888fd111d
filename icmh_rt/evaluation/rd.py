"""Measure rate-distortion curves: real bytes of real streams, decoded again, over a folder.

Whatever is measured (this codec at one width, an anchor) is a `Source`; it opens a `Coder` at a
quality. One task is one source at one quality over all images, so that a coder is built once and
used for the whole set; tasks run here or on worker processes, with the same results in the same
order.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from icmh_rt.bitstream import BASE_TASK, read_header
from icmh_rt.errors import IcmhError, ImageError, OptionError
from icmh_rt.evaluation.curves import Curve, ImageRecord
from icmh_rt.evaluation.metrics import squared_error
from icmh_rt.evaluation.ms_ssim import ms_ssim
from icmh_rt.images import load_image

if TYPE_CHECKING:
    from icmh_rt.codec import EncodeReport

_Value = TypeVar("_Value")

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"}
)
# Read by OpenMP, OpenBLAS and MKL when a process starts: a worker gets its share of the cores.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ICMH_NUM_THREADS",
)


@dataclass(frozen=True)
class Encoded:
    """A stream, and what its codec says of it.

    estimated_bits: the model's own estimate of the size, if it has one.  details: what identifies
    the codec and is known only from a stream; joins the settings of the curve.
    """

    data: bytes
    estimated_bits: float | None = None
    details: Mapping[str, object] = field(default_factory=dict)


class Coder(Protocol):
    """A codec at one setting: uint8 (H, W, 3) to a stream and back."""

    def encode(self, image: np.ndarray) -> Encoded: ...

    def decode(self, data: bytes) -> np.ndarray: ...


class Source(Protocol):
    """Something that gives a curve. Must be picklable to be measured on worker processes."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def settings(self) -> dict[str, object]: ...

    def open(self, quality: int) -> Coder: ...


@dataclass(frozen=True)
class CodecSource:
    """This package's codec at one width, for one task."""

    width: float
    model: str = "default"
    backend: str = "auto"
    device: str = "auto"
    task: str = BASE_TASK
    kind: str = field(default="codec", init=False)

    @property
    def name(self) -> str:
        return f"icmh_rt width {self.width:g}{'' if self.task == BASE_TASK else f', {self.task}'}"

    @property
    def settings(self) -> dict[str, object]:
        return {
            "width": self.width,
            "model": Path(self.model).name,
            "backend": self.backend,
            "device": self.device,
            **({} if self.task == BASE_TASK else {"task": self.task}),
        }

    def open(self, quality: int) -> CodecCoder:
        return CodecCoder(self, quality)


class CodecCoder:
    """`icmh_rt.codec.Encoder` and `Decoder` at one width and quality."""

    def __init__(self, source: CodecSource, quality: int) -> None:
        from icmh_rt.codec import Decoder, Encoder  # here: it may import torch

        common: dict[str, Any] = {
            "model": source.model,
            "backend": source.backend,
            "device": source.device,
        }
        self._encoder = Encoder(source.width, source.task, quality, **common)
        self._decoder = Decoder(**common)

    def encode(self, image: np.ndarray) -> Encoded:
        detailed = self.detailed(image)
        details = {"fingerprint": read_header(detailed.data).fingerprint}
        return Encoded(detailed.data, float(detailed.estimated_bits), details)

    def detailed(self, image: np.ndarray) -> EncodeReport:
        """The stream with its symbols and what coded them."""
        return self._encoder.encode_detailed(image)

    def decode(self, data: bytes) -> np.ndarray:
        return self._decoder.decode(data)


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The images directly in a folder, by name. Raises ImageError if it is none, or has none."""
    root = Path(folder)
    if not root.is_dir():
        raise ImageError(f"{root} is not a folder: give one that holds the test images")
    paths = sorted(p for p in root.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        wanted = ", ".join(sorted(IMAGE_SUFFIXES))
        raise ImageError(f"{root} has no images: none of its files ends in {wanted}")
    return paths


def read_records(paths: Sequence[Path]) -> tuple[ImageRecord, ...]:
    """Decode every image once and describe it.

    A mean over fewer images than asked for compares with nothing, so one that cannot be read is an
    ImageError naming it and how many others there are, before any time is spent measuring.
    """
    records, problems = [], []
    for path in paths:
        try:
            image = load_image(path)
        except ImageError as error:
            problems.append(str(error) if path.name in str(error) else f"{path.name}: {error}")
            continue
        digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:16]
        records.append(ImageRecord(path.name, image.shape[0], image.shape[1], digest))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ImageError(problems[0] + more)
    return tuple(records)


@dataclass(frozen=True)
class _Task:
    source: Source
    quality: int
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class _Row:
    """One source at one quality: a value per image."""

    byte_counts: tuple[int, ...]
    squared_errors: tuple[int, ...]
    estimated_bits: tuple[float, ...] | None
    ms_ssims: tuple[float | None, ...]
    encode_ms: float
    decode_ms: float
    details: dict[str, object]


def _all_of(values: Sequence[_Value | None]) -> tuple[_Value, ...] | None:
    """The values, or None where one is not known."""
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else None


def _run_task(task: _Task) -> _Row:
    counts, errors, similarities, encode_s, decode_s = [], [], [], [], []
    estimates: list[float | None] = []
    details: dict[str, object] = {}
    coder = task.source.open(task.quality)
    for path in task.paths:
        image = load_image(path)
        start = time.perf_counter()
        encoded = coder.encode(image)
        middle = time.perf_counter()
        decoded = coder.decode(encoded.data)
        stop = time.perf_counter()
        if decoded.shape != image.shape:
            raise IcmhError(
                f"{task.source.name} at quality {task.quality} decoded {path.name} to"
                f" {decoded.shape}, not {image.shape}"
            )
        details.update(encoded.details)
        counts.append(len(encoded.data))
        errors.append(squared_error(image, decoded))
        similar = ms_ssim(image, decoded)
        similarities.append(None if similar is None else round(similar, 7))
        bits = encoded.estimated_bits
        estimates.append(None if bits is None else round(bits, 1))
        encode_s.append(middle - start)
        decode_s.append(stop - middle)
    return _Row(
        tuple(counts),
        tuple(errors),
        _all_of(estimates),
        tuple(similarities),
        round(1e3 * statistics.median(encode_s), 2),
        round(1e3 * statistics.median(decode_s), 2),
        details,
    )


def measure(
    sources: Sequence[tuple[Source, Sequence[int]]],
    paths: Sequence[Path],
    records: Sequence[ImageRecord],
    jobs: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Curve]:
    """One curve per source, each at its own qualities, over the same images.

    paths and records: the same images (`find_images`, `read_records`).  jobs: processes; 1 measures
    in this one. With more, times are of a loaded machine.  progress: called with (tasks done, tasks
    in all, what was finished).  Raises OptionError for arguments, and whatever IcmhError a source
    raises; the first failure stops the rest.
    """
    if jobs < 1:
        raise OptionError(f"jobs must be at least 1, got {jobs}")
    if len(paths) != len(records) or not records:
        raise OptionError(f"need as many paths as records, got {len(paths)} and {len(records)}")
    ordered = [(source, tuple(sorted(set(qualities)))) for source, qualities in sources]
    for source, qualities in ordered:
        if not qualities:
            raise OptionError(f"no qualities given for {source.name}")
    tasks = [_Task(s, quality, tuple(paths)) for s, qualities in ordered for quality in qualities]
    rows = _run_here(tasks, progress) if jobs == 1 else _run_on_workers(tasks, jobs, progress)
    curves = []
    position = 0
    for source, qualities in ordered:
        part = rows[position : position + len(qualities)]
        position += len(qualities)
        timed = source.kind == "codec"  # an anchor's times are no claim of ours
        curves.append(
            Curve(
                name=source.name,
                kind=source.kind,
                settings={**source.settings, **part[0].details},
                images=tuple(records),
                qualities=qualities,
                byte_counts=tuple(row.byte_counts for row in part),
                squared_errors=tuple(row.squared_errors for row in part),
                estimated_bits=_all_of([row.estimated_bits for row in part]),
                encode_ms=tuple(row.encode_ms for row in part) if timed else None,
                decode_ms=tuple(row.decode_ms for row in part) if timed else None,
                ms_ssims=tuple(row.ms_ssims for row in part),
            )
        )
    return curves


def _describe(task: _Task) -> str:
    return f"{task.source.name}, quality {task.quality}"


def _run_here(
    tasks: Sequence[_Task], progress: Callable[[int, int, str], None] | None
) -> list[_Row]:
    rows = []
    for done, task in enumerate(tasks, start=1):
        rows.append(_run_task(task))
        if progress is not None:
            progress(done, len(tasks), _describe(task))
    return rows


def _run_on_workers(
    tasks: Sequence[_Task], jobs: int, progress: Callable[[int, int, str], None] | None
) -> list[_Row]:
    jobs = min(jobs, len(tasks))
    rows: dict[int, _Row] = {}
    # spawn: a forked child of a process with running OpenMP or CUDA threads can hang.
    context = multiprocessing.get_context("spawn")
    with _threads_per_worker(jobs), ProcessPoolExecutor(jobs, mp_context=context) as pool:
        index_of = {pool.submit(_run_task, task): index for index, task in enumerate(tasks)}
        pending = set(index_of)
        try:
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    index = index_of[future]
                    rows[index] = future.result()
                    if progress is not None:
                        progress(len(rows), len(tasks), _describe(tasks[index]))
        except BrokenProcessPool as error:
            raise IcmhError(
                "a worker process died, most likely for lack of memory: use fewer jobs"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [rows[index] for index in range(len(tasks))]


@contextmanager
def _threads_per_worker(jobs: int) -> Iterator[None]:
    """Share the cores out among workers started inside, unless the user has set thread counts."""
    share = str(max(1, (os.cpu_count() or 1) // jobs))
    added = [name for name in THREAD_VARIABLES if name not in os.environ]
    os.environ.update(dict.fromkeys(added, share))
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
