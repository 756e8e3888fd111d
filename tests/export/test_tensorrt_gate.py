"""The frequency gate as a plugin: the graph, the kernel's PTX, and what TensorRT is told.

With the real ``tensorrt.plugin`` of a bindings wheel scripts/check_tensorrt_gate.py looks at the
last of these; no test runs the plugin, which takes a GPU and TensorRT's libraries.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import fake_tensorrt
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from icmh_rt import bundle as bundles
from icmh_rt import graphs
from icmh_rt.errors import BackendUnavailableError, OptionError
from icmh_rt.export import _tensorrt_gate as gates

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "graphs"))
from graph_cases import random_adapters  # noqa: E402

torch = pytest.importorskip("torch", reason="the reference of the gate")
triton = pytest.importorskip("triton", reason="Triton has no wheels for this platform")


def gated(spectrum, dw_weight, dw_bias, mix_weight, mix_bias):
    """The op's definition on the plugin's tensors."""
    from icmh_rt.kernels.frequency_gate import reference

    tensors = [torch.from_numpy(np.array(a)) for a in (spectrum, dw_weight, dw_bias)]
    mix = [torch.from_numpy(np.array(a)) for a in (mix_weight, mix_bias)]
    out = reference(torch.view_as_complex(tensors[0]), *tensors[1:], *mix)
    return torch.view_as_real(out).numpy()


class _Triton(OpRun):
    op_domain = gates.NAMESPACE

    def _run(self, *arrays, plugin_namespace=None, plugin_version=None):
        assert (plugin_namespace, plugin_version) == (gates.NAMESPACE, gates.VERSION)
        return (gated(*arrays),)


class _Cuda(_Triton):
    pass


_Triton.__name__ = gates.OPERATORS["triton"]
_Cuda.__name__ = gates.OPERATORS["cuda"]


@pytest.fixture(scope="module")
def adapted():
    return graphs.build(
        bundles.load("default"), "analysis", 0.25, "detection", adapters=random_adapters(middle=16)
    )


@pytest.mark.parametrize("gate", ["triton", "cuda"])
def test_the_plugins_graph_is_the_same_function(adapted, gate):
    changed = gates.with_gates(adapted, gate)
    kinds = [node.op_type for node in changed.graph.node]
    assert kinds.count(gates.OPERATORS[gate]) == 3
    assert sum(n.name.endswith(("/gate", "/amplitude")) for n in changed.graph.node) == 0
    assert sum(n.name.endswith("/gate") for n in adapted.graph.node) == 3  # it is left as it was
    image = np.random.default_rng(0).integers(0, 256, (1, 37, 50, 3)).astype(np.uint8)
    wanted = ReferenceEvaluator(adapted).run(None, {"image": image})
    found = ReferenceEvaluator(changed, new_ops=[_Triton, _Cuda]).run(None, {"image": image})
    for a, b in zip(found, wanted, strict=True):
        assert np.abs(b).max() > 0.1
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


def test_graphs_without_adapters_have_no_gate():
    model = graphs.build(bundles.load("default"), "synthesis", 0.25)
    with pytest.raises(OptionError, match="has no adapters"):
        gates.with_gates(model, "triton")


# -- the kernel ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [16, 48])
@pytest.mark.parametrize("tactic", range(1, gates.tactics() + 1))
def test_ptx_takes_what_tensorrt_passes(channels, tactic, tmp_path):
    kernel = gates.compile_kernel(channels, tactic)
    header = kernel.ptx.split(f".entry {kernel.name}(")[1].split(")")[0]
    kinds = [part.split()[1] for part in header.split(",")]
    assert kinds == [".u64"] * 5 + [".u32"] * 2 + [".u64"]
    assert ".version 8.0" in kernel.ptx and ".target sm_80" in kernel.ptx
    assert kernel.shared_bytes <= 48 * 1024  # more has to be asked for, which nobody does
    assembler = shutil.which("ptxas")
    if assembler is None:
        pytest.skip("ptxas is not here; everything but the assembler has been asked")
    path = tmp_path / "gate.ptx"
    path.write_text(kernel.ptx)
    for code in ("sm_80", "sm_87", "sm_90"):
        command = [assembler, "-arch", code, path, "-o", tmp_path / "gate.cubin"]
        subprocess.run(command, check=True)


def test_scratch_that_is_used_is_an_error():
    ptx = ".visible .entry f(\n .param .u64 f_0,\n .param .u64 f_1,\n .param .u64 f_2\n)\n{ %s }"
    short = gates.without_scratch(ptx % "ld [f_0]", "f", 1)
    assert short.count(".param") == 1 and "f_0\n)" in short
    for body, parameters in (("ld [f_2]", 1), ("", 4), ("", 0)):
        with pytest.raises(BackendUnavailableError, match="other parameters"):
            gates.without_scratch(ptx % body, "f", parameters)


_INTERPRETED = """
import torch
from icmh_rt.export._gate_kernel import icmh_frequency_gate
from icmh_rt.kernels.frequency_gate import reference
torch.manual_seed(0)
for n, c, h, w in ((1, 5, 7, 3), (2, 20, 9, 11), (1, 16, 1, 1)):
    spectrum = torch.randn(n, c, h, w, dtype=torch.complex64)
    weights = [torch.randn(c, 1, 3, 3), torch.randn(c), torch.randn(c, c) / c, torch.randn(c)]
    out = torch.empty_like(spectrum)
    icmh_frequency_gate[(-(-h * w // 32), n)](
        spectrum.view(torch.int64), *weights, h, w, out.view(torch.int64),
        CHANNELS=c, BLOCK_M=16, BLOCK_P=32, BLOCK_K=16,
    )
    wanted = reference(spectrum, *weights)
    assert (out - wanted).abs().max() < 1e-5 * wanted.abs().max(), (n, c, h, w)
print("right")
"""


def test_the_kernel_computes_the_gate():
    """In Triton's interpreter, which has to be chosen before Triton is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _INTERPRETED], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "right", done.stderr


# -- what TensorRT is told -------------------------------------------------------------------------


class _Plugins(types.ModuleType):
    """What `register` uses of tensorrt.plugin, with numbers for its expressions."""

    def __init__(self):
        super().__init__("tensorrt.plugin")
        self.functions = {}
        for kind in ("register", "autotune", "aot_impl"):
            setattr(self, kind, self._decorator(kind))

    def _decorator(self, kind):
        def name_it(plugin):
            def keep(function):
                self.functions[kind, plugin] = function
                return function

            return keep

        return name_it

    class TensorDesc:
        def __init__(self, *shape):
            self.shape_expr = [_Number(side) for side in shape]

        def like(self):
            return self

    class AutoTuneCombination:
        def __init__(self, types, layouts, tactics):
            self.types, self.layouts, self.tactics = types, layouts, tactics

    class KernelLaunchParams:
        pass

    class SymExprs:
        pass

    SymIntExprs = staticmethod(lambda count: [None] * count)
    SymInt32 = staticmethod(int)
    cdiv = staticmethod(lambda a, b: -(-a // b))


class _Number(int):
    constant_value = property(int)


def test_launches_cover_all_frequencies():
    trtp = _Plugins()
    gates.register(trtp)
    name = "icmh::frequency_gate"
    desc = trtp.TensorDesc
    inputs = [desc(3, 16, 33, 17, 2), desc(16, 1, 3, 3), desc(16), desc(16, 16), desc(16)]
    output = trtp.functions["register", name](*inputs)
    assert output.shape_expr == [3, 16, 33, 17, 2]
    (combination,) = trtp.functions["autotune", name](*inputs, (output,))
    assert combination.types.split(", ") == ["FP32"] * 6 and combination.layouts == "LINEAR"
    for tactic in combination.tactics:
        found = trtp.functions["aot_impl", name](*inputs, (output,), tactic)
        entry, ptx, launch, extra = found
        kernel = gates.compile_kernel(16, tactic)
        assert (entry, ptx) == (kernel.name, kernel.ptx) and extra == [33, 17]
        assert launch.grid_x == -(-33 * 17 // kernel.positions) and launch.grid_y == 3
        assert (launch.block_x, launch.shared_mem) == (kernel.threads, kernel.shared_bytes)


def test_versions_without_plugins_say_so(monkeypatch, tmp_path):
    cudart = fake_tensorrt.compile_cudart(tmp_path)
    for version in ("10.3", "rtx1.7"):
        for library, _ in fake_tensorrt.installed(monkeypatch, version, cudart):
            with pytest.raises(OptionError, match="use gate native or cuda"):
                gates.prepare(library, "triton")


def test_the_plugin_library_is_loaded_where_it_is(monkeypatch, tmp_path):
    cudart = fake_tensorrt.compile_cudart(tmp_path)
    for version in fake_tensorrt.VERSIONS:
        for library, _ in fake_tensorrt.installed(monkeypatch, version, cudart):
            monkeypatch.setattr(gates, "PLUGIN_LIBRARY", tmp_path / "none.so")
            with pytest.raises(BackendUnavailableError, match=r"none\.so is not built"):
                gates.prepare(library, "cuda")
            monkeypatch.setattr(gates, "PLUGIN_LIBRARY", cudart)
            gates.prepare(library, "cuda")
            (tmp_path / "empty.so").write_bytes(b"")
            monkeypatch.setattr(gates, "PLUGIN_LIBRARY", tmp_path / "empty.so")
            with pytest.raises(BackendUnavailableError, match="could not load"):
                gates.prepare(library, "cuda")


def test_plugin_graphs_are_valid(adapted):
    """As far as shapes are known without asking the plugin: the first of its inputs."""
    changed = gates.with_gates(adapted, "triton")
    onnx.checker.check_model(changed)
    inferred = onnx.shape_inference.infer_shapes(changed)
    shapes = {v.name: v.type.tensor_type.shape.dim for v in inferred.graph.value_info}
    first = next(dims for name, dims in shapes.items() if name.endswith("plugin/spectrum"))
    assert len(first) == 5 and first[4].dim_value == 2
