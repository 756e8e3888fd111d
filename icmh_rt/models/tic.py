"""TIC: transformer-based image compression, alone or with spatial-frequency adapters.

Lu et al., "Transformer-based image compression" (DCC 2022), in the form of Li et al., "Image
compression for machine and human vision with spatial-frequency adaptation" (ECCV 2024): strided
convolutions with residual Swin blocks between them, a mean-scale hyperprior, and for machine tasks
three adapters in the encoder and three in the decoder. State dicts of the published models load
strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from icmh_rt.models.entropy import EntropyBottleneck, GaussianConditional
from icmh_rt.models.sfma import SFMA
from icmh_rt.models.swin import ResidualSwin

DEPTHS = (2, 4, 6, 2, 2, 2)  # blocks at 1/2, 1/4, 1/8, 1/16, 1/32 and 1/64
HEADS = (8, 8, 8, 16, 16, 16)
WINDOW, HYPER_WINDOW = 8, 4
MAX_DROP_PATH = 0.1


class TIC(nn.Module):
    """The codec's transforms and entropy models.

    Args:
        N: channels of the features and of the hyper-latent; a multiple of 16.
        M: channels of the latent; a multiple of 16.
        adapters: False for the base codec, True for six SFMAs of 64 middle channels, a number for
            that many middle channels, a mapping for `SFMA`'s arguments (``middle``, ``factor``).

    Attributes:
        stride: images are padded to multiples of it (at the bottom and the right): windows of 4
            at 1/64 resolution.
        latent_stride: pixels a latent, along each axis.
        latent_channels, hyper_channels: M and N.
    """

    stride = 256
    latent_stride = 16

    def __init__(
        self, N: int = 128, M: int = 192, adapters: bool | int | Mapping[str, Any] = False
    ) -> None:
        super().__init__()
        self.latent_channels, self.hyper_channels = M, N
        if adapters is not False:
            options = _adapter_options(adapters)
            self.encoder_sfmas = nn.Sequential(*(SFMA(N, **options) for _ in range(3)))
            self.decoder_sfmas = nn.Sequential(*(SFMA(N, **options) for _ in range(3)))

        rates = [MAX_DROP_PATH * i / (sum(DEPTHS) - 1) for i in range(sum(DEPTHS))]

        def swin(channels: int, level: int, first: int, **options: Any) -> ResidualSwin:
            """The blocks of a level (0: 1/2 ... 5: 1/64); ``first`` counts blocks before them."""
            depth = DEPTHS[level]
            window = WINDOW if level < 4 else HYPER_WINDOW
            drop_path = rates[first : first + depth]
            return ResidualSwin(
                channels, depth, HEADS[level], window, drop_path=drop_path, **options
            )

        self.g_a0 = _down(3, N, 5)
        self.g_a1 = swin(N, 0, 0)
        self.g_a2 = _down(N, N, 3)
        self.g_a3 = swin(N, 1, 2)
        self.g_a4 = _down(N, N, 3)
        self.g_a5 = swin(N, 2, 6)
        self.g_a6 = _down(N, M, 3)
        self.g_a7 = swin(M, 3, 12)

        self.h_a0 = _down(M, N, 3)
        self.h_a1 = swin(N, 4, 14)
        self.h_a2 = _down(N, N, 3)
        # One window covers a 256-pixel training crop at 1/64, and the published code then does
        # not shift, whatever the image's size.
        self.h_a3 = swin(N, 5, 16, shifted=False)
        self.h_s0 = swin(N, 5, 0, shifted=False)
        self.h_s1 = _up(N, N, 3)
        self.h_s2 = swin(N, 4, 2)
        self.h_s3 = _up(N, 2 * M, 3)

        self.entropy_bottleneck = EntropyBottleneck(N)
        self.gaussian_conditional = GaussianConditional()

        self.g_s0 = swin(M, 3, 4)
        self.g_s1 = _up(M, N, 3)
        self.g_s2 = swin(N, 2, 6)
        self.g_s3 = _up(N, N, 3)
        self.g_s4 = swin(N, 1, 12)
        self.g_s5 = _up(N, N, 3)
        self.g_s6 = swin(N, 0, 16)
        self.g_s7 = _up(N, 3, 5)

        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @property
    def has_adapters(self) -> bool:
        """Whether it has the published adapters built in."""
        return hasattr(self, "encoder_sfmas")

    def _adapt(self, side: str, level: int, x: Tensor) -> Tensor:
        """The adapter's result; ``x`` is a stage's own output, which nothing else needs."""
        return getattr(self, f"{side}_sfmas")[level](x) if self.has_adapters else x

    def g_a(self, x: Tensor) -> Tensor:
        """Image ``(B, 3, H, W)`` in [0, 1], multiples of 128 -> y ``(B, M, H/16, W/16)``."""
        x = x.contiguous(memory_format=torch.channels_last)
        x = self._adapt("encoder", 0, self.g_a1(self.g_a0(x)))
        x = self._adapt("encoder", 1, self.g_a3(self.g_a2(x)))
        x = self._adapt("encoder", 2, self.g_a5(self.g_a4(x)))
        return self.g_a7(self.g_a6(x))

    def h_a(self, y: Tensor) -> Tensor:
        """y ``(B, M, h, w)``, h and w multiples of 16 -> z ``(B, N, h/4, w/4)``."""
        return self.h_a3(self.h_a2(self.h_a1(self.h_a0(y))))

    def h_s(self, z_hat: Tensor) -> Tensor:
        """z ``(B, N, h, w)`` -> ``(B, 2 M, 4 h, 4 w)``: scales, then means: ``.chunk(2, 1)``."""
        return self.h_s3(self.h_s2(self.h_s1(self.h_s0(z_hat))))

    def g_s(self, y_hat: Tensor) -> Tensor:
        """y ``(B, M, h, w)``, h and w multiples of 8 -> image ``(B, 3, 16 h, 16 w)``, unclamped."""
        x = self._adapt("decoder", 2, self.g_s1(self.g_s0(y_hat)))
        x = self._adapt("decoder", 1, self.g_s3(self.g_s2(x)))
        x = self._adapt("decoder", 0, self.g_s5(self.g_s4(x)))
        return self.g_s7(self.g_s6(x))

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Return the published dictionary for images ``(B, 3, H, W)``, H and W multiples of 256.

        ``x_hat`` and ``likelihoods`` (``y``, ``z``). The image is made of rounded latents also in
        training, with the gradient of the identity; only the likelihoods see noise then.
        ``attn_a`` and ``attn_s`` hold a None for every block, as the published code returns.
        """
        y = self.g_a(x)
        z = self.h_a(y)
        _, z_likelihoods = self.entropy_bottleneck(z)
        medians = self.entropy_bottleneck.medians[:, None, None]
        z_hat = round_straight_through(z - medians) + medians
        scales, means = self.h_s(z_hat).chunk(2, 1)
        _, y_likelihoods = self.gaussian_conditional(y, scales, means)
        x_hat = self.g_s(round_straight_through(y - means) + means)
        return {
            "x_hat": x_hat,
            "likelihoods": {"y": y_likelihoods, "z": z_likelihoods},
            "attn_a": [[None] * depth for depth in DEPTHS[:4]],
            "attn_s": [[None] * depth for depth in DEPTHS[3::-1]],
        }

    def aux_loss(self) -> Tensor:
        """The auxiliary loss of the entropy bottleneck."""
        return self.entropy_bottleneck.loss()


def round_straight_through(x: Tensor) -> Tensor:
    """round(x), differentiated as x."""
    return x + (torch.round(x) - x).detach()


def _adapter_options(adapters: bool | int | Mapping[str, Any]) -> dict[str, Any]:
    if adapters is True:
        return {}
    return dict(adapters) if isinstance(adapters, Mapping) else {"middle": adapters}


def _down(channels_in: int, channels_out: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel, stride=2, padding=kernel // 2)


def _up(channels_in: int, channels_out: int, kernel: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(
        channels_in, channels_out, kernel, stride=2, padding=kernel // 2, output_padding=1
    )
