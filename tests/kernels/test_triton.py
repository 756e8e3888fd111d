"""The Triton kernels without a GPU: in Triton's interpreter, and compiled for GPUs.

The interpreter has to be chosen before Triton is imported: those cases run in a process of their
own. It shows that the programs are right, the compiler that they are programs for a GPU.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest
import torch
from kernel_cases import EXACT, OPS, Case, arguments, cases, check

from icmh_rt.kernels import _triton

triton = pytest.importorskip("triton", reason="Triton has no wheels for this platform")
from triton_compiler import Config, Launch, launches  # noqa: E402  it imports triton

_MOST_SHARED = 99 * 1024  # bytes that a block can have on every GPU since compute capability 8.0
_CASES = [case for op in OPS for case in cases(op)]


@pytest.fixture(scope="module", autouse=True)
def interpreted() -> Iterator[dict[Case, Future]]:
    """What `check` finds for all cases in a process in which Triton interprets kernels on CPU
    tensors; it works through them while this one compiles.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        started = pool.submit(_is_interpreting)  # starts the process, with this environment
    assert started.result()
    yield {case: pool.submit(check, case, "triton") for case in _CASES}
    pool.shutdown(cancel_futures=True)


def _is_interpreting() -> bool:
    torch.set_num_threads(1)
    return _triton.INTERPRETED


def test_this_process_does_not_interpret() -> None:
    assert not _triton.INTERPRETED, "unset TRITON_INTERPRET: these tests choose for themselves"


# -- compiled for GPUs that are not here -----------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    "capability, dtype, layout",
    [(80, "fp32", "nchw"), (87, "fp16", "channels_last"), (90, "bf16", "nchw")],
)
def test_compiles(
    op: str, capability: int, dtype: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _launches(op, dtype, layout, monkeypatch)
    assert found
    for launch in found:
        kernel = _compiled(launch, launch.configs[0], capability)
        ptx = kernel.asm["ptx"]
        if op in EXACT:  # every operation rounds by itself, divisions exactly
            assert "fma." not in ptx and "div.full" not in ptx and "div.approx" not in ptx
            assert launch.options["enable_fp_fusion"] is False  # which also binds ptxas
        elif dtype == "fp32":
            assert "tf32" not in ptx, f"{launch.name} rounds its factors"
        elif op not in ("spatial_modulation", "frequency_gate"):
            assert "mma" in ptx, f"{launch.name} uses no tensor cores"


@pytest.mark.slow
@pytest.mark.parametrize("op", [op for op in OPS if op not in EXACT])
def test_every_tuning_compiles(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for launch in _launches(op, "fp16", "channels_last", monkeypatch):
        assert 1 < len(launch.configs) <= 4, "tuning takes a second for each"
        for config in launch.configs[1:]:
            _compiled(launch, config, 90)


def _launches(op: str, dtype: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    return launches(op, arguments(Case(op, "even", layout, dtype=dtype, channels=64)), monkeypatch)


def _compiled(launch: Launch, config: Config, capability: int) -> triton.compiler.CompiledKernel:
    kernel = launch.compile(config, capability)
    assert kernel.asm["cubin"][:4] == b"\x7fELF"
    assert f".target sm_{capability}" in kernel.asm["ptx"]
    assert kernel.metadata.shared <= _MOST_SHARED, (launch.name, config, kernel.metadata.shared)
    return kernel


def test_only_large_maps_are_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first way is taken for small ones: their times are those of launches."""
    ran: list[dict] = []

    class Kernel:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *arguments, **options: ran.append(options)

    def autotune(configs: list, key: list[str], **options: object) -> Callable[[Kernel], Kernel]:
        ran.append({"configs": len(configs), "key": key})
        return lambda kernel: kernel

    monkeypatch.setattr(_triton.triton, "autotune", autotune)
    tuned = _triton.autotune(["channels"], ({"BLOCK": 8}, 2, 1), ({"BLOCK": 16}, 4, 3))(Kernel())
    _triton.launch(tuned, (1,), torch.zeros(1 << 19))
    fusion = {"enable_fp_fusion": True}
    assert ran == [{"BLOCK": 8, "num_warps": 2, "num_stages": 1, **fusion}]
    _triton.launch(tuned, (1,), torch.zeros(1 << 20))
    assert ran[1:] == [{"configs": 2, "key": ["channels"]}, fusion]


def test_says_why_it_cannot_run() -> None:
    x = torch.zeros(1, 2, 3, 4)
    assert _triton.obstacle(x) == "its tensors are on cpu, and Triton runs on CUDA GPUs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_triton, "INTERPRETED", True)
        assert _triton.obstacle(x, None) is None
        assert "torch.float64 is none of torch.float32, " in _triton.obstacle(x.double())
        assert "70000 images" in _triton.obstacle(x.expand(70000, 2, 3, 4))
        huge = torch.empty(1, device="meta").as_strided((1, 2, 3, 4), (0, 2**31, 4, 1))
        assert _triton.obstacle(huge) == "an image takes 2**31 values or more"
        patch.setattr(_triton, "_MISSING", "Triton cannot be imported (no wheel)")
        assert _triton.obstacle(x) == "Triton cannot be imported (no wheel)"


# -- interpreted; last, because it goes on beside the others ---------------------------------------


@pytest.mark.parametrize("case", _CASES, ids=str)
def test_interpreted(case: Case, interpreted: dict[Case, Future]) -> None:
    interpreted[case].result()
