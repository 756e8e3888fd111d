"""The depth-conv block in C++ against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from cpu_cases import PRODUCT_LEVELS, check_call, check_cases, threads  # noqa: F401
from torch import Tensor

from icmh_rt.kernels import _cpu_layers


def block(channels: int, *shape: int, channels_last: bool = True, spread: int = 3) -> list[Tensor]:
    """Arguments of the op; ``shape``: N, H, W; matrices are slices of ones larger by ``spread``."""
    torch.manual_seed(channels + sum(shape))
    batch, height, width = shape
    x = torch.randn(batch, channels, height, width)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    given = [x]
    for i in range(6):
        if i == 1:
            given += [torch.randn(channels, 1, 3, 3) / 3, torch.randn(channels)]
        else:
            side = channels + spread
            matrix = torch.randn(side, side) / channels**0.5
            given += [matrix[:channels, :channels], torch.randn(channels)]
    return given


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
def test_cases(level: str) -> None:
    check_cases(_cpu_layers, "depth_conv_block", level)


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("channels", "shape"),
    [
        (33, (2, 41, 5)),  # several slots of the ring, several bands
        (64, (1, 17, 97)),  # one row more than a chunk
        (20, (1, 19, 48)),
        (7, (1, 9, 300)),  # a row of several chunks
        (96, (3, 33, 1)),
        (48, (1, 3, 95)),
        (130, (1, 10, 12)),
    ],
)
def test_rings_and_bands(
    threads: int,  # noqa: F811
    level: str,
    channels_last: bool,
    channels: int,
    shape: tuple[int, int, int],
) -> None:
    given = block(channels, *shape, channels_last=channels_last)
    name = f"{channels} {shape} {channels_last}"
    check_call("depth_conv_block", _cpu_layers.depth_conv_block, tuple(given), level, name)


def test_bands_give_the_same_bits() -> None:
    given = block(40, 1, 50, 23)
    before = torch.get_num_threads()
    found = []
    for threads_now in (1, 2, 5):
        torch.set_num_threads(threads_now)
        found.append(_cpu_layers.depth_conv_block(*given))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_transposed_weights_and_other_strides() -> None:
    given = block(24, 1, 6, 7)
    for i in (1, 5, 7, 9, 11):
        given[i] = given[i].t()
        given[i + 1] = given[i + 1].repeat_interleave(2)[::2]
    given[3] = given[3].flip(2).flip(2)
    given[0] = torch.randn(2, 48, 8, 9)[:, ::2, 1:7, 1:8]
    check_call(
        "depth_conv_block", _cpu_layers.depth_conv_block, tuple(given), "auto", "other strides"
    )


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
def test_large_activations(level: str) -> None:
    """silu at both ends: neither overflows nor loses what is left."""
    given = block(16, 1, 8, 9)
    given[0] = given[0] * 1e3
    check_call("depth_conv_block", _cpu_layers.depth_conv_block, tuple(given), level, "large")


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
@pytest.mark.parametrize(
    ("channels", "shape"), [(160, (1, 22, 22)), (33, (2, 9, 7)), (64, (1, 1, 1)), (100, (1, 40, 3))]
)
def test_bfloat16(level: str, channels: int, shape: tuple[int, int, int]) -> None:
    """Rounded on tiles; elsewhere the same bits."""
    given = block(channels, *shape)
    exact = _cpu_layers.PackedDepthConv(given[1:], level)(given[0])
    found = _cpu_layers.PackedDepthConv(given[1:], level, bfloat16=True)(given[0])
    assert found.stride() == exact.stride()
    if level == "amx":
        assert not torch.equal(found, exact)
        assert float((found - exact).norm() / exact.norm()) < 6e-3
    else:
        assert torch.equal(found, exact)


def test_few_channels_are_not_rounded() -> None:
    given = block(31, 1, 5, 6)
    exact = _cpu_layers.PackedDepthConv(given[1:])(given[0])
    assert torch.equal(_cpu_layers.PackedDepthConv(given[1:], bfloat16=True)(given[0]), exact)


def test_nan_stays_where_it_belongs() -> None:
    given = block(16, 1, 9, 9)
    given[0][0, 3, 4, 4] = float("nan")
    out = _cpu_layers.depth_conv_block(*given)
    wrong = out.isnan().any(1)[0]
    assert wrong[3:6, 3:6].all() and wrong.sum() == 9
