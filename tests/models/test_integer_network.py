"""The integer hyper-synthesis: every implementation equals the definition, and the proof bites."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icmh_rt.errors import BackendUnavailableError, BundleError, OptionError
from icmh_rt.models import integer_network
from icmh_rt.models.integer_network import (
    ACCUMULATOR_LIMIT,
    IntegerHyperSynthesis,
    IntegerLayer,
    levels,
)
from icmh_rt.models.quantize import (
    FloatLayer,
    calibrate,
    evaluate,
    quantize_hyper_synthesis,
)

QUALITIES = 7
LOG_SCALE_STEP = 0.123
SHAPES = {"conv1x1": (), "conv3x3": (3, 3), "depthwise3x3": (3, 3)}


def weight_shape(kind: str, rows: int, channels: int) -> tuple[int, ...]:
    return (rows, 3, 3) if kind == "depthwise3x3" else (rows, *SHAPES[kind], channels)


def make_layer(random, name, kind, rows, channels, *, reach=1023, linear=False, shuffle=False):
    """A random integer layer that uses its budget: inputs of magnitude up to 2047 stay proven."""
    shape = weight_shape(kind, rows, channels)
    fan_in = int(np.prod(shape[1:]))
    largest = min(2**15 - 1, int(0.9 * ACCUMULATOR_LIMIT / (2047 * fan_in)))
    return IntegerLayer(
        name=name,
        kind=kind,
        weight=random.integers(-largest, largest + 1, shape).astype(np.int16),
        bias=random.integers(-(2**18), 2**18, rows).astype(np.int32),
        shift=random.integers(6, 12, rows).astype(np.uint8),
        low=np.full(rows, -reach if linear else 0, np.int32),
        high=random.integers(reach // 2, reach + 1, rows).astype(np.int32),
        shuffle=shuffle,
    )


def make_network(seed=0, z=7, hidden=20, latent=21, trunk=None) -> IntegerHyperSynthesis:
    """The default codec's layers with random integers; channel counts that fill no vector."""
    random = np.random.default_rng(seed)
    if trunk is None:
        trunk = (
            make_layer(random, "context_64", "conv3x3", hidden, z),
            make_layer(random, "up_32", "conv1x1", 4 * hidden, hidden, shuffle=True),
            make_layer(random, "context_32", "conv3x3", hidden, hidden),
            make_layer(random, "up_16", "conv1x1", 4 * hidden, hidden, shuffle=True),
            make_layer(random, "context_16", "depthwise3x3", hidden, hidden),
        )
    shape = (QUALITIES, latent)
    return IntegerHyperSynthesis(
        trunk=tuple(trunk),
        mean_head=make_layer(random, "mean", "conv1x1", latent, hidden, reach=8000, linear=True),
        scale_head=make_layer(random, "scale", "conv1x1", latent, hidden, reach=3000, linear=True),
        z_multiplier=random.integers(1, 4096, (QUALITIES, z)).astype(np.int32),
        mean_multiplier=random.integers(1, 2047, shape).astype(np.int32),
        mean_shift=random.integers(0, 9, shape).astype(np.uint8),
        index_offset=random.integers(-2000, 4000, shape).astype(np.int32),
        z_shift=12,
        input_limit=2047,
        mean_bits=6,
        mean_limit=2**21 - 1,
        index_bits=6,
        scales=64,
    )


def single_layer_network(kind: str, *, shuffle=False, channels=24) -> IntegerHyperSynthesis:
    """A trunk of one layer whose input reaches +-2047 in every channel, whatever the quality."""
    random = np.random.default_rng(7)
    rows = 4 * channels if shuffle else channels
    layer = make_layer(random, "only", kind, rows, channels, shuffle=shuffle)
    return make_network(3, z=channels, hidden=channels, trunk=(layer,))


