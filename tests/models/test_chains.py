"""The default codec's transforms as native chains against its modules, with adapters anywhere."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from icmh_rt.kernels.images import image_in, image_out
from icmh_rt.models.adapters import adapters_by_place, attach_adapters, use_task
from icmh_rt.models.chains import ChainedTransforms, chained
from icmh_rt.models.slimmable_hyperprior import (
    PATCH,
    SlimmableHyperprior,
    SlimmableHyperpriorConfig,
)

MEAN = 0.5
PLACES = {
    "seams": None,
    "everywhere": {
        "g_a": [
            "g_a.stem:input",
            "g_a.stem",
            "g_a.blocks_8.0",
            "g_a.down:input",
            "g_a.blocks_16.0",
        ],
        "g_s": ["g_s.head", "g_s.head:input", "g_s.blocks_8.0:input", "g_s.up:input"],
    },
    "one": {"g_s": ["g_s.blocks_16.0"]},
}
SIZES = ((64, 48), (33, 17), (1, 1))


@pytest.fixture
def model() -> SlimmableHyperprior:
    torch.manual_seed(0)
    config = SlimmableHyperpriorConfig(
        widths=(0.5, 1.0),
        channels=(9, 20),
        latent_channels=(12, 33),
        hyper_channels=(8, 10),
        hyper_latent_channels=(4, 6),
        blocks_8=(1, 2),
        blocks_16=(1, 1),
    )
    model = SlimmableHyperprior(config)
    for parameter in model.parameters():
        if not parameter.any():  # what learning would have moved
            torch.nn.init.normal_(parameter, std=0.1)
    return model.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def adapted(model: SlimmableHyperprior, places: dict[str, list[str]] | None) -> None:
    attach_adapters(model, "detection", middle=5, places=places)
    for parameter in model.attached_adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.eval().requires_grad_(False)


def chains_of(model: SlimmableHyperprior, width: int, task: str | None) -> ChainedTransforms | None:
    return chained(model, width, MEAN, adapters_by_place(model, task) if task else {})


def by_modules(
    model: SlimmableHyperprior, width: int, task: str | None, image: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """y, z, and the picture of y."""
    height, columns = (-(-side // 16) * 16 for side in image.shape[:2])
    patches = image_in(image[None], 0, 0, height, columns, True, PATCH, MEAN, torch.float32, True)
    if task is None:
        y = model.g_a.from_patches(patches, width)
        planes = model.g_s.to_patches(y, width)
    else:
        with use_task(model, task):
            y = model.g_a.from_patches(patches, width)
            planes = model.g_s.to_patches(y, width)
    pad = (0, -y.shape[3] % 4, 0, -y.shape[2] % 4)
    z = model.h_a(F.pad(y, pad, mode="replicate"), width)
    return y, z, image_out(planes, 0, 0, *image.shape[:2], PATCH, MEAN)[0]


@pytest.mark.parametrize("width", [0, 1])
@pytest.mark.parametrize("places", ["none", *PLACES])
def test_they_are_the_modules(model: SlimmableHyperprior, width: int, places: str) -> None:
    task = None
    if places != "none":
        adapted(model, PLACES[places])
        task = "detection"
    images = [torch.randint(0, 256, (*size, 3), dtype=torch.uint8) for size in SIZES]
    with torch.inference_mode():
        chains = chains_of(model, width, task)
        assert chains is not None
        ys = chains.g_a(images)
        zs = chains.h_a(ys)
        pictures = chains.g_s.pictures(ys, SIZES)
        for image, y, z, picture in zip(images, ys, zs, pictures, strict=True):
            expected = by_modules(model, width, task, image)
            torch.testing.assert_close(y, expected[0], rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(z, expected[1], rtol=1e-3, atol=1e-3)
            off = (picture.int() - expected[2].int()).abs()
            assert off.max() <= 1 and (off > 0).float().mean() < 0.02
            alone = chains.g_a([image])[0]
            assert torch.equal(alone, y)
            assert torch.equal(chains.h_a([alone])[0], z)


def test_where_no_chain_can_be_cut_there_is_none(model: SlimmableHyperprior) -> None:
    """Between g_s.up and the shuffle, which are one in a chain."""
    adapted(model, {"g_s": ["g_s.up", "g_s.head:input"]})
    assert chains_of(model, 1, "detection") is None
    assert chains_of(model, 1, None) is not None
