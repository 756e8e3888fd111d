from __future__ import annotations

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
import report_samples as samples
from PIL import Image, features

from icmh_rt.evaluation.bit_map import BitMap
from icmh_rt.reports import pictures


def embedded(text: str) -> list[tuple[str, np.ndarray]]:
    """(media type, pixels) of every picture of a page."""
    found = re.findall(r'src="data:([a-z/]+);base64,([^"]*)"', text)
    return [
        (kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")))
        for kind, data in found
    ]


def test_pictures_are_in_the_page_exactly():
    item = samples.exhibit()
    found = embedded(pictures.exhibit(item, 0))
    assert [kind for kind, _ in found] == ["image/webp", "image/webp", "image/jpeg", "image/png"]
    assert np.array_equal(found[0][1], item.original)
    assert np.array_equal(found[1][1], item.pictures[0].pixels)
    assert np.array_equal(found[2][1], item.pictures[1].pixels)


@pytest.mark.parametrize("size", [(1, 1), (512, 768), (513, 768), (2000, 300), (300, 2000)])
def test_large_pictures_are_shown_by_their_middle(size):
    part = pictures.shown_part(*size)
    assert part.whole == (size[0] * size[1] <= pictures.WHOLE_PIXELS)
    assert part.height * part.width <= pictures.WHOLE_PIXELS
    picture = np.zeros((*size, 3), np.uint8)
    assert part.of(picture).shape == (part.height, part.width, 3)
    assert abs((size[0] - part.height) - 2 * part.top) <= 1
    assert abs((size[1] - part.width) - 2 * part.left) <= 1
    small = pictures.shown_part(*size, small=True)
    assert small.height * small.width <= pictures.SMALL_PART[0] * pictures.SMALL_PART[1]


def test_a_part_is_cut_from_every_version(monkeypatch):
    monkeypatch.setattr(pictures, "WHOLE_PIXELS", 1000)
    monkeypatch.setattr(pictures, "PART", (50, 40))
    item = samples.exhibit()
    text = pictures.exhibit(item, 0)
    found = embedded(text)
    assert [kind for kind, _ in found[:3]] == ["image/webp"] * 3
    for (_, shown), whole in zip(
        found, [item.original, *(p.pixels for p in item.pictures)], strict=False
    ):
        assert np.array_equal(shown, whole[28:68, 47:97])
    assert "its middle 50×40 shown" in text
    # Rows 28-67 touch positions 1-4, columns 47-96 positions 2-6; of 6x9 with bits 0, 1, 2, ...
    bits = re.search(r'data-bits="([^"]*)"', text).group(1)
    expected = np.arange(54).reshape(6, 9)[1:5, 2:7]
    assert bits == " ".join(map(str, expected.reshape(-1)))
    assert found[3][1].shape[:2] == expected.shape
    place = re.search(r'class="heat" style="([^"]*)"', text).group(1)
    values = [float(v) for v in re.findall(r"(-?[\d.]+)%", place)]  # left, top, width, height
    assert values == pytest.approx([-100 * 15 / 50, -100 * 12 / 40, 160, 160])


def test_a_gallery_that_would_be_too_large_shows_smaller_parts(monkeypatch):
    item = samples.exhibit()
    whole = pictures.gallery([item])
    assert whole == pictures.exhibit(item, 0)
    monkeypatch.setattr(pictures, "LARGEST_GALLERY", len(whole) - 1)
    monkeypatch.setattr(pictures, "SMALL_PART", (40, 30))
    text = pictures.gallery([item])
    assert "its middle 40×30 shown" in text and len(text) < len(whole)
    assert all(shown.shape == (30, 40, 3) for _, shown in embedded(text)[:3])


@pytest.mark.parametrize("origin", [(0, 0), (-7, -32)])
def test_the_map_begins_where_the_padding_does(origin):
    item = samples.exhibit()
    bits = np.ones((8, 12))
    text = pictures.exhibit(dataclasses.replace(item, bit_map=BitMap(bits, 16, origin)), 0)
    place = re.search(r'class="heat" style="([^"]*)"', text).group(1)
    left, top, width, height = (float(v) for v in re.findall(r"(-?[\d.]+)%", place))
    first = [-o // 16 for o in origin]  # whole positions before the picture are left out
    assert top == pytest.approx(100 * (origin[0] + 16 * first[0]) / 96, abs=1e-3)
    assert left == pytest.approx(100 * (origin[1] + 16 * first[1]) / 144, abs=1e-3)
    assert left <= 0 and top <= 0 and left + width >= 100 and top + height >= 100


@pytest.mark.parametrize("bits", [np.zeros((6, 9)), np.full((6, 9), 7.0), np.eye(9)[:6] * 300])
def test_maps_without_bits_or_with_one_peak_are_drawn(bits):
    item = dataclasses.replace(samples.exhibit(), bit_map=BitMap(bits, 16, (0, 0)))
    text = pictures.exhibit(item, 0)
    assert "nan" not in text
    heat = embedded(text)[-1][1]
    assert heat.shape == (6, 9, 3)
    assert len({tuple(c) for c in heat.reshape(-1, 3)}) == len(np.unique(bits))


def test_the_ramp_rises_in_brightness():
    colors = pictures.ramp(np.linspace(0, 1.5, 31)[None])[0].astype(float)
    brightness = colors @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(brightness[:21]) > 0).all()
    assert np.array_equal(colors[20], colors[30])


def test_streams_that_browsers_read_are_known():
    def stream(format, **options):
        target = io.BytesIO()
        Image.fromarray(samples.pixels()).save(target, format, **options)
        return target.getvalue()

    assert pictures.browser_type(stream("JPEG")) == "image/jpeg"
    assert pictures.browser_type(stream("WEBP")) == "image/webp"
    if features.check("avif"):
        assert pictures.browser_type(stream("AVIF")) == "image/avif"
    for other in (b"", b"ICMH\x01", stream("BMP"), stream("TIFF")):
        assert pictures.browser_type(other) is None


def test_without_webp_pictures_are_png(monkeypatch):
    monkeypatch.setattr(pictures.features, "check", lambda name: False)
    data, kind = pictures.lossless(samples.pixels())
    assert kind == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), samples.pixels())
