"""The default codec: a slimmable mean-scale hyperprior on a depth-conv backbone.

Mean-scale hyperprior: Minnen, Ballé, Toderici, "Joint autoregressive and hierarchical priors for
learned image compression", NeurIPS 2018, section 3 (without the context model). Gain vectors: Cui
et al., "Asymmetric gained deep image compression with continuous rate adaptation", CVPR 2021.
Exactness of the hyper-synthesis after folding: Ballé, Johnston, Minnen, "Integer networks for
data compression with latent-variable models", ICLR 2019; the float network here has just the
operations that ``models.integer_network`` can run in integers.

All transforms work on *ungained* latents; quality enters as a per-channel quantization step: the
coded symbol is ``round(gain * y - gain * mean)`` and its scale index is the predicted one plus
``log(gain)`` in index units. So one hyperprior serves every quality, and its quality dependence
is a table of integers.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icmh_rt.bitstream import MAX_QUALITY, MIN_QUALITY
from icmh_rt.errors import OptionError
from icmh_rt.models.slimmable import (
    DepthConvBlock,
    SlimConv3x3,
    SlimDepthwise3x3,
    SlimPointwise,
)

PATCH = 8  # pixel-unshuffle factor of the stem
_PER_WIDTH = (
    "channels",
    "latent_channels",
    "hyper_channels",
    "hyper_latent_channels",
    "blocks_8",
    "blocks_16",
)
_MAX_CHANNELS, _MAX_BLOCKS = 2**14, 64
_SCALARS = (
    ("gain_anchors", 2, 100),
    ("lambda_min", 1e-9, 1e9),
    ("lambda_max", 1e-9, 1e9),
    ("scale_min", 1e-6, 1e6),
    ("scale_max", 1e-6, 1e6),
    ("scale_levels", 2, 256),
)
"""Values with the least and the most that they may be; whole numbers where these are."""


@dataclass(frozen=True)
class SlimmableHyperpriorConfig:
    """Sizes of the default codec; one entry a width in every tuple, ascending.

    ``channels``: feature maps at 1/8 resolution. ``latent_channels``: M, at 1/16; it falls slower
    than ``channels`` because a narrow latent caps the quality while costing little time.
    ``hyper_latent_channels``: at 1/64. ``blocks_8``/``blocks_16``: how many depth-conv blocks run
    at 1/8 and 1/16, the first ones of each stage: at narrow widths a block costs more time than
    its few channels bring. ``lambda_min``/``lambda_max``: rate-distortion trade-off at quality 1
    and 100, geometric in between, in the convention of CompressAI (bpp + lambda 255² MSE).
    """

    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    channels: tuple[int, ...] = (64, 128, 192, 256)
    latent_channels: tuple[int, ...] = (192, 224, 256, 320)
    hyper_channels: tuple[int, ...] = (48, 64, 80, 96)
    hyper_latent_channels: tuple[int, ...] = (32, 48, 56, 64)
    blocks_8: tuple[int, ...] = (2, 3, 3, 3)
    blocks_16: tuple[int, ...] = (1, 2, 3, 3)
    gain_anchors: int = 8
    lambda_min: float = 0.0004
    lambda_max: float = 0.14
    scale_min: float = 0.11
    scale_max: float = 256.0
    scale_levels: int = 64

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SlimmableHyperpriorConfig:
        """From what `to_dict` gave, also after a way through JSON.

        Raises:
            OptionError: an unknown name, tuples of other lengths than ``widths``, or a size that no
                model has.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise OptionError(f"unknown sizes {', '.join(map(repr, sorted(unknown)))}")
        sizes: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        config = cls(**sizes)
        if not isinstance(config.widths, tuple) or not config.widths:
            raise OptionError(f"widths is {config.widths!r}: give a list of numbers")
        for name in _PER_WIDTH:
            value = getattr(config, name)
            if not isinstance(value, tuple) or len(value) != len(config.widths):
                raise OptionError(f"{name} is {value!r}: give one value for each of the widths")
            most, least = (_MAX_BLOCKS, 0) if name.startswith("blocks") else (_MAX_CHANNELS, 1)
            if not all(type(v) is int and least <= v <= most for v in value):
                raise OptionError(f"{name} is {value!r}: give whole numbers {least} to {most}")
            if list(value) != sorted(value):
                raise OptionError(f"{name} is {value!r}: widths are prefixes, so it must not fall")
        for name, low, high in _SCALARS:
            value = getattr(config, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            whole = isinstance(low, float) or type(value) is int
            if not (number and whole and low <= value <= high):
                raise OptionError(f"{name} is {value!r}: give {low} to {high}")
        if not config.scale_min < config.scale_max:
            raise OptionError(f"scale_min is {config.scale_min}: give less than scale_max")
        return config

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def log_scale_step(self) -> float:
        """Natural-log distance between neighbouring rows of the scale table."""
        return math.log(self.scale_max / self.scale_min) / (self.scale_levels - 1)

    def width_index(self, width: float) -> int:
        """Position of ``width`` in ``widths``; OptionError when the model has no such width."""
        for index, value in enumerate(self.widths):
            if math.isclose(value, width, abs_tol=1e-6):
                return index
        raise OptionError(f"width {width!r} is not one of this model's widths {list(self.widths)}")

    def lambda_of(self, quality: Tensor) -> Tensor:
        """Rate-distortion trade-off of ``quality`` (any shape, 1–100)."""
        t = (quality - MIN_QUALITY) / (MAX_QUALITY - MIN_QUALITY)
        return self.lambda_min * (self.lambda_max / self.lambda_min) ** t


class Analysis(nn.Module):
    """g_a: image ``(N, 3, H, W)``, H and W multiples of 16 -> latent ``(N, M, H/16, W/16)``."""

    def __init__(self, config: SlimmableHyperpriorConfig) -> None:
        super().__init__()
        c, m = config.channels, config.latent_channels
        self.depth_8, self.depth_16 = config.blocks_8, config.blocks_16
        self.stem = SlimPointwise([3 * PATCH * PATCH] * len(c), c)
        self.blocks_8 = nn.ModuleList(DepthConvBlock(c) for _ in range(max(config.blocks_8)))
        self.down = SlimConv3x3(c, m, stride=2)
        self.blocks_16 = nn.ModuleList(DepthConvBlock(m) for _ in range(max(config.blocks_16)))

    def forward(self, x: Tensor, width: int) -> Tensor:
        patches = F.pixel_unshuffle(x, PATCH)
        return self.from_patches(patches.contiguous(memory_format=torch.channels_last), width)

    def from_patches(self, x: Tensor, width: int) -> Tensor:
        """The same from ``pixel_unshuffle(image, 8)``, ``(N, 192, H/8, W/8)``, channels-last."""
        x = self.stem(x, width)
        for block in self.blocks_8[: self.depth_8[width]]:
            x = block(x, width)
        x = self.down(x, width)
        for block in self.blocks_16[: self.depth_16[width]]:
            x = block(x, width)
        return x


class Synthesis(nn.Module):
    """g_s: latent ``(N, M, h, w)`` -> image ``(N, 3, 16h, 16w)``; the mirror of
    :class:`Analysis`.
    """

    def __init__(self, config: SlimmableHyperpriorConfig) -> None:
        super().__init__()
        c, m = config.channels, config.latent_channels
        self.depth_8, self.depth_16 = config.blocks_8, config.blocks_16
        self.blocks_16 = nn.ModuleList(DepthConvBlock(m) for _ in range(max(config.blocks_16)))
        self.up = SlimPointwise(m, [4 * n for n in c])
        self.blocks_8 = nn.ModuleList(DepthConvBlock(c) for _ in range(max(config.blocks_8)))
        self.head = SlimPointwise(c, [3 * PATCH * PATCH] * len(c))

    def forward(self, y: Tensor, width: int) -> Tensor:
        return F.pixel_shuffle(self.to_patches(y, width), PATCH)

    def to_patches(self, y: Tensor, width: int) -> Tensor:
        """``pixel_unshuffle(image, 8)``, ``(N, 192, 2h, 2w)``."""
        y = y.contiguous(memory_format=torch.channels_last)
        for block in self.blocks_16[: self.depth_16[width]]:
            y = block(y, width)
        x = F.pixel_shuffle(self.up(y, width), 2).contiguous(memory_format=torch.channels_last)
        for block in self.blocks_8[: self.depth_8[width]]:
            x = block(x, width)
        return self.head(x, width)


class HyperAnalysis(nn.Module):
    """h_a: latent ``(N, M, h, w)``, h and w multiples of 4 -> ``(N, Z, h/4, w/4)``."""

    def __init__(self, config: SlimmableHyperpriorConfig) -> None:
        super().__init__()
        m, h, z = config.latent_channels, config.hyper_channels, config.hyper_latent_channels
        self.project = SlimPointwise(m, h)
        self.down_1 = SlimConv3x3(h, h, stride=2)
        self.down_2 = SlimConv3x3(h, z, stride=2)
        with torch.no_grad():
            # Ungained latents are small numbers (an orthonormal transform of pixels in +-0.5):
            # bring them to the range in which they differ from zero after quantization at middle
            # quality.
            self.project.weight *= 4.0

    def forward(self, y: Tensor, width: int) -> Tensor:
        y = y.contiguous(memory_format=torch.channels_last)
        x = F.silu(self.project(y, width))
        return self.down_2(F.silu(self.down_1(x, width)), width)


class HyperSynthesis(nn.Module):
    """h_s: dequantized hyper-latent ``(N, Z, h, w)`` -> mean and scale index ``(N, M, 4h, 4w)``
    each.

    Both are of the ungained latent; the scale comes as a real-valued index into the geometric scale
    table. Only ReLU, 1x1, 3x3 and depthwise layers: what the integer network has.
    """

    def __init__(self, config: SlimmableHyperpriorConfig) -> None:
        super().__init__()
        m, h, z = config.latent_channels, config.hyper_channels, config.hyper_latent_channels
        self.context_64 = SlimConv3x3(z, h)
        self.up_32 = SlimPointwise(h, [4 * n for n in h])
        self.context_32 = SlimConv3x3(h, h)
        self.up_16 = SlimPointwise(h, [4 * n for n in h])
        self.context_16 = SlimDepthwise3x3(h)
        self.mean = SlimPointwise(h, m)
        self.scale = SlimPointwise(h, m)
        with torch.no_grad():
            for layer in (self.context_64, self.up_32, self.context_32, self.up_16):
                layer.weight *= math.sqrt(2.0)  # ReLU halves the variance
            self.mean.weight *= 0.01
            # sigma about 0.2 before gain: latents of natural images at mid frequencies
            self.scale.bias += math.log(0.2 / config.scale_min) / config.log_scale_step

    def forward(self, z: Tensor, width: int) -> tuple[Tensor, Tensor]:
        z = z.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.context_64(z, width))
        x = F.pixel_shuffle(F.relu(self.up_32(x, width)), 2)
        x = F.relu(self.context_32(x.contiguous(memory_format=torch.channels_last), width))
        x = F.pixel_shuffle(F.relu(self.up_16(x, width)), 2)
        x = F.relu(self.context_16(x.contiguous(memory_format=torch.channels_last), width))
        return self.mean(x, width), self.scale(x, width)


