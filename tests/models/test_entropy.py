"""Entropy models: CompressAI's numbers and names, and tables that code what they model."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from icmh_rt import rans  # noqa: E402
from icmh_rt.errors import OptionError  # noqa: E402
from icmh_rt.models.entropy import (  # noqa: E402
    EntropyBottleneck,
    GaussianConditional,
    LowerBound,
    default_scale_table,
    rename_old_keys,
)


@pytest.fixture
def bottleneck() -> EntropyBottleneck:
    torch.manual_seed(1)
    model = EntropyBottleneck(6).eval()
    with torch.no_grad():
        for parameter in (*model.matrices, *model.biases, *model.factors):
            parameter.add_(0.2 * torch.randn_like(parameter))
        model.quantiles[:, 0, 1] = torch.linspace(-1.3, 2.4, 6)
    return model


@pytest.fixture
def published():
    return pytest.importorskip("compressai.entropy_models")


def latents(*shape: int) -> torch.Tensor:
    return 6.0 * torch.randn(shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("filled", [False, True])
def test_bottleneck_equals_compressai(published, bottleneck, filled: bool) -> None:
    theirs = published.EntropyBottleneck(6).eval()
    theirs.load_state_dict(bottleneck.state_dict())  # the names are theirs
    if filled:
        theirs._update_quantiles()
        theirs.update()
    ours = EntropyBottleneck(6).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert ours.has_stored_tables == filled
    x = latents(2, 6, 5, 7)
    with torch.no_grad():
        for mine, expected in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.loss(), theirs.loss(), rtol=1e-6, atol=0)
    if filled:
        tables = ours.tables()
        assert np.array_equal(tables.lengths, theirs._cdf_length.numpy())
        assert np.array_equal(tables.offsets, theirs._offset.numpy())
        assert np.array_equal(tables.cdfs, theirs._quantized_cdf.numpy().astype(np.uint32))
        string = theirs.compress(x)
        torch.testing.assert_close(
            ours.dequantize(ours.symbols(x)), theirs.decompress(string, x.shape[2:])
        )
        assert torch.equal(ours.build_indexes(x.shape), theirs._build_indexes(x.shape))


@pytest.mark.parametrize("means", [False, True])
def test_gaussian_equals_compressai(published, means: bool) -> None:
    theirs = published.GaussianConditional(None).eval()
    ours = GaussianConditional().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, scales = latents(2, 3, 4, 5), latents(2, 3, 4, 5) / 2  # also negative scales
    mu = latents(2, 3, 4, 5).flip(0) if means else None
    with torch.no_grad():
        for mine, expected in zip(ours(x, scales, mu), theirs(x, scales, mu), strict=True):
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-6)
    theirs.update_scale_table(torch.exp(torch.linspace(math.log(0.11), math.log(256), 64)))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    spread = torch.cat((torch.exp(latents(4000)), theirs.scale_table, torch.tensor([-1.0, 0.0])))
    assert torch.equal(ours.build_indexes(spread), theirs.build_indexes(spread))
    assert np.array_equal(ours.tables().cdfs, theirs._quantized_cdf.numpy().astype(np.uint32))
    torch.testing.assert_close(default_scale_table(), theirs.scale_table, rtol=1e-6, atol=0)


def test_loading_takes_tables_of_any_size_back_and_forth(bottleneck) -> None:
    state = bottleneck.state_dict()
    state["_quantized_cdf"] = torch.zeros(6, 9, dtype=torch.int32)
    other = EntropyBottleneck(6)
    other.load_state_dict(state)
    assert other._quantized_cdf.shape == (6, 9)
    other.load_state_dict(bottleneck.state_dict())
    assert not other.has_stored_tables
    gaussian = GaussianConditional()
    state = gaussian.state_dict() | {"scale_table": torch.tensor([0.5, 1.0, 2.0])}
    gaussian.load_state_dict(state)
    assert gaussian.build_indexes(torch.tensor([0.1, 0.5, 0.6, 2.0, 9.0])).tolist() == [
        *(0, 0, 1, 2, 2)
    ]
    assert gaussian.tables().num_tables == 3


def test_old_names_become_the_new_ones(bottleneck) -> None:
    state = {f"codec.{key}": value for key, value in bottleneck.state_dict().items()}
    later = {
        key.replace("matrices.", "_matrix")
        .replace("biases.", "_bias")
        .replace("factors.", "_factor"): v
        for key, v in state.items()
    }
    first = {
        key.replace("matrices.", "_matrices.")
        .replace("biases.", "_biases.")
        .replace("factors.", "_factors."): v
        for key, v in state.items()
    }
    assert not set(later) & {"codec.matrices.0", "codec.biases.4"}
    assert rename_old_keys(later) == rename_old_keys(first) == rename_old_keys(state) == state
    untouched = {"g_a.0._biased": 1, "x.bias": 2, "_factorized1": 3, "h_a.bias0": 4}
    assert rename_old_keys(untouched) == untouched


def test_quantize_modes() -> None:
    model = GaussianConditional()
    x, means = torch.tensor([0.4, 1.6, -2.5]), torch.tensor([0.25, -0.3, 0.0])
    symbols = model.quantize(x, "symbols", means)
    assert symbols.dtype == torch.int32
    assert symbols.tolist() == [0, 2, -2]
    torch.testing.assert_close(model.quantize(x, "dequantize", means), symbols + means)
    assert model.quantize(x, "symbols").tolist() == [0, 2, -2]
    noise = model.quantize(torch.zeros(10000), "noise", torch.ones(10000))
    assert -0.5 <= noise.min() < -0.49
    assert 0.49 < noise.max() <= 0.5
    with pytest.raises(OptionError, match="'floor'"):
        model.quantize(x, "floor")


def test_training_adds_noise_and_keeps_gradients(bottleneck) -> None:
    bottleneck.train()
    x = latents(2, 6, 4, 4).requires_grad_()
    outputs, likelihood = bottleneck(x)
    difference = (outputs - x).detach()
    assert 0 < difference.abs().max() <= 0.5
    likelihood.log().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(parameter.grad is not None for parameter in bottleneck.matrices)
    assert torch.equal(bottleneck(x, training=False)[0], bottleneck.eval()(x)[0])


def test_lower_bound_lets_only_lifting_gradients_pass() -> None:
    x = torch.tensor([0.5, 0.5, 2.0, 2.0], requires_grad=True)
    y = LowerBound(1.0)(x)
    assert y.tolist() == [1.0, 1.0, 2.0, 2.0]
    y.backward(torch.tensor([1.0, -1.0, 1.0, -1.0]))
    assert x.grad.tolist() == [0.0, -1.0, 1.0, -1.0]


def test_bottleneck_pmfs_are_the_likelihoods(bottleneck) -> None:
    pmfs = bottleneck.pmfs(tail_mass=1e-7)
    double = bottleneck.double()
    for channel, row in enumerate(pmfs.rows):
        symbols = torch.arange(len(row)) + int(pmfs.offsets[channel])
        x = torch.zeros(1, 6, len(row), dtype=torch.float64)
        x[0, channel] = symbols + double.medians[channel]
        expected = double.likelihood(x)[0, channel].detach().numpy()
        np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1.1e-9)  # its floor is 1e-9
        assert 0 < pmfs.tail_masses[channel] <= 1e-7
        assert math.isclose(row.sum() + pmfs.tail_masses[channel], 1.0, abs_tol=1e-12)


def test_gaussian_pmfs_sum_to_one_and_grow_with_the_scale() -> None:
    pmfs = GaussianConditional().pmfs()
    assert len(pmfs.rows) == 64
    for row, offset, tail in zip(*pmfs, strict=True):
        assert len(row) == 1 - 2 * offset
        np.testing.assert_array_equal(row, row[::-1])
        assert math.isclose(row.sum() + tail, 1.0, abs_tol=1e-12)
    assert np.all(np.diff(pmfs.offsets) <= 0)


@pytest.mark.parametrize("precision", [14, 16])
def test_tables_code_what_the_models_predict(bottleneck, precision: int) -> None:
    gaussian = GaussianConditional()
    scales = torch.exp(latents(1, 6, 20, 20).flip(3) / 4)
    y = latents(1, 6, 20, 20) * scales / 6
    rows = gaussian.build_indexes(scales)
    z = latents(1, 6, 30, 30) * 2
    z[0, 0, 0, 0] = 1e6  # an escape
    with torch.no_grad():
        _, y_likelihood = gaussian(y, gaussian.scales()[rows.long()], training=False)
        _, z_likelihood = bottleneck(z)
    z_rows = bottleneck.build_indexes(z.shape)
    cases = (
        (gaussian, gaussian.quantize(y, "symbols"), rows, y_likelihood),
        (bottleneck, bottleneck.symbols(z), z_rows, z_likelihood),
    )
    for model, symbols, indexes, likelihood in cases:
        tables = model.tables(precision)
        assert tables.precision == precision
        symbols, indexes = symbols.numpy(), indexes.numpy()
        estimate = float(-likelihood.log2().sum())
        assert tables.bits(symbols, indexes) == pytest.approx(estimate, rel=0.01)
        data = rans.encode(symbols, indexes, tables)
        decoded = rans.decode(data, indexes, tables)
        assert np.array_equal(decoded.reshape(symbols.shape), symbols)


def test_medians_are_added_back(bottleneck) -> None:
    x = latents(2, 6, 3, 4)
    symbols = bottleneck.symbols(x)
    assert symbols.dtype == torch.int32
    restored = bottleneck.dequantize(symbols)
    torch.testing.assert_close(restored, bottleneck(x)[0].detach())
    assert (restored - x).abs().max() <= 0.5 + 1e-5


def test_no_stored_tables_is_said() -> None:
    with pytest.raises(OptionError, match="no tables are stored"):
        GaussianConditional().stored_tables()
