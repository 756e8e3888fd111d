"""Rate-distortion objective of the default codec, one forward pass a width.

Rates come from CompressAI's entropy models under additive uniform noise; reconstructions from
rounded latents with a straight-through gradient (the mixed scheme of Minnen & Singh,
"Channel-wise autoregressive entropy models for learned image compression", ICIP 2020, section 3).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from icmh_rt.models.slimmable_hyperprior import SlimmableHyperprior

with warnings.catch_warnings():
    # Importing compressai runs torch.jit.script, which new torch releases warn about.
    warnings.simplefilter("ignore")
    from compressai.entropy_models import GaussianConditional

PIXEL_PEAK = 255.0


@dataclass(frozen=True)
class Outcome:
    """One width's pass: ``bpp (N,)``, ``mse (N,)`` (pixels in [0, 1]) and the weighted ``loss
    ()``.
    """

    bpp: Tensor
    mse: Tensor
    loss: Tensor


def round_straight_through(x: Tensor) -> Tensor:
    """Round; the gradient passes as if it had not been rounded."""
    return x + (x.round() - x).detach()


class RateDistortion(nn.Module):
    """Runs the codec at several widths and sums their rate-distortion losses.

    Wrapping all widths of a step in one ``forward`` is what lets distributed data parallel see
    every parameter it must reduce.
    """

    def __init__(
        self,
        model: SlimmableHyperprior,
        loss_exponent: float = 0.45,
        autocast_dtype: torch.dtype | None = torch.bfloat16,
    ) -> None:
        super().__init__()
        self.model = model
        # The optimum of R + lambda D grows about with this power of lambda; dividing by it lets
        # every quality pull on the shared weights with like force.
        self.loss_exponent = loss_exponent
        self.autocast_dtype = autocast_dtype
        self.conditional = GaussianConditional(None, scale_bound=model.config.scale_min)

    def _autocast(self, device: torch.device) -> torch.autocast:
        enabled = self.autocast_dtype is not None
        return torch.autocast(device.type, dtype=self.autocast_dtype, enabled=enabled)

    def forward_width(self, images: Tensor, quality: Tensor, width: int) -> Outcome:
        """``images (N, 3, H, W)`` in [0, 1], H and W multiples of 64; ``quality (N,)``."""
        model, config = self.model, self.model.config
        with self._autocast(images.device):
            y = model.g_a(images - 0.5, width)
            z = model.h_a(y, width)
        y, z = y.float(), z.float()
        log_gain, log_hyper_gain, hyper_scale = model.quality_vectors(quality, width)

        hyper_symbols = z * log_hyper_gain.exp()
        sigma_z = config.scale_min * torch.exp(hyper_scale * config.log_scale_step)
        _, likelihood_z = self.conditional(hyper_symbols, sigma_z.expand_as(hyper_symbols))
        z_hat = round_straight_through(hyper_symbols) * torch.exp(-log_hyper_gain)

        # fp32: the folded network is more precise than bf16, and it is small.
        mean, scale_index = model.h_s(z_hat, width)
        residual = (y - mean) * log_gain.exp()
        sigma = config.scale_min * torch.exp(scale_index * config.log_scale_step + log_gain)
        _, likelihood_y = self.conditional(residual, sigma)
        y_hat = round_straight_through(residual) * torch.exp(-log_gain) + mean

        with self._autocast(images.device):
            x_hat = model.g_s(y_hat, width)
        x_hat = x_hat.float() + 0.5

        pixels = images.shape[-1] * images.shape[-2]
        bpp = (
            -(likelihood_y.log2().sum(dim=(1, 2, 3)) + likelihood_z.log2().sum(dim=(1, 2, 3)))
            / pixels
        )
        mse = (x_hat - images).square().mean(dim=(1, 2, 3))
        trade_off = config.lambda_of(quality)
        weight = (trade_off / config.lambda_max) ** -self.loss_exponent
        loss = (weight * (bpp + trade_off * PIXEL_PEAK**2 * mse)).mean()
        return Outcome(bpp, mse, loss)

    def forward(self, batches: list[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, list[Outcome]]:
        """Total loss and outcomes of ``batches``: (width index, images, quality) each."""
        outcomes = [self.forward_width(x, quality, width) for width, x, quality in batches]
        return torch.stack([o.loss for o in outcomes]).sum(), outcomes