class QualityTables(nn.Module):
    """Learned per-channel quantization of latents and hyper-latents, over quality and width.

    Anchors lie evenly on the quality axis, per width; logarithms are interpolated linearly, that is
    gains geometrically. ``log_gain``: latent gain (1 / step). ``log_hyper_gain``: the same for the
    hyper-latent. ``hyper_scale``: index of the zero-mean Gaussian that codes the hyper-latent
    symbol.
    """

    def __init__(self, config: SlimmableHyperpriorConfig) -> None:
        super().__init__()
        widths, anchors = len(config.widths), config.gain_anchors
        m, z = max(config.latent_channels), max(config.hyper_latent_channels)
        quality = torch.linspace(MIN_QUALITY, MAX_QUALITY, anchors)
        # An orthonormal transform of pixels in [0, 1], uniform quantization with step d: distortion
        # falls with d²/12 a coefficient and rate with log2(1/d); setting the derivative of
        # R + lambda 255² D (768 coefficients a 16x16 block of 256 pixels) to zero gives
        # d² = 18 / (lambda 255² ln 2).
        gain = 255.0 * torch.sqrt(config.lambda_of(quality) * math.log(2.0) / 18.0)
        self.log_gain = nn.Parameter(gain.log()[None, :, None].repeat(widths, 1, m))
        hyper_gain = (gain / gain.max()) ** 0.5 * 2.0
        self.log_hyper_gain = nn.Parameter(hyper_gain.log()[None, :, None].repeat(widths, 1, z))
        self.hyper_scale = nn.Parameter(
            (hyper_gain / config.scale_min).log()[None, :, None].repeat(widths, 1, z)
            / config.log_scale_step
        )

    def _interpolate(self, table: Tensor, quality: Tensor) -> Tensor:
        """``table (anchors, C)`` at ``quality (N,)`` -> ``(N, C, 1, 1)``."""
        last = table.shape[0] - 1
        position = (quality - MIN_QUALITY) / (MAX_QUALITY - MIN_QUALITY) * last
        low = position.floor().clamp(0, last - 1).long()
        fraction = (position - low)[:, None]
        return (table[low] * (1 - fraction) + table[low + 1] * fraction)[:, :, None, None]

    def forward(self, quality: Tensor, width: int, m: int, z: int) -> tuple[Tensor, Tensor, Tensor]:
        """log gain ``(N, m, 1, 1)``, log hyper-gain and hyper-scale index ``(N, z, 1, 1)``."""
        return (
            self._interpolate(self.log_gain[width, :, :m], quality),
            self._interpolate(self.log_hyper_gain[width, :, :z], quality),
            self._interpolate(self.hyper_scale[width, :, :z], quality),
        )


class SlimmableHyperprior(nn.Module):
    """The default codec's four transforms and its quality tables.

    ``g_a``, ``h_a``, ``h_s`` and ``g_s`` take plain tensors and a width *index*; images are RGB in
    [0, 1] less 0.5. Entropy coding lives in ``icmh_rt.codec``, training losses in
    ``icmh_rt.training``.
    """

    def __init__(self, config: SlimmableHyperpriorConfig | None = None) -> None:
        super().__init__()
        self.config = config or SlimmableHyperpriorConfig()
        self.g_a = Analysis(self.config)
        self.g_s = Synthesis(self.config)
        self.h_a = HyperAnalysis(self.config)
        self.h_s = HyperSynthesis(self.config)
        self.quality_tables = QualityTables(self.config)

    def quality_vectors(self, quality: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """:class:`QualityTables` at the channel counts of width index ``width``."""
        c = self.config
        return self.quality_tables(
            quality, width, c.latent_channels[width], c.hyper_latent_channels[width]
        )
