"""The benchmark of the feature path: what it times is what it says."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
pytest.importorskip("onnx2torch", reason="the train extra is not installed")
from feature_heads import DETECTOR_LAYER, detector_bundle  # noqa: E402
from task_networks import write_detector  # noqa: E402

import icmh_rt  # noqa: E402
from icmh_rt.tasks.fastestdet import FastestDet  # noqa: E402

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        path = BENCHMARKS / "feature_path.py"
        spec = importlib.util.spec_from_file_location("feature_path", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    place = tmp_path_factory.mktemp("benchmark")
    detector = write_detector(place / "detector.onnx")
    return ["--detector", str(detector), "--model", str(detector_bundle(place))]


def test_both_paths_end_in_the_same_place(benchmark, arguments) -> None:
    options = benchmark._parser().parse_args(arguments)
    contestants, facts = benchmark._contestants(options)
    assert list(contestants) == [
        *("features", "encode features"),
        *("picture", "encode picture", "adapted", "encode adapted"),
    ]
    small = contestants["encode features"]()
    assert len(small) == facts["bytes"]["features"]
    header = icmh_rt.read_header(small)
    assert (header.width, header.task, header.image_size) == (0.25, "detection", (64, 64))
    wide = icmh_rt.read_header(contestants["encode picture"]())
    assert (wide.width, wide.task) == (1.0, "human")
    assert abs(facts["bytes"]["picture"] - len(small)) < 0.2 * len(small)
    (from_features,), (from_picture,) = contestants["features"](), contestants["picture"]()
    assert from_features.shape == from_picture.shape == (1, 85, 4, 4)
    decoder = icmh_rt.Decoder(options.model, device="cpu")
    network = FastestDet(options.detector, [DETECTOR_LAYER])
    with torch.no_grad():
        features = {k: torch.from_numpy(v)[None] for k, v in decoder.features(small).items()}
        assert np.allclose(network.remainder()(features).numpy(), from_features, atol=1e-4)
        picture = torch.from_numpy(decoder.decode(contestants["encode picture"]()))
        inputs = network.preprocess(picture.permute(2, 0, 1)[None].float() / 255.0)
        assert np.allclose(network.run(inputs).numpy(), from_picture, atol=1e-4)


def test_the_page_and_the_verdict(benchmark, arguments, tmp_path, capsys) -> None:
    files = ["--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md")]
    code = benchmark.main([*arguments, *files, "--rounds", "3", "--warmup", "1"])
    document = json.loads((tmp_path / "a.json").read_text())
    assert code == (0 if document["ratio_over_picture"]["value"] >= 5 else 1)
    assert all(len(times) == 3 for times in document["times"].values())
    page = (tmp_path / "a.md").read_text()
    assert page == capsys.readouterr().out.removesuffix("\n") and "Bar: features at least 5" in page


def test_a_bundle_without_a_head_is_one_line(benchmark, arguments, capsys) -> None:
    assert benchmark.main([*arguments[:2], "--task", "classification"]) == 2
    error = capsys.readouterr().err
    assert "has no feature head for task 'classification'" in error
    assert len(error.splitlines()) == 1
