"""The differentiable integer network: the definition's values, and gradients that reach its
input.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from icmh_rt.bundle import load  # noqa: E402
from icmh_rt.training.straight_through import (  # noqa: E402
    StraightThroughHyperSynthesis,
    floor_straight_through,
    round_straight_through,
)

WIDTHS = (0.25, 0.5, 0.75, 1.0)


def _inputs(network, size: tuple[int, int]) -> list[tuple[int, np.ndarray]]:
    """Pairs of quality and hyper-latents, beyond the clamps too."""
    rng = np.random.default_rng(0)
    shape = (*size, network.z_channels)
    found = [(q, network.probe_input(q, *size)) for q in (1, 37, 100)]
    found.append((64, np.zeros(shape, np.int64)))
    found.append((3, rng.choice([-(10**6), 10**6], shape)))
    found.append((90, rng.integers(-3, 4, shape)))
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
def test_values_are_the_definitions(width, size):
    network = load("default").widths[width].hyper_synthesis
    twin = StraightThroughHyperSynthesis(network)
    cases = _inputs(network, size)
    quality = torch.tensor([q for q, _ in cases])
    z = torch.from_numpy(np.stack([z for _, z in cases])).float().permute(0, 3, 1, 2)
    mean, index = twin(z, quality)  # one batch of many qualities
    for slot, (q, symbols) in enumerate(cases):
        expected_mean, expected_index = network.run_reference(symbols, q)
        found = mean[slot].permute(1, 2, 0).numpy() * 2.0**network.mean_bits
        assert np.array_equal(found, expected_mean)
        assert np.array_equal(index[slot].permute(1, 2, 0).numpy(), expected_index)


def _unclamped(network, quality: int) -> np.ndarray:
    """Which channels of z can move by one symbol inside the input's clamp."""
    step = network.z_multiplier[quality - 1] * 2.0**-network.z_shift
    return step < 0.4 * network.input_limit


def _hyper_latent(network, quality: int) -> torch.Tensor:
    """Symbols of -1, 0 and 1 where those are not clamped."""
    z = np.random.default_rng(1).integers(-1, 2, (1, network.z_channels, 3, 3))
    z *= _unclamped(network, quality)[:, None, None]
    return torch.from_numpy(z).float().requires_grad_()


@pytest.mark.parametrize("width", WIDTHS)
def test_gradients_pass(width):
    network = load("default").widths[width].hyper_synthesis
    z = _hyper_latent(network, 80)
    for output in StraightThroughHyperSynthesis(network)(z, torch.tensor([80])):
        (gradient,) = torch.autograd.grad(output.square().sum(), z, retain_graph=True)
        assert torch.isfinite(gradient).all() and (gradient != 0).float().mean() > 0.9


def test_gradient_tells_where_the_output_goes():
    """One symbol at a time, up and down: the change of the outputs is what the gradient says, but
    for rounding and for the ReLUs that switch on the way.
    """
    quality = 95
    network = load("default").widths[1.0].hyper_synthesis
    twin, z = StraightThroughHyperSynthesis(network), _hyper_latent(network, quality)
    row = torch.tensor([quality])
    for part in (0, 1):
        (gradient,) = torch.autograd.grad(twin(z, row)[part].sum(), z)
        expected, found = [], []
        for channel in np.flatnonzero(_unclamped(network, quality))[:24]:
            moved = torch.zeros_like(z)
            moved[0, channel, 1, 1] = 1.0
            with torch.no_grad():
                ahead, behind = (twin(z + s * moved, row)[part].sum() for s in (1, -1))
            found.append((ahead - behind).item() / 2)
            expected.append(gradient[0, channel, 1, 1].item())
        assert np.corrcoef(expected, found)[0, 1] > 0.9


def test_rounding_is_exact_with_derivative_one():
    x = torch.tensor([-2.5, -1e-9, 0.0, 0.5, 1.5, 2.4999, 1e7 + 1], requires_grad=True)
    assert torch.equal(round_straight_through(x), torch.round(x))
    assert torch.equal(floor_straight_through(x), torch.floor(x))
    (round_straight_through(x) * 2 + floor_straight_through(x)).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 3.0))
