"""The default codec's transforms: widths are prefixes, fast forms equal their plain twins."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from icmh_rt.errors import OptionError  # noqa: E402
from icmh_rt.models.slimmable import (  # noqa: E402
    DepthConvBlock,
    SlimConv3x3,
    SlimDepthwise3x3,
    SlimPointwise,
    pointwise,
)
from icmh_rt.models.slimmable_hyperprior import (  # noqa: E402
    PATCH,
    SlimmableHyperprior,
    SlimmableHyperpriorConfig,
)

SMALL = SlimmableHyperpriorConfig(
    widths=(0.5, 1.0),
    channels=(8, 16),
    latent_channels=(12, 20),
    hyper_channels=(8, 12),
    hyper_latent_channels=(4, 8),
    blocks_8=(1, 2),
    blocks_16=(1, 2),
)


@pytest.fixture
def model() -> SlimmableHyperprior:
    torch.manual_seed(0)
    built = SlimmableHyperprior(SMALL)
    for parameter in built.parameters():  # blocks start as identities: give them something to do
        parameter.data += 0.05 * torch.randn_like(parameter)
    return built.eval().requires_grad_(False)


def _run(model: SlimmableHyperprior, width: int) -> list[torch.Tensor]:
    torch.manual_seed(1)
    x = torch.rand(2, 3, 64, 128) - 0.5
    y = model.g_a(x, width)
    z = model.h_a(y, width)
    mean, scale = model.h_s(z, width)
    return [y, z, mean, scale, model.g_s(y, width)]


@pytest.mark.parametrize("width", [0, 1])
def test_shapes(model, width):
    y, z, mean, scale, x_hat = _run(model, width)
    m, zc = SMALL.latent_channels[width], SMALL.hyper_latent_channels[width]
    assert y.shape == mean.shape == scale.shape == (2, m, 4, 8)
    assert z.shape == (2, zc, 1, 2)
    assert x_hat.shape == (2, 3, 64, 128)


def test_narrow_width_uses_prefixes_only(model):
    """Whatever lies beyond the narrow width's channels and blocks must not change its output."""
    before = _run(model, 0)
    for module in model.modules():
        if isinstance(module, (SlimPointwise, SlimConv3x3, SlimDepthwise3x3)):
            out, inputs = module.out_channels[0], module.in_channels[0]
            module.weight.data[out:] = float("nan")
            if not isinstance(module, SlimDepthwise3x3):
                module.weight.data[:, inputs:] = float("nan")
            module.bias.data[1] = float("nan")
            module.bias.data[0, out:] = float("nan")
    for stage in (model.g_a.blocks_8, model.g_a.blocks_16, model.g_s.blocks_8, model.g_s.blocks_16):
        for parameter in stage[1].parameters():
            parameter.data.fill_(float("nan"))
    for a, b in zip(before, _run(model, 0), strict=True):
        assert torch.equal(a, b)


def test_width_is_no_state(model):
    alone = _run(model, 0)
    _run(model, 1)
    for a, b in zip(alone, _run(model, 0), strict=True):
        assert torch.equal(a, b)


def test_from_patches_is_forward(model):
    x = torch.rand(1, 3, 32, 48) - 0.5
    patches = F.pixel_unshuffle(x, PATCH)
    assert torch.allclose(model.g_a(x, 1), model.g_a.from_patches(patches, 1), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 5, 1, 1), (3, 5, 7, 2)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pointwise_equals_convolution(shape, memory_format):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=memory_format)
    weight, bias = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    assert torch.allclose(pointwise(x, weight, bias), F.conv2d(x, weight[:, :, None, None], bias))


def test_new_block_is_identity():
    block = DepthConvBlock([4, 8])
    x = torch.randn(1, 8, 5, 6)
    assert torch.equal(block(x, 1), x)


def test_quality_interpolates_geometrically():
    model = SlimmableHyperprior(SMALL)
    torch.nn.init.normal_(model.quality_tables.log_gain)
    anchors = torch.linspace(1, 100, SMALL.gain_anchors)
    at_anchors, _, _ = model.quality_vectors(anchors, 1)
    expected = model.quality_tables.log_gain[1, :, : SMALL.latent_channels[1]]
    assert torch.allclose(at_anchors[:, :, 0, 0], expected, atol=1e-4)
    middle, _, _ = model.quality_vectors((anchors[2:3] + anchors[3:4]) / 2, 1)
    assert torch.allclose(middle[0, :, 0, 0], (expected[2] + expected[3]) / 2, atol=1e-4)


def test_lambda_range():
    quality = torch.tensor([1.0, 100.0])
    low, high = SMALL.lambda_of(quality).tolist()
    assert math.isclose(low, SMALL.lambda_min, rel_tol=1e-5)
    assert math.isclose(high, SMALL.lambda_max, rel_tol=1e-5)


def test_unknown_width_is_named():
    with pytest.raises(OptionError, match=r"width 0.3 is not one of .*0.5, 1.0"):
        SMALL.width_index(0.3)


def test_config_survives_json():
    import json

    assert SlimmableHyperpriorConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
