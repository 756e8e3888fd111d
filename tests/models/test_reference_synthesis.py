"""The reference path: right, and the same bits whatever adds up its sums."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icmh_rt.errors import BundleError
from icmh_rt.models import reference_synthesis as reference

SCALES = 0.11 * (256 / 0.11) ** (np.arange(64) / 63)


def integers(seed: int, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """Float32 multiples of ``2**-bits`` in [-1, 1); numpy promises these for ever."""
    values = np.random.RandomState(seed).randint(-(2**bits), 2**bits, shape)
    return (values / 2.0**bits).astype(np.float32)


def tic_state(channels: int = 16, latent: int = 16) -> dict[str, np.ndarray]:
    """The h_s of a small TIC under its published names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for stage in ("h_s0", "h_s2"):
        for block in range(2):
            at = f"{stage}.residual_group.blocks.{block}."
            for norm in ("norm1", "norm2"):
                shapes |= {at + norm + ".weight": (channels,), at + norm + ".bias": (channels,)}
            for name, out, into in (
                ("attn.qkv", 3 * channels, channels),
                ("attn.proj", channels, channels),
                ("mlp.fc1", 2 * channels, channels),
                ("mlp.fc2", channels, 2 * channels),
            ):
                shapes |= {f"{at}{name}.weight": (out, into), f"{at}{name}.bias": (out,)}
            shapes[at + "attn.relative_position_bias_table"] = (49, 16)
    shapes |= {"h_s1.weight": (channels, channels, 3, 3), "h_s1.bias": (channels,)}
    shapes |= {"h_s3.weight": (channels, 2 * latent, 3, 3), "h_s3.bias": (2 * latent,)}
    return {key: integers(i, shape, 20) for i, (key, shape) in enumerate(shapes.items())}


