"""What graphs hand to the entropy coder, against the integer network's definition and the codec."""

from __future__ import annotations

import numpy as np
import pytest
from graph_cases import WIDTHS, cutting, default, noise, photograph, run, session

from icmh_rt import graphs
from icmh_rt.coding import coding_of
from icmh_rt.export._references import TorchReference


@pytest.mark.parametrize("width", WIDTHS)
def test_the_hyper_synthesis_is_exact(width):
    network = default().width(width)[1].hyper_synthesis
    graph = session(graphs.build(default(), "hyper_synthesis", width))
    random = np.random.default_rng(3)
    for quality in (1, 2, 37, 99, 100):
        for shape in ((1, 1, 1), (2, 3, 5), (1, 7, 2)):
            shape = (*shape, network.z_channels)
            near = random.integers(-40, 41, shape)
            far = random.integers(-(2**31), 2**31, shape)
            limits = random.choice([-(2**31), -(2**24), 0, 2**24 - 1, 2**31 - 1], shape)
            for z in (near, far, limits, np.stack([network.probe_input(quality, *shape[1:3])])):
                z = z.clip(-(2**31), 2**31 - 1).astype(np.int32)
                means, indexes = run(graph, symbols_z=z, quality=quality)
                for one, mean, index in zip(z, means, indexes, strict=True):
                    expected = network.run(one, quality, level="scalar")
                    np.testing.assert_array_equal(mean, expected[0] * 2.0**-network.mean_bits)
                    np.testing.assert_array_equal(index, expected[1])


def test_no_exact_node_is_one_that_runtimes_compute_inexactly():
    model = graphs.build(default(), "encoder", 1.0)
    exact = {n.op_type for n in model.graph.node if n.name.startswith("exact/")}
    assert exact <= {
        "Add", "Cast", "Clip", "Concat", "Div", "Floor", "Gather", "Max", "Min", "MatMul", "Mul",
        "Neg", "Pad", "Reshape", "Round", "Slice", "Sub", "Transpose",
    }  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
def test_symbols_of_a_photograph_are_those_of_torch(width):
    """Equal, but for values on the border between two symbols: at most one in ten thousand."""
    image, total, different = photograph(), 0, 0
    y, z = TorchReference(default(), width, "human", None).latents(image)
    encoder = session(graphs.build(default(), "encoder", width))
    for quality in (1, 60, 100):
        coding = coding_of(default(), width, quality)
        symbols, indexes, symbols_z = (
            a[0] for a in run(encoder, image=image[None], quality=quality)
        )
        prediction = coding.predict(symbols_z, image.shape[:2])
        np.testing.assert_array_equal(indexes, prediction.indexes)
        expected_z = coding.quantize_hyper(z)
        if np.array_equal(symbols_z, expected_z):
            expected = coding.predict(expected_z, image.shape[:2])
            np.testing.assert_array_equal(indexes, expected.indexes)
        assert symbols.dtype == symbols_z.dtype == np.int32 and indexes.dtype == np.uint8
        step = np.abs(symbols - coding.quantize(y, prediction))
        assert step.max() <= 1 and np.abs(symbols_z - expected_z).max() <= 1
        total += step.size + symbols_z.size
        different += np.count_nonzero(step) + np.count_nonzero(symbols_z != expected_z)
    assert different <= 1e-4 * total


@pytest.mark.parametrize("size", [(1, 1), (16, 65), (83, 101)])
def test_the_encoder_is_the_analysis_and_what_the_codec_makes_of_it(size):
    """Where the latents are the same, so is every bit that follows."""
    images = np.stack([cutting(*size), noise(*size)])
    latents = run(graphs.build(default(), "analysis", 0.5), image=images)
    encoder = session(graphs.build(default(), "encoder", 0.5))
    for quality in (1, 50, 100):
        coding = coding_of(default(), 0.5, quality)
        outputs = run(encoder, image=images, quality=quality)
        for y, z, symbols, indexes, symbols_z in zip(*latents, *outputs, strict=True):
            np.testing.assert_array_equal(symbols_z, coding.quantize_hyper(z))
            prediction = coding.predict(symbols_z, size)
            np.testing.assert_array_equal(indexes, prediction.indexes)
            np.testing.assert_array_equal(symbols, coding.quantize(y, prediction))


def test_symbols_are_clamped_as_the_codec_clamps_them():
    """Latents that no image gives: a bundle whose gains are enormous."""
    from dataclasses import replace

    width, tables = default().width(0.25)
    loud = {name: getattr(tables, name) * np.float32(1e6) for name in ("gain", "hyper_gain")}
    bundle = replace(default(), widths={width: replace(tables, **loud)})
    image = noise(40, 40)
    coding = coding_of(bundle, width, 100)
    y, z = (a[0] for a in run(graphs.build(bundle, "analysis", width), image=image[None]))
    outputs = run(graphs.build(bundle, "encoder", width), image=image[None], quality=100)
    symbols, _, symbols_z = (a[0] for a in outputs)
    assert np.abs(symbols).max() == np.abs(symbols_z).max() == 2**17
    np.testing.assert_array_equal(symbols_z, coding.quantize_hyper(z))
    np.testing.assert_array_equal(symbols, coding.quantize(y, coding.predict(symbols_z, (40, 40))))
