"""Dense convolutions in C++ against PyTorch's in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cpu_cases import PRODUCT_LEVELS, threads  # noqa: F401
from torch import Tensor

from icmh_rt.kernels import _cpu_layers
from icmh_rt.kernels._cpu_layers import PackedConvolution
from icmh_rt.models.slimmable import SlimConv3x3, SlimPointwise

BOUNDS = {"amx": 1e-5}  # relative L2; floats as sums of two bfloat16
ALMOST_EXACT = 2e-6


def given(channels: int, outputs: int, side: int, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias; the weight is a slice, as those of narrow widths are."""
    torch.manual_seed(channels + outputs + side + sum(shape))
    x = torch.randn(shape[0], channels, *shape[1:]).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs + 3, channels + 5, side, side) / (channels * side * side) ** 0.5
    weight = weight[:outputs, :channels]
    return x, weight if side > 1 else weight[:, :, 0, 0], torch.randn(outputs + 1)[:outputs]


def expected(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    weight = weight if weight.ndim == 4 else weight[:, :, None, None]
    side = weight.shape[-1]
    return F.conv2d(x.double(), weight.double(), bias.double(), stride, side // 2)


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
@pytest.mark.parametrize(
    ("channels", "outputs", "side", "stride", "shape"),
    [
        (1, 1, 1, 1, (1, 1, 1)),
        (3, 5, 1, 1, (2, 4, 7)),
        (64, 192, 1, 1, (1, 3, 65)),  # one position more than a chunk
        (33, 48, 1, 1, (3, 9, 5)),
        (160, 144, 1, 1, (1, 22, 22)),
        (1, 3, 3, 1, (1, 1, 1)),
        (5, 7, 3, 1, (2, 6, 4)),
        (32, 64, 3, 2, (1, 30, 26)),
        (20, 33, 3, 2, (2, 7, 9)),  # odd sides: the last column has a border on its right too
        (48, 40, 3, 2, (1, 1, 12)),
        (8, 8, 3, 2, (1, 13, 1)),
        (8, 8, 1, 2, (1, 5, 6)),
    ],
)
def test_against_pytorch(
    threads: int,  # noqa: F811
    level: str,
    channels: int,
    outputs: int,
    side: int,
    stride: int,
    shape: tuple[int, int, int],
) -> None:
    x, weight, bias = given(channels, outputs, side, *shape)
    exact = expected(x, weight, bias, stride)
    found = PackedConvolution(weight, bias, stride, level)(x)
    assert found.shape == exact.shape and found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(found, exact) < BOUNDS.get(level, ALMOST_EXACT)
    planes = PackedConvolution(weight, bias, stride, level)(x.contiguous())
    assert torch.equal(planes, found)


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
def test_bfloat16(level: str) -> None:
    x, weight, bias = given(96, 80, 3, 1, 20, 11)
    exact = PackedConvolution(weight, bias, 2, level)(x)
    found = PackedConvolution(weight, bias, 2, level, bfloat16=True)(x)
    if level == "amx":
        assert 1e-4 < relative_error(found, exact) < 6e-3
    else:
        assert torch.equal(found, exact)


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
@pytest.mark.parametrize("side", [1, 3])
def test_a_position_does_not_depend_on_the_map(level: str, side: int) -> None:
    """What large images are computed by, tile by tile."""
    x, weight, bias = given(40, 48, side, 1, 40, 30)
    run = PackedConvolution(weight, bias, 1, level)
    whole, part = run(x), run(x[:, :, 7:29, 5:28])
    assert torch.equal(whole[:, :, 8:28, 6:27], part[:, :, 1:-1, 1:-1])
    before = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert torch.equal(run(x), whole)
    finally:
        torch.set_num_threads(before)


def test_empty_maps() -> None:
    _, weight, bias = given(4, 6, 3, 1, 1, 1)
    assert PackedConvolution(weight, bias, 2)(torch.empty(0, 4, 5, 5)).shape == (0, 6, 3, 3)


@pytest.mark.parametrize(
    "layer",
    [SlimPointwise([8, 16], [5, 33]), SlimConv3x3([8, 16], [5, 33], 2)],
    ids=["pointwise", "3x3"],
)
def test_layers_run_it_where_it_is_faster(layer, monkeypatch) -> None:
    monkeypatch.delenv("ICMH_KERNELS", raising=False)
    x = torch.randn(1, 16, 9, 10)
    narrow = x[:, :8]
    with torch.enable_grad():
        exact = [layer(narrow, 0), layer(x, 1)]
    calls = []
    run = PackedConvolution.__call__

    def counted(self: PackedConvolution, given: Tensor) -> Tensor:
        calls.append(given.shape[1])
        return run(self, given)

    monkeypatch.setattr(PackedConvolution, "__call__", counted)
    with torch.inference_mode():
        found = [layer(narrow, 0), layer(x, 1)]
        wanted = _cpu_layers.native().kernel_level() == "amx"
        assert calls == ([8, 16] if wanted else [])
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, exact, strict=True))
        monkeypatch.setenv("ICMH_KERNELS", "reference")
        assert torch.equal(layer(x, 1), exact[1])
        assert len(calls) == (2 if wanted else 0)
        # Weights that change are packed again.
        monkeypatch.delenv("ICMH_KERNELS")
    with torch.no_grad():
        layer.weight *= 2.0
        assert torch.allclose(
            layer(x, 1) - layer._bias(1)[:, None, None],
            2.0 * (exact[1] - layer._bias(1)[:, None, None]),
            atol=1e-4,
        )
        layer.weight /= 2.0
