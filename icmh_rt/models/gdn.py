"""Generalized divisive normalization, and the convolution stacks that are built of it.

GDN: Ballé, Laparra, Simoncelli, "Density modeling of images using a generalized normalization
transformation", ICLR 2016, equation 2 with exponents 2 and 1/2. `SwitchableGDN` holds one of them
for each width of a slimmable network, which its published form files under ``bn``. Parameters and
buffers have CompressAI's names, so its state dicts load strictly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icmh_rt.kernels.gdn import gdn
from icmh_rt.models.entropy import LowerBound
from icmh_rt.models.swin import runs_in_tiles

_PEDESTAL = 2.0**-36  # keeps the square root's derivative finite at zero
_BETA_MIN = 1e-6


class NonNegative(nn.Module):
    """A number ``v >= minimum`` kept as ``sqrt(v + 2**-36)``, so that no gradient step leaves the
    range.

    Below the bound only gradients that raise the number pass (see `LowerBound`).
    """

    pedestal: Tensor

    def __init__(self, minimum: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("pedestal", torch.tensor([_PEDESTAL]))
        self.lower_bound = LowerBound((minimum + _PEDESTAL) ** 0.5)

    def stored(self, value: Tensor) -> Tensor:
        """What to keep for ``value`` (any shape); negative values count as zero."""
        return torch.sqrt(value.clamp(min=0.0) + self.pedestal)

    def forward(self, stored: Tensor) -> Tensor:
        """The value that was stored, of the same shape."""
        bounded = self.lower_bound(stored)
        return bounded * bounded - self.pedestal


class GDN(nn.Module):
    """``x[i] / sqrt(beta[i] + sum_j gamma[i, j] x[j]²)`` at every position of ``(N, C, H, W)``.

    Args:
        channels: C.
        inverse: multiply by the root instead (IGDN, the decoder's approximate inverse).

    ``beta (C,)`` and ``gamma (C, C)`` are kept as `NonNegative` keeps them.
    """

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta_reparam = NonNegative(_BETA_MIN)
        self.gamma_reparam = NonNegative()
        self.beta = nn.Parameter(self.beta_reparam.stored(torch.ones(channels)))
        self.gamma = nn.Parameter(self.gamma_reparam.stored(0.1 * torch.eye(channels)))

    def forward(self, x: Tensor) -> Tensor:
        beta, gamma = self.beta_reparam(self.beta), self.gamma_reparam(self.gamma)
        if runs_in_tiles(x):
            arguments = x, beta, gamma, self.inverse
            # Without a faster twin the form below beats the reference, which spares no map.
            if gdn.chosen(*arguments) != "reference":
                return gdn(*arguments)
        energy = F.conv2d(x * x, gamma[:, :, None, None], beta)
        # In place: on a CPU every new map of this size is paid for in page faults.
        return x * (energy.sqrt_() if self.inverse else energy.rsqrt_())


class SwitchableGDN(nn.Module):
    """One `GDN` for each width: divisive sums over fewer channels need other constants.

    Args:
        channels: number of channels of each width.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.bn = nn.ModuleList(GDN(count) for count in channels)

    def forward(self, x: Tensor, index: int) -> Tensor:
        """``x (N, channels[index], H, W)``, normalized by the GDN of that width."""
        return self.bn[index](x)


def conv(channels_in: int, channels_out: int, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    """A convolution that divides height and width by ``stride``, rounding up."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2)


def deconv(
    channels_in: int, channels_out: int, kernel: int = 5, stride: int = 2
) -> nn.ConvTranspose2d:
    """A transposed convolution that multiplies height and width by ``stride``."""
    return nn.ConvTranspose2d(
        channels_in, channels_out, kernel, stride, kernel // 2, output_padding=stride - 1
    )


def gdn_analysis(n: int, m: int) -> list[nn.Module]:
    """g_a of Ballé et al. 2018: image ``(B, 3, 16h, 16w)`` -> latent ``(B, m, h, w)``."""
    return [conv(3, n), GDN(n), conv(n, n), GDN(n), conv(n, n), GDN(n), conv(n, m)]


def gdn_synthesis(n: int, m: int) -> list[nn.Module]:
    """g_s of Ballé et al. 2018: latent ``(B, m, h, w)`` -> image ``(B, 3, 16h, 16w)``."""
    layers: list[nn.Module] = []
    for channels_in in (m, n, n):
        layers += [deconv(channels_in, n), GDN(n, inverse=True)]
    return [*layers, deconv(n, 3)]
