"""Limits that a caller sets."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the torch extra is not installed")

import icmh_rt
from icmh_rt import cli
from icmh_rt.errors import BitstreamError, ImageError


def test_pixels_of_the_command(small: Path, tmp_path: Path, capsys) -> None:
    source, stream, out = tmp_path / "in.png", tmp_path / "in.icmh", tmp_path / "out.png"
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(source)
    common = ["--model", str(small), "--device", "cpu", "--backend", "torch", "--max-pixels"]
    encode = ["encode", str(source), "-o", str(stream), *common]
    assert cli.main([*encode, "599"]) == 1
    assert "above the limit of 599 pixels" in capsys.readouterr().err
    assert not stream.exists()
    assert cli.main([*encode, "600"]) == 0
    decode = ["decode", str(stream), "-o", str(out), *common]
    assert cli.main([*decode, "599"]) == 1
    assert "above the limit of 599 pixels" in capsys.readouterr().err
    assert not out.exists()
    assert cli.main([*decode, "600"]) == 0 and out.exists()
    assert cli.main([*decode, "0"]) == 2
    assert "max_pixels" in capsys.readouterr().err


def test_pixels_and_tiles_of_a_cluster(small: Path, tmp_path: Path, monkeypatch) -> None:
    """That the command hands them on; tests/test_distributed.py has a real cluster."""
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "in.png")
    given = {}

    class Encoding:
        def __init__(self, *_, **options) -> None:
            given.update(options)

        def run(self, jobs):
            return iter(())

    fake = SimpleNamespace(RayEncoding=Encoding)
    monkeypatch.setitem(sys.modules, "icmh_rt.distributed", fake)
    command = ["encode", str(tmp_path), "-o", str(tmp_path / "out"), "--model", str(small)]
    assert cli.main([*command, "--ray", "local", "--max-pixels", "599", "--tile", "64"]) == 0
    assert given["max_pixels"] == 599 and given["tile"] == 64 and given["address"] == "local"


def test_pixels_in_python(small: Path) -> None:
    encoder = icmh_rt.Encoder(1.0, model=small, backend="torch", device="cpu", max_pixels=100)
    data = encoder.encode(np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(ImageError, match="above the limit of 100 pixels"):
        encoder.encode(np.zeros((10, 11, 3), np.uint8))
    for read in (icmh_rt.Decoder(small, max_pixels=99).decode, _header):
        with pytest.raises(BitstreamError, match="above the limit of 99 pixels"):
            read(data)


def _header(data: bytes) -> icmh_rt.bitstream.Header:
    return icmh_rt.read_header(data, max_pixels=99)


def test_time_by_the_lines_of_the_document(small: Path) -> None:
    """They end what is computed by tiles after the first, and the same objects go on."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "reliability.md").read_text("utf-8")
    program = text[text.index("def until(") : text.index("decoder = Decoder(tile=512)")]
    names: dict = {"time": time}
    exec(program, names)
    until, options = names["until"], {"model": small, "backend": "torch", "device": "cpu"}
    encoder = icmh_rt.Encoder(1.0, tile=64, **options)
    decoder = icmh_rt.Decoder(tile=64, **options)
    image = np.random.default_rng(0).integers(0, 256, (200, 150, 3), np.uint8)
    data = encoder.encode(image, progress=until(1000.0))
    assert data == icmh_rt.Encoder(1.0, tile=0, **options).encode(image)
    whole = decoder.decode(data, progress=until(1000.0))
    calls = (
        lambda progress: encoder.encode(image, progress=progress),
        lambda progress: decoder.decode(data, progress=progress),
        lambda progress: decoder.decode_partial(data[:-10], progress=progress),
    )
    for call in calls:
        check = Mock(side_effect=until(-1.0))
        with pytest.raises(TimeoutError, match=r"\d% was done after -1.0 s"):
            call(check)
        check.assert_called_once()
    assert encoder.encode(image) == data
    assert np.array_equal(decoder.decode(data), whole)


@pytest.mark.parametrize("name", ["a\nb.png", "x" * 3000, "tab\t.png"])
def test_errors_are_one_line_whatever_a_name_holds(name: str) -> None:
    with pytest.raises(ImageError) as caught:
        icmh_rt.images.load_image(name)
    text = str(caught.value)
    assert text.isprintable() and len(text) <= 1100
