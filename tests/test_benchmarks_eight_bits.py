"""benchmarks/eight_bits.py, on a picture that fits into a test."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from icmh_rt.export import onnx as export_onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import eight_bits


def test_it_measures_and_writes(tmp_path, capsys):
    for name, box in (("data", (0, 0, 96, 80)), ("calibration", (64, 64, 160, 128))):
        (tmp_path / name).mkdir()
        with Image.open(export_onnx.PHOTOGRAPH) as image:
            image.crop(box).save(tmp_path / name / "part.png")
    arguments = ["--data", str(tmp_path / "data"), "--calibration", str(tmp_path / "calibration")]
    arguments += ["--widths", "0.25", "--json", str(tmp_path / "figures.json")]
    assert eight_bits.main([*arguments, "--markdown", str(tmp_path / "page.md")]) == 0
    document = json.loads((tmp_path / "figures.json").read_text())
    curves = document["bits_per_pixel_and_psnr_db"]["0.25"]
    assert set(curves) == {"fp32-fp32", "int8-int8", "fp8-fp8", "int8-fp32", "fp8-fp32"}
    for points in curves.values():
        assert len(points) == len(eight_bits.QUALITIES)
        for (bits, psnr), (bits_there, psnr_there) in zip(points, curves["fp32-fp32"], strict=True):
            assert bits == pytest.approx(bits_there, rel=0.1)
            assert psnr == pytest.approx(psnr_there, abs=1.0)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4 and printed[0].startswith("| 0.25 | int8 | int8 | ")
    assert printed[0] in (tmp_path / "page.md").read_text()


def test_no_images_is_one_line(tmp_path, capsys):
    arguments = ["--data", str(tmp_path), "--calibration", str(tmp_path)]
    assert eight_bits.main(arguments) == 2
    assert "has no images" in capsys.readouterr().err
