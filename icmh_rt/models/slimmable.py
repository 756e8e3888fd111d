"""Slimmable layers: one weight, executed at several channel widths.

Every layer stores its parameters at the largest width and runs width ``i`` on a *prefix* of them:
the first ``out[i]`` output and ``in[i]`` input channels ("Slimmable multi-task image
compression", Cao et al., IEEE Access 2023; "Slimmable neural networks", Yu et al., ICLR 2019).
Biases are small, so each width has its own row of them, as Yu et al. keep normalisation
statistics per width. The width is an argument of ``forward``, never module state.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icmh_rt.kernels._cpu_layers import (
    PackedConvolution,
    PackedDepthConv,
    convolution_wanted,
)
from icmh_rt.kernels._op import ENVIRONMENT
from icmh_rt.kernels.depth_conv_block import depth_conv_block
from icmh_rt.models.kept_weights import KeptWeights
from icmh_rt.models.swin import runs_in_tiles

_KEPT_CONVOLUTIONS: KeptWeights[PackedConvolution] = KeptWeights()


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """1x1 convolution of ``x (N, C, H, W)`` by ``weight (O, C)``, in the form that is fastest here.

    On a CPU a GEMM over channels-last memory beats the library's 1x1 convolution; elsewhere (and in
    exported graphs) the convolution is the form that compilers know.
    """
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight[:, :, None, None], bias)


def _normal(*shape: int, divisor: float = 1.0) -> Tensor:
    """Random weights; on the meta device their shape alone: random numbers there would import
    torch's compiler, which takes longer than loading a bundle and wants a folder for its cache.
    """
    weights = torch.empty(shape)
    return weights if weights.is_meta else weights.normal_().div_(divisor)


class _Slimmable(nn.Module):
    """Channel bookkeeping shared by the layers below.

    Args:
        in_channels, out_channels: of each width.
        bfloat16: see `DepthConvBlock`.
    """

    weight: nn.Parameter
    stride = 1

    def __init__(
        self, in_channels: Sequence[int], out_channels: Sequence[int], bfloat16: bool = False
    ) -> None:
        super().__init__()
        self.bfloat16 = bfloat16
        self.in_channels = tuple(in_channels)
        self.out_channels = tuple(out_channels)
        self.bias = nn.Parameter(torch.zeros(len(self.out_channels), max(self.out_channels)))

    def _bias(self, width: int) -> Tensor:
        return self.bias[width, : self.out_channels[width]]

    def _faster(self, x: Tensor, width: int) -> PackedConvolution | None:
        """The layer for inference on ``x`` where there is a faster kernel for it."""
        if not runs_in_tiles(x) or not convolution_wanted(x):
            return None
        return self.packed(width)

    def packed(self, width: int) -> PackedConvolution:
        """The layer for inference on a CPU, kept until its parameters change."""
        return _KEPT_CONVOLUTIONS.get(
            self,
            width,
            (self.weight, self.bias),
            lambda: PackedConvolution(
                self.matrix(width), self._bias(width), self.stride, bfloat16=self.bfloat16
            ),
        )

    def matrix(self, width: int) -> Tensor:
        """The slice of the weight that ``width`` uses."""
        return self.weight[: self.out_channels[width], : self.in_channels[width]]

    def extra_repr(self) -> str:
        return f"in={self.in_channels}, out={self.out_channels}"


class SlimPointwise(_Slimmable):
    """1x1 convolution; ``weight (O, I)`` is a plain matrix, so matrix optimisers apply to it."""

    def __init__(
        self, in_channels: Sequence[int], out_channels: Sequence[int], bfloat16: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, bfloat16)
        fan_in = max(self.in_channels)
        self.weight = nn.Parameter(
            _normal(max(self.out_channels), fan_in, divisor=math.sqrt(fan_in))
        )

    def forward(self, x: Tensor, width: int) -> Tensor:
        packed = self._faster(x, width)
        if packed is not None:
            return packed(x)
        return pointwise(x, self.matrix(width), self._bias(width))


class SlimConv3x3(_Slimmable):
    """Dense zero-padded 3x3 convolution, stride 1 or 2."""

    def __init__(
        self, in_channels: Sequence[int], out_channels: Sequence[int], stride: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels)
        self.stride = stride
        fan_in = 9 * max(self.in_channels)
        shape = (max(self.out_channels), max(self.in_channels), 3, 3)
        self.weight = nn.Parameter(_normal(*shape, divisor=math.sqrt(fan_in)))

    def forward(self, x: Tensor, width: int) -> Tensor:
        packed = self._faster(x, width)
        if packed is not None:
            return packed(x)
        weight, bias = self.matrix(width), self._bias(width)
        return F.conv2d(x, weight, bias, stride=self.stride, padding=1)


class SlimDepthwise3x3(_Slimmable):
    """Depthwise zero-padded 3x3 convolution, initialised near the identity."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(channels, channels)
        weight = _normal(max(channels), 1, 3, 3).mul_(0.1)
        weight[:, :, 1, 1] += 1.0
        self.weight = nn.Parameter(weight)

    def matrix(self, width: int) -> Tensor:
        """The slice of the weight that ``width`` uses, ``(out[width], 1, 3, 3)``."""
        return self.weight[: self.out_channels[width]]

    def forward(self, x: Tensor, width: int) -> Tensor:
        weight = self.matrix(width)
        return F.conv2d(x, weight, self._bias(width), padding=1, groups=len(weight))


