"""The adapter's steps in C++, at every level, against their references in float64."""

from __future__ import annotations

import pytest
import torch

from icmh_rt import _native
from icmh_rt.kernels import _cpu_adapter
from icmh_rt.kernels.frequency_gate import reference as gate_reference
from icmh_rt.kernels.projections import reference_down, reference_up
from icmh_rt.kernels.spatial_modulation import reference as modulation_reference

LEVELS = _native.module().kernel_levels()
SHAPES = [
    (1, 1, 1, 1),
    (2, 5, 1, 70),
    (1, 3, 70, 1),
    (2, 33, 9, 10),
    (1, 64, 13, 49),
    (1, 8, 3, 600),
]
LAYOUTS = ["planes", "channels-last", "strided"]


def tolerance(level: str) -> float:
    return 1e-5 if level == "amx" else 1e-6


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "channels-last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        wide = torch.zeros(*x.shape[:2], 2 * x.shape[2], 3 * x.shape[3])
        wide[:, :, ::2, ::3] = x
        return wide[:, :, ::2, ::3]
    return x


def check(result: torch.Tensor, exact: torch.Tensor, level: str) -> None:
    assert result.dtype == torch.float32 and result.shape == exact.shape
    assert result.stride() == exact.stride()
    assert ((result.double() - exact).norm() / exact.norm()).item() <= tolerance(level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_project_down(level: str, layout: str, shape) -> None:
    x = laid_out(numbers(*shape), layout)
    for outputs in (1, 17, 96):
        weight, bias = numbers(outputs, shape[1], seed=1), numbers(outputs, seed=2)
        exact = reference_down(x.double(), weight.double(), bias.double())
        check(_cpu_adapter.project_down(x, weight, bias, level=level), exact, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_project_up(level: str, layout: str, shape) -> None:
    images, middle, height, width = shape
    outputs = 2 * middle + 1
    spatial, planes = laid_out(numbers(*shape), layout), numbers(*shape, seed=1)
    residual = laid_out(numbers(images, outputs, height, width, seed=2), layout)
    weight, bias = numbers(outputs, 2 * middle, seed=3), numbers(outputs, seed=4)
    tensors = (spatial, planes, weight, bias, residual)
    exact = reference_up(*(t.double() for t in tensors), 0.6)
    check(_cpu_adapter.project_up(*tensors, 0.6, level=level), exact, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_spatial_modulation(level: str, layout: str, shape) -> None:
    x, other = laid_out(numbers(*shape), layout), numbers(*shape, seed=1)
    weight, bias = numbers(shape[1], 1, 5, 5, seed=2), numbers(shape[1], seed=3)
    tensors = (x, other, weight, bias)
    exact = modulation_reference(*(t.double() for t in tensors))
    check(_cpu_adapter.spatial_modulation(*tensors, level=level), exact, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_frequency_gate(level: str, shape, scale: float) -> None:
    spectrum = scale * torch.complex(numbers(*shape), numbers(*shape, seed=1))
    channels = shape[1]
    weights = (numbers(channels, 1, 3, 3, seed=2) / scale, numbers(channels, seed=3))
    weights += (numbers(channels, channels, seed=4) / channels, numbers(channels, seed=5))
    exact = gate_reference(spectrum.to(torch.complex128), *(w.double() for w in weights))
    result = _cpu_adapter.frequency_gate(spectrum, *weights, level=level)
    assert ((result - exact).abs().norm() / exact.abs().norm()).item() <= 2e-6
    half = _cpu_adapter.frequency_gate(spectrum, *(w.half() for w in weights), level=level)
    assert half.dtype == torch.complex64


@pytest.mark.parametrize("level", LEVELS)
def test_zero_and_nan(level: str) -> None:
    zero = torch.zeros(1, 4, 5, 6)
    weight, bias = numbers(4, 1, 5, 5), numbers(4)
    assert torch.equal(_cpu_adapter.spatial_modulation(zero, zero, weight, bias, level=level), zero)
    spectrum = torch.complex(zero, zero)
    gate = (numbers(4, 1, 3, 3), bias, numbers(4, 4), bias)
    assert not _cpu_adapter.frequency_gate(spectrum, *gate, level=level).abs().any()
    broken = zero.clone()
    broken[0, 1, 2, 3] = float("nan")
    seen = _cpu_adapter.spatial_modulation(broken, zero + 1, weight, bias, level=level).isnan()
    assert seen[0, 1, :, 1:].all() and seen.sum() == 25
    assert (
        _cpu_adapter.project_down(broken, numbers(3, 4), numbers(3), level=level).isnan().sum() == 3
    )


def test_no_images() -> None:
    empty = torch.zeros(0, 4, 5, 6)
    assert _cpu_adapter.project_down(empty, numbers(3, 4), numbers(3)).shape == (0, 3, 5, 6)
    assert (
        _cpu_adapter.spatial_modulation(empty, empty, numbers(4, 1, 5, 5), numbers(4)).shape
        == empty.shape
    )
