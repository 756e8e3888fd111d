"""Layers of the default codec's transforms in C++ (csrc/kernels): by themselves, and in chains.

Threads share a layer by parts of its maps, as csrc/kernels/layer_parts.h has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from icmh_rt.kernels._cpu_native import native, native_obstacle, scalar_obstacle
from icmh_rt.kernels._layout import is_channels_last, memory_format
from icmh_rt.kernels._memory import empty_floats, empty_result_maps, workspace
from icmh_rt.kernels._op import wish

# Instruction sets with which a chain takes less time than PyTorch and calls of single layers. Where
# it was not timed, on Arm, it is not chosen.
_CHAINED = ("avx2", "avx512", "amx")


def convolution_wanted(x: Tensor) -> bool:
    """Whether `PackedConvolution` is to be run on ``x`` by itself: where it is faster, which on
    vectors alone it is not than PyTorch, and if ICMH_KERNELS does not name others.
    """
    if not _asked_for() or native_obstacle((torch.float32,), x) is not None:
        return False
    return native().kernel_level() == "amx"


def chains_wanted() -> bool:
    """Whether a `LayerChain` is to be run, likewise."""
    return _asked_for() and native().kernel_level() in _CHAINED


def _asked_for() -> bool:
    return wish() in ("auto", "cpu")


class PackedConvolution:
    """Weights of a 1x1 or 3x3 convolution as the kernel reads them: packed once for many calls.

    Args:
        weight: float32 (O, C) or (O, C, 3, 3), any strides. It is not looked at again.
        bias: (O,).
        stride: 1 or 2; beyond the border there are ``side // 2`` positions of zeros.
        level: instructions, for tests.
        bfloat16: as of `PackedDepthConv`.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        stride: int = 1,
        level: str = "auto",
        bfloat16: bool = False,
    ) -> None:
        if weight.ndim == 2:
            weight = weight[:, :, None, None]
        outputs, channels, side, _ = weight.shape
        self.sizes, self.outputs, self.stride = (channels, outputs, side, stride), outputs, stride
        self.level, self.bfloat16 = level, bfloat16
        module = native()
        size = module.convolution_packed_size(self.sizes, level, bfloat16)
        self.packed = torch.empty(size)
        weight, bias = weight.permute(0, 2, 3, 1).contiguous(), bias.contiguous()
        module.convolution_pack(
            self.sizes,
            weight.data_ptr(),
            bias.data_ptr(),
            self.packed.data_ptr(),
            level,
            bfloat16,
        )

    def __call__(self, x: Tensor) -> Tensor:
        """The convolution of float32 ``x (N, C, H, W)`` on the CPU; the result lies
        channels-last.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        images, _, height, width = x.shape
        rows, columns = ((side - 1) // self.stride + 1 for side in (height, width))
        out = empty_floats((images, self.outputs, rows, columns), torch.channels_last)
        if out.numel() == 0:
            return out
        native().convolution(
            self.sizes,
            height,
            width,
            x.data_ptr(),
            out.data_ptr(),
            self.packed.data_ptr(),
            images,
            torch.get_num_threads(),
            self.level,
            self.bfloat16,
        )
        return out


def depth_conv_block_obstacle(x: Tensor, *weights: Tensor) -> str | None:
    return native_obstacle((torch.float32,), x, *weights) or scalar_obstacle()


class PackedDepthConv:
    """Weights of a depth-conv block as the kernel reads them: packed once for many calls.

    Args:
        weights: of `icmh_rt.kernels.depth_conv_block.reference`; they are not looked at again.
        level: instructions, for tests.
        bfloat16: whether matrices and what they are multiplied with may be rounded to bfloat16,
            with sums in float32: done where it is faster, on AMX tiles.
    """

    def __init__(
        self, weights: Sequence[Tensor], level: str = "auto", bfloat16: bool = False
    ) -> None:
        module = native()
        self.channels, self.level, self.bfloat16 = weights[0].shape[0], level, bfloat16
        matrices = [_rows(weights[i]) for i in (0, 4, 6, 8, 10)]
        biases = [weights[i].contiguous() for i in (1, 5, 7, 9, 11)]
        spatial, spatial_bias = weights[2].contiguous(), weights[3].contiguous()
        self.packed = torch.empty(module.depth_conv_packed_size(self.channels, level, bfloat16))
        module.depth_conv_pack(
            self.channels,
            [part.data_ptr() for pair in zip(matrices, biases, strict=True) for part in pair],
            [matrix.stride(0) for matrix in matrices],
            spatial.data_ptr(),
            spatial_bias.data_ptr(),
            self.packed.data_ptr(),
            level,
            bfloat16,
        )

    def __call__(self, x: Tensor) -> Tensor:
        """The block; ``x`` is float32 ``(N, C, H, W)`` on the CPU."""
        layout = memory_format(x)
        x = x.contiguous(memory_format=layout)
        out = empty_result_maps(x, x.shape[1])
        if x.numel() == 0:
            return out
        images, channels, height, width = x.shape
        strides = (1, channels) if is_channels_last(x) else (height * width, 1)
        native().depth_conv_block(
            channels,
            height,
            width,
            x.data_ptr(),
            strides,
            out.data_ptr(),
            strides,
            self.packed.data_ptr(),
            images,
            torch.get_num_threads(),
            self.level,
            self.bfloat16,
        )
        return out


def depth_conv_block(x: Tensor, *weights: Tensor, level: str = "auto") -> Tensor:
    """See `icmh_rt.kernels.depth_conv_block.reference`; ``level``: instructions, for tests."""
    return PackedDepthConv(weights, level)(x)


def _rows(matrix: Tensor) -> Tensor:
    """With neighbouring columns; rows may be any distance apart."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


