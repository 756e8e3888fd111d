"""Layouts on disk, and the crops that are cut from their pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from icmh_rt.errors import TrainingError
from icmh_rt.tasks.datasets import open_dataset
from icmh_rt.training.crops import Crops
from icmh_rt.training.data import step_rng


def _write(path, size=(80, 96), mode="RGB", value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, (*size, 3), np.uint8)
    if value is not None:
        pixels[:] = value
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_images_are_found_at_any_depth(tmp_path):
    _write(tmp_path / "b" / "c" / "2.png")
    _write(tmp_path / "1.JPG")
    (tmp_path / "notes.txt").write_text("no picture")
    found = open_dataset("images", str(tmp_path))
    assert [p.name for p in found.paths] == ["1.JPG", "2.png"] and found.labels == ()


@pytest.mark.parametrize("split", ["", "train"])
def test_imagenet_has_a_folder_a_class(tmp_path, split):
    for name in ("n02", "n01"):
        for index in range(2):
            _write(tmp_path / split / name / f"{index}.png")
    found = open_dataset("imagenet", str(tmp_path), split=split)
    assert found.classes == ("n01", "n02") and found.labels == (0, 0, 1, 1)
    assert [p.parent.name for p in found.paths] == ["n01", "n01", "n02", "n02"]


def _annotations(tmp_path, names=("7.jpg", "3.jpg")):
    content = {
        "images": [{"id": i + 5, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"image_id": 5, "bbox": [1, 2, 3, 4], "category_id": 9}],
        "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_coco_takes_the_annotations_pictures(tmp_path):
    for name in ("3.jpg", "5.jpg", "7.jpg"):
        _write(tmp_path / "images" / name)
    folder = str(tmp_path / "images")
    assert len(open_dataset("coco", folder).paths) == 3
    found = open_dataset("coco", folder, _annotations(tmp_path))
    assert [p.name for p in found.paths] == ["3.jpg", "7.jpg"]
    assert [len(boxes) for boxes in found.labels] == [0, 1] and found.classes == ("dog", "cat")


def test_coco_mistakes_are_named(tmp_path):
    _write(tmp_path / "images" / "3.jpg")
    folder = str(tmp_path / "images")
    with pytest.raises(TrainingError, match=r"1 of the 2 images in .* such as '7.jpg'"):
        open_dataset("coco", folder, _annotations(tmp_path))
    (tmp_path / "broken.json").write_text('{"images": 3}')
    with pytest.raises(TrainingError, match="cannot read COCO annotations"):
        open_dataset("coco", folder, str(tmp_path / "broken.json"))


def test_camvid_pairs_pictures_with_labels(tmp_path):
    for index in range(3):
        _write(tmp_path / "val" / f"{index}.jpg")
        _write(tmp_path / "val_labels" / f"{index}.png", mode="L")
    found = open_dataset("camvid", str(tmp_path), split="val")
    pairs = zip(found.paths, found.labels, strict=True)
    assert len(found.paths) == 3 and all(p.stem == q.stem for p, q in pairs)
    (tmp_path / "val_labels" / "1.png").unlink()
    with pytest.raises(TrainingError, match=r"no label picture, such as '1.jpg'"):
        open_dataset("camvid", str(tmp_path), split="val")


@pytest.mark.parametrize("layout", ["images", "imagenet", "coco", "camvid"])
def test_what_is_not_there_is_named(tmp_path, layout):
    with pytest.raises(TrainingError, match=r"does not exist; set data\.folder"):
        open_dataset(layout, str(tmp_path / "missing"))
    with pytest.raises(TrainingError, match=r"no (picture|folder)"):
        open_dataset(layout, str(tmp_path), split="train")


# -- crops -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [False, True])
def test_crops_depend_on_the_generator_alone(tmp_path, in_memory):
    paths = [_write(tmp_path / f"{i}.png", (90 + i, 130)) for i in range(4)]
    crops = Crops(paths, (64, 128), (0.5, 1.0), in_memory)
    first = crops.draw(step_rng(1, 2, 0), 5)
    crops.draw(step_rng(1, 3, 0), 5)
    assert np.array_equal(first, crops.draw(step_rng(1, 2, 0), 5))
    assert first.shape == (5, 3, 64, 128) and first.dtype == np.uint8
    assert not np.array_equal(first, crops.draw(step_rng(1, 2, 1), 5))


def test_a_crop_at_full_scale_is_cut_not_resized(tmp_path):
    path = _write(tmp_path / "0.png", (67, 71))
    picture = np.asarray(Image.open(path))
    places = {
        (top, left): picture[top : top + 64, left : left + 64]
        for top in range(4)
        for left in range(8)
    }
    found, flipped = set(), 0
    for crop in Crops([path], (64, 64)).draw(np.random.default_rng(0), 200):
        crop = crop.transpose(1, 2, 0)
        for mirrored in (False, True):
            same = crop[:, ::-1] if mirrored else crop
            here = [place for place, part in places.items() if np.array_equal(part, same)]
            found.update(here)
            flipped += mirrored and bool(here)
    assert found == set(places)
    assert 60 < flipped < 140


def test_small_pictures_are_enlarged_and_large_ones_reduced(tmp_path):
    small = _write(tmp_path / "s.png", (20, 30), value=90)
    large = _write(tmp_path / "l.png", (300, 400), value=200)
    for path, value in ((small, 90), (large, 200)):
        crops = Crops([path], (64, 128), (0.25, 0.5)).draw(np.random.default_rng(0), 3)
        assert crops.shape == (3, 3, 64, 128) and (crops == value).all()


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(TrainingError, match=r"cannot read .*broken.png"):
        Crops([tmp_path / "broken.png"], (64, 64)).draw(np.random.default_rng(0), 1)
