"""The integer hyper-synthesis in fp32 on any torch device, equal to the definition bit for bit.

Why that works: `IntegerHyperSynthesis.prove` bounds every sum below 2**24, and fp32 adds and
multiplies such integers without rounding, in any order. It does not work through convolution
routines, which may take Winograd or FFT forms with fractional intermediates, nor with TF32 or bf16
products; so 3x3 layers are matrix products over unfolded patches, and reduced-precision modes are
switched off meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from icmh_rt.errors import OptionError
from icmh_rt.models.integer_network import (
    IntegerHyperSynthesis,
    IntegerLayer,
    check_probe,
    half_of,
)


@contextmanager
def exact_float32(device_type: str) -> Iterator[None]:
    """Switch off autocast, TF32 and reduced-precision matrix products; put them back afterwards.

    The switches other than autocast are the process's, so matrix products that other threads run at
    the same time are exact (and slower) too. What torch cannot switch (ONEDNN_DEFAULT_FPMATH_MODE,
    CUBLAS_EMULATE_SINGLE_PRECISION in the environment) is for the probe to find.
    """
    # torch >= 2.9 has one switch a backend beside the old one for all; "highest" sets every one of
    # them, so what was there is put back old one first.
    switches = [
        backend.matmul
        for backend in (torch.backends.cuda, torch.backends.mkldnn)
        if hasattr(getattr(backend, "matmul", None), "fp32_precision")
    ]
    before = [switch.fp32_precision for switch in switches]
    try:
        before_all = torch.get_float32_matmul_precision()
    except RuntimeError:  # only the new switches were used: the old one has no answer
        before_all = None
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        if before_all is not None:
            torch.set_float32_matmul_precision(before_all)
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


class Float32HyperSynthesis:
    """An `IntegerHyperSynthesis` on a torch device; construction proves and probes it.

    Args:
        network: the definition.
        device: a torch device or its name.

    Raises:
        BundleError: the network fails its proof.
        BackendUnavailableError: the device's results differ from the definition's.
    """

    def __init__(self, network: IntegerHyperSynthesis, device: torch.device | str = "cpu") -> None:
        network.prove()
        self.network = network
        self.device = torch.device(device)
        self._layers = {id(layer): _Layer(layer, self.device) for layer in network.layers}
        self._z_limit = torch.from_numpy(network.z_limit.astype(np.int64)).to(self.device)
        self._z_multiplier = self._floats(network.z_multiplier)
        self._mean_multiplier = self._floats(network.mean_multiplier)
        self._mean_half = self._floats(half_of(network.mean_shift))
        self._mean_factor = self._floats(np.ldexp(1.0, -network.mean_shift.astype(np.int32)))
        # The half of index_bits joins the offset: one addition less.
        self._index_offset = self._floats(network.index_offset + half_of(network.index_bits))
        self.probe()

    def _floats(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(array, np.float32)).to(self.device)

    @torch.no_grad()
    def run(self, z: Tensor, quality: int) -> tuple[Tensor, Tensor]:
        """Means and scale indexes for hyper-latents.

        Args:
            z: int32 or int64 ``(H, W, Z)`` or ``(N, H, W, Z)``, on any device.
            quality: 1 to Q.

        Returns:
            mean int32 ``(..., U*H, U*W, M)`` in units of ``2**-mean_bits`` and scale index uint8 of
            the same shape, on this object's device.

        Raises:
            OptionError: an argument has another dtype, shape or range.
        """
        network = self.network
        row = network._row_of(quality)
        if z.dtype not in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64):
            raise OptionError(f"z is {z.dtype}, not an integer tensor")
        if z.ndim not in (3, 4) or z.shape[-1] != network.z_channels or 0 in z.shape:
            raise OptionError(f"z has shape {tuple(z.shape)}, not (N, H, W, {network.z_channels})")
        with exact_float32(self.device.type):
            mean, index = self._run(z if z.ndim == 4 else z[None], row)
        return (mean, index) if z.ndim == 4 else (mean[0], index[0])

    def _run(self, z: Tensor, row: int) -> tuple[Tensor, Tensor]:
        network = self.network
        # Clamped as integers: only then does fp32 hold them.
        z, limit = z.to(self.device, torch.int64), self._z_limit[row]
        x = torch.minimum(torch.maximum(z, -limit), limit).to(torch.float32)
        x = x * self._z_multiplier[row] + float(half_of(network.z_shift))
        x = torch.floor(x * 2.0**-network.z_shift)
        x = x.clamp(-network.input_limit, network.input_limit)
        for layer in network.trunk:
            x = self._layers[id(layer)](x)
        mean = self._layers[id(network.mean_head)](x)
        mean = (mean * self._mean_multiplier[row] + self._mean_half[row]) * self._mean_factor[row]
        mean = torch.floor(mean).clamp(-network.mean_limit, network.mean_limit)
        index = self._layers[id(network.scale_head)](x) + self._index_offset[row]
        index = torch.floor(index * 2.0**-network.index_bits).clamp(0, network.scales - 1)
        return mean.to(torch.int32), index.to(torch.uint8)

    def probe(self) -> None:
        """Compare with the definition on fixed inputs at the first, middle and last quality.

        Raises:
            BackendUnavailableError: they differ; names both sides.
        """
        qualities = self.network.qualities
        for quality in sorted({1, (qualities + 1) // 2, qualities}):
            z = self.network.probe_input(quality)
            expected = self.network.run(z, quality, level="scalar")
            mean, index = self.run(torch.from_numpy(z), quality)
            found = mean.cpu().numpy(), index.cpu().numpy()
            check_probe(f"torch {torch.__version__} on {self.device}", expected, found)


class _Layer:
    """One layer in fp32: ``(N, H, W, C)`` -> ``(N, H, W, O)``, shuffled where the layer says so."""

    def __init__(self, layer: IntegerLayer, device: torch.device) -> None:
        def floats(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.asarray(array, np.float32)).to(device)

        self.kind = layer.kind
        self.shuffle = layer.shuffle
        if layer.kind == "depthwise3x3":
            self.weight = floats(layer.weight.transpose(1, 2, 0).reshape(9, -1))
        else:
            self.weight = floats(layer.weight.reshape(len(layer.weight), -1).T.copy())
        # Below 2**24 together, by the proof, like every partial sum.
        self.bias = floats(layer.bias + half_of(layer.shift))
        self.factor = floats(np.ldexp(1.0, -layer.shift.astype(np.int32)))
        self.low = floats(layer.low)
        self.high = floats(layer.high)

    def __call__(self, x: Tensor) -> Tensor:
        n, height, width, _ = x.shape
        if self.kind == "conv1x1":
            total = x.flatten(0, 2) @ self.weight
        else:
            padded = F.pad(x, (0, 0, 1, 1, 1, 1))
            taps = [
                padded[:, dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)
            ]
            if self.kind == "conv3x3":
                total = torch.cat(taps, -1).flatten(0, 2) @ self.weight
            else:
                total = sum(tap * weight for tap, weight in zip(taps, self.weight, strict=True))
        y = torch.floor((total + self.bias) * self.factor)
        y = torch.minimum(torch.maximum(y, self.low), self.high).reshape(n, height, width, -1)
        if not self.shuffle:
            return y
        y = y.reshape(n, height, width, -1, 2, 2).permute(0, 1, 4, 2, 5, 3)
        return y.reshape(n, 2 * height, 2 * width, -1)