def make_float_network(seed=0, z=12, hidden=24, latent=40):
    random = np.random.default_rng(seed)

    def layer(name, kind, rows, channels, *, relu=True, shuffle=False, spread=2**0.5, bias=0.1):
        shape = weight_shape(kind, rows, channels)
        weight = random.normal(0, spread / np.prod(shape[1:]) ** 0.5, shape)
        return FloatLayer(name, kind, weight, random.normal(0, bias, rows), relu, shuffle)

    trunk = [
        layer("context_64", "conv3x3", hidden, z),
        layer("up_32", "conv1x1", 4 * hidden, hidden, shuffle=True),
        layer("context_32", "conv3x3", hidden, hidden),
        layer("up_16", "conv1x1", 4 * hidden, hidden, shuffle=True),
        layer("context_16", "depthwise3x3", hidden, hidden),
    ]
    mean = layer("mean", "conv1x1", latent, hidden, relu=False, spread=1.0)
    scale = layer("scale", "conv1x1", latent, hidden, relu=False, spread=6.0, bias=10.0)
    quality = np.linspace(0, 1, QUALITIES)[:, None]
    gain = 1.4 * 13.0**quality * np.exp(random.normal(0, 0.2, (1, latent)))
    z_step = 6.0 * 0.08**quality * np.exp(random.normal(0, 0.2, (1, z)))
    inputs = {
        q: np.rint(random.normal(0, 2.0, (8, 9, z)) / z_step[q - 1]).astype(np.int32)
        for q in range(1, QUALITIES + 1)
    }
    return trunk, mean, scale, z_step, gain, inputs


@pytest.fixture(scope="module")
def quantized():
    trunk, mean, scale, z_step, gain, inputs = make_float_network()
    statistics = calibrate(trunk, mean, scale, [z * z_step[q - 1] for q, z in inputs.items()])
    network = quantize_hyper_synthesis(
        trunk,
        mean,
        scale,
        statistics,
        z_step=z_step,
        gain=gain,
        log_scale_step=LOG_SCALE_STEP,
        scales=64,
    )
    return network, trunk, mean, scale, z_step, gain, inputs


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def ugly_inputs(network: IntegerHyperSynthesis):
    """Sizes that fill no tile, and values far outside what the clamps let through."""
    random = np.random.default_rng(11)
    channels = network.z_channels
    for height, width in ((1, 1), (1, 2), (3, 1), (5, 7), (2, 13)):
        yield random.integers(-5, 6, (height, width, channels))
        yield network.probe_input(QUALITIES, height, width)
    extremes = np.array([-(2**31), 2**31 - 1, 0, -1, 2**15, -(2**15)])
    yield random.choice(extremes, (3, 5, channels)).astype(np.int32)
    yield np.full((2, 2, channels), 2**31 - 1, np.int32)
    yield np.full((2, 2, channels), -(2**31), np.int32)


# Equality of all implementations -----------------------------------------------------------------


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("sizes", [(7, 20, 21), (16, 32, 48), (1, 1, 1), (33, 17, 130)])
def test_every_level_equals_the_reference(level, sizes):
    network = make_network(1, *sizes)
    for number, z in enumerate(ugly_inputs(network)):
        quality = number % QUALITIES + 1
        assert_same(network.run(z, quality, level=level), network.run_reference(z, quality))


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
def test_threads_do_not_change_the_result(threads):
    network = make_network(2, 32, 96, 64)
    z = network.probe_input(4, 12, 13)
    assert_same(network.run(z, 4, threads=threads), network.run(z, 4))


def test_a_large_map_uses_more_chunks_than_one():
    network = make_network(2)
    z = network.probe_input(4, 23, 31)
    assert_same(network.run(z, 4, threads=2), network.run_reference(z, 4))


@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    quality=st.integers(1, QUALITIES),
    seed=st.integers(0, 2**32 - 1),
    bits=st.integers(1, 31),
)
def test_random_inputs(height, width, quality, seed, bits):
    network = make_network(5)
    z = np.random.default_rng(seed).integers(-(2**bits), 2**bits, (height, width, 7))
    assert_same(network.run(z, quality), network.run_reference(z, quality))


def worst_case_input(network: IntegerHyperSynthesis, row: int, sign: int) -> np.ndarray:
    """z ``(3, 3, Z)`` that drives ``row`` of the only trunk layer to its extreme in the middle."""
    weight = network.trunk[0].weight.astype(np.int64)
    kind = network.trunk[0].kind
    z = np.zeros((3, 3, network.z_channels), np.int64)
    if kind == "conv1x1":
        z[1, 1] = np.sign(weight[row])
    elif kind == "conv3x3":
        z[:] = np.sign(weight[row])
    else:
        z[:, :, row] = np.sign(weight[row])
    return z * sign * (2**31 - 1)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", ["conv1x1", "conv3x3", "depthwise3x3"])
