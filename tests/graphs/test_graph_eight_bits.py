"""Eight-bit products in graphs, against the same rounding done by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from graph_cases import cutting, default, random_adapters, run

from icmh_rt import graphs
from icmh_rt.errors import OptionError
from icmh_rt.export._calibration import calibrate
from icmh_rt.export._references import session_of
from icmh_rt.graphs import EightBits
from icmh_rt.graphs._builder import GraphBuilder
from icmh_rt.graphs._layers import Layers, Slice

LAYER = "g_a.blocks_8.1.mix_in"


def rounded(x, limit, kind):
    if kind == "int8":
        step = limit / np.float32(127)
        return np.clip(np.rint(x / step), -128, 127) * step
    step = limit / np.float32(448)
    codes = torch.from_numpy(np.clip(x / step, -448, 448)).to(torch.float8_e4m3fn)
    return codes.float().numpy() * step


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_layer_is_that_of_rounded_values(kind):
    b = GraphBuilder()
    weights = Slice.of(default(), 0.25, "fp32")
    layers = Layers(b, weights, EightBits(kind, {LAYER: 1.5}))
    x = b.input("x", "float32", [1, 64, 5, 7])
    b.output(layers.pointwise(x, LAYER, 64, 64), "y", "float32", [1, 64, 5, 7])
    x = np.random.default_rng(0).normal(0, 1, (1, 64, 5, 7)).astype(np.float32)
    (found,) = run(session_of(b.model("layer", "", {}, 19)), x=x)
    weight = weights.weight(LAYER, 64, 64)
    limits = np.abs(weight).max(1, keepdims=True)
    expected = np.einsum("oi,nihw->nohw", rounded(weight, limits, kind), rounded(x, 1.5, kind))
    expected += weights.bias(LAYER, 64)[:, None, None]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    plain = np.einsum("oi,nihw->nohw", weight, x) + weights.bias(LAYER, 64)[:, None, None]
    assert np.abs(found - plain).max() > 0.01


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_blocks_are_in_eight_bits_and_stay_near(kind, precision):
    image = cutting(83, 101)
    arrays = random_adapters()
    for options in ({}, {"task": "detection", "adapters": arrays}):
        bits = calibrate(
            default(), 0.25, options.get("task", "human"), kind, [image], options.get("adapters")
        )
        assert len(bits.limits) == 30 and all(".blocks_" in layer for layer in bits.limits)
        plain = graphs.build(default(), "analysis", 0.25, **options)
        model = graphs.build(
            default(), "analysis", 0.25, eight_bits=bits, precision=precision, **options
        )
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        count = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
        # 15 weights; the gate and the value of an FFN share what they take.
        assert count == 15 + 12
        y, z = run(session_of(model), image=image[None])
        y_there, z_there = run(plain, image=image[None])
        for a, b in ((y, y_there), (z, z_there)):
            assert 1e-4 < np.abs(a - b).max() / max(1, np.abs(b).max()) < 0.05
        properties = {entry.key: entry.value for entry in model.metadata_props}
        assert properties["icmh.eight_bits"] == kind
        assert model.opset_import[0].version == 19


def test_the_hyper_synthesis_has_none():
    bits = EightBits("int8", {LAYER: 1.0})
    model = graphs.build(default(), "hyper_synthesis", 0.25, eight_bits=bits)
    assert not any("Quantize" in node.op_type for node in model.graph.node)
    encoder = graphs.build(default(), "encoder", 0.25, eight_bits=bits)
    rounding = [node.name for node in encoder.graph.node if "Quantize" in node.op_type]
    assert len(rounding) == 2 and all(name.startswith("g_a/blocks_8/1/") for name in rounding)


def test_limits_do_not_depend_on_chance_and_hold_what_comes():
    images = [cutting(64, 80), cutting(40, 150)]
    once = calibrate(default(), 0.25, "human", "fp8", images)
    again = calibrate(default(), 0.25, "human", "fp8", images)
    assert once == again
    alone = calibrate(default(), 0.25, "human", "fp8", images[:1])
    assert all(once.limits[layer] >= alone.limits[layer] for layer in alone.limits)
    # For whole numbers the best limit clips a little.
    clipped = calibrate(default(), 0.25, "human", "int8", images)
    assert all(clipped.limits[layer] <= once.limits[layer] for layer in once.limits)
    assert any(clipped.limits[layer] < once.limits[layer] for layer in once.limits)


def test_mistakes_are_told():
    with pytest.raises(OptionError, match="eight-bit kind is 'int4': use int8 or fp8"):
        EightBits("int4")
    for limit in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(OptionError, match=r"limit of layer 'g_a\.stem' is "):
            EightBits("int8", {"g_a.stem": limit})
