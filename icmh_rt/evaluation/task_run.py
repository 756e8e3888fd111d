"""Measure rate-accuracy curves: real bytes of real streams, decoded and shown to a task network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icmh_rt.errors import IcmhError
from icmh_rt.evaluation.rd import CodecCoder, CodecSource, Coder, Source
from icmh_rt.evaluation.task_curves import TaskCurve, TaskPoint
from icmh_rt.evaluation.task_metrics import Metric
from icmh_rt.images import load_image, size_of

Predict = Callable[[Any, tuple[int, int]], Any]
"""What a coder decodes, uint8 (H, W, 3) or features, and the picture's height and width -> what the
metric takes."""

Prepare = Callable[[np.ndarray], np.ndarray]
"""Pictures as they are read -> as they are encoded."""

Progress = Callable[[int, int, str], None]


def measure(
    sources: Sequence[tuple[Source, Sequence[int]]],
    paths: Sequence[Path],
    truths: Sequence[Any],
    predict: Predict,
    metric: Callable[[], Metric],
    progress: Progress | None = None,
    prepare: Prepare = lambda image: image,
) -> list[TaskCurve]:
    """The network on the pictures as they are, then a curve of each source.

    Args:
        sources: each with its qualities.
        paths, truths: the pictures and what is known of each, as the metric takes it.
        predict: the network.
        metric: makes an empty one.
        progress: called with steps done, steps in all, and what was done.
        prepare: what happens to pictures first.

    Raises:
        IcmhError: a picture cannot be read, or a codec gives one of another size.
    """
    images, sizes = [], []
    for path in paths:
        image = load_image(path)
        sizes.append(size_of(image))
        images.append(prepare(image))
    steps = 1 + sum(len(set(qualities)) for _, qualities in sources)
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps, what)

    figures = _figures(sizes, images, truths, predict, metric)
    curves = [TaskCurve("original", "original", {}, (TaskPoint(0, 0.0, figures),))]
    step("original")
    for source, qualities in sources:
        points = []
        for quality in sorted(set(qualities)):
            decoded, counts = _through(source.open(quality), images)
            figures = _figures(sizes, decoded, truths, predict, metric)
            rates = [8 * n / (i.shape[0] * i.shape[1]) for n, i in zip(counts, images, strict=True)]
            points.append(TaskPoint(quality, float(np.mean(rates)), figures, tuple(counts)))
            step(f"{source.name}, quality {quality}")
        curves.append(TaskCurve(source.name, source.kind, source.settings, tuple(points)))
    return curves


def _through(coder: Coder, images: Sequence[np.ndarray]) -> tuple[list[Any], list[int]]:
    decoded, counts = [], []
    for image in images:
        data = coder.encode(image).data
        picture = coder.decode(data)
        if isinstance(picture, np.ndarray) and picture.shape != image.shape:
            raise IcmhError(f"a picture of {image.shape} was decoded to {picture.shape}")
        decoded.append(picture)
        counts.append(len(data))
    return decoded, counts


def _figures(
    sizes: Sequence[tuple[int, int]],
    shown: Sequence[Any],
    truths: Sequence[Any],
    predict: Predict,
    metric: Callable[[], Metric],
) -> dict[str, float]:
    collected = metric()
    for size, picture, truth in zip(sizes, shown, truths, strict=True):
        collected.add(predict(picture, size), truth, size)
    return collected.result()


@dataclass(frozen=True)
class FeatureSource(CodecSource):
    """This package's codec, whose streams are decoded to features and not to pictures."""

    @property
    def name(self) -> str:
        return f"{super().name}, features"

    @property
    def settings(self) -> dict[str, object]:
        return {**super().settings, "decoded_to": "features"}

    def open(self, quality: int) -> FeatureCoder:
        return FeatureCoder(self, quality)


class FeatureCoder(CodecCoder):
    """`CodecCoder` that decodes to features by name."""

    def decode(self, data: bytes) -> Any:
        return self._decoder.features(data)


def digest(paths: Sequence[Path]) -> tuple[str, ...]:
    """Names of pictures with the start of a SHA-256 of their files."""
    return tuple(
        f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}" for path in paths
    )