def test_the_proven_bound_is_reached_and_exact(kind, shuffle):
    if kind == "depthwise3x3" and shuffle:
        with pytest.raises(BundleError, match="cannot be shuffled"):
            single_layer_network(kind, shuffle=True)
        return
    network = single_layer_network(kind, shuffle=shuffle)
    layer = network.trunk[0]
    bound = network.prove()[1]
    assert bound.name == "only"
    wide = dataclasses.replace(
        layer,
        shift=np.full_like(layer.shift, 9),
        low=np.full_like(layer.low, -(2**15)),
        high=np.full_like(layer.high, 2**15 - 1),
    )
    for row in range(0, len(layer.weight), 5):
        for sign in (1, -1):
            z = worst_case_input(network, row, sign)
            # The layer's own values, seen through an input that is exactly +-2047.
            x = np.sign(z) * 2047
            y = integer_network._run_layer(dataclasses.replace(wide, shuffle=False), x)[1, 1, row]
            reached = bound.high[row] if sign > 0 else bound.low[row]
            bias = int(layer.bias[row])
            half = int(integer_network.half_of(layer.shift[row]))
            # The bound also covers sums that lack the bias or the half.
            total = reached - half + min(bias, 0) if sign > 0 else reached + max(bias, 0)
            assert y == np.clip((total + 256) >> 9, -(2**15), 2**15 - 1)
            expected = network.run_reference(z, 3)
            for level in levels():
                assert_same(network.run(z, 3, level=level), expected)


def test_a_trunk_may_be_empty():
    network = make_network(4, z=20, trunk=())
    assert network.upsampling == 1
    z = network.probe_input(2, 3, 4)
    assert_same(network.run(z, 2), network.run_reference(z, 2))


def test_result_shapes_and_ranges():
    network = make_network(6)
    mean, index = network.run(network.probe_input(1, 3, 5), 1)
    assert mean.shape == index.shape == (12, 20, 21)
    assert mean.dtype == np.int32 and index.dtype == np.uint8
    assert np.abs(mean).max() < 2**21 and index.max() <= 63
    assert len(np.unique(index)) > 10 and len(np.unique(mean)) > 100


# fp32 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    # Only the core is installed: the fp32 form cannot be imported, and nothing else needs it.
    return pytest.importorskip("torch")


@pytest.mark.parametrize("sizes", [(7, 20, 21), (16, 32, 48), (33, 17, 130)])
def test_float32_equals_the_reference(torch, sizes):
    from icmh_rt.models.integer_network_torch import Float32HyperSynthesis

    network = make_network(1, *sizes)
    form = Float32HyperSynthesis(network)
    for number, z in enumerate(ugly_inputs(network)):
        quality = number % QUALITIES + 1
        mean, index = form.run(torch.from_numpy(z), quality)
        assert_same((mean.numpy(), index.numpy()), network.run_reference(z, quality))


@pytest.mark.parametrize("kind", ["conv1x1", "conv3x3", "depthwise3x3"])
def test_float32_is_exact_at_the_proven_bound(torch, kind):
    from icmh_rt.models.integer_network_torch import Float32HyperSynthesis

    network = single_layer_network(kind)
    form = Float32HyperSynthesis(network)
    z = np.stack([worst_case_input(network, row, sign) for row in range(24) for sign in (1, -1)])
    mean, index = form.run(torch.from_numpy(z), 5)
    for i in range(len(z)):
        assert_same((mean[i].numpy(), index[i].numpy()), network.run_reference(z[i], 5))


def test_float32_ignores_and_restores_reduced_precision(torch):
    from icmh_rt.models.integer_network_torch import Float32HyperSynthesis, exact_float32

    network = make_network(1, 16, 32, 48)
    z = network.probe_input(3, 6, 7)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mean, index = Float32HyperSynthesis(network).run(torch.from_numpy(z), 3)
        with exact_float32("cpu"):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert_same((mean.numpy(), index.numpy()), network.run_reference(z, 3))


