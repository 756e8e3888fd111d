"""Dense convolutions of the default codec in C++ (csrc/kernels/convolution_cpu.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from icmh_rt.kernels._cpu_native import native, native_obstacle, ranges
from icmh_rt.kernels._memory import empty_floats
from icmh_rt.kernels._op import wish

_CHUNK = 192  # positions that the loops compute together
_PARTS = 4  # for each thread, where there are many positions


def convolution_wanted(x: Tensor) -> bool:
    """Whether `PackedConvolution` is to be run on ``x``: where it is faster, which on vectors alone
    it is not than PyTorch, and if ICMH_KERNELS does not name others.
    """
    if wish() not in ("auto", "cpu") or native_obstacle((torch.float32,), x) is not None:
        return False
    return native().kernel_level() == "amx"


class PackedConvolution:
    """Weights of a 1x1 or 3x3 convolution as the kernel reads them: packed once for many calls.

    Args:
        weight: float32 (O, C) or (O, C, 3, 3), any strides. It is not looked at again.
        bias: (O,).
        stride: 1 or 2; beyond the border there are ``side // 2`` positions of zeros.
        level: instructions, for tests.
        bfloat16: as of `icmh_rt.kernels._cpu_codec.PackedDepthConv`.
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
        self._packed = torch.empty(size)
        weight, bias = weight.permute(0, 2, 3, 1).contiguous(), bias.contiguous()
        module.convolution_pack(
            self.sizes,
            weight.data_ptr(),
            bias.data_ptr(),
            self._packed.data_ptr(),
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
            self._packed.data_ptr(),
            _parts(images, rows * columns),
            torch.get_num_threads(),
            self.level,
            self.bfloat16,
        )
        return out


def _parts(images: int, positions: int) -> list[tuple[int, int, int]]:
    """(image, first position, end): each reads all weights, so there are few of them."""
    threads = torch.get_num_threads()
    if threads == 1 or images >= 2 * threads:
        step = positions
    elif positions >= threads * _PARTS * _CHUNK:
        step = -(-positions // (threads * _PARTS * _CHUNK)) * _CHUNK
    else:
        step = max(-(-positions // threads), _CHUNK // 2)
    return [(image, *part) for image in range(images) for part in ranges(positions, step)]
