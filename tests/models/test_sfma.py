"""SFMA: the form without angles equals the published formula, on every shape and corner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from icmh_rt.models.sfma import SFMA  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden" / "sfma.npz"


def published_formula(model: SFMA, x: torch.Tensor) -> torch.Tensor:
    """The adapter as the paper's code writes it: amplitude and angle, layer by layer."""
    spectrum = torch.fft.rfft2(model.f_down(x))
    amplitude, angle = spectrum.abs(), spectrum.angle()
    gate = torch.sigmoid(model.f_inter(F.relu(model.f_dw(amplitude))))
    amplitude = amplitude * gate
    spectrum = torch.complex(amplitude * angle.cos(), amplitude * angle.sin())
    planes = torch.fft.irfft2(spectrum, s=x.shape[-2:])
    frequency = model.f_up(F.relu(planes))
    spatial = model.s_up(F.relu(model.s_dw(model.s_down1(x)) * model.s_down2(x)))
    return x + (spatial + frequency) * model.factor


# Of the largest value. CPUs with matrix tiles multiply with 16 bits of precision
# (csrc/kernels/gemm_tiles.h); tests/kernels/test_sfma_op.py holds every level to its own bound.
TOLERANCE = 3e-5


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def make(channels: int = 12, middle: int = 10, factor: float = 1) -> SFMA:
    torch.manual_seed(4)
    model = SFMA(channels, middle, factor)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=["differentiable", "inference"])
def grad_mode(request):
    with torch.set_grad_enabled(request.param == "differentiable"):
        yield request.param


@pytest.mark.parametrize("case", [0, 1, 2])
def test_golden(grad_mode, case: int) -> None:
    with np.load(GOLDEN) as arrays:
        golden = {key: torch.from_numpy(arrays[key]) for key in arrays}
    model = SFMA(24, 16)
    state = {key[6:]: value for key, value in golden.items() if key.startswith("state.")}
    model.load_state_dict(state, strict=True)
    assert relative(model(golden[f"in{case}"]), golden[f"out{case}"]) <= TOLERANCE


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 2), (2, 1), (3, 5), (4, 4), (17, 23), (16, 9), (9, 16), (5, 64), (70, 3)]
)
def test_equals_the_published_formula(grad_mode, shape) -> None:
    model, x = make(), image(2, 12, *shape)
    assert relative(model(x), published_formula(model, x)) <= TOLERANCE


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_any_memory_layout_and_the_input_stays(grad_mode, layout: str) -> None:
    model, x = make(), image(2, 12, 9, 10)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        x = image(2, 24, 18, 10)[:, ::2, ::2]
    before = x.clone()
    assert relative(model(x), published_formula(model, before)) <= TOLERANCE
    assert torch.equal(x, before)


def test_spectrum_without_an_angle(grad_mode) -> None:
    """Constant planes have Y = 0 but for one coefficient, zero planes have it everywhere."""
    model = make()
    for x in (torch.ones(1, 12, 8, 8), torch.zeros(1, 12, 8, 8)):
        assert relative(model(x), published_formula(model, x)) <= TOLERANCE
    with torch.no_grad():
        model.f_down.bias.zero_()
    x = torch.zeros(1, 12, 8, 7)
    torch.testing.assert_close(model(x), published_formula(model, x), rtol=0, atol=TOLERANCE)


def test_gradients_equal_those_of_the_published_formula() -> None:
    model = make().double()
    x = image(2, 12, 7, 9).double().requires_grad_()
    weights = image(2, 12, 7, 9).double()
    inputs = [x, *model.parameters()]
    ours = torch.autograd.grad((model(x) * weights).sum(), inputs)
    expected = torch.autograd.grad((published_formula(model, x) * weights).sum(), inputs)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_gradients_stay_finite_where_the_spectrum_is_zero() -> None:
    model = make()
    x = torch.zeros(1, 12, 6, 6, requires_grad=True)
    model(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_zero_factor_leaves_the_features() -> None:
    x = image(1, 12, 6, 6)
    assert make(factor=0)(x) is x


def test_new_weights_are_seen_at_once() -> None:
    model, x = make(), image(1, 12, 8, 8)
    with torch.no_grad():
        model(x)
        for parameter in model.parameters():
            parameter.data.mul_(1.5)
        assert relative(model(x), published_formula(model, x)) <= TOLERANCE


def test_threads_and_inference_mode_do_not_change_the_result() -> None:
    model, x = make(), image(2, 12, 30, 20)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            with torch.inference_mode():
                results.append(model(x))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert relative(results[0], published_formula(model, x).detach()) <= TOLERANCE
    assert relative(results[1], results[0]) <= 1e-6