def test_float32_refuses_arithmetic_that_is_not_exact(torch, monkeypatch):
    form = importlib.import_module("icmh_rt.models.integer_network_torch")
    network = make_network(1, 16, 32, 48)
    exact = form._Layer.__call__
    # What a bf16 or TF32 product does: operands lose their low bits.
    monkeypatch.setattr(
        form._Layer,
        "__call__",
        lambda layer, x: exact(layer, x.to(torch.bfloat16).to(torch.float32)),
    )
    with pytest.raises(BackendUnavailableError, match=r"torch .* on cpu computes .* definition"):
        form.Float32HyperSynthesis(network)


def test_float32_refuses_an_unproven_network_and_bad_arguments(torch):
    from icmh_rt.models.integer_network_torch import Float32HyperSynthesis

    network = make_network(1)
    with pytest.raises(BundleError, match="2\\*\\*24"):
        Float32HyperSynthesis(break_row(network, "trunk", 0, 3))
    form = Float32HyperSynthesis(network)
    with pytest.raises(OptionError, match="float32"):
        form.run(torch.zeros(2, 2, 7), 1)
    with pytest.raises(OptionError, match="shape"):
        form.run(torch.zeros(2, 2, 8, dtype=torch.int32), 1)
    with pytest.raises(OptionError, match="quality is 0"):
        form.run(torch.zeros(2, 2, 7, dtype=torch.int32), 0)


def test_the_core_works_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import icmh_rt.models.integer_network, icmh_rt.models.quantize\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


# The proof -------------------------------------------------------------------------------------


def break_row(network, part, number, row) -> IntegerHyperSynthesis:
    """The network with one row's weights so large that its sum can reach 2**24."""
    layer = network.trunk[number] if part == "trunk" else getattr(network, part)
    weight = layer.weight.copy()
    weight[row] = 2**15 - 1
    broken = dataclasses.replace(layer, weight=weight)
    if part == "trunk":
        trunk = (*network.trunk[:number], broken, *network.trunk[number + 1 :])
        return dataclasses.replace(network, trunk=trunk)
    return dataclasses.replace(network, **{part: broken})


@pytest.mark.parametrize(
    ("part", "number", "name"),
    [
        ("trunk", 0, "context_64"),  # conv3x3
        ("trunk", 1, "up_32"),  # conv1x1 with shuffle
        ("trunk", 2, "context_32"),
        ("trunk", 4, "context_16"),  # depthwise3x3
        ("mean_head", 0, "mean"),
        ("scale_head", 0, "scale"),
    ],
)
def test_prove_names_the_layer_and_row(part, number, name):
    network = make_network()
    assert max(bound.worst for bound in network.prove()) < ACCUMULATOR_LIMIT
    broken = break_row(network, part, number, 13)
    with pytest.raises(BundleError, match=f"'{name}' row 13 can reach [0-9]+, beyond the 2"):
        broken.prove()
    with pytest.raises(BundleError, match=f"'{name}' row 13"):
        broken.run(broken.probe_input(1), 1)
    with pytest.raises(BundleError, match=f"'{name}' row 13"):
        IntegerHyperSynthesis.from_tensors(*broken.to_tensors())


@pytest.mark.parametrize(
    ("table", "value", "name"),
    [("mean_multiplier", 2**15, "mean"), ("index_offset", 2**24, "scale index")],
)
def test_prove_covers_the_tables(table, value, name):
    network = make_network()
    values = getattr(network, table).copy()
    values[4, 13] = value
    broken = dataclasses.replace(network, **{table: values})
    with pytest.raises(BundleError, match=f"'{name}' row 13"):
        broken.prove()


def test_prove_covers_the_bias_on_either_side():
    network = make_network()
    for sign in (1, -1):
        bias = network.mean_head.bias.copy()
        bias[5] = sign * 2**24
        head = dataclasses.replace(network.mean_head, bias=bias)
        with pytest.raises(BundleError, match="'mean' row 5"):
            dataclasses.replace(network, mean_head=head).prove()


