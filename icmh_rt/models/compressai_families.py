"""CompressAI's codecs without a context model, under its state-dict keys.

`FactorizedPrior` and `ScaleHyperprior`: Ballé et al., "Variational image compression with a scale
hyperprior", ICLR 2018. `MeanScaleHyperprior`: Minnen, Ballé, Toderici, "Joint autoregressive and
hierarchical priors for learned image compression", NeurIPS 2018, without its context model.

``g_a``, ``h_a``, ``h_s`` and ``g_s`` are submodules; each takes and gives plain float tensors
(NCHW, images in [0, 1], height and width multiples of ``stride``) and does no entropy coding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from icmh_rt.models.entropy import EntropyBottleneck, GaussianConditional
from icmh_rt.models.gdn import conv, deconv, gdn_analysis, gdn_synthesis


class AbsoluteInput(nn.Sequential):
    """Layers that see magnitudes only: ``h_a`` where the latent's mean is taken to be zero.

    The published code writes ``h_a(abs(y))``; since the absolute value of an absolute value is
    itself, that and ``h_a(y)`` mean the same here.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.abs(x))


class FactorizedPrior(nn.Module):
    """CompressAI's ``bmshj2018-factorized``: one learned density for each latent channel.

    Args:
        N: channels of the hidden layers.
        M: channels of the latent.
    """

    stride = 64
    latent_stride = 16

    def __init__(self, N: int, M: int) -> None:
        super().__init__()
        self.N, self.M = N, M
        self.latent_channels: int = M
        self.hyper_channels: int | None = None
        self.entropy_bottleneck = EntropyBottleneck(M)
        self.g_a = nn.Sequential(*gdn_analysis(N, M))
        self.g_s = nn.Sequential(*gdn_synthesis(N, M))

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Images ``(B, 3, H, W)`` -> ``x_hat`` of that shape and ``likelihoods["y"]``."""
        y_hat, y_likelihood = self.entropy_bottleneck(self.g_a(x))
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": y_likelihood}}

    def aux_loss(self) -> Tensor:
        """What pulls the entropy bottleneck's quantiles to its density's tails and median."""
        return self.entropy_bottleneck.loss()


class ScaleHyperprior(nn.Module):
    """CompressAI's ``bmshj2018-hyperprior``: zero-mean Gaussians whose scales z tells.

    ``h_s`` ends in a ReLU; the scales that it gives are bounded below (at 0.11) where they are
    used. What is coded is ``round(y)``.

    Args:
        N: channels of the hidden layers and of z.
        M: channels of the latent.
    """

    stride = 64
    latent_stride = 16

    def __init__(self, N: int, M: int) -> None:
        super().__init__()
        self.N, self.M = N, M
        self.latent_channels: int = M
        self.hyper_channels: int | None = N
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.g_a = nn.Sequential(*gdn_analysis(N, M))
        self.g_s = nn.Sequential(*gdn_synthesis(N, M))
        self._make_hyper_transforms()
        self.gaussian_conditional = GaussianConditional()

    def _make_hyper_transforms(self) -> None:
        n, m = self.N, self.M
        self.h_a: nn.Sequential = AbsoluteInput(
            conv(m, n, 3, 1), nn.ReLU(inplace=True), conv(n, n), nn.ReLU(inplace=True), conv(n, n)
        )
        self.h_s = nn.Sequential(
            deconv(n, n),
            nn.ReLU(inplace=True),
            deconv(n, n),
            nn.ReLU(inplace=True),
            conv(n, m, 3, 1),
            nn.ReLU(inplace=True),
        )

    def scales_and_means(self, params: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the entropy model takes of ``params``, the output of ``h_s``: scales, no means."""
        return params, None

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Images ``(B, 3, H, W)`` -> ``x_hat`` of that shape and ``likelihoods`` of y and z."""
        y = self.g_a(x)
        z_hat, z_likelihood = self.entropy_bottleneck(self.h_a(y))
        scales, means = self.scales_and_means(self.h_s(z_hat))
        y_hat, y_likelihood = self.gaussian_conditional(y, scales, means=means)
        return {
            "x_hat": self.g_s(y_hat),
            "likelihoods": {"y": y_likelihood, "z": z_likelihood},
        }

    def aux_loss(self) -> Tensor:
        """What pulls the entropy bottleneck's quantiles to its density's tails and median."""
        return self.entropy_bottleneck.loss()


class MeanScaleHyperprior(ScaleHyperprior):
    """CompressAI's ``mbt2018-mean``: z tells the Gaussians' scales and means.

    ``h_s`` gives ``(B, 2M, h, w)``: M scales, then M means. What is coded is ``round(y - mean)``.
    ``h_a`` sees the latent with its signs.
    """

    def _make_hyper_transforms(self) -> None:
        n, m = self.N, self.M
        self.h_a = nn.Sequential(
            conv(m, n, 3, 1),
            nn.LeakyReLU(inplace=True),
            conv(n, n),
            nn.LeakyReLU(inplace=True),
            conv(n, n),
        )
        self.h_s = nn.Sequential(
            deconv(n, m),
            nn.LeakyReLU(inplace=True),
            deconv(m, m * 3 // 2),
            nn.LeakyReLU(inplace=True),
            conv(m * 3 // 2, m * 2, 3, 1),
        )

    def scales_and_means(self, params: Tensor) -> tuple[Tensor, Tensor | None]:
        """The halves of ``params (B, 2M, h, w)``, the output of ``h_s``: scales, means."""
        scales, means = params.chunk(2, dim=1)
        return scales, means
