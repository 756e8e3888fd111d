"""The slimmable multi-task codecs of Cao et al., with their published state-dict keys.

"Slimmable multi-task image compression for human and machine vision", IEEE Access 11, 2023. One
analysis transform runs at several channel widths: the narrow one makes a latent for a detector,
which a *feature transform* turns into the 256-channel feature of YOLOv3 at stride 8 (the input of
its sixteenth layer); the full one makes a latent for an image.

A width w uses the first ``int(N * w)`` channels of every weight of g_a, h_a and h_s, GDN constants
of its own and an entropy bottleneck of its own. It is an argument of every call and never state
of the model, so threads may run one model at different widths.

What the published code does, and so do these:

- It takes the narrow path when the latent has the narrow width's channels. Then ``y_hat`` goes to
  ``latent_transform`` and there is no image; otherwise ``y_hat`` goes to ``g_s`` and there is no
  feature. ``g_s`` and ``latent_transform`` are not slimmable.
- The bottleneck ``entropy_bottleneck`` (N channels) belongs to the full width,
  ``entropy_bottleneck_fea`` to the narrow one. They code y in the factorized codec and z in the
  hyperprior.
- Symbols of a bottleneck are ``round(v - median)``, and the median is added back. Symbols of the
  hyperprior's y are ``round(y)``: there are no means.
- h_a sees ``abs(y)``. The last layer of h_s is linear: scales below the bound (0.11), also
  negative ones, count as the bound.
- The first convolution of g_a and the second one of h_s have no bias.
- h_s slices the weights of transposed convolutions, whose first axis is the input, as if it were
  the output; its layers have as many inputs as outputs at every width, so nothing comes of it.
- Outside of training, quantization rounds (half to even); in training, it adds uniform noise.

The published code has room for two widths: only the narrowest and the full one have a bottleneck
and a decoder. Here every width below 1 may have them (``feature_widths``); those of widths in
between are filed under ``entropy_bottleneck_fea1``, ``latent_transform1``, ...
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icmh_rt.errors import OptionError
from icmh_rt.models.entropy import EntropyBottleneck, GaussianConditional
from icmh_rt.models.gdn import SwitchableGDN, deconv, gdn_synthesis

PUBLISHED_WIDTHS = (0.67, 1.0)
FEATURE_CHANNELS = 256
FEATURE_STRIDE = 8


class Widths:
    """Which widths a model has, and how many channels each of them uses. Immutable.

    Args:
        n: channels at full width.
        values: ascending multipliers in (0, 1], the last one 1; width w uses ``int(n * w)``
            channels.

    Raises:
        OptionError: other values, or two widths with equally many channels.
    """

    def __init__(self, n: int, values: Sequence[float]) -> None:
        self.values = tuple(float(value) for value in values)
        self.channels = tuple(int(n * value) for value in self.values)
        rising = (0, *self.channels)
        if n < 1 or not self.values or self.values[-1] != 1.0:
            raise OptionError(f"widths are {list(values)} of {n} channels: the last must be 1")
        if not all(a < b for a, b in itertools.pairwise(rising)):
            raise OptionError(
                f"widths {list(values)} of {n} channels use {list(self.channels)} channels: give "
                "widths that use more channels each"
            )
        self.n = n

    def index(self, width: float) -> int:
        """Position of ``width``; any width with as many channels as one of the model's is it.

        Raises:
            OptionError: the model has no such width.
        """
        if isinstance(width, numbers.Real) and not isinstance(width, bool) and 0 < width <= 1:
            for index, value in enumerate(self.values):
                if math.isclose(width, value, abs_tol=1e-6):
                    return index
            if int(self.n * width) in self.channels:
                return self.channels.index(int(self.n * width))
        raise OptionError(f"width {width!r} is not one of this model's: {list(self.values)}")


class SlimmableConv2d(nn.Conv2d):
    """A convolution of which each width uses the first input and output channels."""

    def __init__(
        self,
        channels_in: Sequence[int],
        channels_out: Sequence[int],
        kernel: int,
        stride: int,
        bias: bool = True,
    ) -> None:
        super().__init__(
            max(channels_in), max(channels_out), kernel, stride, kernel // 2, bias=bias
        )
        self.used = tuple(zip(channels_in, channels_out, strict=True))

    def forward(self, x: Tensor, index: int) -> Tensor:
        """``x (B, channels_in[index], H, W)``."""
        used_in, used_out = self.used[index]
        bias = None if self.bias is None else self.bias[:used_out]
        return F.conv2d(x, self.weight[:used_out, :used_in], bias, self.stride, self.padding)


class SlimmableConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution of which each width uses the first channels, in and out.

    Args:
        channels: input and output channels of each width.
    """

    def __init__(
        self, channels: Sequence[int], kernel: int, stride: int, bias: bool = True
    ) -> None:
        n = max(channels)
        super().__init__(n, n, kernel, stride, kernel // 2, output_padding=stride - 1, bias=bias)
        self.used = tuple(channels)

    def forward(self, x: Tensor, index: int) -> Tensor:
        """``x (B, channels[index], H, W)``."""
        used = self.used[index]
        bias = None if self.bias is None else self.bias[:used]
        return F.conv_transpose2d(
            x, self.weight[:used, :used], bias, self.stride, self.padding, self.output_padding
        )


_SLIMMABLE = (SlimmableConv2d, SlimmableConvTranspose2d, SwitchableGDN)


class SlimmableTransform(nn.Sequential):
    """Layers in a row, some of them slimmable; called with a tensor and a width."""

    def __init__(self, widths: Widths, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.widths = widths

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        index = self.widths.index(width)
        for layer in self:
            x = layer(x, index) if isinstance(layer, _SLIMMABLE) else layer(x)
        return x


class _MagnitudeTransform(SlimmableTransform):
    """The same on ``abs(x)``; so it does not matter whether the caller took it already."""

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        return super().forward(torch.abs(x), width)


class FullWidthSynthesis(nn.Sequential):
    """The image decoder. It is not slimmable: only the full width has images."""

    def __init__(self, widths: Widths) -> None:
        super().__init__(*gdn_synthesis(widths.n, widths.n))
        self.widths = widths

    def forward(self, y_hat: Tensor, width: float = 1.0) -> Tensor:
        """``(B, N, h, w)`` -> images ``(B, 3, 16h, 16w)``.

        Raises:
            OptionError: ``width`` is not the full one.
        """
        if self.widths.index(width) != len(self.widths.values) - 1:
            raise OptionError(
                f"width {width!r} has no image decoder: use width 1, or feature() for its feature"
            )
        return super().forward(y_hat)


def _feature_transform(channels: int, n: int) -> nn.Sequential:
    """Latent ``(B, channels, h, w)`` -> feature ``(B, 256, 2h, 2w)``."""
    return nn.Sequential(
        deconv(channels, n, 5, 2),
        nn.LeakyReLU(inplace=True),
        deconv(n, n, 5, 1),
        nn.LeakyReLU(inplace=True),
        deconv(n, n, 3, 1),
        nn.LeakyReLU(inplace=True),
        deconv(n, FEATURE_CHANNELS, 3, 1),
    )


class _Slimmable(nn.Module):
    """What both codecs share: g_a, g_s, and bottleneck and feature transform of each width."""

    stride = 64
    latent_stride = 16
    feature_stride = FEATURE_STRIDE

    def __init__(
        self, N: int, widths: Sequence[float], feature_widths: Sequence[float] | None
    ) -> None:
        super().__init__()
        self.N = N
        self.widths = Widths(N, widths)
        self.latent_channels: int = N
        self.hyper_channels: int | None = None
        c = self.widths.channels
        narrow = self.widths.values[:-1] if feature_widths is None else feature_widths
        self._feature_indexes = tuple(sorted({self.widths.index(width) for width in narrow}))

        self.entropy_bottleneck = EntropyBottleneck(N)
        layers: list[nn.Module] = [SlimmableConv2d([3] * len(c), c, 5, 2, bias=False)]
        for _ in range(3):
            layers += [SwitchableGDN(c), SlimmableConv2d(c, c, 5, 2)]
        self.g_a = SlimmableTransform(self.widths, *layers)
        self.g_s = FullWidthSynthesis(self.widths)
        for index in self._feature_indexes:
            suffix = self._suffix(index)
            self.add_module("latent_transform" + suffix, _feature_transform(c[index], N))
            self.add_module("entropy_bottleneck_fea" + suffix, EntropyBottleneck(c[index]))

    @staticmethod
    def _suffix(index: int) -> str:
        return str(index) if index else ""

    @property
    def feature_widths(self) -> tuple[float, ...]:
        """The widths that give a feature; the full width gives an image unless it is one."""
        return tuple(self.widths.values[index] for index in self._feature_indexes)

    def channels_at(self, width: float) -> int:
        """Channels of y (and z) at ``width``."""
        return self.widths.channels[self.widths.index(width)]

    def _gives_feature(self, width: float) -> bool:
        index = self.widths.index(width)
        if index in self._feature_indexes:
            return True
        if index == len(self.widths.values) - 1:
            return False
        raise OptionError(
            f"width {width!r} has no bottleneck and decoder in this model: use one of "
            f"{[*self.feature_widths, 1.0]}"
        )

    def bottleneck(self, width: float = 1.0) -> EntropyBottleneck:
        """The entropy bottleneck of ``width``: of y in the factorized codec, else of z.

        Raises:
            OptionError: the model has no such width, or no bottleneck for it.
        """
        if not self._gives_feature(width):
            return self.entropy_bottleneck
        suffix = self._suffix(self.widths.index(width))
        return self.get_submodule("entropy_bottleneck_fea" + suffix)

    def feature(self, y_hat: Tensor, width: float = PUBLISHED_WIDTHS[0]) -> Tensor:
        """Latent ``(B, C, h, w)`` of a narrow width -> YOLOv3 feature ``(B, 256, 2h, 2w)``.

        Raises:
            OptionError: ``width`` has no feature transform.
        """
        if not self._gives_feature(width):
            raise OptionError(
                f"width {width!r} has no feature transform: use one of {list(self.feature_widths)}"
            )
        suffix = self._suffix(self.widths.index(width))
        return self.get_submodule("latent_transform" + suffix)(y_hat)

    def aux_loss(self) -> Tensor:
        """What pulls the bottlenecks' quantiles to their densities' tails and medians, summed over
        all widths.
        """
        bottlenecks = (m for m in self.modules() if isinstance(m, EntropyBottleneck))
        return torch.stack([bottleneck.loss() for bottleneck in bottlenecks]).sum()

    def _outputs(self, y_hat: Tensor, likelihoods: dict[str, Tensor], width: float) -> dict:
        if self._gives_feature(width):
            decoded = {"fea": self.feature(y_hat, width)}
        else:
            decoded = {"x_hat": self.g_s(y_hat, width)}
        return {"y_hat": y_hat, **decoded, "likelihoods": likelihoods}


class SlimmableFactorized(_Slimmable):
    """The published ``Slimable_Modelgdn``: a factorized prior.

    Args:
        N: channels at full width, of the latent too.
        widths: ascending multipliers, the last one 1.
        feature_widths: those of the widths that have a bottleneck and a feature transform; all
            but the full one if None. The published models have the narrowest only.

    Raises:
        OptionError: the widths are not of that form.
    """

    def __init__(
        self,
        N: int = 192,
        widths: Sequence[float] = PUBLISHED_WIDTHS,
        feature_widths: Sequence[float] | None = None,
    ) -> None:
        super().__init__(N, widths, feature_widths)

    def forward(self, x: Tensor, width: float = 1.0) -> dict[str, Any]:
        """Images ``(B, 3, H, W)`` in [0, 1], H and W multiples of 16, -> the published dictionary.

        Returns:
            ``y_hat (B, C, H/16, W/16)``; ``x_hat (B, 3, H, W)`` at full width, or ``fea (B, 256,
            H/8, W/8)`` at a narrow one; ``likelihoods``: ``y``.

        Raises:
            OptionError: the model has no such width.
        """
        y_hat, likelihood = self.bottleneck(width)(self.g_a(x, width))
        return self._outputs(y_hat, {"y": likelihood}, width)


class SlimmableHyper(_Slimmable):
    """The published ``Slimable_HyperModelgdn``: a scale hyperprior.

    Arguments and errors as `SlimmableFactorized`.
    """

    def __init__(
        self,
        N: int = 192,
        widths: Sequence[float] = PUBLISHED_WIDTHS,
        feature_widths: Sequence[float] | None = None,
    ) -> None:
        super().__init__(N, widths, feature_widths)
        self.hyper_channels = N
        c = self.widths.channels
        self.h_a = _MagnitudeTransform(
            self.widths,
            SlimmableConv2d(c, c, 3, 1),
            nn.LeakyReLU(inplace=True),
            SlimmableConv2d(c, c, 5, 2),
            nn.LeakyReLU(inplace=True),
            SlimmableConv2d(c, c, 5, 2),
        )
        self.h_s = SlimmableTransform(
            self.widths,
            SlimmableConvTranspose2d(c, 5, 2),
            nn.LeakyReLU(inplace=True),
            SlimmableConvTranspose2d(c, 5, 2, bias=False),
            nn.LeakyReLU(inplace=True),
            SlimmableConvTranspose2d(c, 3, 1),
        )
        self.gaussian_conditional = GaussianConditional()

    def scales_and_means(self, params: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the entropy model takes of ``params``, the output of ``h_s``: scales, no means."""
        return params, None

    def forward(self, x: Tensor, width: float = 1.0) -> dict[str, Any]:
        """Images ``(B, 3, H, W)`` in [0, 1], H and W multiples of 64, -> the published dictionary.

        Returns:
            ``y_hat (B, C, H/16, W/16)``; ``x_hat (B, 3, H, W)`` at full width, or ``fea (B, 256,
            H/8, W/8)`` at a narrow one; ``likelihoods``: ``y`` and ``z``.

        Raises:
            OptionError: the model has no such width.
        """
        bottleneck = self.bottleneck(width)
        y = self.g_a(x, width)
        z_hat, z_likelihood = bottleneck(self.h_a(y, width))
        y_hat, y_likelihood = self.gaussian_conditional(y, self.h_s(z_hat, width))
        return self._outputs(y_hat, {"y": y_likelihood, "z": z_likelihood}, width)
