"""Small codecs of every architecture that adapters know, and what is expected of them there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from icmh_rt.models import compressai_families
from icmh_rt.models.slimmable_hyperprior import SlimmableHyperprior, SlimmableHyperpriorConfig
from icmh_rt.models.slimmable_published import SlimmableFactorized
from icmh_rt.models.tic import TIC

SMALL = SlimmableHyperpriorConfig(
    widths=(0.5, 0.75, 1.0),
    channels=(8, 12, 16),
    latent_channels=(12, 14, 20),
    hyper_channels=(8, 8, 12),
    hyper_latent_channels=(4, 4, 8),
    blocks_8=(1, 2, 2),
    blocks_16=(1, 1, 2),
)


@dataclass(frozen=True)
class Codec:
    """One architecture.

    Args:
        build: makes a codec with random weights.
        g_a, g_s: the expected places with their channels, nearest the image first.
        strides: of the places in each transform.
        widths: arguments of the transforms behind the tensor; one entry a width.
        side: of the smallest image that g_a takes.
    """

    build: Callable[[], nn.Module]
    g_a: tuple[tuple[str, int], ...]
    g_s: tuple[tuple[str, int], ...]
    strides: tuple[int, ...] = (2, 4, 8)
    widths: tuple[tuple[int, ...], ...] = ((),)
    side: int = 64

    def __call__(self) -> nn.Module:
        """A codec in evaluation mode, with tables; the same one every time."""
        torch.manual_seed(0)
        model = self.build()
        with torch.no_grad():
            for parameter in model.parameters():  # zeros and identities hide mistakes
                parameter += 0.01 * torch.randn_like(parameter)
        if hasattr(model, "update"):
            model.update(force=True)
        return model.eval()

    def image(self) -> Tensor:
        """What g_a takes."""
        generator = torch.Generator().manual_seed(1)  # not the global one: threads call this
        return torch.rand(1, 3, self.side, self.side, generator=generator)

    def whole_image(self, model: nn.Module) -> Tensor:
        """What the whole codec takes."""
        side = max(self.side, getattr(model, "stride", 64))
        return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(2))


def _compressai(name: str, *sizes: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        pytest.importorskip("compressai", reason="compressai is not installed: nothing to adapt")
        from compressai import models

        return getattr(models, name)(*sizes)

    return build


def _at(channels: int, transform: str, *indexes: int) -> tuple[tuple[str, int], ...]:
    return tuple((f"{transform}.{index}", channels) for index in indexes)


# What conv, GDN, conv, GDN, conv, GDN, conv and its mirror have.
_GDN = {"g_a": _at(12, "g_a", 1, 3, 5), "g_s": _at(12, "g_s", 4, 2, 0)}

CODECS = {
    "tic": Codec(
        lambda: TIC(N=16, M=32),
        (("g_a1", 16), ("g_a3", 16), ("g_a5", 16)),
        (("g_s5", 16), ("g_s3", 16), ("g_s1", 16)),
        side=128,
    ),
    "default": Codec(
        lambda: SlimmableHyperprior(SMALL),
        (("g_a.stem", 16), ("g_a.down:input", 16), ("g_a.down", 20)),
        (("g_s.head:input", 16), ("g_s.blocks_8.0:input", 16), ("g_s.up:input", 20)),
        strides=(8, 8, 16),
        widths=((0,), (1,), (2,)),
    ),
    "our-factorized": Codec(lambda: compressai_families.FactorizedPrior(12, 16), **_GDN),
    "our-hyperprior": Codec(lambda: compressai_families.ScaleHyperprior(12, 16), **_GDN),
    "our-mean-scale": Codec(lambda: compressai_families.MeanScaleHyperprior(12, 16), **_GDN),
    "slimmable-factorized": Codec(
        lambda: SlimmableFactorized(24), _at(24, "g_a", 1, 3, 5), _at(24, "g_s", 4, 2, 0)
    ),
    "bmshj2018-factorized": Codec(_compressai("FactorizedPrior", 12, 16), **_GDN),
    "bmshj2018-hyperprior": Codec(_compressai("ScaleHyperprior", 12, 16), **_GDN),
    "mbt2018-mean": Codec(_compressai("MeanScaleHyperprior", 12, 16), **_GDN),
    "mbt2018": Codec(_compressai("JointAutoregressiveHierarchicalPriors", 12, 12), **_GDN),
    "cheng2020-anchor": Codec(
        _compressai("Cheng2020Anchor", 12), _at(12, "g_a", 1, 3, 5), _at(12, "g_s", 5, 3, 1)
    ),
    "cheng2020-attn": Codec(
        _compressai("Cheng2020Attention", 12), _at(12, "g_a", 1, 4, 6), _at(12, "g_s", 7, 4, 2)
    ),
}


def outputs(codec: Codec, model: nn.Module) -> dict[str, Any]:
    """What g_a and g_s give for one image at every width, in evaluation mode."""
    x = codec.image()
    found: dict[str, Any] = {}
    with torch.no_grad():
        for width in codec.widths:
            y = model.g_a(x, *width)
            found[f"y{width}"] = y
            found[f"x_hat{width}"] = model.g_s(torch.round(y), *width)
            if hasattr(model.g_a, "from_patches"):
                patches = torch.nn.functional.pixel_unshuffle(x, 8)
                found[f"patches{width}"] = model.g_a.from_patches(patches, *width)
    return found


def all_outputs(codec: Codec, model: nn.Module) -> dict[str, Any]:
    """The same, and what the whole codec gives: images, likelihoods and streams."""
    found = outputs(codec, model)
    x = codec.whole_image(model)
    with torch.no_grad():
        if codec.widths == ((),):
            result = model(x)
            found["forward"] = result["x_hat"]
            found |= {f"likelihood {key}": v for key, v in result["likelihoods"].items()}
        if hasattr(model, "compress"):
            packed = model.compress(x)
            found["strings"] = packed["strings"]
            found["decompressed"] = model.decompress(packed["strings"], packed["shape"])["x_hat"]
    return found


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Bit for bit (the sign of a zero apart), every entry."""
    assert a.keys() == b.keys()
    return all(
        torch.equal(a[key], b[key]) if isinstance(a[key], Tensor) else a[key] == b[key] for key in a
    )
