"""The CUDA kernels against the references.

Without a GPU the same sources are compiled for this CPU, where a block's threads are fibres (see
cuda_on_host): that tests all but what only the hardware does. With a GPU they run there too.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import cuda_builds
import cuda_on_host_cases
import kernel_cases
import pytest
import torch
from kernel_cases import DTYPES, EXACT, OPS, TOLERANCES, Case, relative_error, wide

from icmh_rt.errors import IcmhError
from icmh_rt.kernels import _cuda
from icmh_rt.kernels._op import OPS as REGISTERED

HAS_GPU = torch.cuda.is_available()


@pytest.fixture(scope="module")
def on_host(tmp_path_factory):
    """The kernels as a library for this CPU; "cuda" means it within this module."""
    path = cuda_builds.build_on_host(tmp_path_factory.mktemp("cuda_on_host"), "-O1")
    before = {name: REGISTERED[name]._twins.get("cuda") for name in OPS}
    library = _cuda._library
    cuda_on_host_cases.use(path)
    yield _cuda.library()
    _cuda._library = library
    for name, twin in before.items():
        if twin is None:
            del REGISTERED[name]._twins["cuda"]
        else:
            REGISTERED[name]._twins["cuda"] = twin


@pytest.mark.parametrize("op", OPS)
def test_on_this_cpu(op, on_host):
    """Every case, also with a block's threads in other orders."""
    cases = kernel_cases.cases(op) + cuda_on_host_cases.large_cases(op)
    assert cuda_on_host_cases.failures(op, cases) == []


def test_threads_wait_for_each_other_here(on_host):
    """The imitation has barriers: without them an order of the threads would hide races."""
    barriers = on_host.cuda_on_host_barriers
    barriers.restype = ctypes.c_ulong
    before = barriers()
    kernel_cases.check(Case("project_down"), "cuda")
    assert barriers() > before


@pytest.mark.parametrize("kind", ["half", "bfloat16"])
def test_numbers_of_16_bits_here_are_those_of_torch(kind, on_host):
    """All of them survive `image_out`'s and `project_down`'s conversions, with torch's rounding."""
    dtype = torch.float16 if kind == "half" else torch.bfloat16
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    x = every.reshape(1, 1, 1, -1)
    one, zero = torch.ones(1, 1, dtype=dtype), torch.zeros(1, dtype=dtype)
    assert torch.equal(_cuda.project_down(x, one, zero), x)
    # Between them: what is halfway goes to the even one.
    third = torch.full((1, 1), 1.0 / 3.0, dtype=dtype)
    expected = (x.double() * third.double()).float().to(dtype)
    assert torch.equal(_cuda.project_down(x, third, zero), expected)


def test_an_error_code_becomes_an_error(on_host):
    thresholds = torch.arange(256.0)
    latent = torch.zeros(1, 1, 2, 2)
    with pytest.raises(IcmhError, match=r"quantize_index failed: .*CUDA error 1"):
        _cuda.quantize_index(latent, None, None, latent, thresholds)


@pytest.mark.slow
def test_on_this_cpu_under_sanitizers(tmp_path):
    """No access outside of a tensor or unaligned, no undefined arithmetic. Torch's memory is the
    sanitizers' too, because they are loaded before it."""
    library = cuda_builds.build_on_host(tmp_path, "-O1", *cuda_builds.SANITIZERS)
    environment = os.environ | {
        "LD_PRELOAD": cuda_builds.sanitizer_libraries(),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "PYTHONPATH": str(cuda_builds.ROOT),
    }
    command = [sys.executable, cuda_on_host_cases.__file__, library, *OPS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert done.stdout.count(": 0 failures") == len(OPS)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((torch.zeros(1),), "a tensor is on cpu"),
        ((torch.zeros(1, device="meta"),), "a tensor is on meta"),
        ((1, torch.float64), "its result would be torch.float64"),
        ((1,), "no tensor"),
    ],
)
def test_obstacles_say_why(arguments, words):
    assert words in _cuda.obstacle(*arguments)


needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="there is no CUDA device here")


def check_on_gpu(case: Case) -> None:
    """Against the reference on the CPU: there float32 division and convolution are exact fp32."""
    op = REGISTERED[case.op]
    given = kernel_cases.arguments(case, "cuda")
    assert _cuda.obstacle(*given) is None
    found = getattr(_cuda, case.op)(*given)
    torch.cuda.synchronize()
    found = [part.cpu() for part in (found if isinstance(found, tuple) else (found,))]
    given = kernel_cases.arguments(case, "cpu")
    if case.op in EXACT:
        expected = op.reference(*given)
        expected = expected if isinstance(expected, tuple) else (expected,)
        bits = kernel_cases._bits
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(found, expected, strict=True))
        return
    expected = op.reference(*(wide(value) for value in given))
    limit = TOLERANCES[DTYPES["fp32"] if found[0].is_complex() else found[0].dtype]
    assert relative_error(found[0], expected) <= limit, case


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("op", OPS)
def test_on_a_gpu(op):
    for case in kernel_cases.cases(op) + cuda_on_host_cases.large_cases(op):
        check_on_gpu(case)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("op", OPS)
def test_on_a_gpu_again_gives_the_same_bits(op):
    """No sum depends on which thread comes first."""
    case = Case(op, "tiles", "channels_last", channels=72)
    given = kernel_cases.arguments(case, "cuda")
    results = [getattr(_cuda, op)(*given) for _ in range(5)]
    results = [result if isinstance(result, tuple) else (result,) for result in results]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("op", OPS)
def test_on_a_gpu_in_a_graph_on_another_stream(op):
    given = kernel_cases.arguments(Case(op, "tiles", "channels_last"), "cuda")
    run = getattr(_cuda, op)
    expected = run(*given)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run(*given)
    graph.replay()
    torch.cuda.synchronize()
    for a, b in zip(
        found if isinstance(found, tuple) else (found,),
        expected if isinstance(expected, tuple) else (expected,),
        strict=True,
    ):
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))
