"""GDN against its formula written out, its gradients, its published names, and CompressAI's."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from icmh_rt.models.gdn import (  # noqa: E402
    GDN,
    NonNegative,
    SwitchableGDN,
    conv,
    deconv,
    gdn_analysis,
    gdn_synthesis,
)


def _ugly(channels: int, inverse: bool = False) -> GDN:
    """A GDN with entries below, at and above the bounds."""
    generator = torch.Generator().manual_seed(channels)
    gdn = GDN(channels, inverse)
    gdn.gamma.data += 0.3 * torch.randn(channels, channels, generator=generator)
    gdn.beta.data += 0.3 * torch.randn(channels, generator=generator)
    gdn.gamma.data[0, -1] = -1.0
    gdn.beta.data[0] = 0.0
    return gdn


def _slow(gdn: GDN, x: torch.Tensor) -> torch.Tensor:
    """The formula, one number at a time, in Python's own arithmetic."""
    betas, gammas, x_list = gdn.beta.tolist(), gdn.gamma.tolist(), x.tolist()
    pedestal = (2.0**-18) ** 2

    def value(stored: float, minimum: float) -> float:
        return max(stored, math.sqrt(minimum + pedestal)) ** 2 - pedestal

    out = torch.empty(x.shape, dtype=torch.float64)
    channels = range(x.shape[1])
    for b in range(x.shape[0]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                for c in channels:
                    energy = value(betas[c], 1e-6)
                    for d in channels:
                        energy += value(gammas[c][d], 0.0) * x_list[b][d][i][j] ** 2
                    root = math.sqrt(energy)
                    v = x_list[b][c][i][j]
                    out[b, c, i, j] = v * root if gdn.inverse else v / root
    return out


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 3, 4), (1, 7, 1, 6)])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6])
def test_equals_the_formula(shape, scale, inverse):
    gdn = _ugly(shape[1], inverse)
    x = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = _slow(gdn, x)
    assert torch.allclose(gdn(x).double(), expected, rtol=1e-5, atol=0)


def test_inputs_stay_as_they_are_and_need_not_be_contiguous():
    gdn = _ugly(6)
    base = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(3))
    x = base.permute(0, 3, 1, 2)
    before = base.clone()
    out = gdn(x)
    assert torch.equal(base, before)
    assert torch.allclose(out, gdn(x.contiguous()), rtol=1e-6)


def test_published_names():
    assert {key: tuple(value.shape) for key, value in GDN(4).state_dict().items()} == {
        "beta": (4,),
        "gamma": (4, 4),
        "beta_reparam.pedestal": (1,),
        "beta_reparam.lower_bound.bound": (1,),
        "gamma_reparam.pedestal": (1,),
        "gamma_reparam.lower_bound.bound": (1,),
    }
    assert sum(p.requires_grad for p in GDN(4).state_dict(keep_vars=True).values()) == 2


def test_fresh_gdn_has_the_published_start():
    gdn = GDN(3)
    assert torch.allclose(gdn.beta_reparam(gdn.beta), torch.ones(3), atol=1e-6)
    assert torch.allclose(gdn.gamma_reparam(gdn.gamma), 0.1 * torch.eye(3), atol=1e-7)


def test_gradients_below_the_bound_only_raise():
    """The bound's gradient rule: what would push a number further below does not pass."""
    non_negative = NonNegative(0.25)
    bound = float(non_negative.lower_bound.bound)
    stored = torch.tensor([bound - 1.0, bound - 1.0, bound, bound + 1.0], requires_grad=True)
    out = non_negative(stored)
    out.backward(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    expected = torch.tensor([0.0, -2 * bound, 2 * bound, 2 * (bound + 1.0)])
    assert torch.allclose(stored.grad, expected)
    assert torch.equal(stored.detach() < bound, torch.tensor([True, True, False, False]))


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_equal_differences(inverse):
    gdn = GDN(3, inverse).double()
    generator = torch.Generator().manual_seed(5)
    gamma = 0.5 + torch.rand(3, 3, generator=generator, dtype=torch.float64)
    beta = 0.5 + torch.rand(3, generator=generator, dtype=torch.float64)
    x = torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64)

    def run(x, gamma, beta):
        return torch.func.functional_call(gdn, {"gamma": gamma, "beta": beta}, (x,))

    inputs = [tensor.requires_grad_() for tensor in (x, gamma, beta)]
    assert torch.autograd.gradcheck(run, inputs)


def test_switchable_keeps_the_widths_apart():
    gdn = SwitchableGDN([2, 5])
    for index, channels in enumerate([2, 5]):
        gdn.bn[index] = _ugly(channels)
    x = torch.randn(1, 5, 3, 3, generator=torch.Generator().manual_seed(7))
    assert torch.equal(gdn(x, 1), gdn.bn[1](x))
    out = gdn(x[:, :2], 0)
    assert torch.equal(out, gdn.bn[0](x[:, :2]))
    assert not torch.allclose(out, gdn(x, 1)[:, :2])
    out.sum().backward()
    assert gdn.bn[0].gamma.grad is not None and gdn.bn[1].gamma.grad is None
    assert {key.split(".", 2)[1] for key in gdn.state_dict()} == {"0", "1"}


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_convolutions_scale_sizes_exactly(kernel, stride, size):
    x = torch.zeros(1, 2, size, size + 1)
    down = conv(2, 3, kernel, stride)(x)
    assert down.shape == (1, 3, -(-size // stride), -(-(size + 1) // stride))
    assert deconv(2, 3, kernel, stride)(x).shape == (1, 3, size * stride, (size + 1) * stride)


def test_stacks_have_sixteenfold_strides():
    y = torch.nn.Sequential(*gdn_analysis(2, 3))(torch.zeros(1, 3, 32, 48))
    assert y.shape == (1, 3, 2, 3)
    assert torch.nn.Sequential(*gdn_synthesis(2, 3))(y).shape == (1, 3, 32, 48)


@pytest.mark.parametrize("inverse", [False, True])
def test_equals_compressai(inverse):
    """Values and gradients; `test_equals_the_formula` says the same where it is not installed."""
    layers = pytest.importorskip("compressai.layers")
    published, ours = layers.GDN(5, inverse=inverse), _ugly(5, inverse)
    published.load_state_dict(ours.state_dict(), strict=True)
    assert [k for k, _ in GDN(5).named_parameters()] == [k for k, _ in ours.named_parameters()]
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(2, 5, 4, 3, generator=generator)
    upstream = torch.randn(2, 5, 4, 3, generator=generator)
    results = []
    for gdn in (published, ours):
        leaf = x.clone().requires_grad_()
        out = gdn(leaf)
        out.backward(upstream)
        results.append([out.detach(), leaf.grad, gdn.beta.grad, gdn.gamma.grad])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6 * float(a.abs().max()))
    for key, value in layers.GDN(5, inverse=inverse).state_dict().items():
        assert torch.equal(value, GDN(5, inverse).state_dict()[key])
