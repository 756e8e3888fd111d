"""The ways to compute an SFMA that benchmarks/sfma.py runs against each other, on one adapter.

All take what the op takes: x, then a weight and a bias of each of its eight convolutions, then the
factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icmh_rt.kernels.sfma import LAYERS, reference, sfma
from icmh_rt.models.sfma import SFMA

EAGER, ALGEBRAIC, COMPILED, OURS = "eager formula", "algebraic", "torch.compile", "icmh_rt"


def adapter(channels: int, middle: int, device: torch.device, dtype: torch.dtype) -> SFMA:
    """One with random weights, up-projections too: what it adds is of the size of the features."""
    torch.manual_seed(0)
    return SFMA(channels, middle).to(device, dtype).eval().requires_grad_(False)


def arguments_of(module: nn.Module, channels: int | None = None) -> list[Any]:
    """The op's arguments behind x; of a slimmed adapter, those of the first ``channels``."""
    outer, most = module.s_up.out_channels, module.s_down1.out_channels
    channels = channels or outer
    middle = -(-most * channels // outer)
    found: list[Any] = []
    for name in LAYERS:
        rows = channels if name.endswith("up") else middle
        columns = 1 if name.endswith("dw") else channels if "down" in name else middle
        layer = getattr(module, name)
        found += [layer.weight[:rows, :columns], layer.bias[:rows]]
    return [*found, float(module.factor)]


def eager_formula(x: Tensor, *arguments: Any) -> Tensor:
    """The adapter as the paper writes it, layer by layer, with amplitude and angle (Li et al., ECCV
    2024, equations 3 to 7). In half precision the spectrum is float32, which has an FFT for every
    size.
    """
    *tensors, factor = arguments
    layers = dict(zip(LAYERS, zip(tensors[::2], tensors[1::2], strict=True), strict=True))

    def apply(name: str, value: Tensor) -> Tensor:
        weight, bias = (tensor.to(value.dtype) for tensor in layers[name])
        groups = len(bias) if weight.shape[1] == 1 and value.shape[1] > 1 else 1
        return F.conv2d(value, weight, bias, padding=weight.shape[-1] // 2, groups=groups)

    planes = apply("f_down", x)
    planes = planes if planes.dtype == torch.float64 else planes.float()
    spectrum = torch.fft.rfft2(planes)
    amplitude, angle = torch.abs(spectrum), torch.angle(spectrum)
    gate = torch.sigmoid(apply("f_inter", torch.relu(apply("f_dw", amplitude))))
    amplitude = amplitude * gate
    spectrum = torch.complex(amplitude * torch.cos(angle), amplitude * torch.sin(angle))
    planes = torch.fft.irfft2(spectrum, s=x.shape[-2:])
    frequency = apply("f_up", torch.relu(planes).to(x.dtype))
    spatial = torch.relu(apply("s_dw", apply("s_down1", x)) * apply("s_down2", x))
    return x + (apply("s_up", spatial) + frequency) * factor


def contestants(
    x: Tensor, arguments: Sequence[Any], with_compile: bool
) -> tuple[dict[str, Callable[[], Tensor]], dict[str, str]]:
    """By name, what computes the adapter of x; and why others cannot. OURS is what users get."""
    found: dict[str, Callable[[], Tensor]] = {
        EAGER: lambda: eager_formula(x, *arguments),
        ALGEBRAIC: lambda: reference(x, *arguments),
        OURS: lambda: sfma(x, *arguments, implementation="auto"),
    }
    missing: dict[str, str] = {}
    if with_compile:
        torch.compiler.reset()
        compiled = torch.compile(reference)
        try:
            compiled(x, *arguments)
        except Exception as error:  # whatever a compiler raises
            missing[COMPILED] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            found[COMPILED] = lambda: compiled(x, *arguments)
    else:
        missing[COMPILED] = "--no-compile"
    for name, obstacle in sfma.obstacles(x, *arguments).items():
        if name == "reference":
            continue
        if obstacle is not None:
            missing[f"{OURS}, {name}"] = obstacle
            continue
        found[f"{OURS}, {name}"] = lambda name=name: sfma(x, *arguments, implementation=name)
    return found, missing
