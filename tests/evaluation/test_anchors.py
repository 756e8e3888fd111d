from __future__ import annotations

import io

import numpy as np
import pytest
from evaluation_fakes import photograph
from PIL import Image, features

from icmh_rt.errors import BackendUnavailableError, IcmhError, OptionError
from icmh_rt.evaluation import anchors
from icmh_rt.evaluation.anchors import SETTINGS, PillowAnchor, installed


@pytest.mark.parametrize("name", installed())
def test_an_anchor_codes_an_image_of_odd_size(name):
    image = photograph(1, 33, 41)
    coder = PillowAnchor(name).open(60)
    encoded = coder.encode(image)
    decoded = coder.decode(encoded.data)
    assert decoded.shape == image.shape and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - image).mean() < 20
    assert encoded.estimated_bits is None


@pytest.mark.parametrize("name, format", [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_plain_anchors_are_what_save_writes_by_default(name, format):
    image = photograph(2)
    file = io.BytesIO()
    Image.fromarray(image).save(file, format, quality=35)
    assert PillowAnchor(name).open(35).encode(image).data == file.getvalue()


def test_optimized_jpeg_has_the_same_pixels_in_fewer_bytes():
    image = photograph(3)
    plain, optimized = (PillowAnchor(name).open(40) for name in ("jpeg", "jpeg-optimized"))
    first, second = plain.encode(image).data, optimized.encode(image).data
    assert len(second) < len(first)
    assert np.array_equal(plain.decode(first), optimized.decode(second))


def test_settings_name_program_and_library():
    settings = PillowAnchor("jpeg").settings
    assert settings["program"].startswith("Pillow ") and settings["subsampling"] == "4:2:0"
    assert PillowAnchor("webp").settings["method"] == 4


def test_an_unknown_anchor_is_refused_with_the_known_ones():
    with pytest.raises(OptionError, match="'bpg': choose from jpeg, jpeg-optimized, webp"):
        PillowAnchor("bpg")


def test_a_pillow_without_webp_is_reported(monkeypatch):
    monkeypatch.setattr(features, "check", lambda feature: feature != "webp")
    with pytest.raises(BackendUnavailableError, match="no WEBP"):
        PillowAnchor("webp")


def test_avif_and_jxl_are_known_and_tested_where_they_can_be_installed():
    assert {"jpeg", "webp", "avif", "jxl"} <= set(SETTINGS)
    assert "jpeg" in installed() and "webp" in installed()


@pytest.mark.parametrize(
    "name, remedy",
    [("avif", r"pip install 'pillow>=11.3'"), ("jxl", "pip install pillow-jxl-plugin")],
)
def test_what_is_not_installed_says_how_to_get_it(monkeypatch, name, remedy):
    monkeypatch.setattr(anchors, "is_installed", lambda anchor: anchor != name)
    assert name not in installed()
    with pytest.raises(BackendUnavailableError, match=remedy) as caught:
        PillowAnchor(name)
    assert "\n" not in str(caught.value) and f"drop the anchor '{name}'" in str(caught.value)


def test_a_pillow_older_than_avif_has_none(monkeypatch):
    def check(feature):
        if feature == "avif":
            raise ValueError("Unknown feature avif.")
        return True

    monkeypatch.setattr(features, "check", check)
    assert not anchors.is_installed("avif")


@pytest.mark.parametrize("name", [n for n in ("avif", "jxl") if n in installed()])
def test_more_quality_is_more_bytes(name):
    sizes = [len(PillowAnchor(name).open(q).encode(photograph(4)).data) for q in (5, 50, 95)]
    assert sizes == sorted(set(sizes))
    settings = PillowAnchor(name).settings
    assert settings["library"].split()[-1][0].isdigit() and settings["format"] == name.upper()


def test_an_image_that_the_format_cannot_hold_is_one_clear_error():
    with pytest.raises(IcmhError, match="WEBP cannot encode a 16400x1 image"):
        PillowAnchor("webp").open(50).encode(np.zeros((1, 16400, 3), np.uint8))
