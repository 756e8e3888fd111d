"""The plugin of csrc/trt: compiled against TensorRT's headers, and run on this CPU by a program
that asks it what TensorRT asks.

The headers come with TensorRT and are not in this repository. They are looked for where CMake looks
for them (cmake/tensorrt.cmake); set TENSORRT_ROOT to a folder with include/NvInfer.h.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference of the gate")

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
COMPILER = os.environ.get("CXX") or shutil.which("c++")
_PLACES = ("include", "include/x86_64-linux-gnu", "include/aarch64-linux-gnu")
_ROOTS = ("/usr", "/usr/local/tensorrt", "/usr/src/tensorrt")
_CUDA = ("/usr/local/cuda/include", "/usr/include")


def found(name, roots, places):
    for root in filter(None, roots):
        for place in places:
            if Path(root, place, name).exists():
                return Path(root, place)
    return None


@pytest.fixture(scope="module")
def headers():
    place = found("NvInfer.h", (os.environ.get("TENSORRT_ROOT"), *_ROOTS), _PLACES)
    if place is None:
        pytest.skip("TensorRT's headers are not here: set TENSORRT_ROOT to where they are")
    cuda = found("cuda_runtime_api.h", _CUDA, ("",))
    if cuda is None:
        pytest.skip("CUDA's headers are not here")
    return ["-isystem", str(place), "-isystem", str(cuda)]


@pytest.fixture(scope="module")
def run_gate(headers, tmp_path_factory):
    """The plugin over the CUDA kernel on this CPU."""
    folder = tmp_path_factory.mktemp("plugin")
    library = folder / "plugin.so"
    on_host = TESTS / "kernels" / "cuda_on_host"
    strict = ["-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-I", str(ROOT / "csrc")]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    kernel = [*strict, "-w", "-I", str(on_host), "-x", "c++"]
    parts = (
        ("plugin", ROOT / "csrc/trt/frequency_gate_plugin.cpp", [*strict, *warnings, *headers]),
        ("host", TESTS / "tensorrt_plugin_host.cpp", [*strict, *warnings, *headers]),
        ("kernel", ROOT / "csrc/kernels/frequency_gate.cu", kernel),
        ("cuda", on_host / "cuda_on_host.cpp", kernel),
    )
    objects = []
    for name, source, flags in parts:
        objects.append(folder / f"{name}.o")
        subprocess.run([COMPILER, *flags, "-c", source, "-o", objects[-1]], check=True)
    subprocess.run([COMPILER, "-shared", *objects, "-o", library], check=True)
    function = ctypes.CDLL(str(library)).run_gate
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_int]
    return function


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("shape", [(1, 5, 7, 3), (2, 20, 9, 11), (1, 72, 1, 1), (1, 16, 0, 4)])
def test_plugin_computes_the_gate(run_gate, shape, half):
    from icmh_rt.kernels.frequency_gate import reference

    n, c, h, w = shape
    rng = np.random.default_rng(0)
    spectrum = rng.normal(0, 1, (n, c, h, w, 2)).astype(np.float32)
    weights = [rng.normal(0, 1, s) for s in ((c, 1, 3, 3), (c,), (c, c), (c,))]
    weights[2] /= c
    weights = [a.astype(np.float16 if half else np.float32) for a in weights]
    out = np.full_like(spectrum, np.nan)
    addresses = (ctypes.c_void_p * 5)(*(a.ctypes.data for a in (spectrum, *weights)))
    line = run_gate(addresses, out.ctypes.data, n, c, h, w, half)
    assert line == 0, f"tests/tensorrt_plugin_host.cpp:{line}"
    if not out.size:
        return
    tensors = [torch.from_numpy(a).double() for a in (spectrum, *weights)]
    wanted = torch.view_as_real(reference(torch.view_as_complex(tensors[0]), *tensors[1:])).numpy()
    np.testing.assert_allclose(out, wanted, atol=2e-6 * max(1, np.abs(wanted).max(initial=0)))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not here")
@pytest.mark.slow
def test_cmake_builds_the_plugin_for_gpus(headers, tmp_path):
    pybind11 = pytest.importorskip("pybind11")
    include = Path(headers[1])
    configure = [
        "cmake",
        "-S",
        ROOT,
        "-B",
        tmp_path,
        "-DICMH_TENSORRT=ON",
        f"-DICMH_TENSORRT_INCLUDE={include}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]
    subprocess.run(configure, check=True)
    build = ["cmake", "--build", tmp_path, "--target", "icmh_tensorrt_plugins"]
    subprocess.run(build, check=True)
    library = ctypes.CDLL(str(tmp_path / "_tensorrt_plugins.so"))
    assert library.getCreators and library.setLoggerFinder
