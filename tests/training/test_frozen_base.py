"""The bundle as a differentiable function: it is what the codec does."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("compressai")

from icmh_rt.bundle import load  # noqa: E402
from icmh_rt.codec import Decoder, Encoder  # noqa: E402
from icmh_rt.errors import BundleError, OptionError  # noqa: E402
from icmh_rt.training.frozen_base import FrozenBase  # noqa: E402


@pytest.fixture(scope="module")
def base():
    return FrozenBase(load("default")).eval()


def _picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:height, 0:width] / 32.0
    waves = np.stack([np.sin(x + y), np.cos(2 * y), np.sin(x * y)], -1)
    return (128 + 80 * waves + rng.normal(0, 8, (height, width, 3))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("quality", [1, 40, 100])
def test_it_is_the_codec(base, width, quality):
    picture = _picture(128, 192)
    x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255.0
    with torch.no_grad():
        coded = base(x, torch.tensor([quality]), base.config.width_index(width))
    report = Encoder(width=width, quality=quality, device="cpu", dtype="fp32").encode_detailed(
        picture
    )
    bits = coded.bpp.item() * picture.shape[0] * picture.shape[1]
    assert bits == pytest.approx(report.estimated_bits, rel=1e-3)
    decoded = Decoder(device="cpu", dtype="fp32").decode(report.data)
    found = (coded.decoded[0].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    # A symbol on the edge between two may fall to either side with other kernels.
    assert np.mean(found != decoded) < 1e-3 and np.abs(found - decoded).max() <= 2


def test_pictures_of_a_batch_do_not_touch(base):
    x = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    quality = torch.tensor([10, 80])
    with torch.no_grad():
        both = base(x, quality, 1)
        for slot in range(2):
            one = base(x[slot : slot + 1], quality[slot : slot + 1], 1)
            assert one.bpp.item() == pytest.approx(both.bpp[slot].item(), rel=1e-4)
            assert torch.allclose(one.decoded[0], both.decoded[slot], atol=2e-2)


def test_gradients_reach_the_picture(base):
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    coded = base(x, torch.tensor([50]), 3)
    for output in (coded.bpp.sum(), coded.decoded.square().mean()):
        (gradient,) = torch.autograd.grad(output, x, retain_graph=True)
        assert torch.isfinite(gradient).all() and (gradient != 0).float().mean() > 0.9


def test_nothing_of_it_learns(base):
    assert not any(p.requires_grad for p in base.parameters())


def test_sizes_it_cannot_take_are_refused(base):
    with pytest.raises(OptionError, match="multiples of 64"):
        base(torch.zeros(1, 3, 64, 80), torch.tensor([50]), 0)


def test_converted_checkpoints_are_refused():
    from icmh_rt.convert import bundle_of
    from icmh_rt.models import ScaleHyperprior

    with pytest.raises(BundleError, match="converted checkpoint"):
        FrozenBase(bundle_of(ScaleHyperprior(4, 6).eval(), name="other"))