def test_the_bound_is_not_just_the_sum_of_magnitudes():
    """After a ReLU positive and negative weights cannot act together; the proof knows."""
    network = make_network(9, z=8, hidden=8)
    layer = network.trunk[1]
    weight = np.resize(np.array([1, -1], np.int16), layer.weight.shape) * np.int16(4000)
    trunk = (network.trunk[0], dataclasses.replace(layer, weight=weight), *network.trunk[2:])
    worst = dataclasses.replace(network, trunk=trunk).prove()[2].worst
    assert worst < 4000 * network.trunk[0].high.astype(np.int64).sum()


# Storage ---------------------------------------------------------------------------------------


def test_storage_round_trip():
    network = make_network(8)
    tensors, metadata = network.to_tensors("h_s.25.")
    assert all(name.startswith("h_s.25.") for name in tensors)
    assert {array.dtype.name for array in tensors.values()} == {"int16", "int32", "uint8"}
    loaded = IntegerHyperSynthesis.from_tensors(
        tensors, json.loads(json.dumps(metadata)), "h_s.25."
    )
    z = network.probe_input(3)
    assert_same(loaded.run(z, 3), network.run(z, 3))
    assert_same(pickle.loads(pickle.dumps(network)).run(z, 3), network.run(z, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("trunk.1.shift"), "lacks 'trunk.1.shift'"),
        (lambda t, m: m.pop("z_shift"), "lacks 'z_shift'"),
        (lambda t, m: m.update(layers=3), "cannot be read"),
        (lambda t, m: m.update(index_bits="6"), "index_bits is '6'"),
        (lambda t, m: m.update(scales=257), "scales is 257"),
        (lambda t, m: m["layers"][0].update(kind="conv5x5"), "known kinds"),
        (lambda t, m: t.update(mean_shift=t["mean_shift"][:, :3]), "has shape"),
        (lambda t, m: t.update(mean_shift=t["mean_shift"] + np.uint8(30)), "mean_shift exceeds"),
        (lambda t, m: t.update(z_multiplier=-t["z_multiplier"]), "z_multiplier"),
        (lambda t, m: t.update({"mean_head.bias": np.zeros(21)}), "bias is float64"),
        (lambda t, m: t.update({"mean_head.bias": np.zeros(5, np.int32)}), "bias has shape"),
        (lambda t, m: t.update({"mean_head.weight": np.ones((21, 9), np.int16)}), "channels"),
        (lambda t, m: t.update({"mean_head.shift": np.full(21, 24, np.uint8)}), "shift 24"),
        (lambda t, m: t.update({"mean_head.high": np.full(21, 2**15, np.int32)}), "int16"),
    ],
)
def test_damaged_storage_is_refused(change, message):
    tensors, metadata = make_network(8).to_tensors()
    change(tensors, metadata)
    with pytest.raises(BundleError, match=message):
        IntegerHyperSynthesis.from_tensors(tensors, metadata)


# Arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z", "quality", "options", "message"),
    [
        (np.zeros((2, 2, 7)), 1, {}, "z is float64"),
        ([[[0] * 7]], 1, {}, "z is list"),
        (np.zeros((2, 2, 6), np.int32), 1, {}, r"shape \(2, 2, 6\)"),
        (np.zeros((2, 7), np.int32), 1, {}, "shape"),
        (np.zeros((0, 2, 7), np.int32), 1, {}, "shape"),
        (np.zeros((2, 2, 7), np.int32), 0, {}, "quality is 0"),
        (np.zeros((2, 2, 7), np.int32), QUALITIES + 1, {}, "outside 1 to"),
        (np.zeros((2, 2, 7), np.int32), 1.5, {}, "quality is 1.5"),
        (np.zeros((2, 2, 7), np.int32), 1, {"threads": 0}, "threads is 0"),
        (np.zeros((2, 2, 7), np.int32), 1, {"level": "mmx"}, "'mmx'"),
    ],
)
def test_bad_arguments(z, quality, options, message):
    with pytest.raises(OptionError, match=message):
        make_network().run(z, quality, **options)


