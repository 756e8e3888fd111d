"""What the tests of the published codecs share: ugly random weights, comparison, golden files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@torch.no_grad()
def scramble(model: nn.Module, seed: int) -> nn.Module:
    """Give ``model`` weights that show every mistake: no zeros, no identities, medians off zero.

    Fresh GDNs are close to identities and fresh bottlenecks have medians of zero and densities of
    one form; with such weights much could be wrong unseen. The same seed gives the same weights.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator)

    for name, parameter in model.named_parameters():
        if name.endswith("quantiles"):
            parameter += noise(parameter[:, :, :1]).expand_as(parameter)
        elif name.endswith(("gamma", "beta")):
            parameter += 0.1 * noise(parameter)  # some of gamma falls below its bound
        elif parameter.ndim in (2, 4):
            # Enough for symbols of several sizes; less in the decoders, where IGDN multiplies.
            gain = 2.0 if name.startswith(("g_a", "h_a", "h_s")) else 0.7
            parameter.copy_(gain * noise(parameter) / parameter[0].numel() ** 0.5)
        elif "bias" in name:  # these start at random
            parameter.copy_(0.3 * noise(parameter))
        else:
            parameter += 0.3 * noise(parameter)
    return model


def relative_error(found: Tensor, expected: Tensor | np.ndarray) -> float:
    """max |difference| over max |expected|; infinite for other shapes or values that are not."""
    expected = torch.as_tensor(expected)
    if found.shape != expected.shape or not torch.isfinite(found).all():
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max())


def load_golden(name: str) -> dict[str, Tensor]:
    """The arrays of tests/golden/``name``.npz."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def below(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The arrays whose names begin with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
