"""The benchmarks of the onnxruntime backend: what they time is what they say."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name: str):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


encode = load("onnxruntime_encode")
install = load("onnx_install")


def test_a_contestant_encodes_in_its_own_process(tmp_path):
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    from icmh_rt.codec import Encoder

    options = argparse.Namespace(threads=1, quality=30, image=None)
    contestant = encode.Contestant("onnxruntime", options, str(tmp_path))
    try:
        first, second = contestant.encode(0.25), contestant.encode(0.25)
        symbols = contestant.symbols(0.25)
        profile = contestant.profile(0.25)
    finally:
        contestant.close()
    assert first["bytes"] == second["bytes"] and second["seconds"] > 0
    assert profile["multiply_adds"] > 5e8 and profile["products_ms"] > 0
    image, name = encode._image(None)
    assert (name, image.shape) == ("kodim23.png", (512, 768, 3))
    report = Encoder(0.25, quality=30, backend="onnxruntime", device="cpu").encode_detailed(image)
    assert first["bytes"] == len(report.data)
    assert np.array_equal(symbols, report.latents.symbols_y)


def test_a_contestant_that_ends_is_an_error(tmp_path, capfd):
    from icmh_rt.errors import BackendUnavailableError

    options = argparse.Namespace(threads=0, quality=0, image=None)  # there is no quality 0
    contestant = encode.Contestant("onnxruntime", options, str(tmp_path))
    with pytest.raises(BackendUnavailableError, match="onnxruntime ended early"):
        contestant.encode(0.25)
    contestant.close()


def test_multiply_adds_are_those_of_the_layers():
    pytest.importorskip("onnx", reason="the onnx extra is not installed")
    from icmh_rt import bundle, graphs

    default = bundle.load()
    found = encode._multiply_adds(graphs.build(default, "analysis", 0.25, size=(64, 128), batch=1))
    config = {name: values[0] for name, values in default.config.items() if type(values) is list}
    c, m, h, z = (
        config[k]
        for k in ("channels", "latent_channels", "hyper_channels", "hyper_latent_channels")
    )
    at_8, at_16, at_32, at_64 = 8 * 16, 4 * 8, 2 * 4, 1 * 2
    expected = at_8 * 192 * c + at_16 * 9 * c * m
    expected += config["blocks_8"] * at_8 * (5 * c * c + 9 * c)
    expected += config["blocks_16"] * at_16 * (5 * m * m + 9 * m)
    expected += at_16 * m * h + at_32 * 9 * h * h + at_64 * 9 * h * z
    assert found == expected


def test_symbols_are_compared_with_both():
    a, b = np.arange(10), np.arange(10)
    assert encode._differing(a, b, b) == 0
    b[3] = 7
    assert encode._differing(a, b, b) == encode._differing(b, a, b) == pytest.approx(0.1)
    assert encode._differing(a, a, b) == pytest.approx(0.1)


def test_the_table_has_a_row_for_each_width():
    interval = [2.0, 1.0, 3.0]
    row = {
        "width": 0.5,
        "median_ms": dict.fromkeys(encode.CONTESTANTS, interval),
        "against_eager": interval,
        "against_torch": interval,
        "differing_symbols": 0.0,
        "multiply_adds": 3_000_000_000,
        "products_ms": 20.0,
    }
    lines = encode._table([row, row]).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| 0.5 | 2.0 [1.0, 3.0] |")
    assert lines[2].endswith("| 20.0 | 150 | 0.0e+00 |")


def test_sizes_are_those_on_disk(tmp_path):
    packages = tmp_path / "lib" / "python3.11" / "site-packages" / "thing"
    packages.mkdir(parents=True)
    (packages / "data").write_bytes(os.urandom(100_000))
    (packages / "link").symlink_to(packages / "data")
    assert 100_000 <= install._size_bytes(tmp_path) <= 200_000
    assert list(install._folders(tmp_path)) == ["thing"]
    install._forget(tmp_path)


@pytest.mark.parametrize("module", [encode, install])
def test_options_are_documented(module, capsys):
    with pytest.raises(SystemExit) as error:
        module.main(["--help"])
    assert error.value.code == 0
    assert "--json" in capsys.readouterr().out
    assert json.dumps(module.SCHEMA_VERSION) == "1"