def test_layouts_and_dtypes_of_z():
    network = make_network()
    z = np.random.default_rng(0).integers(-90, 90, (4, 6, 7))
    expected = network.run(z, 2)
    for dtype in (np.int8, np.int16, np.int32, ">i4"):
        assert_same(network.run(z.astype(dtype), 2), expected)
    assert_same(network.run(np.asfortranarray(z), 2), expected)
    assert_same(network.run(np.repeat(z, 2, 1)[:, ::2], 2), expected)
    saturated = np.full((1, 1, 7), 2**63, np.uint64)
    assert_same(network.run(saturated, 2), network.run(np.full((1, 1, 7), 2**31 - 1), 2))


def test_the_native_module_checks_for_itself():
    """The launcher must be safe however it is called: every wrong array is refused."""
    from icmh_rt import _native

    network = make_network()
    packed = network._native
    good = np.zeros((2, 2, 7), np.int32)
    for z in (good.astype(np.int64), good[:, ::2], good[..., :6], good[0], good[:0]):
        with pytest.raises((TypeError, ValueError)):
            packed.run(z, 0)
    for row, level, threads in (
        (-1, "auto", 1),
        (QUALITIES, "auto", 1),
        (0, "x", 1),
        (0, "auto", 0),
    ):
        with pytest.raises(ValueError, match=r"range|level"):
            packed.run(good, row, level, threads)
    layer = integer_network._native_layer(network.mean_head)
    tables = {
        "z_multiplier": np.ones((3, 20), np.int32),
        "z_limit": np.ones((3, 20), np.int32),
        "z_shift": 3,
        "input_limit": 9,
        "mean_multiplier": np.ones((3, 21), np.int32),
        "mean_shift": np.ones((3, 21), np.uint8),
        "mean_limit": 9,
        "index_offset": np.ones((3, 21), np.int32),
        "index_bits": 3,
        "scales": 9,
    }
    build = _native.module().IntegerNetwork
    build(trunk=[], mean_head=layer, scale_head=layer, **tables)
    for key, value in (
        ("z_limit", -np.ones((3, 20), np.int32)),
        ("mean_shift", np.full((3, 21), 24, np.uint8)),
        ("mean_multiplier", np.ones((2, 21), np.int32)),
        ("scales", 257),
        ("index_bits", -1),
    ):
        with pytest.raises(ValueError, match=r"fit together|shape"):
            build(trunk=[], mean_head=layer, scale_head=layer, **{**tables, key: value})


def test_a_level_that_miscalculates_is_refused():
    right = make_network().run_reference(np.ones((1, 1, 7), np.int32), 1)
    wrong = right[0], right[1] ^ 1
    with pytest.raises(BackendUnavailableError, match=r"'avx9' computes .* scale indexes"):
        integer_network.check_probe("the native level 'avx9'", right, wrong)


# Quantization ----------------------------------------------------------------------------------


def test_quantized_output_is_close_to_the_float_network(quantized):
    network, trunk, mean_head, scale_head, z_step, gain, inputs = quantized
    for quality, z in inputs.items():
        mean, index = network.run(z, quality)
        assert_same((mean, index), network.run_reference(z, quality))
        float_mean, float_index = evaluate(trunk, mean_head, scale_head, z * z_step[quality - 1])
        gained = float_mean * gain[quality - 1]
        error = mean / 2.0**network.mean_bits - gained
        # Noise 40 dB under the prediction: far below the residual that is coded against it.
        assert np.sqrt(np.mean(error**2)) < 0.01 * gained.std() + 2.0**-network.mean_bits
        wanted = float_index + np.log(gain[quality - 1]) / LOG_SCALE_STEP
        steps = np.abs(index - np.clip(np.rint(wanted), 0, network.scales - 1))
        assert np.mean(steps <= 1) > 0.999
        assert np.mean(steps == 0) > 0.9


def test_quantization_uses_the_budget(quantized):
    """Every trunk layer comes within a bit of 2**24 in its worst row, and hidden maps are wide."""
    network = quantized[0]
    bounds = {bound.name: bound.worst for bound in network.prove()}
    for layer in network.layers:
        assert bounds[layer.name] > ACCUMULATOR_LIMIT / 2
        assert np.median(layer.high) > 127


