"""The CUDA sources compile without warnings and spills, and Python calls what they declare."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from cuda_builds import HEADERS, ROOT, SOURCES

from icmh_rt.errors import BackendUnavailableError
from icmh_rt.kernels import _cuda

RECORD = ROOT / "docs" / "results" / "ptxas.json"
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc here")


@pytest.fixture(scope="module")
def ptxas():
    """benchmarks/ptxas.py as a module."""
    path = ROOT / "benchmarks" / "ptxas.py"
    spec = importlib.util.spec_from_file_location("ptxas", path)
    module = sys.modules["ptxas"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["ptxas"]


@needs_nvcc
def test_one_source_compiles_for_hopper(ptxas):
    found = ptxas.compiled(ROOT / "csrc" / "kernels" / "spatial_modulation.cu", "sm_90")
    assert len(found) == 6 and not ptxas.spilled(found)  # two layouts, three dtypes


@needs_nvcc
def test_warnings_are_errors(ptxas, tmp_path):
    bad = tmp_path / "bad.cu"
    bad.write_text("__global__ void kernel(int* out) { int unused = 1; out[0] = 2; }\n")
    with pytest.raises(RuntimeError, match="unused"):
        ptxas.compiled(bad, "sm_90")


@needs_nvcc
def test_spills_are_seen(ptxas, tmp_path):
    bad = tmp_path / "bad.cu"
    bad.write_text(
        "__global__ void __launch_bounds__(1024, 2) kernel(float* out) {\n"
        "  float v[64];\n"
        "  for (int r = 0; r < 9; ++r) {\n"
        '    _Pragma("unroll") for (int i = 0; i < 64; ++i) v[i] = out[i * 7 + r];\n'
        "    __syncthreads();\n"
        '    _Pragma("unroll") for (int i = 0; i < 64; ++i) out[i + r] = v[i] * v[63 - i];\n'
        "  }\n"
        "}\n"
    )
    assert ptxas.spilled(ptxas.compiled(bad, "sm_80"))


@needs_nvcc
@pytest.mark.slow
def test_all_sources_compile_for_all_architectures(ptxas):
    """And docs/results/ptxas.json is what this nvcc makes of them, if it is the recorded one."""
    found = [
        kernel
        for source in SOURCES
        for arch in ptxas.ARCHITECTURES
        for kernel in ptxas.compiled(source, arch)
    ]
    assert not ptxas.spilled(found)
    record = json.loads(RECORD.read_text())
    if record["nvcc"] == ptxas.nvcc_version("nvcc"):
        recorded = {tuple(sorted(kernel.items())) for kernel in record["kernels"]}
        assert recorded == {tuple(sorted(vars(kernel).items())) for kernel in found}, (
            "docs/results/ptxas.* are not of these sources: run `python benchmarks/ptxas.py "
            "--json docs/results/ptxas.json --markdown docs/results/ptxas.md`"
        )


def test_no_recorded_kernel_spills():
    record = json.loads(RECORD.read_text())
    assert {kernel["arch"] for kernel in record["kernels"]} == {"sm_80", "sm_87", "sm_90"}
    assert not [k for k in record["kernels"] if k["spill_stores"] or k["spill_loads"]]


def declared() -> dict[str, tuple[type, ...]]:
    """Argument types of all launchers in csrc/kernels/cuda/*.h."""
    found = {}
    for header in sorted(HEADERS.glob("*.h")):
        text = re.sub(r"//.*", "", header.read_text())
        for name, parameters in re.findall(r"\bint icmh_cuda_(\w+)\(([^)]*)\);", text):
            if name != "ready":
                found[name] = tuple(map(_type, parameters.split(",")))
    return found


def _type(parameter: str) -> type:
    if "*" in parameter:
        return ctypes.c_void_p
    name = parameter.split()[0]
    return {"int64_t": ctypes.c_int64, "int": ctypes.c_int, "float": ctypes.c_float}[name]


def test_python_passes_what_the_headers_declare():
    assert declared() == _cuda.SIGNATURES


@pytest.mark.parametrize("name", sorted(_cuda.SIGNATURES))
def test_arguments_are_named_alike_in_header_and_source(name):
    """One declares what the other defines, word for word: extern "C" would hide a difference."""
    flat = [re.sub(r"\s+", " ", path.read_text()) for path in (*HEADERS.glob("*.h"), *SOURCES)]
    signatures = {
        match.group(1)
        for text in flat
        if (match := re.search(rf"int icmh_cuda_{name}\(([^)]*)\)\s?[;{{]", text))
    }
    assert len(signatures) == 1


@pytest.mark.skipif(not _cuda.LIBRARY.exists(), reason="built without CUDA kernels")
def test_the_built_library_loads_and_says_what_is_missing():
    """Its functions are there, also without a GPU; then it is the device that is missing."""
    library = _cuda.load(_cuda.LIBRARY)
    code = library.icmh_cuda_ready()
    assert code == 0 or library.icmh_cuda_error_text(code)


def test_a_missing_library_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(_cuda, "_library", None)
    monkeypatch.setattr(_cuda, "_failure", None)
    monkeypatch.setattr(_cuda, "LIBRARY", tmp_path / "_cuda_kernels.so")
    with pytest.raises(BackendUnavailableError, match=r"built without CUDA.*ICMH_CUDA=ON"):
        _cuda.library()
    (tmp_path / "_cuda_kernels.so").write_bytes(b"no library")
    monkeypatch.setattr(_cuda, "_failure", None)
    with pytest.raises(BackendUnavailableError, match="does not load"):
        _cuda.library()


def test_every_source_is_built():
    """cmake/cuda.cmake lists them one by one."""
    listed = re.findall(r"csrc/kernels/\w+\.cu", (ROOT / "cmake" / "cuda.cmake").read_text())
    assert listed == [str(path.relative_to(ROOT)) for path in SOURCES]


def test_sources_know_no_torch():
    for path in (*SOURCES, *HEADERS.iterdir()):
        assert not re.search(r"#include.*(torch|ATen|c10)", path.read_text()), Path(path).name
