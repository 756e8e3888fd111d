"""`icmh export tensorrt` over the fakes of tests/fake_tensorrt.py: every version builds, proves
and keeps engines by the same code. tests/export/test_tensorrt_rtx.py builds real ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import fake_tensorrt
import numpy as np
import onnx
import pytest

from icmh_rt import bundle as bundles
from icmh_rt.backends import _tensorrt_builder, _tensorrt_plans
from icmh_rt.backends._tensorrt_builder import MAGNITUDE
from icmh_rt.backends.tensorrt import create
from icmh_rt.export import tensorrt as export
from icmh_rt.export._cli import FAILED, OK, USAGE
from icmh_rt.export.onnx import ROLES

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--min-size", "1x1", "--opt-size", "64x64", "--max-size", "256x256", "--width", "0.25"]


@pytest.fixture(scope="session")
def cudart(tmp_path_factory):
    return fake_tensorrt.compile_cudart(tmp_path_factory.mktemp("cudart"))


@pytest.fixture(scope="session")
def photograph(tmp_path_factory):
    """A small part of one: what it is proven on here is not the point."""
    from PIL import Image

    path = tmp_path_factory.mktemp("picture") / "part.png"
    Image.open(ROOT / "examples" / "kodim23.png").crop((100, 60, 190, 130)).save(path)
    return str(path)


@pytest.fixture(params=fake_tensorrt.VERSIONS)
def fakes(request, monkeypatch, cudart, tmp_path):
    monkeypatch.setenv(_tensorrt_plans.FOLDER, str(tmp_path / "cache"))
    yield from fake_tensorrt.installed(monkeypatch, request.param, cudart)


@pytest.fixture
def fake(monkeypatch, cudart, tmp_path):
    monkeypatch.setenv(_tensorrt_plans.FOLDER, str(tmp_path / "cache"))
    yield from fake_tensorrt.installed(monkeypatch, "10.3", cudart)


@pytest.fixture
def command(photograph, capsys):
    """Runs the command; gives its exit code, what it printed as JSON, and its messages."""

    def run(*arguments, proven=True):
        how = ["--image", photograph] if proven else ["--unproven"]
        code = export.main([*SMALL, *how, "--json", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return run


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_all_roles_are_built_run_and_proven(fakes, command, tmp_path, precision):
    library, _ = fakes
    code, found, _ = command("-o", tmp_path, "--role", ",".join(ROLES), "--precision", precision)
    assert code == OK and not found["failures"]
    assert [e["role"] for e in found["engines"]] == list(ROLES)
    for engine in found["engines"]:
        proof = engine["proof"]
        assert proof["graph"] and proof["engine"] and "engine_not_run" not in proof
        assert engine["target"]["library"] == f"{library.name} {library.version}"
        assert (tmp_path / engine["file"]).stat().st_size == engine["bytes"]
        exact = engine["role"] in ("encoder", "hyper_synthesis")
        assert (engine["exact_layers"] > 50) == exact
    manifest = json.loads((tmp_path / export.MANIFEST).read_text())
    assert {e["file"] for e in manifest["engines"]} == {e["file"] for e in found["engines"]}
    encoder = found["engines"][0]
    assert [i["name"] for i in encoder["inputs"]] == ["image", "quality"]
    assert encoder["outputs"][0]["dtype"] == "int32"


def test_a_second_time_plans_are_kept(fake, command, tmp_path):
    _, first, _ = command("-o", tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.plan")}
    code, second, err = command("-o", tmp_path)
    assert code == OK and {e["status"] for e in second["engines"]} == {"kept"}
    assert "kept, up to date" in err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.plan")} == files
    assert [e["sha256"] for e in second["engines"]] == [e["sha256"] for e in first["engines"]]
    _, forced, _ = command("-o", tmp_path, "--force")
    assert {(e["status"], e["why"]) for e in forced["engines"]} == {("built", "asked for")}


def test_stale_plans_are_built_anew(fake, command, tmp_path):
    command("-o", tmp_path)
    _, found, _ = command("-o", tmp_path, "--optimization-level", "2")
    for engine in found["engines"]:
        assert engine["status"] == "built"
        assert "optimization_level -1 -> 2" in engine["why"]
    plan = next(tmp_path.glob("*analysis*.plan"))
    plan.write_bytes(plan.read_bytes()[:-1])
    _, found, _ = command("-o", tmp_path, "--optimization-level", "2")
    assert [e["why"] for e in found["engines"]] == ["it is damaged", "up to date"]


def test_unproven_plans_say_so_and_are_not_enough_later(fake, command, tmp_path):
    _, found, _ = command("-o", tmp_path, "--role", "analysis", proven=False)
    assert found["engines"][0]["proof"] is None
    _, found, _ = command("-o", tmp_path, "--role", "analysis")
    assert found["engines"][0]["why"] == "it was not proven"


def test_the_backend_runs_what_was_exported(fakes, command, tmp_path, caplog):
    command()
    backend = create(bundles.load("default"), "auto", "fp16")
    image = np.zeros((40, 40, 3), np.uint8)
    backend.encode_transforms(image, 0.25, "human", 50)
    assert not caplog.records  # nothing was built
    assert len(list((tmp_path / "cache").glob("*.plan"))) == 2


@pytest.mark.parametrize("name", ["y", "image"])
def test_engines_that_compute_something_else_are_withheld(
    fake, command, tmp_path, monkeypatch, name
):
    """Another engine than the graph: one with a bias in its output."""
    sound = _tensorrt_builder.build

    def unsound(library, graph, *others):
        model = onnx.load_from_string(graph)
        helper, nodes = onnx.helper, model.graph.node
        place, node = next((i, n) for i, n in enumerate(nodes) if name in n.output)
        number = np.array(0.5, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(number, "half"))
        if name == "y":
            node.output[0] = "before"
            nodes.append(helper.make_node("Add", ["before", "half"], ["y"]))
        else:
            before, node.input[0] = node.input[0], "darker"
            nodes.insert(place, helper.make_node("Mul", [before, "half"], ["darker"]))
        return sound(library, model.SerializeToString(), *others)

    monkeypatch.setattr(_tensorrt_builder, "build", unsound)
    role = {"y": "analysis", "image": "synthesis"}[name]
    code, found, err = command("-o", tmp_path, "--role", role)
    assert code == FAILED
    assert not found["engines"] and len(found["failures"]) == 1
    assert "is wrong" in found["failures"][0]["error"] and "is wrong" in err
    assert not list(tmp_path.glob("*.plan"))


def test_one_failure_does_not_stop_the_others(fake, command, tmp_path, monkeypatch):
    sound = _tensorrt_builder.build

    def build(library, graph, *others):
        if MAGNITUDE.encode() in graph:
            raise _tensorrt_builder.BackendUnavailableError("TensorRT could not build the engine")
        return sound(library, graph, *others)

    monkeypatch.setattr(_tensorrt_builder, "build", build)
    code, found, _ = command("-o", tmp_path)
    assert code == FAILED
    assert [e["role"] for e in found["engines"]] == ["analysis"]
    assert "could not build" in found["failures"][0]["error"]


def test_without_a_gpu_only_rtx_builds_and_says_what_was_not_run(fakes, command, tmp_path):
    library, cuda = fakes
    cuda.set("devices", 0)
    code, found, err = command("-o", tmp_path, "--role", "analysis")
    assert code == FAILED and "no CUDA-capable device" in err
    code, found, err = command(
        "-o", tmp_path, "--role", "analysis", "--compute-capability", "8.0,8.9"
    )
    if library.name == "tensorrt":
        assert code == USAGE and "use --library tensorrt_rtx" in err
        return
    assert code == OK
    assert [e["target"]["compute_capability"] for e in found["engines"]] == ["8.0", "8.9"]
    for engine in found["engines"]:
        assert engine["proof"]["engine"] is None
        assert "no CUDA-capable device" in engine["proof"]["engine_not_run"]


def test_layers_are_reported(fake, command, tmp_path):
    report = tmp_path / "layers.json"
    command("-o", tmp_path, "--role", "encoder", "--layers", report)
    (layers,) = json.loads(report.read_text()).values()
    kinds = {layer["type"] for layer in layers["network"]}
    assert "CONV" in kinds
    exact = [layer for layer in layers["network"] if layer["name"].startswith("exact/")]
    dtypes = {output["dtype"] for layer in exact for output in layer["outputs"]}
    assert exact and dtypes <= {"FLOAT", "INT64", "INT32", "UINT8"}
    assert any("exact/" in layer["Name"] for layer in layers["engine"])


def test_fixed_sizes(fake, command, tmp_path):
    code, found, _ = command("-o", tmp_path, "--size", "48x64")
    assert code == OK
    for engine in found["engines"]:
        assert "_48x64_" in engine["file"] and engine["proof"]["engine"]
    assert [i["name"] for i in found["engines"][1]["inputs"]] == ["y_hat"]


@pytest.mark.parametrize("kind", export.KINDS)
def test_eight_bits(fake, command, tmp_path, kind):
    code, found, _ = command("-o", tmp_path, "--eight-bits", kind)
    assert code == OK
    for engine in found["engines"]:
        assert engine["eight_bits"] == kind and f"_fp16-{kind}_" in engine["file"]
        assert engine["proof"]["engine"]
    # The backend does not take them for engines of full precision.
    plan = _tensorrt_plans.load(tmp_path / found["engines"][0]["file"])
    assert plan.record["identity"]["eight_bits"] == kind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gate", "triton"], "use gate native or cuda"),
        (["--role", "decoder"], "role 'decoder' is unknown"),
        (["--width", "0.3"], "width 0.3 is not in bundle"),
        (["--width", "wide"], "is no list of numbers"),
        (["--task", "counting"], "task 'counting' is unknown; not in bundle"),
        (["--min-size", "300x1"], "must ascend"),
        (["--batch", "0"], "batch is 0"),
        (["--optimization-level", "9"], "optimization level is 9"),
        (["--workspace", "-1"], "workspace is -1"),
        (["--library", "tensorflow"], "'tensorflow' is unknown"),
    ],
)
def test_usage(fake, command, tmp_path, arguments, message):
    code, _, err = command("-o", tmp_path, *arguments)
    assert code == USAGE and message in err and len(err.splitlines()) == 1


def test_as_a_script_it_does_not_pass_for_the_package_tensorrt(tmp_path):
    """Its folder is first on the path of a script."""
    script = ROOT / "export" / "tensorrt.py"
    command = [sys.executable, script, "--library", "tensorrt", "--role", "none", "-o", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode in (FAILED, USAGE)
    assert done.stderr.startswith("icmh: error: ") and len(done.stderr.splitlines()) == 1
    assert "neither Builder nor Runtime" not in done.stderr