def test_quantization_survives_dead_and_constant_channels():
    trunk, mean, scale, z_step, gain, inputs = make_float_network(3)
    for layer in trunk:
        layer.weight[:4] = 0.0
        layer.bias[:4] = [-1.0, 0.0, 1.0, 1e-9]
    mean.weight[0] = scale.weight[1] = 0.0
    mean.weight[2] *= 1e-6
    silent = {q: np.where(np.arange(z.shape[2]) == 5, 0, z) for q, z in inputs.items()}
    statistics = calibrate(trunk, mean, scale, [z * z_step[q - 1] for q, z in silent.items()])
    network = quantize_hyper_synthesis(
        trunk, mean, scale, statistics, z_step=z_step, gain=gain, log_scale_step=0.1, scales=64
    )
    for z in (silent[3], network.probe_input(3), np.full((2, 2, 12), 2**31 - 1)):
        assert_same(network.run(z, 3), network.run_reference(z, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_step": np.ones((QUALITIES, 11))}, "z_step has shape"),
        ({"gain": np.zeros((QUALITIES, 40))}, "not positive"),
        ({"gain": np.full((QUALITIES, 40), np.nan)}, "not positive and finite"),
        ({"gain": np.full((QUALITIES, 40), 1e9)}, "largest mean"),
        ({"z_step": np.ones((3, 12))}, "3 qualities"),
        ({"log_scale_step": 0.0}, "log_scale_step is 0.0"),
        ({"scales": 300}, "scales is 300"),
    ],
)
def test_bad_quantization_arguments(change, message):
    trunk, mean, scale, z_step, gain, inputs = make_float_network()
    statistics = calibrate(trunk, mean, scale, [inputs[1] * z_step[0]])
    arguments = {"z_step": z_step, "gain": gain, "log_scale_step": 0.1, "scales": 64} | change
    with pytest.raises(BundleError, match=message):
        quantize_hyper_synthesis(trunk, mean, scale, statistics, **arguments)


def test_scale_head_beyond_the_budget_is_refused():
    trunk, mean, scale, z_step, gain, inputs = make_float_network()
    huge = dataclasses.replace(scale, weight=scale.weight * 1e5)
    statistics = calibrate(trunk, mean, huge, [inputs[1] * z_step[0]])
    with pytest.raises(BundleError, match=r"'scale' row \d+ needs outputs of"):
        quantize_hyper_synthesis(
            trunk, mean, huge, statistics, z_step=z_step, gain=gain, log_scale_step=0.1, scales=64
        )


def test_float_layers_check_themselves():
    with pytest.raises(BundleError, match="not finite"):
        FloatLayer("a", "conv1x1", np.full((2, 2), np.inf), np.zeros(2))
    with pytest.raises(BundleError, match="conv9x9"):
        FloatLayer("a", "conv9x9", np.zeros((2, 2)), np.zeros(2))
    trunk, mean, scale, *_ = make_float_network()
    with pytest.raises(BundleError, match="at least one"):
        calibrate(trunk, mean, scale, [])
    with pytest.raises(BundleError, match="not finite"):
        calibrate(trunk, mean, scale, [np.full((2, 2, 12), np.nan)])


def test_float_layers_from_torch_agree_with_torch(torch):
    random = np.random.default_rng(0)
    functional = torch.nn.functional
    x = random.normal(size=(5, 6, 8))
    shapes = {"conv1x1": (12, 8, 1, 1), "conv3x3": (12, 8, 3, 3), "depthwise3x3": (8, 1, 3, 3)}
    for kind, shape in shapes.items():
        weight, bias = random.normal(size=shape), random.normal(size=shape[0])
        shuffle = kind != "depthwise3x3"
        layer = FloatLayer.from_torch_layout("x", kind, weight, bias, True, shuffle)
        y = functional.conv2d(
            torch.from_numpy(x).permute(2, 0, 1)[None],
            torch.from_numpy(weight),
            torch.from_numpy(bias),
            padding=shape[-1] // 2,
            groups=1 if shuffle else 8,
        ).relu()
        if shuffle:
            y = functional.pixel_shuffle(y, 2)
        np.testing.assert_allclose(layer(x), y[0].permute(1, 2, 0).numpy(), atol=1e-12)
