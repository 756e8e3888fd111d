"""Starting point of the transforms: a two-stage Karhunen-Loève transform of the training images.

The stem becomes the KLT of 8x8 RGB patches and the strided convolution the KLT of 2x2
neighbourhoods of its output, so that before the first step the codec is an orthonormal
block-transform codec whose
channels are ordered by variance: just what prefixes of channels should be. The residual blocks
start as identities and learn what a linear transform cannot do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from icmh_rt.models.slimmable_hyperprior import PATCH, SlimmableHyperprior


def _principal_axes(samples: Tensor) -> Tensor:
    """Orthonormal rows ordered by falling energy (second moment) of ``samples (n, d)``."""
    samples = samples.double()
    _, vectors = torch.linalg.eigh(samples.T @ samples / len(samples))
    axes = vectors.flip(1).T
    # A fixed sign makes the result independent of the linear-algebra library.
    return axes * torch.sign(axes.sum(1, keepdim=True) + 1e-12)


@torch.no_grad()
def initialise_klt(model: SlimmableHyperprior, images: Tensor) -> None:
    """Set stem, down, up and head of ``model`` from ``images (N, 3, H, W)`` in [0, 1]."""
    patches = F.pixel_unshuffle(images - 0.5, PATCH)  # (N, 192, h, w)
    flat = patches.permute(0, 2, 3, 1).reshape(-1, patches.shape[1])
    first = _principal_axes(flat)
    size = min(len(first), max(model.config.channels))
    first = first[:size]
    features = torch.einsum("oc,nchw->nohw", first.float(), patches)
    quads = F.pixel_unshuffle(features, 2)  # channel order c*4 + dy*2 + dx
    flat = quads.permute(0, 2, 3, 1).reshape(-1, quads.shape[1])
    second = _principal_axes(flat)[: max(model.config.latent_channels)].float()

    stem, down = model.g_a.stem, model.g_a.down
    stem.weight[:size] = first.float()
    stem.weight[size:] *= 0.1  # spare channels: free for the blocks, silent at the start
    down.weight.mul_(0.0)
    taps = second.reshape(-1, size, 2, 2)
    # With padding 1 and stride 2, kernel taps 1..2 lie on the 2x2 neighbourhood of each output.
    down.weight[: len(taps), :size, 1:, 1:] = taps
    up, head = model.g_s.up, model.g_s.head
    up.weight.mul_(0.0)
    up.weight[: 4 * size, : len(second)] = second.T
    head.weight.mul_(0.0)
    head.weight[:, :size] = first.T.float()
