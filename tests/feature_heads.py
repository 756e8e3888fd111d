"""Feature heads for tests: of random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from bare_bundle import bare, bare_copy

from icmh_rt import bundle as bundles
from icmh_rt.backends.torch import TorchBackend
from icmh_rt.feature_files import TrainedFeatureHead, save_feature_head
from icmh_rt.models.adapters import attach_adapters, save_adapters
from icmh_rt.models.feature_head import FeatureHead

WIDTH, TASK = 0.25, "human"
DETECTOR_LAYER = "Relu_250"
OUTPUTS = (("neck.1", 5), ("onnx::Concat_708", 12))


def random_head(
    seed: int = 0, outputs: tuple[tuple[str, int], ...] = OUTPUTS, **changes
) -> TrainedFeatureHead:
    """A head of the default bundle's narrowest width."""
    bundle = bundles.load()
    torch.manual_seed(seed)
    module = FeatureHead(bundle.widths[WIDTH].hyper_synthesis.latent_channels, 24, 2, outputs)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    arrays = {k: v.detach().half().numpy() for k, v in module.state_dict().items()}
    head = TrainedFeatureHead(arrays, WIDTH, 24, 2, outputs, (96, 128), bundle.fingerprint_of(TASK))
    return replace(head, **changes)


def detector_bundle(place: Path) -> Path:
    """The default bundle with small random adapters for detection and a random head that gives
    what `task_networks.write_detector`'s last shared layer would.
    """
    folder = bare_copy(place / "bundle")
    model = TorchBackend(bare(), torch.device("cpu"), torch.float32)._model
    attach_adapters(model, "detection", middle=8)
    save_adapters(model.half(), place / "adapters.safetensors", "detection")
    bundles.add_adapters(folder, place / "adapters.safetensors")
    head = random_head(
        outputs=((DETECTOR_LAYER, 6),),
        size=(64, 64),
        latents=bundles.load(folder).fingerprint_of("detection"),
    )
    save_feature_head(place / "head.safetensors", "detection", head)
    bundles.add_feature_head(folder, place / "head.safetensors")
    return folder
