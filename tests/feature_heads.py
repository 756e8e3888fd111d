"""Feature heads for tests: of random weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from icmh_rt import bundle as bundles
from icmh_rt.feature_files import TrainedFeatureHead
from icmh_rt.models.feature_head import FeatureHead

WIDTH, TASK = 0.25, "human"
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
