"""Accuracy of machine tasks: top-k, average precision, mean intersection over union.

Each metric collects pictures one by one and says at the end how well they were understood, every
figure from 0 to 1. The first figure of a metric is the one that curves are drawn of.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from icmh_rt.errors import BackendUnavailableError, OptionError


class Metric(Protocol):
    """Collects pictures."""

    figures: tuple[str, ...]

    def add(self, prediction: Any, truth: Any, size: tuple[int, int]) -> None:
        """One picture of (height, width)."""

    def result(self) -> dict[str, float]:
        """By figure, of all pictures so far."""


@dataclass
class TopK:
    """Share of pictures whose class is the best guess, or among the best five."""

    figures: tuple[str, ...] = field(default=("top1", "top5"), init=False)
    _right: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64), init=False)
    _count: int = field(default=0, init=False)

    def add(self, prediction: np.ndarray, truth: int, size: tuple[int, int]) -> None:
        """prediction: scores (classes,)."""
        scores = np.asarray(prediction, np.float64).reshape(-1)
        if not 0 <= truth < len(scores):
            raise OptionError(f"class {truth} is not among the network's {len(scores)}")
        # Of equal scores the first class counts as the better one; NaN is worse than all.
        order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
        place = int(np.flatnonzero(order == truth)[0])
        self._right += (place < 1, place < 5)
        self._count += 1

    def result(self) -> dict[str, float]:
        return dict(zip(self.figures, (self._right / max(1, self._count)).tolist(), strict=True))


@dataclass
class MeanIoU:
    """Intersection over union, the mean over the classes that occur.

    classes: labels from 0 up to it count, others are void.
    """

    classes: int
    figures: tuple[str, ...] = field(default=("miou", "pixel_accuracy"), init=False)

    def __post_init__(self) -> None:
        self._table = np.zeros((self.classes, self.classes), np.int64)

    def add(self, prediction: np.ndarray, truth: np.ndarray, size: tuple[int, int]) -> None:
        """prediction: classes (H, W); truth: labels (H, W)."""
        if prediction.shape != truth.shape:
            raise OptionError(f"prediction is {prediction.shape}, labels are {truth.shape}")
        known = truth < self.classes
        pairs = self.classes * truth[known].astype(np.int64) + prediction[known]
        self._table += np.bincount(pairs, minlength=self._table.size).reshape(self._table.shape)

    def result(self) -> dict[str, float]:
        both = np.diag(self._table)
        union = self._table.sum(0) + self._table.sum(1) - both
        there = union > 0
        miou = float(np.mean(both[there] / union[there])) if there.any() else 0.0
        total = self._table.sum()
        return {"miou": miou, "pixel_accuracy": float(both.sum() / total) if total else 0.0}


@dataclass(frozen=True)
class Box:
    """A true object: class, and x0, y0, x1, y1 as fractions of the picture."""

    label: int
    corners: tuple[float, float, float, float]
    crowd: bool = False


class AveragePrecision:
    """COCO's AP (IoU 0.50 to 0.95) and AP50, by pycocotools.

    Raises:
        BackendUnavailableError: pycocotools is not installed.
    """

    figures: tuple[str, ...] = ("ap50", "ap")

    def __init__(self) -> None:
        try:
            import pycocotools.cocoeval  # noqa: F401
        except ImportError as error:
            raise BackendUnavailableError(
                f"average precision needs {error.name}: pip install 'icmh-rt[train]'"
            ) from None
        self._truths: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._images: list[dict[str, Any]] = []

    def add(self, prediction: Any, truth: Sequence[Box], size: tuple[int, int]) -> None:
        """prediction: has boxes (K, 4) like `Box.corners`, scores (K,) and labels (K,)."""
        image = len(self._images) + 1
        self._images.append({"id": image, "height": size[0], "width": size[1]})
        for box in truth:
            place = self._place(np.asarray(box.corners), size)
            self._truths.append(
                {
                    "id": len(self._truths) + 1,
                    "image_id": image,
                    "category_id": box.label,
                    "bbox": place,
                    "area": place[2] * place[3],
                    "iscrowd": int(box.crowd),
                }
            )
        for corners, score, label in zip(
            prediction.boxes, prediction.scores, prediction.labels, strict=True
        ):
            self._found.append(
                {
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": self._place(corners, size),
                    "score": float(score),
                }
            )

    @staticmethod
    def _place(corners: np.ndarray, size: tuple[int, int]) -> list[float]:
        """x, y, width and height in pixels."""
        x0, y0, x1, y1 = np.asarray(corners, np.float64) * (size[1], size[0], size[1], size[0])
        return [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]

    def result(self) -> dict[str, float]:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        if not self._truths or not self._found:
            return dict.fromkeys(self.figures, 0.0)
        categories = sorted({truth["category_id"] for truth in self._truths})
        with contextlib.redirect_stdout(io.StringIO()):  # it reports as it goes
            truths = COCO()
            truths.dataset = {
                "info": {},
                "images": self._images,
                "annotations": self._truths,
                "categories": [{"id": category} for category in categories],
            }
            truths.createIndex()
            known = [found for found in self._found if found["category_id"] in categories]
            if not known:
                return dict.fromkeys(self.figures, 0.0)
            evaluation = COCOeval(truths, truths.loadRes(known), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return {"ap50": float(evaluation.stats[1]), "ap": float(evaluation.stats[0])}