class _Inference:
    """A block's weights of one width, sliced and, once that is asked for, packed."""

    def __init__(self, weights: list[Tensor], bfloat16: bool) -> None:
        self.weights, self._bfloat16 = weights, bfloat16
        self._chosen: tuple[object, str] = (None, "")

    @cached_property
    def on_cpu(self) -> PackedDepthConv:
        return PackedDepthConv(self.weights, bfloat16=self._bfloat16)

    def implementation(self, x: Tensor) -> str:
        """Which of the fused op's is to run: asked again only when what it depends on changes."""
        state = (x.shape, x.stride(), x.dtype, os.environ.get(ENVIRONMENT))
        known, name = self._chosen  # one read: other threads may be asking for other maps
        if known != state:
            name = depth_conv_block.chosen(x, *self.weights)
            self._chosen = state, name
        return name


_KEPT: KeptWeights[_Inference] = KeptWeights()


class DepthConvBlock(nn.Module):
    """Depth-conv block: mixing (1x1, depthwise 3x3, 1x1) and a gated pointwise FFN, both residual.

    Almost all its work is in GEMMs; spatial context costs nine multiplications a value (the block
    shape of DCVC-RT, Jia et al., CVPR 2025). The last projection of each branch starts at zero: a
    new block is the identity.

    Args:
        channels: of each width.
        bfloat16: whether inference may round what is multiplied to bfloat16, which only AMX tiles
            gain by: for heads. A codec's latents and pictures are worth every digit.
    """

    def __init__(self, channels: Sequence[int], bfloat16: bool = False) -> None:
        super().__init__()
        self.bfloat16 = bfloat16
        self.mix_in = SlimPointwise(channels, channels)
        self.mix_spatial = SlimDepthwise3x3(channels)
        self.mix_out = SlimPointwise(channels, channels)
        self.ffn_gate = SlimPointwise(channels, channels)
        self.ffn_value = SlimPointwise(channels, channels)
        self.ffn_out = SlimPointwise(channels, channels)
        nn.init.zeros_(self.mix_out.weight)
        nn.init.zeros_(self.ffn_out.weight)

    def forward(self, x: Tensor, width: int) -> Tensor:
        if runs_in_tiles(x):
            kept = self._kept(width)
            name = kept.implementation(x)
            if name == "cpu":
                return kept.on_cpu(x)
            # Without a faster twin the form below beats the reference, which any device can run.
            if name != "reference":
                return depth_conv_block(x, *kept.weights)
        mixed = self.mix_spatial(F.silu(self.mix_in(x, width)), width)
        x = x + self.mix_out(mixed, width)
        gated = F.silu(self.ffn_gate(x, width)) * self.ffn_value(x, width)
        return x + self.ffn_out(gated, width)

    def packed(self, width: int) -> PackedDepthConv:
        """The block for inference on a CPU, kept until its parameters change."""
        return self._kept(width).on_cpu

    def _kept(self, width: int) -> _Inference:
        # Straight from the modules' own tables: attributes of modules take as long as a small map.
        layers = self._modules.values()
        parameters = tuple(p for layer in layers for p in layer._parameters.values())
        return _KEPT.get(self, width, parameters, lambda: self._inference(width))

    def _inference(self, width: int) -> _Inference:
        return _Inference(self._weights(width), self.bfloat16)

    def _layers(self) -> tuple[SlimPointwise | SlimDepthwise3x3, ...]:
        """In the order of the fused op's arguments."""
        return (
            self.mix_in,
            self.mix_spatial,
            self.mix_out,
            self.ffn_gate,
            self.ffn_value,
            self.ffn_out,
        )

    def _weights(self, width: int) -> list[Tensor]:
        """All of the width, in the order of the fused op's arguments."""
        layers = self._layers()
        return [part for layer in layers for part in (layer.matrix(width), layer._bias(width))]
