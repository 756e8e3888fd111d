from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import pytest
from evaluation_fakes import FINGERPRINT
from PIL import Image

from icmh_rt.errors import IcmhError, ImageError, OptionError
from icmh_rt.evaluation.anchors import PillowAnchor
from icmh_rt.evaluation.metrics import squared_error
from icmh_rt.evaluation.rd import (
    THREAD_VARIABLES,
    CodecSource,
    Encoded,
    find_images,
    measure,
    read_records,
)
from icmh_rt.images import load_image


@dataclass(frozen=True)
class ToySource:
    """Drops the low bits; `break_shape` and `fail_at` misbehave on purpose."""

    break_shape: bool = False
    fail_at: int = 0
    name: str = "toy"
    kind: str = "codec"

    @property
    def settings(self):
        return {"width": 1.0}

    def open(self, quality):
        if quality == self.fail_at:
            raise OptionError(f"quality {quality} is not for this toy")
        return ToyCoder(self, quality)


class ToyCoder:
    def __init__(self, source, quality):
        self.source, self.quality = source, quality

    def encode(self, image):
        self.shape = image.shape
        kept = image >> (8 - self.quality) << (8 - self.quality)
        return Encoded(kept.tobytes() + bytes(self.quality), 8.0 * image.size, {"toy": True})

    def decode(self, data):
        pixels = np.frombuffer(data, np.uint8)[: int(np.prod(self.shape))].reshape(self.shape)
        return pixels[:, ::2] if self.source.break_shape else pixels


def test_bytes_errors_and_estimates_are_those_of_each_image(folder):
    paths = find_images(folder)
    records = read_records(paths)
    assert [p.name for p in paths] == ["photo1.png", "photo2.png", "photo3.png"]
    assert [(r.height, r.width) for r in records] == [(48, 64), (48, 64), (40, 56)]
    (curve,) = measure([(ToySource(), (8, 4, 8))], paths, records)
    assert curve.qualities == (4, 8)
    images = [load_image(path) for path in paths]
    assert curve.byte_counts[0] == tuple(image.size + 4 for image in images)
    assert curve.squared_errors[0] == tuple(squared_error(i, i & 0xF0) for i in images)
    assert curve.squared_errors[1] == (0, 0, 0)
    assert curve.estimated_bits[1] == tuple(8.0 * image.size for image in images)
    assert curve.settings == {"width": 1.0, "toy": True}
    assert len(curve.encode_ms) == len(curve.decode_ms) == 2


def test_worker_processes_give_the_same_curves(folder):
    paths = find_images(folder)
    records = read_records(paths)
    sources = [(PillowAnchor("jpeg"), (10, 50, 90)), (PillowAnchor("webp"), (20, 70))]
    seen = []
    here = measure(sources, paths, records)
    there = measure(sources, paths, records, jobs=2, progress=lambda *step: seen.append(step))
    assert here == there
    assert [step[:2] for step in seen] == [(done, 5) for done in range(1, 6)]
    assert all(curve.encode_ms is None for curve in here)


def test_worker_threads_are_limited_only_while_workers_start(folder, monkeypatch):
    monkeypatch.delenv(THREAD_VARIABLES[1], raising=False)
    monkeypatch.setenv(THREAD_VARIABLES[2], "7")
    paths = find_images(folder)
    measure([(PillowAnchor("jpeg"), (50,))], paths, read_records(paths), jobs=2)
    assert THREAD_VARIABLES[1] not in os.environ
    assert os.environ[THREAD_VARIABLES[2]] == "7"


def test_a_failure_on_a_worker_is_the_same_error(folder):
    paths = find_images(folder)
    records = read_records(paths)
    paths[1].unlink()
    with pytest.raises(ImageError, match=r"photo2\.png"):
        measure([(PillowAnchor("jpeg"), (10, 50))], paths, records, jobs=2)


def test_the_codec_is_measured_through_its_public_classes(folder, fake_codec):
    paths = find_images(folder)
    (curve,) = measure([(CodecSource(0.25), (1, 50, 100))], paths, read_records(paths))
    assert curve.name == "icmh_rt width 0.25" and curve.kind == "codec"
    assert curve.settings["fingerprint"] == FINGERPRINT
    assert all(b > a for a, b in zip(curve.byte_counts[0], curve.byte_counts[2], strict=True))
    assert curve.estimated_bits is not None


def test_a_model_path_does_not_reach_the_record():
    assert CodecSource(1.0, model="/home/somebody/bundles/mine").settings["model"] == "mine"


def test_a_decoder_that_changes_the_shape_is_an_error(folder):
    paths = find_images(folder)
    with pytest.raises(IcmhError, match=r"toy at quality 8 decoded photo1.png to \(48, 32, 3\)"):
        measure([(ToySource(break_shape=True), (8,))], paths, read_records(paths))


def test_the_first_failure_stops_the_measurement(folder):
    paths = find_images(folder)
    done = []
    with pytest.raises(OptionError, match="quality 6"):
        measure(
            [(ToySource(fail_at=6), (4, 6, 8))],
            paths,
            read_records(paths),
            progress=lambda *step: done.append(step),
        )
    assert len(done) == 1


@pytest.mark.parametrize("jobs, qualities", [(0, (1,)), (1, ())])
def test_bad_arguments_are_refused(folder, jobs, qualities):
    paths = find_images(folder)
    with pytest.raises(OptionError):
        measure([(ToySource(), qualities)], paths, read_records(paths), jobs=jobs)


def test_a_missing_or_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ImageError, match="is not a folder"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "readme.md").write_text("no images")
    with pytest.raises(ImageError, match="has no images"):
        find_images(tmp_path)


def test_unreadable_images_are_named_before_anything_is_measured(folder):
    whole = (folder / "photo1.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"broken.png.*\(and 1 more\)"):
        read_records(find_images(folder))


def test_a_changed_image_has_another_record(folder):
    paths = find_images(folder)
    before = read_records(paths)
    data = load_image(paths[0]).copy()
    data[0, 0, 0] ^= 1
    Image.fromarray(data).save(paths[0])
    after = read_records(paths)
    assert before[0].sha256 != after[0].sha256
    assert before[1:] == after[1:]
