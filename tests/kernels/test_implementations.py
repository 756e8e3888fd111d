"""Every implementation that can run on this machine, on every ugly input of every op."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import OPS, REGISTERED, Case, arguments, cases, check

from icmh_rt.kernels import _triton


def _check_all(op: str, implementation: str, device: str, chosen: list[Case]) -> None:
    failed = []
    ran = 0
    for case in chosen:
        if REGISTERED[op].obstacles(*arguments(case, device))[implementation] is not None:
            continue
        ran += 1
        try:
            check(case, implementation, device)
        except AssertionError as error:
            failed.append(f"{case}: {error}")
    assert not failed, "\n".join(failed)
    assert ran, REGISTERED[op].obstacles(*arguments(chosen[0], device))[implementation]


@pytest.mark.parametrize("op", [op for op in OPS if "cpu" in REGISTERED[op]._twins])
def test_cpu(op: str) -> None:
    _check_all(op, "cpu", "cpu", cases(op))


# -- on a GPU --------------------------------------------------------------------------------------

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU")


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("implementation", ["reference", "cuda"])
@pytest.mark.parametrize("op", OPS)
def test_gpu(op: str, implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # the reference's convolutions
    _check_all(op, implementation, "cuda", cases(op))


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("op", OPS)
def test_triton_on_gpu(op: str) -> None:
    """Of the shapes and layouts every fourth: each is compiled anew."""
    chosen = [
        case
        for i, case in enumerate(cases(op))
        if i % 4 == 0 or case.values != "normal" or case.dtype != "fp32"
    ]
    _check_all(op, "triton", "cuda", chosen)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("op", OPS)
def test_tuned_triton_on_gpu(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_triton, "_WORTH_TUNING", 0)
    chosen = [
        Case(op, layout=layout, dtype=dtype, channels=64)
        for layout, dtype in (("nchw", "fp32"), ("channels_last", "fp16"))
    ]
    _check_all(op, "triton", "cuda", chosen)
