"""Chains of layers against the same layers by themselves, and against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cpu_cases import PRODUCT_LEVELS, threads  # noqa: F401
from torch import Tensor

from icmh_rt.kernels._cpu_layers import (
    LayerChain,
    PackedConvolution,
    PackedDepthConv,
    shuffled,
)
from icmh_rt.kernels.images import reference_in, reference_out

SIZES = ((1, 1), (17, 33), (64, 48), (5, 200), (130, 9))
PATCH, MULTIPLE, OFFSET = 8, 16, 0.5


def matrix(outputs: int, channels: int, *sides: int) -> Tensor:
    return torch.randn(outputs, channels, *sides) / (channels * max(1, len(sides) * 4)) ** 0.5


class Layers:
    """Some layers like an encoder's, as odd as widths get."""

    def __init__(self, level: str) -> None:
        torch.manual_seed(1)
        self.level = level
        self.stem = PackedConvolution(matrix(20, 192), torch.randn(20), level=level)
        self.block = PackedDepthConv(self.weights(20), level)
        self.down = PackedConvolution(matrix(33, 20, 3, 3), torch.randn(33), 2, level)
        self.last = PackedDepthConv(self.weights(33), level)

    @staticmethod
    def weights(channels: int) -> list[Tensor]:
        square = (channels, channels)
        shapes = [square, (channels, 1, 3, 3), square, square, square, square]
        return [
            part
            for shape in shapes
            for part in (torch.randn(shape) / channels**0.5, torch.randn(channels))
        ]

    def chain(self) -> LayerChain:
        chain = LayerChain(self.level).patches(PATCH, MULTIPLE, OFFSET).convolution(self.stem)
        return chain.depth_conv(self.block).convolution(self.down).depth_conv(self.last)

    def alone(self, image: Tensor) -> Tensor:
        height, width = (-(-side // MULTIPLE) * MULTIPLE for side in image.shape[:2])
        x = reference_in(image[None], 0, 0, height, width, True, PATCH, OFFSET, torch.float32, True)
        return self.last(self.down(self.block(self.stem(x))))


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    random = np.random.default_rng(2)
    return [torch.from_numpy(random.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
def test_it_is_its_layers(threads: int, level: str) -> None:  # noqa: F811
    """Bit for bit, for several images of any sizes as for each alone."""
    layers = Layers(level)
    pixels = images(*SIZES)
    found = layers.chain()(pixels)
    for image, result in zip(pixels, found, strict=True):
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(result, layers.alone(image))
        assert torch.equal(layers.chain()([image])[0], result)


def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:  # noqa: F811
    layers, pixels = Layers("auto"), images(*SIZES, (300, 280))
    before, found = torch.get_num_threads(), []
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        found.append(layers.chain()(pixels))
    torch.set_num_threads(before)
    assert all(
        torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True)
    )


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
def test_it_begins_with_a_map_that_grows(threads: int, level: str) -> None:  # noqa: F811
    """And takes SiLU of a convolution's sums: against PyTorch in float64."""
    torch.manual_seed(3)
    first, second = (matrix(24, 17), torch.randn(24)), (matrix(9, 24, 3, 3), torch.randn(9))
    chain = LayerChain(level).extension(17, 4)
    chain.convolution(PackedConvolution(*first, level=level), silu=True)
    chain.convolution(PackedConvolution(*second, 2, level))
    maps = [
        torch.randn(1, 17, *size).contiguous(memory_format=torch.channels_last)
        for size in ((1, 1), (4, 4), (5, 3), (2, 31))
    ]
    for x, found in zip(maps, chain(maps), strict=True):
        wide = F.pad(x.double(), (0, -x.shape[3] % 4, 0, -x.shape[2] % 4), mode="replicate")
        wide = F.silu(F.conv2d(wide, first[0].double()[:, :, None, None], first[1].double()))
        wide = F.conv2d(wide, second[0].double(), second[1].double(), 2, 1)
        assert found.shape == wide.shape
        torch.testing.assert_close(found.double(), wide, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
def test_it_ends_with_a_picture(threads: int, level: str) -> None:  # noqa: F811
    """After a shuffle, and of any part of the map: against PyTorch's layers."""
    torch.manual_seed(4)
    weight, bias = matrix(4 * 12, 17), torch.randn(4 * 12)
    order = shuffled(12, 2)
    up = PackedConvolution(weight[order], bias[order], level=level)
    chain = LayerChain(level).convolution(up).shuffle(2).pixels(2, 0.5)
    maps = [
        0.1 * torch.randn(1, 17, *size).contiguous(memory_format=torch.channels_last)
        for size in ((1, 1), (4, 9), (13, 2))
    ]
    sizes = [(4, 4), (13, 36), (50, 5)]
    plain = PackedConvolution(weight, bias, level=level)
    for x, size, found in zip(maps, sizes, chain.pictures(maps, sizes), strict=True):
        planes = F.pixel_shuffle(plain(x), 2)
        assert torch.equal(found, reference_out(planes, 0, 0, *size, 2, 0.5)[0])


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_results_are_bounded(threads: int, level: str, bfloat16: bool) -> None:  # noqa: F811
    torch.manual_seed(5)
    first = PackedConvolution(matrix(24, 17), torch.randn(24), level=level, bfloat16=bfloat16)
    block = PackedDepthConv(Layers.weights(24), level, bfloat16)
    chain = LayerChain(level, bfloat16).convolution(first, bound=0.5).depth_conv(block, 0.25)
    x = torch.randn(1, 17, 31, 6).contiguous(memory_format=torch.channels_last)
    x[0, 3, 2, 1] = float("nan")
    expected = block(first(x).clamp_(-0.5, 0.5)).clamp_(-0.25, 0.25)
    assert torch.equal(chain([x])[0].nan_to_num(9.0), expected.nan_to_num(9.0))
    assert expected.isnan().any() and (expected == 0.25).any() and (expected == -0.25).any()


def test_layers_of_other_instructions_are_refused() -> None:
    with pytest.raises(ValueError, match="other instructions"):
        LayerChain("auto").convolution(
            PackedConvolution(matrix(4, 4), torch.zeros(4), level="scalar")
        )
    half = PackedConvolution(matrix(4, 4), torch.zeros(4), bfloat16=True)
    with pytest.raises(ValueError, match="other instructions"):
        LayerChain().convolution(half)


def test_no_images_give_no_results() -> None:
    assert Layers("auto").chain()([]) == []
