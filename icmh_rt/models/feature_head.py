"""Feature head: dequantized latents straight to a vision network's intermediate features.

After "Slimmable multi-task image compression", Cao et al., IEEE Access 2023, section III, whose
narrowest width feeds a detector without a picture; the layers are the default codec's depth-conv
blocks, at the latent's own resolution, so that next to nothing of the synthesis's time is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from icmh_rt.errors import BundleError
from icmh_rt.feature_files import BOUND, TrainedFeatureHead
from icmh_rt.kernels._cpu_layers import LayerChain
from icmh_rt.models.slimmable import DepthConvBlock, SlimPointwise


class FeatureHead(nn.Module):
    """Latent ``(N, M, h, w)`` -> features ``(N, sum of outputs' channels, h, w)``.

    Args:
        latent_channels: M of the one width that it is for.
        channels, blocks: of the depth-conv blocks.
        outputs: names and channels of the features.
        bfloat16: whether inference may round what is multiplied to bfloat16, see `DepthConvBlock`.
    """

    def __init__(
        self,
        latent_channels: int,
        channels: int,
        blocks: int,
        outputs: Sequence[tuple[str, int]],
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        self.outputs = tuple(outputs)
        self.stem = SlimPointwise([latent_channels], [channels], bfloat16)
        self.blocks = nn.ModuleList(DepthConvBlock([channels], bfloat16) for _ in range(blocks))
        total = sum(count for _, count in self.outputs)
        self.out = SlimPointwise([channels], [total], bfloat16)

    def forward(self, y: Tensor) -> Tensor:
        # In place where nothing is to be remembered: the layers' results are nobody else's.
        bounded = torch.clamp if torch.is_grad_enabled() else torch.clamp_
        x = bounded(self.stem(y.contiguous(memory_format=torch.channels_last), 0), -BOUND, BOUND)
        for block in self.blocks:
            x = bounded(block(x, 0), -BOUND, BOUND)
        return self.out(x, 0)

    def chain(self) -> LayerChain:
        """The same for inference on a CPU."""
        chain = LayerChain(bfloat16=self.stem.bfloat16).convolution(
            self.stem.packed(0), bound=BOUND
        )
        for block in self.blocks:
            chain.depth_conv(block.packed(0), BOUND)
        return chain.convolution(self.out.packed(0))

    def split(self, features: Tensor) -> dict[str, Tensor]:
        """What `forward` gave, by name."""
        parts = features.split([count for _, count in self.outputs], 1)
        return {name: part for (name, _), part in zip(self.outputs, parts, strict=True)}


def module_of(head: TrainedFeatureHead, bfloat16: bool = False) -> FeatureHead:
    """The head as a module in single precision, for inference; ``bfloat16`` as of `FeatureHead`.

    Raises:
        BundleError: its arrays do not fit its description.
    """
    latent_channels = head.arrays["stem.weight"].shape[1]
    module = FeatureHead(latent_channels, head.channels, head.blocks, head.outputs, bfloat16)
    state = {k: torch.from_numpy(np.array(v, np.float32)) for k, v in head.arrays.items()}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"the feature head does not fit its description: {reason}") from None
    return module.to(memory_format=torch.channels_last).eval().requires_grad_(False)
