"""Rounding that lets gradients pass, and the integer hyper-synthesis made of it.

Values are those of the definition, bit for bit; only the derivatives are another function's: that
of the same network without its roundings (Bengio et al., "Estimating or propagating gradients
through stochastic neurons", 2013).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icmh_rt.models.integer_network import IntegerHyperSynthesis, IntegerLayer, half_of
from icmh_rt.models.integer_network_torch import exact_float32


class _Floor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.floor()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def floor_straight_through(x: Tensor) -> Tensor:
    """``x.floor()``; its derivative is 1."""
    return _Floor.apply(x)


def round_straight_through(x: Tensor) -> Tensor:
    """``x.round()``, ties to even; its derivative is 1."""
    return _Round.apply(x)


def _floats(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32, order="C"))


class StraightThroughHyperSynthesis(nn.Module):
    """An `IntegerHyperSynthesis` that gradients pass through, for batches of mixed qualities.

    In fp32, where every sum is exact (`IntegerHyperSynthesis.prove`): means and scale indexes equal
    the definition's. Roundings are straight-through; clamps stop gradients outside their range, as
    the ReLUs that most of them stand for do.

    Raises:
        BundleError: the network fails its proof.
    """

    def __init__(self, network: IntegerHyperSynthesis) -> None:
        super().__init__()
        network.prove()
        self.trunk = nn.ModuleList(_Layer(layer) for layer in network.trunk)
        self.mean_head = _Layer(network.mean_head)
        self.scale_head = _Layer(network.scale_head)
        self.input_limit = float(network.input_limit)
        self.input_half = float(half_of(network.z_shift))
        self.input_factor = 2.0**-network.z_shift
        self.mean_limit = float(network.mean_limit)
        self.mean_unit = 2.0**-network.mean_bits
        self.index_factor = 2.0**-network.index_bits
        self.last_scale = float(network.scales - 1)
        tables = {
            "z_limit": network.z_limit,
            "z_multiplier": network.z_multiplier,
            "mean_multiplier": network.mean_multiplier,
            "mean_half": half_of(network.mean_shift),
            "mean_factor": np.ldexp(1.0, -network.mean_shift.astype(np.int32)),
            # The half of index_bits joins the offset: one addition less.
            "index_offset": network.index_offset + half_of(network.index_bits),
        }
        for name, table in tables.items():
            self.register_buffer(name, _floats(table), persistent=False)

    def _row(self, name: str, quality: Tensor) -> Tensor:
        """``(N, 1, 1, C)`` of a table at ``quality (N,)``."""
        return self.get_buffer(name)[quality - 1][:, None, None]

    def forward(self, symbols_z: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Symbols of z, whole numbers in float32 ``(N, Z, h, w)``, and ``quality`` int64 ``(N,)``
        -> mean, times the latent's gain, and scale index, both float32 ``(N, M, 4h, 4w)``.
        """
        with exact_float32(symbols_z.device.type):
            x = symbols_z.float().permute(0, 2, 3, 1)
            limit = self._row("z_limit", quality)
            x = torch.clamp(x, -limit, limit) * self._row("z_multiplier", quality)
            x = floor_straight_through((x + self.input_half) * self.input_factor)
            x = x.clamp(-self.input_limit, self.input_limit)
            for layer in self.trunk:
                x = layer(x)
            mean = self.mean_head(x) * self._row("mean_multiplier", quality)
            mean = (mean + self._row("mean_half", quality)) * self._row("mean_factor", quality)
            mean = floor_straight_through(mean).clamp(-self.mean_limit, self.mean_limit)
            index = (self.scale_head(x) + self._row("index_offset", quality)) * self.index_factor
            index = floor_straight_through(index).clamp(0.0, self.last_scale)
        return (mean * self.mean_unit).permute(0, 3, 1, 2), index.permute(0, 3, 1, 2)


class _Layer(nn.Module):
    """One layer: ``(N, H, W, C)`` -> ``(N, H, W, O)``, shuffled where the layer says so."""

    def __init__(self, layer: IntegerLayer) -> None:
        super().__init__()
        self.kind, self.shuffle = layer.kind, layer.shuffle
        weight = layer.weight
        if layer.kind == "depthwise3x3":
            weight = weight.transpose(1, 2, 0).reshape(9, -1)
        else:
            weight = weight.reshape(len(weight), -1).T
        arrays = {
            "weight": weight,
            "bias": layer.bias + half_of(layer.shift),
            "factor": np.ldexp(1.0, -layer.shift.astype(np.int32)),
            "low": layer.low,
            "high": layer.high,
        }
        for name, array in arrays.items():
            self.register_buffer(name, _floats(array), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, _ = x.shape
        if self.kind == "conv1x1":
            total = x @ self.weight
        else:
            # Products over unfolded patches: convolution routines may not be exact on integers.
            padded = F.pad(x, (0, 0, 1, 1, 1, 1))
            taps = [
                padded[:, dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)
            ]
            if self.kind == "conv3x3":
                total = torch.cat(taps, -1) @ self.weight
            else:
                total = sum(tap * weight for tap, weight in zip(taps, self.weight, strict=True))
        y = torch.clamp(
            floor_straight_through((total + self.bias) * self.factor), self.low, self.high
        )
        if not self.shuffle:
            return y
        y = y.reshape(n, height, width, -1, 2, 2).permute(0, 1, 4, 2, 5, 3)
        return y.reshape(n, 2 * height, 2 * width, -1)
