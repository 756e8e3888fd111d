"""Layouts of image datasets on disk.

Adapters are trained without labels; what a layout knows of them is for those who train or measure
a task network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icmh_rt.errors import TrainingError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
"""Of files that are pictures."""


@dataclass(frozen=True)
class Dataset:
    """Files of pictures, and what is known of each.

    Attributes:
        paths: of the pictures, sorted.
        labels: of each picture its class (int), its boxes (list of COCO's annotations) or the path
            of its label picture; empty where the layout has none.
        classes: names, where the layout has them.
        category_ids: COCO's numbers of the classes, in their order.
    """

    paths: tuple[Path, ...]
    labels: tuple[Any, ...] = ()
    classes: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()


def images(folder: Path, annotations: str = "", split: str = "") -> Dataset:
    """All pictures under ``folder``."""
    return Dataset(tuple(_pictures(folder.rglob("*"))))


def imagenet(folder: Path, annotations: str = "", split: str = "") -> Dataset:
    """``folder/[split/]<class>/*``; the class is the folder's place in the sorted list."""
    root = folder / split if split and (folder / split).is_dir() else folder
    classes = sorted(p.name for p in root.iterdir() if p.is_dir())
    if not classes:
        raise TrainingError(f"{str(root)!r} has no folder a class; use layout images")
    paths, labels = [], []
    for index, name in enumerate(classes):
        found = _pictures((root / name).rglob("*"))
        paths += found
        labels += [index] * len(found)
    return Dataset(tuple(paths), tuple(labels), tuple(classes))


def coco(folder: Path, annotations: str = "", split: str = "") -> Dataset:
    """A folder of images; with an annotations file just its pictures, with their boxes."""
    if not annotations:
        return Dataset(tuple(_pictures(folder.rglob("*"))))
    try:
        content = json.loads(Path(annotations).read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in content["images"]}
        boxes: dict[int, list[Any]] = {key: [] for key in names}
        for annotation in content.get("annotations", ()):
            boxes[annotation["image_id"]].append(annotation)
        categories = sorted(content.get("categories", ()), key=lambda c: c["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"cannot read COCO annotations {annotations!r}: {reason}") from None
    order = sorted(names, key=names.__getitem__)
    paths = tuple(folder / names[key] for key in order)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise TrainingError(
            f"{len(missing)} of the {len(paths)} images in {annotations!r} are not in "
            f"{str(folder)!r}, such as {missing[0].name!r}"
        )
    return Dataset(
        paths,
        tuple(boxes[key] for key in order),
        tuple(str(c["name"]) for c in categories),
        tuple(c["id"] for c in categories),
    )


def camvid(folder: Path, annotations: str = "", split: str = "train") -> Dataset:
    """``folder/<split>/*`` with a label picture of the same stem in ``folder/<split>_labels``."""
    paths = _pictures((folder / split).glob("*"))
    labels = {p.stem: p for p in _pictures((folder / f"{split}_labels").glob("*"))}
    missing = [path.name for path in paths if path.stem not in labels]
    if missing and labels:
        raise TrainingError(
            f"{len(missing)} pictures of {str(folder / split)!r} have no label picture, such as "
            f"{missing[0]!r}"
        )
    return Dataset(tuple(paths), tuple(labels[p.stem] for p in paths) if labels else ())


LAYOUTS: dict[str, Callable[..., Dataset]] = {
    "images": images,
    "imagenet": imagenet,
    "coco": coco,
    "camvid": camvid,
}


def open_dataset(layout: str, folder: str, annotations: str = "", split: str = "") -> Dataset:
    """The dataset in ``folder``; TrainingError when there is no such folder or no picture in it."""
    root = Path(folder)
    if not folder or not root.is_dir():
        raise TrainingError(f"data folder {folder!r} does not exist; set data.folder or --data")
    found = LAYOUTS[layout](root, annotations, split)
    if not found.paths:
        raise TrainingError(f"no picture in {folder!r} (layout {layout}, split {split!r})")
    return found


def _pictures(paths: Iterable[Path]) -> list[Path]:
    return sorted(p for p in paths if p.suffix.lower() in SUFFIXES)
