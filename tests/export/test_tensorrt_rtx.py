"""Real engines, built by TensorRT-RTX, which needs no GPU for that. scripts/test_tensorrt_rtx.sh
installs it and insists on these tests; elsewhere they are skipped where it is not installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from icmh_rt import bundle as bundles
from icmh_rt import graphs
from icmh_rt.backends import _tensorrt_builder, _tensorrt_graph, _tensorrt_library, _tensorrt_plans
from icmh_rt.backends._tensorrt_builder import BuildOptions, ImageSizes, build
from icmh_rt.errors import BackendUnavailableError
from icmh_rt.export import tensorrt as export

ROOT = Path(__file__).resolve().parents[2]
INSIST = "ICMH_REQUIRE_TENSORRT_RTX"


@pytest.fixture(scope="module")
def rtx():
    try:
        return _tensorrt_library.load("tensorrt_rtx")
    except BackendUnavailableError as error:
        if os.environ.get(INSIST) == "1":
            raise
        pytest.skip(f"{error} (scripts/test_tensorrt_rtx.sh runs these tests)")


def graph(role, width=0.25, **options):
    model = graphs.build(bundles.load("default"), role, width, **options)
    return _tensorrt_graph.with_magnitude(model) if role == "synthesis" else model


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("role", export.ROLES)
def test_every_role_is_built(rtx, role, precision):
    data = _tensorrt_graph.for_parser(graph(role, precision=precision))
    for capability in ("8.0", "8.6", "8.9"):
        built = build(rtx, data, BuildOptions(compute_capability=capability))
        assert len(built.plan) > 100_000
        exact = _tensorrt_builder.check_exact(built.layers)
        assert (exact > 50) == (role in ("encoder", "hyper_synthesis"))


def test_every_option_is_known(rtx):
    options = BuildOptions(
        sizes=ImageSizes((16, 16), (64, 96), (256, 256), 4),
        compute_capability="8.6",
        workspace_mib=256,
        optimization_level=3,
        aux_streams=1,
        detailed=False,
    )
    assert build(rtx, _tensorrt_graph.for_parser(graph("analysis")), options).plan


def test_one_size(rtx):
    sizes = ImageSizes((48, 64), (48, 64), (48, 64))
    model = graph("synthesis", size=(48, 64), batch=1, precision="fp16")
    options = BuildOptions(sizes=sizes, compute_capability="8.6")
    assert build(rtx, _tensorrt_graph.for_parser(model), options).plan


def test_bytes_inside_are_why_outputs_are_not_renamed(rtx):
    """What `for_parser` is there for; if this fails, it is needed no more."""
    model = graph("synthesis")
    output = model.graph.output[0].name
    for node in model.graph.node:
        for i, name in enumerate(node.output):
            if name == output:
                node.output[i] = "inside"
    model.graph.node.append(onnx.helper.make_node("Identity", ["inside"], [output]))
    options = BuildOptions(compute_capability="8.6")
    with pytest.raises(BackendUnavailableError, match="UINT8"):
        build(rtx, model.SerializeToString(), options)
    assert build(rtx, _tensorrt_graph.for_parser(model), options).plan


def test_a_graph_it_cannot_parse_is_named(rtx):
    helper = onnx.helper
    node = helper.make_node("DFT", ["image", "n"], ["y"], name="frequencies", onesided=1)
    number = onnx.helper.make_tensor("n", onnx.TensorProto.INT64, [], [8])
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        [node], "g", [value("image", 1, [1, 8, 1])], [value("y", 1, [1, 5, 2])], [number]
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(BackendUnavailableError, match=r"could not parse the graph: .*DFT"):
        build(rtx, model.SerializeToString(), BuildOptions(compute_capability="8.6"))


def test_the_command(rtx, tmp_path, capsys):
    """Without a GPU it says of every engine that it was not run, and why."""
    arguments = ["--library", "tensorrt_rtx", "--compute-capability", "8.6", "--width", "0.25"]
    code = export.main([*arguments, "-o", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == export.OK and len(found["engines"]) == 2
    for engine in found["engines"]:
        plan = _tensorrt_plans.load(tmp_path / engine["file"])
        assert len(plan.read()) == engine["bytes"]
        assert engine["proof"]["graph"]
        assert engine["proof"]["engine"] or engine["proof"]["engine_not_run"]


def test_the_benchmark(rtx, tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "tensorrt_rtx_builds.py", "--quick"]
    subprocess.run([*command, "--json", tmp_path / "builds.json"], check=True)
    found = json.loads((tmp_path / "builds.json").read_text())
    assert len(found["engines"]) == 4 and not any(e["refused"] for e in found["engines"])
