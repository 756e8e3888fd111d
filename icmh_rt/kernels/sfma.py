"""SFMA, the whole adapter as one op (Li et al., ECCV 2024, section 3.3): features x (N, C, H, W),

    x + factor * (s_up(relu(dw5x5(s_down1 x) * s_down2 x)) + f_up(relu(irfft2(Y * gate))))
    Y = rfft2(f_down x),    gate = sigmoid(f_inter(relu(dw3x3 |Y|)))

The published code takes |Y| and the angle of Y, scales the amplitude and puts real and imaginary
parts together again with cosine and sine. Scaling an amplitude by a real gate is scaling the
complex number by it: no angle is needed, and none is missed where Y = 0.

On a CPU the adapter is three fused passes around the FFT (csrc/kernels/sfma.h); on a GPU it is
`project_down`, `spatial_modulation`, cuFFT with `frequency_gate` between, and `project_up`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from icmh_rt.kernels import _cpu_adapter
from icmh_rt.kernels._layout import empty_maps, memory_format
from icmh_rt.kernels._op import Op
from icmh_rt.kernels.frequency_gate import frequency_gate
from icmh_rt.kernels.projections import project_down, project_up
from icmh_rt.kernels.spatial_modulation import spatial_modulation

LAYERS = ("s_down1", "s_down2", "f_down", "s_dw", "f_dw", "f_inter", "s_up", "f_up")
"""The adapter's convolutions in the order of the op's arguments, each a weight and a bias."""


def reference(x: Tensor, *arguments: Any) -> Tensor:
    """The adapter in plain PyTorch; arguments: x, a weight and a bias of each of `LAYERS`, factor.

    Args:
        x: (N, C, H, W), float16, bfloat16, float32 or float64; the FFT is taken in float32 at
            least. weights: (O, I, k, k), biases: (O,), of the dtype of x.
        factor: weight of the adapter's output.

    Returns:
        (N, C, H, W), in the memory format of x.
    """
    *tensors, factor = arguments
    layers = dict(zip(LAYERS, zip(tensors[::2], tensors[1::2], strict=True), strict=True))
    middle = len(layers["s_down1"][1])
    weight, bias = _stacked([layers[name] for name in ("s_down1", "s_down2", "f_down")], 0)
    near, other, planes = F.conv2d(x, weight, bias).chunk(3, 1)
    weight, bias = layers["s_dw"]
    spatial = torch.relu(F.conv2d(near, weight, bias, padding=2, groups=middle) * other)
    # The FFT knows no bfloat16, and the amplitudes of a large map leave half precision.
    planes = planes if planes.dtype == torch.float64 else planes.float()
    spectrum = torch.fft.rfft2(planes)
    weight, bias = (value.to(planes.dtype) for value in layers["f_dw"])
    smooth = torch.relu(F.conv2d(spectrum.abs(), weight, bias, padding=1, groups=middle))
    weight, bias = (value.to(planes.dtype) for value in layers["f_inter"])
    gate = torch.sigmoid(F.conv2d(smooth, weight, bias))
    planes = torch.relu(torch.fft.irfft2(spectrum * gate, s=x.shape[-2:]))
    weight, _ = _stacked([layers["s_up"], layers["f_up"]], 1)
    bias = layers["s_up"][1] + layers["f_up"][1]
    change = F.conv2d(torch.cat((spatial, planes.to(spatial.dtype)), 1), weight, bias)
    return (x + change * factor).contiguous(memory_format=memory_format(x))


def _stacked(layers: Sequence[tuple[Tensor, Tensor]], dim: int) -> tuple[Tensor, Tensor]:
    return torch.cat([w for w, _ in layers], dim), torch.cat([b for _, b in layers])


def _fake(x: Tensor, *arguments: Any) -> Tensor:
    return empty_maps(x, x.shape[1])


_NAMES = [f"{layer}_{part}" for layer in LAYERS for part in ("weight", "bias")]

sfma = Op(
    "sfma",
    f"(Tensor x, {', '.join(f'Tensor {name}' for name in _NAMES)}, float factor) -> Tensor",
    reference,
    _fake,
)
sfma.add("cpu", _cpu_adapter.sfma, _cpu_adapter.sfma_obstacle)


# -- on a GPU: of the other ops --------------------------------------------------------------------


def _composed(implementation: str) -> Callable[..., Tensor]:
    """The adapter of the other ops' kernels, and of a library's transform between them."""

    def run(x: Tensor, *arguments: Any) -> Tensor:
        *tensors, factor = arguments
        layers = dict(zip(LAYERS, zip(tensors[::2], tensors[1::2], strict=True), strict=True))
        middle = len(layers["s_down1"][1])
        weight, bias = _stacked([layers[name] for name in ("s_down1", "s_down2", "f_down")], 0)
        down = project_down(x, weight.flatten(1), bias, implementation=implementation)
        near, other, planes = down.split(middle, 1)
        spatial = spatial_modulation(near, other, *layers["s_dw"], implementation=implementation)
        # cuFFT's half precision knows only powers of two.
        spectrum = torch.fft.rfft2(planes.float().contiguous())
        weight, bias = layers["f_inter"]
        spectrum = frequency_gate(
            spectrum, *layers["f_dw"], weight.flatten(1), bias, implementation=implementation
        )
        planes = torch.fft.irfft2(spectrum, s=x.shape[-2:]).to(x.dtype)
        weight, _ = _stacked([layers["s_up"], layers["f_up"]], 1)
        bias = layers["s_up"][1] + layers["f_up"][1]
        return project_up(
            spatial, planes, weight.flatten(1), bias, x, factor, implementation=implementation
        )

    return run


def _composed_obstacle(implementation: str) -> Callable[..., str | None]:
    def obstacle(x: Tensor, *arguments: Any) -> str | None:
        # All of the steps know the same devices and dtypes.
        weight, bias = arguments[0].flatten(1), arguments[1]
        return project_down.obstacles(x, weight, bias)[implementation]

    return obstacle


for _name in ("triton", "cuda"):
    sfma.add(_name, _composed(_name), _composed_obstacle(_name))
