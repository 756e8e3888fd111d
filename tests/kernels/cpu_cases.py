"""The C++ kernels at every instruction set of this machine, on the cases of all implementations."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from kernel_cases import EXACT, REGISTERED, TOLERANCES, arguments, cases, relative_error, wide
from torch import Tensor

from icmh_rt import _native

LEVELS = tuple(_native.module().simd_levels())
PRODUCT_LEVELS = tuple(_native.module().kernel_levels())  # of kernels that are matrix products
THREADS = (1, 3)


@pytest.fixture(params=THREADS, ids="{}-threads".format)
def threads(request: pytest.FixtureRequest) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def check_cases(module: ModuleType, op: str, level: str | None) -> None:
    """Every case of ``module``'s ``op`` that is in float32; the others must be refused by name of
    the dtype.
    """
    run, obstacle = getattr(module, op), getattr(module, f"{op}_obstacle")
    for case in cases(op):
        given = arguments(case)
        reason = obstacle(*given)
        if reason is not None:
            assert case.dtype != "fp32" and "torch." in reason, f"{case}: {reason}"
            continue
        check_call(op, run, given, level, str(case))


def check_call(
    op: str, run: Callable[..., Any], given: tuple[Any, ...], level: str | None, name: str
) -> None:
    """One call against the reference: bit by bit, or in float64."""
    found = run(*given) if level is None else run(*given, level=level)
    plain = REGISTERED[op].reference(*given)
    both = zip(
        *(value if isinstance(value, tuple) else (value,) for value in (found, plain)), strict=True
    )
    for a, b in both:
        if not a.numel() and not b.numel():  # pixel_unshuffle keeps the shape of empty batches
            continue
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        assert strides_of(a) == strides_of(b), name
        if op in EXACT:
            assert torch.equal(as_bits(a), as_bits(b)), f"{name} at {level}"
    if op not in EXACT:
        expected = REGISTERED[op].reference(*(wide(value) for value in given))
        error = relative_error(found, expected)
        assert error <= TOLERANCES[found.dtype], f"{name} at {level}: {error:.2e}"


def strides_of(value: Tensor) -> list[int]:
    """Those that matter."""
    sides = zip(value.stride(), value.shape, strict=True)
    return [stride for stride, side in sides if side > 1]


def as_bits(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    sizes = {2: torch.int16, 4: torch.int32}
    return value.contiguous().view(sizes[value.element_size()])
