"""FastestDet, a COCO detector of 0.24 M parameters (https://github.com/dog-qiuqiu/FastestDet)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from icmh_rt.tasks.onnx_network import OnnxNetwork

# At 1/4, the backbone's three scales, the neck, the head's input, and where objects are. Not all
# that the network says: the boxes and classes of cells without objects are noise.
LAYERS = (
    "MaxPool_2",
    "Concat_56",
    "Concat_170",
    "Concat_224",
    "Relu_232",
    "Relu_250",
    "Sigmoid_254",
)

_BACKGROUND = 0.05  # what cells without objects count in the distance of outputs
_BOXES = 2.0  # what boxes count in it


@dataclass(frozen=True)
class Detections:
    """Of one picture, best first: ``boxes`` float32 ``(K, 4)``, x0 y0 x1 y1 as fractions of the
    picture; ``scores`` float32 ``(K,)``; ``labels`` int64 ``(K,)``.
    """

    boxes: NDArray[Any]
    scores: NDArray[Any]
    labels: NDArray[Any]


class FastestDet(OnnxNetwork):
    """The published ONNX file: BGR in [0, 1], resized by area, ignoring the aspect ratio.

    Args:
        path: the file.
        layers: nodes whose outputs are the features.
        threshold: least score of a detection. iou: of boxes of a class, above which the worse goes.
    """

    def __init__(
        self,
        path: str | Path,
        layers: Sequence[str] = LAYERS,
        threshold: float = 0.001,
        iou: float = 0.45,
    ) -> None:
        super().__init__(path, layers, bgr=True, filter="area")
        self.threshold, self.iou = threshold, iou

    def output_distance(self, original: Tensor, found: Tensor) -> Tensor:
        """Cross-entropy of objectness; of boxes and classes, where there are objects."""
        probability = found[:, :1].clamp(1e-5, 1.0 - 1e-5)
        objects = F.binary_cross_entropy(probability, original[:, :1].clamp(0.0, 1.0))
        weight = original[:, :1] + _BACKGROUND
        boxes = (weight * (found[:, 1:5] - original[:, 1:5]).square()).mean()
        logarithms = found[:, 5:].clamp(min=1e-6).log()
        classes = -(weight * original[:, 5:] * logarithms).sum(1).mean()
        return objects + _BOXES * boxes + classes

    def interpret(self, outputs: list[Tensor]) -> list[Detections]:
        """Of each picture its detections."""
        return [self.decode(one) for one in torch.cat(outputs).detach().cpu().numpy()]

    def decode(self, output: NDArray[Any]) -> Detections:
        """Detections of the head's ``(5 + classes, h, w)``: objectness, centre in the cell (tanh),
        size (sigmoid), classes. The score is objectness^0.6 · class^0.4.
        """
        _, rows, columns = output.shape
        objectness, geometry, classes = output[0], output[1:5].astype(np.float64), output[5:]
        labels = classes.argmax(0)
        scores = objectness**0.6 * classes.max(0) ** 0.4
        y, x = np.mgrid[:rows, :columns]
        centre_x = (x + np.tanh(geometry[0])) / columns
        centre_y = (y + np.tanh(geometry[1])) / rows
        half_width, half_height = 0.5 / (1.0 + np.exp(-geometry[2:4]))
        boxes = np.stack(
            [
                centre_x - half_width,
                centre_y - half_height,
                centre_x + half_width,
                centre_y + half_height,
            ],
            -1,
        )
        kept = scores > self.threshold
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        order = np.argsort(-scores, kind="stable")
        boxes, scores, labels = boxes[order], scores[order], labels[order]
        kept = non_maximum_suppression(boxes, labels, self.iou)
        return Detections(
            boxes[kept].astype(np.float32), scores[kept].astype(np.float32), labels[kept]
        )


def non_maximum_suppression(boxes: NDArray[Any], labels: NDArray[Any], iou: float) -> NDArray[Any]:
    """Indexes of the boxes ``(K, 4)``, best first, that no better one of their class overlaps."""
    left: NDArray[np.intp] = np.arange(len(boxes))
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        overlaps = _overlaps(boxes[best], boxes[left])
        left = left[(overlaps <= iou) | (labels[left] != labels[best])]
    return np.array(kept, np.int64)


def _overlaps(box: NDArray[Any], boxes: NDArray[Any]) -> NDArray[Any]:
    """Intersection over union of one box with many."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    common = np.prod((high - low).clip(min=0), -1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], -1) + np.prod(box[2:] - box[:2])
    return common / np.maximum(areas - common, 1e-12)
