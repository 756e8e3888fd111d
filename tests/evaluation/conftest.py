"""Fixtures of the evaluation tests."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from evaluation_fakes import FakeDecoder, FakeEncoder, photograph
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three PNGs of two sizes, and a file that is no image and must be passed over."""
    images = tmp_path / "photos"
    images.mkdir()
    for seed, shape in ((1, (48, 64)), (2, (48, 64)), (3, (40, 56))):
        Image.fromarray(photograph(seed, *shape)).save(images / f"photo{seed}.png")
    (images / "notes.txt").write_text("not an image")
    return images


@pytest.fixture
def fake_codec(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Put the stand-in where `icmh_rt.codec` is imported from."""
    module = types.ModuleType("icmh_rt.codec")
    module.Encoder, module.Decoder = FakeEncoder, FakeDecoder
    monkeypatch.setitem(sys.modules, "icmh_rt.codec", module)
    return module
