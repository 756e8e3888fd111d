"""The default codec of a bundle as a differentiable function that does not learn.

No float checkpoint is needed: the transforms are the bundle's, the hyper-synthesis is its integer
network with straight-through gradients, and quality is the bundle's tables. So what adapters are
trained against is what streams are made with.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from icmh_rt.bundle import Bundle, CodecBundle
from icmh_rt.errors import BundleError, OptionError
from icmh_rt.models.adapters import use_task
from icmh_rt.models.slimmable_hyperprior import SlimmableHyperprior, SlimmableHyperpriorConfig
from icmh_rt.training.straight_through import (
    StraightThroughHyperSynthesis,
    round_straight_through,
)

with warnings.catch_warnings():
    # Importing compressai runs torch.jit.script, which new torch releases warn about.
    warnings.simplefilter("ignore")
    from compressai.entropy_models import GaussianConditional

_MEAN = 0.5  # what g_a's input is shifted by


@dataclass(frozen=True)
class Coded:
    """What a pass gives: ``bpp (N,)`` and ``decoded (N, 3, H, W)``, not clamped."""

    bpp: Tensor
    decoded: Tensor


class _Tables(nn.Module):
    """Quality at one width: ``(Q, C, 1, 1)`` each, and h_s."""

    def __init__(self, bundle: Bundle, width: float) -> None:
        super().__init__()
        tables = bundle.widths[width]
        self.hyper_synthesis = StraightThroughHyperSynthesis(tables.hyper_synthesis)
        for name in ("gain", "inverse_gain", "hyper_gain", "hyper_index"):
            table = np.array(getattr(tables, name), np.float32)
            self.register_buffer(name, torch.from_numpy(table)[:, :, None, None], persistent=False)


class FrozenBase(nn.Module):
    """A bundle of the default architecture, ready for `attach_adapters` on its ``model``.

    Args:
        bundle: as ``icmh_rt.bundle.load`` gives it.
        autocast_dtype: what g_a, h_a and g_s compute in; None for float32.

    Attributes:
        model: g_a, h_a and g_s; learns nothing.

    Raises:
        BundleError: the bundle is of another architecture, or does not fit its config.
    """

    def __init__(self, bundle: CodecBundle, autocast_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        if not isinstance(bundle, Bundle):
            raise BundleError(
                f"bundle {bundle.name!r} is a converted checkpoint: adapters are trained on the "
                "default architecture; use model 'default' or a bundle of `icmh train base`"
            )
        self.model = _transforms(bundle)
        self.config: SlimmableHyperpriorConfig = self.model.config
        self.widths = tuple(self.config.widths)
        self.tables = nn.ModuleList(_Tables(bundle, width) for width in self.widths)
        self.autocast_dtype = autocast_dtype
        self.conditional = GaussianConditional(None, scale_bound=self.config.scale_min)

    def forward(
        self, images: Tensor, quality: Tensor, width: int, task: str | None = None
    ) -> Coded:
        """Rate and reconstruction of a batch.

        The rate is that of symbols under additive uniform noise in training mode, of rounded ones
        in evaluation mode; the reconstruction is made from rounded symbols, as a decoder would.

        Args:
            images: float32 ``(N, 3, H, W)`` in [0, 1], H and W multiples of 64.
            quality: int64 ``(N,)``, 1 to 100.
            width: the width's index.
            task: whose adapters run; None or "human" for the base.
        """
        if images.shape[-1] % 64 or images.shape[-2] % 64:
            raise OptionError(f"images are {tuple(images.shape[-2:])}: give multiples of 64")
        with use_task(self.model, task) if task is not None else nullcontext():
            return self._forward(images, quality, width)

    def _autocast(self, device: torch.device) -> torch.autocast:
        enabled = self.autocast_dtype is not None
        return torch.autocast(device.type, dtype=self.autocast_dtype, enabled=enabled)

    def _forward(self, images: Tensor, quality: Tensor, width: int) -> Coded:
        tables, row = self.tables[width], quality - 1
        with self._autocast(images.device):
            y = self.model.g_a(images - _MEAN, width)
            z = self.model.h_a(y, width)
        y, z = y.float(), z.float()
        gained_z = z * tables.hyper_gain[row]
        likelihood_z = self._likelihood(gained_z, tables.hyper_index[row].expand_as(gained_z))

        mean, index = tables.hyper_synthesis(round_straight_through(gained_z), quality)
        residual = y * tables.gain[row] - mean
        likelihood_y = self._likelihood(residual, index)
        y_hat = (round_straight_through(residual) + mean) * tables.inverse_gain[row]

        with self._autocast(images.device):
            decoded = self.model.g_s(y_hat, width)
        bits = likelihood_y.log2().sum(dim=(1, 2, 3)) + likelihood_z.log2().sum(dim=(1, 2, 3))
        pixels = images.shape[-1] * images.shape[-2]
        return Coded(-bits / pixels, decoded.float() + _MEAN)

    def _likelihood(self, symbols: Tensor, index: Tensor) -> Tensor:
        scale = self.config.scale_min * torch.exp(index * self.config.log_scale_step)
        return self.conditional(symbols, scale)[1]


def _transforms(bundle: Bundle) -> SlimmableHyperprior:
    state = {k: torch.from_numpy(v.astype(np.float32)) for k, v in bundle.transforms.items()}
    try:
        model = SlimmableHyperprior(SlimmableHyperpriorConfig.from_dict(bundle.config))
        # Neither is in a bundle: h_s is integers there, and quality is tables.
        del model.h_s, model.quality_tables
        model.load_state_dict(state)
    except (OptionError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"bundle {bundle.name!r} does not fit its config: {reason}") from None
    return model.to(memory_format=torch.channels_last).eval().requires_grad_(False)