class LayerChain:
    """Layers one after the other in a single native call, over several images at a time.

    A layer's weights are read once for all images, which for small ones take longer to come from
    memory than to be multiplied; between layers nothing but the threads' meeting takes time. What
    an image gets does not depend on the others. Give the layers in order.

    Args:
        level: instructions, for tests; that of all layers.
        bfloat16: as of all layers.
    """

    def __init__(self, level: str = "auto", bfloat16: bool = False) -> None:
        self._chain = native().LayerChain(level, bfloat16)
        self._level, self._bfloat16 = level, bfloat16
        self._layers: list[PackedConvolution | PackedDepthConv] = []  # the chain has addresses

    def patches(self, patch: int, multiple: int, offset: float) -> LayerChain:
        """Only first: uint8 ``(H, W, 3)`` to ``pixel_unshuffle(pixels / 255 - offset, patch)``, its
        sides first grown to multiples of ``multiple`` by repeating the border.
        """
        table = torch.arange(256, dtype=torch.float32).div_(255.0).sub_(offset)
        self._chain.add_patches(patch, multiple, table.data_ptr())
        return self

    def extension(self, channels: int, multiple: int) -> LayerChain:
        """Only first: a map whose sides grow to multiples of ``multiple`` by repeating the
        border.
        """
        self._chain.add_extension(channels, multiple)
        return self

    def convolution(
        self, layer: PackedConvolution, silu: bool = False, bound: float = math.inf
    ) -> LayerChain:
        """A convolution, then SiLU if asked for, cut to ``±bound``."""
        self._check(layer)
        self._chain.add_convolution(layer.sizes, silu, layer.packed.data_ptr(), bound)
        return self

    def depth_conv(self, layer: PackedDepthConv, bound: float = math.inf) -> LayerChain:
        """A block, cut to ``±bound``."""
        self._check(layer)
        self._chain.add_depth_conv(layer.channels, layer.packed.data_ptr(), bound)
        return self

    def shuffle(self, factor: int) -> LayerChain:
        """Maps of ``factor**2`` times C channels, of which C in turn are those of a position of
        each square, row by row: `shuffled` has a convolution give them so.
        """
        self._chain.add_shuffle(factor)
        return self

    def pixels(self, patch: int, offset: float) -> LayerChain:
        """Only last: ``pixel_shuffle(map, patch)`` to uint8, by `icmh_rt.kernels.images`."""
        self._chain.add_pixels(patch, offset)
        return self

    def _check(self, layer: PackedConvolution | PackedDepthConv) -> None:
        if (layer.level, layer.bfloat16) != (self._level, self._bfloat16):
            raise ValueError("the layer's weights are packed for other instructions")
        self._layers.append(layer)

    def __call__(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The result of each: float32 ``(1, C', H', W')``, channels-last.

        Args:
            maps: on the CPU, contiguous uint8 ``(H, W, 3)`` where patches are the first layer, else
                channels-last float32 ``(1, C, H, W)``.
        """
        results = []
        for x in maps:
            rows, columns, channels = self._chain.result(*_sides(x))
            results.append(empty_floats((1, channels, rows, columns), torch.channels_last))
        self._run(maps, results, [(0, 0)] * len(results))
        return results

    def pictures(self, maps: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The result of each where pixels are the last layer: uint8 ``(H, W, 3)`` of these sizes,
        from the first corner on.
        """
        results = [torch.empty((*size, 3), dtype=torch.uint8) for size in sizes]
        self._run(maps, results, sizes)
        return results

    def _run(
        self, maps: Sequence[Tensor], results: list[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> None:
        images = [
            (*_sides(x), x.data_ptr(), result.data_ptr(), *size)
            for x, result, size in zip(maps, results, sizes, strict=True)
        ]
        with workspace(self._chain.memory(images)) as memory:
            self._chain.run(images, torch.get_num_threads(), memory.data_ptr())


def shuffled(channels: int, factor: int) -> Tensor:
    """Where the outputs of a layer before ``pixel_shuffle`` go for `LayerChain.shuffle`: indexes
    into them, ``factor**2 * channels``.
    """
    return torch.arange(channels * factor**2).view(channels, -1).t().reshape(-1)


def _sides(x: Tensor) -> tuple[int, int]:
    """Of an image ``(H, W, 3)`` or a map ``(1, C, H, W)``."""
    height, width = x.shape[:2] if x.ndim == 3 else x.shape[2:]
    return height, width