def mean_scale_state(n: int = 12, m: int = 16) -> dict[str, np.ndarray]:
    shapes = {
        "h_s.0.weight": (n, m, 5, 5),
        "h_s.0.bias": (m,),
        "h_s.2.weight": (m, m * 3 // 2, 5, 5),
        "h_s.2.bias": (m * 3 // 2,),
        "h_s.4.weight": (2 * m, m * 3 // 2, 3, 3),
        "h_s.4.bias": (2 * m,),
    }
    return {key: integers(50 + i, shape, 22) / 8 for i, (key, shape) in enumerate(shapes.items())}


NETWORKS = {
    "tic": (tic_state(), 16, 16),
    "mbt2018-mean": (mean_scale_state(), 16, 12),
}


def network(family: str) -> reference.ReferenceSynthesis:
    state, channels, _ = NETWORKS[family]
    return reference.build(family, state, channels, SCALES)


def z_hat(family: str, height: int = 4, width: int = 8) -> np.ndarray:
    shape = (height, width, NETWORKS[family][2])
    return 8.0 * integers(99, shape, 3).astype(np.float64) + integers(98, shape, 20)


# -- the same bits ---------------------------------------------------------------------------------


def backwards(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One product after the other, the last first."""
    out = np.zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]))
    for k in reversed(range(a.shape[-1])):
        out += a[..., :, k, None] * b[..., None, k, :]
    return out


def in_pieces(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Odd and even terms apart, as a vector unit would."""
    return np.matmul(a[..., 1::2], b[..., 1::2, :]) + np.matmul(a[..., ::2], b[..., ::2, :])


def extended(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """With 64 bits or more where the machine has them, rounded once."""
    return np.matmul(a.astype(np.longdouble), b.astype(np.longdouble)).astype(np.float64)


def exactly(x: np.ndarray) -> np.ndarray:
    """Sums over the last axis, rounded once."""
    return np.apply_along_axis(math.fsum, -1, x)[..., None]


ORDERS = [backwards, in_pieces, extended]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("family", NETWORKS)
def test_any_order_of_additions_gives_the_same_bits(monkeypatch, family, order):
    z = z_hat(family)
    expected = network(family).run(z)
    monkeypatch.setattr(reference, "_product", order)
    monkeypatch.setattr(reference, "_total", exactly)
    assert np.array_equal(network(family).run(z), expected)


def test_the_orders_tell_inexact_sums_apart():
    """The test above can fail: without grids, the orders disagree."""
    a, b = integers(1, (64, 200), 22), integers(2, (200, 64), 22)
    a, b = a * np.float64(1.1), b * np.float64(1.3)
    results = [order(a, b) for order in (np.matmul, *ORDERS)]
    assert any(not np.array_equal(results[0], result) for result in results[1:])


def whole(a: np.ndarray, b: np.ndarray, seen: list[int]) -> np.ndarray:
    """The product in Python's integers; notes the longest sum of magnitudes that occurs."""

    def scaled(x):
        mantissa, exponent = np.frexp(x)
        lowest = int(np.min(exponent[x != 0], initial=0)) - 53
        whole = [
            int(math.ldexp(m, 53)) << int(e - 53 - lowest) if m else 0
            for m, e in zip(mantissa.ravel(), exponent.ravel(), strict=True)
        ]
        shift = min(((v & -v).bit_length() - 1 for v in whole if v), default=0)
        values = np.array([v >> shift for v in whole], object).reshape(x.shape)
        return values, lowest + shift

    (left, e), (right, f) = scaled(a), scaled(b)
    seen.append(int(np.max(np.matmul(abs(left), abs(right)), initial=0)))
    product = np.matmul(left, right)
    return np.array([math.ldexp(float(v), e + f) for v in product.ravel()]).reshape(product.shape)


@pytest.mark.parametrize("family", NETWORKS)
def test_no_sum_needs_more_than_53_bits(monkeypatch, family):
    """Every product again in whole numbers of unlimited length."""
    seen: list[int] = []
    z = z_hat(family, 4, 4)
    expected = network(family).run(z)
    monkeypatch.setattr(reference, "_product", functools.partial(whole, seen=seen))
    assert np.array_equal(network(family).run(z), expected)
    assert 2**40 < max(seen) <= 2**53


@given(
    inputs=st.integers(1, 300),
    exponent=st.integers(-60, 60),
    shape=st.sampled_from(("equal", "one large", "random")),
    seed=st.integers(0, 2**16),
)
def test_the_worst_inputs_stay_within_53_bits(inputs, exponent, shape, seed):
    weight = {
        "equal": np.full((3, inputs), 0.999),
        "one large": np.full((3, inputs), 1e-7),
        "random": integers(seed, (3, inputs), 30).astype(np.float64),
    }[shape]
    weight[0, -1] = 1.0
    layer = reference.Linear(np.ldexp(weight, exponent), None)
    values = layer._weights.values
    # The input that makes the largest sum: every term at the limit, with the weight's sign.
    x = np.sign(values[:, :1].T) * np.ldexp(1.0 - 2.0**-30, exponent // 2)
    seen: list[int] = []
    exact = whole(reference._snap(x, layer._weights.input_bits), values, seen)
    assert np.array_equal(layer(x), exact)
    assert max(seen) <= 2**53


_RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import test_reference_synthesis as t
print(*t.digests())
"""


def digests() -> list[str]:
    # Zero added, because the sign of a zero is nobody's promise.
    outputs = (network(family).run(z_hat(family)) + 0.0 for family in NETWORKS)
    return [hashlib.sha256(output.tobytes()).hexdigest() for output in outputs]


@pytest.mark.parametrize(
    ("threads", "kernels"), [("1", ""), ("2", ""), ("1", "Nehalem"), ("2", "Haswell")]
)
def test_other_processes_threads_and_kernels_give_the_same_bits(threads, kernels):
    """Where numpy's BLAS is OpenBLAS on x86-64, with products made for other processors."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    result = subprocess.run(
        [sys.executable, "-c", _RUN, os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, **dict.fromkeys(names, threads), "OPENBLAS_CORETYPE": kernels},
    )
    assert result.stdout.split() == digests()


def test_the_bits_are_the_format():
    """Recorded once. Another value means that streams made before no longer decode."""
    assert digests() == json.loads(FROZEN)


FROZEN = """[
 "6471900cb2bb863f68f72175c3113695ee8c7342b9e5963a0efd28ce6cee9c23",
 "817fba8429e96d2a0ba8dda8e332b6d635f6ed9fd152d11f13ac25c07dc15763"
]"""


# -- right -----------------------------------------------------------------------------------------


def test_functions_against_the_library():
    x = np.linspace(-59.9, 0.0, 4001)
    expected = np.array([math.exp(v) for v in x])
    assert np.max(np.abs(reference.exp(x) / expected - 1.0)) < 1e-15
    x = np.linspace(-9.0, 9.0, 4001)
    expected = np.array([0.5 * math.erfc(-v / math.sqrt(2.0)) for v in x])
    assert np.max(np.abs(reference.normal_cdf(x) - expected)) < 1e-12
    assert reference.gelu(np.array([-1e9, 0.0, 1e9])).tolist() == pytest.approx(
        [0, 0, 1e9], abs=1e-6
    )
    x = np.array([[0.0, -1000.0, 3.0], [5.0, 5.0, 5.0]])
    assert reference.softmax(x)[1].tolist() == pytest.approx([1 / 3] * 3, abs=1e-14)
    assert reference.softmax(x).sum(axis=-1).tolist() == pytest.approx([1.0, 1.0], abs=1e-14)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the torch extra is not installed")


def close(found: np.ndarray, expected, tolerance: float = 1e-5) -> None:
    """``expected``: a tensor (1, C, h, w)."""
    expected = expected.detach()[0].permute(1, 2, 0).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize(("kernel", "stride"), [(5, 2), (3, 2), (3, 1), (5, 1)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5)])
def test_deconvolution_is_torchs(torch, kernel, stride, bias, height, width):
    layer = torch.nn.ConvTranspose2d(
        6, 4, kernel, stride, kernel // 2, output_padding=stride - 1, bias=bias
    ).double()
    x = integers(5, (height, width, 6), 20).astype(np.float64)
    ours = reference.Deconvolution(
        layer.weight.detach().numpy(), layer.bias.detach().numpy() if bias else None, stride
    )
    close(ours(x), layer(torch.from_numpy(x.transpose(2, 0, 1).copy())[None]))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5)])
def test_convolution_is_torchs(torch, height, width):
    layer = torch.nn.Conv2d(6, 4, 3, padding=1).double()
    x = integers(6, (height, width, 6), 20).astype(np.float64)
    ours = reference.Convolution(layer.weight.detach().numpy(), layer.bias.detach().numpy())
    close(ours(x), layer(torch.from_numpy(x.transpose(2, 0, 1).copy())[None]))


def models(torch):
    """(family, model, width, channels of y) of every family with a hyperprior."""
    from icmh_rt.models.compressai_families import MeanScaleHyperprior, ScaleHyperprior
    from icmh_rt.models.slimmable_published import SlimmableHyper
    from icmh_rt.models.tic import TIC

    torch.manual_seed(7)
    tic, hyper = TIC(16, 32), SlimmableHyper(24)
    yield "tic", tic, None, 32
    yield "slimmable-hyper", hyper, 0.67, 16
    yield "slimmable-hyper", hyper, 1.0, 24
    yield "bmshj2018-hyperprior", ScaleHyperprior(8, 12), None, 12
    yield "mbt2018-mean", MeanScaleHyperprior(8, 12), None, 12


def test_every_family_is_the_models_h_s(torch):
    for family, model, width, channels in models(torch):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith("h_s"):
                    parameter.mul_(1.7).add_(0.01 * torch.randn_like(parameter))
        state = {key: value.numpy().copy() for key, value in model.state_dict().items()}
        inputs = channels if width else model.hyper_channels
        z = 4.0 * integers(11, (4, 8, inputs), 2)
        net = reference.build(family, state, channels, SCALES)
        tensor = torch.from_numpy(z.astype(np.float64).transpose(2, 0, 1).copy())[None]
        h_s = model.double().eval().h_s
        with torch.no_grad():
            parameters = h_s(tensor) if width is None else h_s(tensor, width)
        close(net.run(z.astype(np.float64)), parameters)

        mean, indexes = net.predict(z.astype(np.float64))
        assert indexes.dtype == np.uint8 and indexes.shape[-1] == channels
        scales = parameters[0, :channels].permute(1, 2, 0).numpy()
        slow = sum((scales > edge).astype(int) for edge in SCALES[:-1])
        assert np.mean(indexes != slow) < 1e-3  # a value next to an edge may fall on its other side
        if parameters.shape[1] == 2 * channels:
            close(mean, parameters[:, channels:])
            assert mean.dtype == np.float32
        else:
            assert mean is None


def test_zeros_have_no_sign():
    net = reference.ReferenceSynthesis([lambda x: -x], SCALES, 1)
    mean, _ = net.predict(np.zeros((1, 1, 2)))
    assert not np.signbit(mean).any()


def test_indexes_count_the_edges_below():
    net = reference.ReferenceSynthesis([lambda x: x], np.array([0.5, 1.0, 2.0]), 6)
    _, indexes = net.predict(np.array([[[-1.0, 0.5, 0.75, 1.0, 1.5, 99.0]]]))
    assert indexes.tolist() == [[[0, 0, 1, 1, 2, 2]]]


# -- what is wrong is said -------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value):
    state = mean_scale_state()
    state["h_s.2.weight"][0, 0, 0, 0] = value
    with pytest.raises(BundleError, match="not finite"):
        reference.build("mbt2018-mean", state, 16, SCALES)


def test_missing_and_misshapen_arrays():
    state = tic_state()
    del state["h_s1.weight"]
    with pytest.raises(BundleError, match=r"lacks 'h_s1.weight'"):
        reference.build("tic", state, 16, SCALES)
    with pytest.raises(BundleError, match="gives 32 channels; a latent of 20 needs 40"):
        reference.build("mbt2018-mean", mean_scale_state(), 20, SCALES)
    state = tic_state()
    state["h_s0.residual_group.blocks.0.attn.relative_position_bias_table"] = np.zeros((225, 16))
    with pytest.raises(BundleError, match="225 rows; windows of 4 need 49"):
        reference.build("tic", state, 16, SCALES)


def test_extreme_inputs_stay_finite():
    for family in NETWORKS:
        for scale in (0.0, 1e-300, 2.0**31):
            assert np.isfinite(network(family).run(np.sign(z_hat(family)) * scale)).all()
