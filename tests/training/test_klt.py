"""The KLT starting point is an orthonormal codec whose channels are ordered by energy."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from icmh_rt.models.slimmable_hyperprior import (  # noqa: E402
    SlimmableHyperprior,
    SlimmableHyperpriorConfig,
)
from icmh_rt.training.klt import initialise_klt  # noqa: E402


def _model(latents: int, channels: int) -> SlimmableHyperprior:
    torch.manual_seed(0)
    return SlimmableHyperprior(
        SlimmableHyperpriorConfig(
            widths=(1.0,),
            channels=(channels,),
            latent_channels=(latents,),
            hyper_channels=(8,),
            hyper_latent_channels=(4,),
            blocks_8=(1,),
            blocks_16=(1,),
        )
    )


def _images(count: int) -> torch.Tensor:
    """Low-pass noise: a few components hold most of its energy, as in photographs."""
    torch.manual_seed(1)
    coarse = torch.rand(count, 3, 12, 12)
    smooth = torch.nn.functional.interpolate(coarse, size=64, mode="bicubic")
    return (smooth + 0.05 * torch.rand(count, 3, 64, 64)).clamp(0, 1)


@torch.no_grad()
@pytest.mark.parametrize("channels", [192, 200])
def test_all_components_reconstruct_exactly(channels):
    model, images = _model(768, channels), _images(60)
    initialise_klt(model, images)
    x = images[:4] - 0.5
    # Spare stem channels carry noise that nothing reads yet.
    assert torch.allclose(model.g_s(model.g_a(x, 0), 0), x, atol=1e-4)


@torch.no_grad()
def test_channels_are_ordered_by_energy_and_truncate_gracefully():
    model, images = _model(64, 192), _images(60)
    initialise_klt(model, images)
    x = images - 0.5
    y = model.g_a(x, 0)
    energy = y.square().mean((0, 2, 3)).numpy()
    assert np.all(np.diff(energy) <= 1e-6)
    # Orthonormal rows: what is lost is just the energy of the components left out.
    lost = (model.g_s(y, 0) - x).square().sum().item()
    assert lost == pytest.approx((x.square().sum() - y.square().sum()).item(), rel=1e-3)
