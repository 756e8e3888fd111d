"""Measure rate-accuracy curves: real bytes of real streams, decoded and shown to a task network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icmh_rt.errors import IcmhError
from icmh_rt.evaluation.rd import Coder, Source
from icmh_rt.evaluation.task_curves import TaskCurve, TaskPoint
from icmh_rt.evaluation.task_metrics import Metric
from icmh_rt.images import load_image

Predict = Callable[[np.ndarray], Any]
"""uint8 (H, W, 3) -> what the metric takes."""

Progress = Callable[[int, int, str], None]


def measure(
    sources: Sequence[tuple[Source, Sequence[int]]],
    paths: Sequence[Path],
    truths: Sequence[Any],
    predict: Predict,
    metric: Callable[[], Metric],
    progress: Progress | None = None,
) -> list[TaskCurve]:
    """The network on the pictures as they are, then a curve of each source.

    Args:
        sources: each with its qualities.
        paths, truths: the pictures and what is known of each, as the metric takes it.
        predict: the network.
        metric: makes an empty one.
        progress: called with steps done, steps in all, and what was done.

    Raises:
        IcmhError: a picture cannot be read, or a codec gives one of another size.
    """
    images = [load_image(path) for path in paths]
    steps = 1 + sum(len(set(qualities)) for _, qualities in sources)
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps, what)

    figures = _figures(images, images, truths, predict, metric)
    curves = [TaskCurve("original", "original", {}, (TaskPoint(0, 0.0, figures),))]
    step("original")
    for source, qualities in sources:
        points = []
        for quality in sorted(set(qualities)):
            decoded, counts = _through(source.open(quality), images)
            figures = _figures(images, decoded, truths, predict, metric)
            rates = [8 * n / (i.shape[0] * i.shape[1]) for n, i in zip(counts, images, strict=True)]
            points.append(TaskPoint(quality, float(np.mean(rates)), figures, tuple(counts)))
            step(f"{source.name}, quality {quality}")
        curves.append(TaskCurve(source.name, source.kind, source.settings, tuple(points)))
    return curves


def _through(coder: Coder, images: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[int]]:
    decoded, counts = [], []
    for image in images:
        data = coder.encode(image).data
        picture = coder.decode(data)
        if picture.shape != image.shape:
            raise IcmhError(f"a picture of {image.shape} was decoded to {picture.shape}")
        decoded.append(picture)
        counts.append(len(data))
    return decoded, counts


def _figures(
    images: Sequence[np.ndarray],
    shown: Sequence[np.ndarray],
    truths: Sequence[Any],
    predict: Predict,
    metric: Callable[[], Metric],
) -> dict[str, float]:
    collected = metric()
    for image, picture, truth in zip(images, shown, truths, strict=True):
        collected.add(predict(picture), truth, image.shape[:2])
    return collected.result()


def digest(paths: Sequence[Path]) -> tuple[str, ...]:
    """Names of pictures with the start of a SHA-256 of their files."""
    return tuple(
        f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}" for path in paths
    )
