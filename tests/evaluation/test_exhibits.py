"""Pictures to look at, and where their bits go, with the real codec on small pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from evaluation_fakes import photograph

from icmh_rt import rans
from icmh_rt.codec import Encoder
from icmh_rt.evaluation import exhibits, results
from icmh_rt.evaluation.anchors import PillowAnchor
from icmh_rt.evaluation.bit_map import _shared, bit_map
from icmh_rt.evaluation.rd import CodecSource, find_images, measure, read_records
from icmh_rt.evaluation.task_curves import TaskCurve, TaskPoint, TaskResults
from icmh_rt.evaluation.task_run import FeatureSource


@pytest.fixture(scope="module")
def encoder():
    return Encoder(0.25, quality=40, device="cpu")


@pytest.mark.parametrize("height, width", [(48, 64), (16, 16), (1, 1), (33, 130), (70, 17)])
def test_the_bits_of_all_positions_are_those_of_the_stream(encoder, height, width):
    report = encoder.encode_detailed(photograph(3, height, width))
    found = bit_map(report, (height, width))
    assert found.bits.shape == (-(-height // 16), -(-width // 16))
    assert (found.stride, found.origin) == (16, (0, 0))
    coding = report.coding
    total = coding.tables_y.bits(report.latents.symbols_y, report.latents.indexes_y)
    total += coding.tables_z.bits(report.latents.symbols_z, report.indexes_z)
    assert found.bits.sum() == pytest.approx(total)
    assert (found.bits >= 0).all()
    # The stream adds its header, and what the coder takes beyond the tables' own cost.
    assert total / 8 <= len(report.data) <= 1.01 * total / 8 + 64


def test_a_change_in_one_corner_changes_the_bits_there(encoder):
    image = np.full((128, 128, 3), 128, np.uint8)
    image[:32, 96:] = photograph(1, 32, 32)
    found = bit_map(encoder.encode_detailed(image), (128, 128))
    assert np.unravel_index(found.bits.argmax(), found.bits.shape) in [
        (row, column) for row in range(3) for column in range(5, 8)
    ]


@pytest.mark.parametrize("shape", [(8, 8), (5, 9), (1, 1), (4, 3)])
def test_sharing_out_keeps_the_sum_and_the_place(shape):
    coarse = np.random.default_rng(1).uniform(0, 9, [-(-side // 4) for side in shape])
    shared = _shared(coarse, shape)
    assert shared.shape == shape and shared.sum() == pytest.approx(coarse.sum())
    assert shared[0, 0] * min(4, shape[0]) * min(4, shape[1]) == pytest.approx(coarse[0, 0])


def test_bits_of_symbols_add_up_with_escapes():
    tables = rans.Tables.from_pmfs([[0.5, 0.25, 0.2], [0.9]], offsets=[-1, 0])
    symbols = np.array([[0, -1, 700], [0, -3, 1]])
    rows = np.array([[0, 0, 0], [1, 1, 1]])
    each = tables.symbol_bits(symbols, rows)
    assert each.shape == symbols.shape
    assert each.sum() == pytest.approx(tables.bits(symbols, rows))
    assert each[0, 0] == pytest.approx(2, abs=0.1) and each[0, 2] > each[1, 1] > each[1, 0]
    assert tables.symbol_bits(0, 1) == pytest.approx(each[1, 0])


def test_pictures_are_of_like_bytes(folder):
    paths = find_images(folder)
    sources = [
        CodecSource(0.25, device="cpu"),
        CodecSource(1.0, device="cpu"),
        PillowAnchor("jpeg"),
    ]
    qualities = [(1, 40), (1, 40), (5, 20, 50, 90)]
    curves = measure(list(zip(sources, qualities, strict=True)), paths, read_records(paths))
    measured = results.Results(tuple(curves))
    found = exhibits.rd_exhibits(measured, sources, paths)
    assert len(found) == 2
    for item in found:
        assert [p.name for p in item.pictures] == ["icmh_rt width 1", "icmh_rt width 0.25", "jpeg"]
        index = [path.name for path in paths].index(item.name)
        for picture in item.pictures:
            curve = next(c for c in curves if c.name == picture.name)
            row = curve.qualities.index(picture.quality)
            assert len(picture.data) == curve.byte_counts[row][index]
            psnrs = curve.of_image(index)[1]
            assert picture.psnr == pytest.approx(psnrs[row])
            assert picture.pixels.shape == item.original.shape
        reference, jpeg = item.pictures[0], item.pictures[2]
        sizes = [row[index] for row in curves[2].byte_counts]
        ratios = [abs(np.log(size / len(reference.data))) for size in sizes]
        assert jpeg.quality == curves[2].qualities[int(np.argmin(ratios))]
        assert item.bit_map.bits.sum() / 8 < len(reference.data)


def test_one_picture_one_quality_and_anchors_alone(folder):
    paths = find_images(folder)[:1]
    source = PillowAnchor("jpeg")
    curves = measure([(source, (30,))], paths, read_records(paths))
    (item,) = exhibits.rd_exhibits(results.Results(tuple(curves)), [source], paths)
    assert [p.quality for p in item.pictures] == [30] and item.bit_map is None


def test_of_a_task_the_adapters_of_the_widest_codec_are_the_reference(folder):
    paths = find_images(folder)
    plain, jpeg = CodecSource(0.25, device="cpu"), PillowAnchor("jpeg")
    # The bundle here need have no adapters: what counts is the order.
    adapted = dataclasses.replace(plain, width=1.0)
    curves = tuple(
        TaskCurve(
            source.name,
            source.kind,
            source.settings,
            (TaskPoint(10, 0.3, {"top1": 0.5}, (300, 900, 500)),),
        )
        for source in (plain, adapted, jpeg)
    )
    found = TaskResults("classification", "top1", curves, ("a", "b", "c"))
    items = exhibits.task_exhibits(found, [plain, adapted, jpeg], paths, lambda image: image[::2])
    assert [item.name for item in items] == ["photo2.png", "photo3.png"]
    assert items[0].pictures[0].name == adapted.name
    assert items[0].original.shape == items[0].pictures[0].pixels.shape == (24, 64, 3)


def test_streams_of_features_have_no_picture(folder):
    source = FeatureSource(1.0, device="cpu")
    points = (TaskPoint(10, 0.3, {"top1": 0.5}, (300, 900, 500)),)
    curve = TaskCurve(source.name, source.kind, source.settings, points)
    found = TaskResults("detection", "top1", (curve,), ("a", "b", "c"))
    assert exhibits.task_exhibits(found, [source], find_images(folder)) == []
