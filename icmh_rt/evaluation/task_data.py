"""What task metrics are given: pictures with what is known of them, and networks as functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from icmh_rt.errors import OptionError
from icmh_rt.evaluation.task_metrics import AveragePrecision, Box, MeanIoU, Metric, TopK
from icmh_rt.tasks.datasets import open_dataset
from icmh_rt.tasks.network import TaskNetwork
from icmh_rt.tasks.resize import resize

LAYOUTS = {"classification": "imagenet", "detection": "coco", "segmentation": "camvid"}
"""The layout that a task's pictures are expected in."""


@dataclass(frozen=True)
class Samples:
    """Pictures of a task.

    Attributes:
        paths: of the pictures.
        truths: as the metric takes them.
        metric: makes an empty one.
    """

    paths: tuple[Path, ...]
    truths: tuple[Any, ...]
    metric: Callable[[], Metric]


def samples(
    task: str, folder: str, annotations: str = "", split: str = "val", classes: int = 0
) -> Samples:
    """The pictures of ``folder`` with what is known of them.

    Args:
        task: classification (a folder for each class, below ``split`` if there is such a folder),
            detection (COCO's annotations file; or without one, a folder ``images`` and a folder
            ``labels`` of YOLO's text files) or segmentation (``split`` and ``split_labels``).
        annotations: COCO's file.
        classes: of segmentation: labels from it on are void; 0: from 255 on.

    Raises:
        OptionError: nothing is known of the pictures.
        IcmhError: the dataset cannot be read.
    """
    if task == "detection":
        return _detection(folder, annotations)
    if task not in LAYOUTS:
        raise OptionError(f"task {task!r} cannot be measured: use one of {', '.join(LAYOUTS)}")
    data = open_dataset(LAYOUTS[task], folder, annotations, split)
    if not data.labels:
        raise OptionError(f"{folder} has no labels for its pictures in {split!r}")
    if task == "classification":
        return Samples(data.paths, data.labels, TopK)
    truths = tuple(np.asarray(Image.open(path)) for path in data.labels)
    count = classes or 1 + max((int(t[t < 255].max(initial=0)) for t in truths), default=0)
    return Samples(data.paths, truths, lambda: MeanIoU(count))


def _detection(folder: str, annotations: str) -> Samples:
    if annotations:
        data = open_dataset("coco", folder, annotations)
        # A file without categories has those that occur.
        used = sorted({box["category_id"] for boxes in data.labels for box in boxes})
        places = used if len(data.category_ids) < len(used) else data.category_ids
        truths = tuple(
            tuple(_coco_box(box, places, path) for box in boxes)
            for path, boxes in zip(data.paths, data.labels, strict=True)
        )
        return Samples(data.paths, truths, AveragePrecision)
    root = Path(folder)
    pictures = root / "images" if (root / "images").is_dir() else root
    data = open_dataset("images", str(pictures))
    labels = pictures.parent / "labels"
    if not labels.is_dir():
        raise OptionError(f"{folder} has no folder labels beside its images: give --annotations")
    truths = tuple(
        tuple(_yolo_boxes(labels / path.relative_to(pictures).with_suffix(".txt")))
        for path in data.paths
    )
    return Samples(data.paths, truths, AveragePrecision)


def _coco_box(box: dict[str, Any], places: Sequence[int], path: Path) -> Box:
    """Classes are the places of COCO's category ids, which have gaps."""
    with Image.open(path) as image:
        width, height = image.size
    x, y, w, h = box["bbox"]
    corners = (x / width, y / height, (x + w) / width, (y + h) / height)
    return Box(places.index(box["category_id"]), corners, bool(box.get("iscrowd", 0)))


def _yolo_boxes(path: Path) -> list[Box]:
    """A line an object: class, centre, width and height, as fractions; no file, no object."""
    if not path.is_file():
        return []
    boxes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            label, *numbers = line.split()[:5]
            x, y, w, h = map(float, numbers)
            boxes.append(Box(int(label), (x - w / 2, y - h / 2, x + w / 2, y + h / 2)))
        except ValueError:
            raise OptionError(f"{path}, line {number}: not class, x, y, width, height") from None
    return boxes


Shown = np.ndarray | dict[str, np.ndarray]
"""A picture, uint8 (H, W, 3), or features of one, float32 (C, h, w) by name."""


def predictor(task: str, network: TaskNetwork) -> Callable[[Shown, tuple[int, int]], Any]:
    """The network as a function of what it is shown, and of the picture's height and width, that
    gives what the task's metric takes. From features it goes on with what it has behind them.

    Raises:
        OptionError: when it is called with features and the network cannot go on from them.
    """
    rest = None

    @torch.no_grad()
    def understood(shown: Shown) -> Any:
        nonlocal rest
        if isinstance(shown, np.ndarray):
            pixels = torch.from_numpy(shown.copy()).permute(2, 0, 1)[None]
            return network.predict(pixels.float() / 255.0)
        rest = rest or network.remainder()
        if rest is None:
            raise OptionError("this network cannot go on from features: give an ONNX file")
        return network.interpret([rest({k: torch.from_numpy(v)[None] for k, v in shown.items()})])

    def detect(shown: Shown, size: tuple[int, int]) -> Any:
        (found,) = understood(shown)
        return found

    def classify(shown: Shown, size: tuple[int, int]) -> np.ndarray:
        (scores,) = understood(shown)
        return _tensor(scores).reshape(-1).numpy()

    def segment(shown: Shown, size: tuple[int, int]) -> np.ndarray:
        (scores,) = understood(shown)
        scores = F.interpolate(_tensor(scores), size, mode="bilinear", align_corners=False)
        return scores[0].argmax(0).numpy()

    return {"classification": classify, "detection": detect, "segmentation": segment}[task]


def reducer(network: TaskNetwork) -> Callable[[np.ndarray], np.ndarray]:
    """What makes pictures, uint8 (H, W, 3), as large as the network's input, by its own filter.

    Raises:
        OptionError: the network takes any size.
    """
    size = network.size
    if size is None:
        raise OptionError("this network takes pictures of any size: give --net-size")
    filter = getattr(network, "filter", "bilinear")

    def reduced(image: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
        small = resize(pixels, size, filter)[0].permute(1, 2, 0)
        return np.ascontiguousarray(small.round().clamp(0, 255).byte().numpy())

    return reduced


def _tensor(output: Any) -> torch.Tensor:
    """The one output of a network."""
    while isinstance(output, (list, tuple)) and len(output) == 1:
        output = output[0]
    if not isinstance(output, torch.Tensor):
        raise OptionError(f"the network gives a {type(output).__name__}, not one tensor")
    return output.detach().float()
