"""Graphs of g_a, h_a and g_s against torch, and what holds of every graph."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from graph_cases import WIDTHS, cutting, default, noise, random_adapters, run, session

from icmh_rt import graphs
from icmh_rt.errors import BundleError, OptionError
from icmh_rt.export._references import TorchReference
from icmh_rt.published import PublishedBundle

SIZES = ((83, 101), (1, 1), (64, 128), (17, 130), (130, 16))
BUILT = ("encoder", "analysis", "hyper_synthesis", "synthesis")


def one_channels(bundle, width):
    index = bundle.config["widths"].index(width)
    return bundle.config["latent_channels"][index]


@pytest.mark.parametrize("width", WIDTHS)
def test_transforms_are_those_of_torch(width):
    reference = TorchReference(default(), width, "human", None)
    analysis = session(graphs.build(default(), "analysis", width))
    synthesis = session(graphs.build(default(), "synthesis", width))
    for height, columns in SIZES:
        for image in (cutting(height, columns), noise(height, columns, 50)):
            y, z = run(analysis, image=image[None])
            y_there, z_there = reference.latents(image)
            np.testing.assert_allclose(y[0], y_there, atol=2e-5 * max(1, np.abs(y_there).max()))
            np.testing.assert_allclose(z[0], z_there, atol=2e-5 * max(1, np.abs(z_there).max()))
            (picture,) = run(synthesis, y_hat=y_there[None], height=height, width=columns)
            assert picture.shape == (1, height, columns, 3) and picture.dtype == np.uint8
            there = reference.picture(y_there, (height, columns))
            difference = np.abs(picture[0].astype(int) - there)
            assert difference.max() <= 1 and np.mean(difference > 0) < 1e-3


@pytest.mark.parametrize("adapted", [False, True])
def test_a_batch_is_its_images(adapted):
    options = {"task": "detection", "adapters": random_adapters()} if adapted else {}
    analysis = session(graphs.build(default(), "analysis", 0.25, **options))
    synthesis = session(graphs.build(default(), "synthesis", 0.25, **options))
    images = np.stack([cutting(35, 50), noise(35, 50, 50), cutting(35, 50)[::-1]])
    y, z = run(analysis, image=images)
    pictures = run(synthesis, y_hat=y, height=35, width=50)[0]
    for i, image in enumerate(images):
        y_alone, z_alone = run(analysis, image=image[None])
        np.testing.assert_allclose(y[i], y_alone[0], atol=1e-5)
        np.testing.assert_allclose(z[i], z_alone[0], atol=1e-5)
        alone = run(synthesis, y_hat=y[i : i + 1], height=35, width=50)[0][0]
        assert np.abs(pictures[i].astype(int) - alone).max() <= 1


@pytest.mark.parametrize("size", [(83, 101), (64, 128), (1, 1)])
@pytest.mark.parametrize("adapted", [False, True])
def test_a_fixed_size_is_the_same_graph_without_what_sizes_need(size, adapted):
    options = {"task": "detection", "adapters": random_adapters()} if adapted else {}
    for role in BUILT:
        free = graphs.build(default(), role, 0.25, **options)
        fixed = graphs.build(default(), role, 0.25, size=size, batch=1, **options)
        assert len(fixed.graph.node) < len(free.graph.node)
        assert not {"Shape", "Range", "Cos"} & {node.op_type for node in fixed.graph.node}
        for value in (*fixed.graph.input, *fixed.graph.output):
            assert all(side.dim_value for side in value.type.tensor_type.shape.dim)
        h, w = (-(-side // 16) for side in size)
        m = one_channels(default(), 0.25)
        random = np.random.default_rng(1)
        z = random.integers(-9, 9, (1, -(-h // 4), -(-w // 4), 32)).astype(np.int32)
        given = {
            "encoder": {"image": cutting(*size)[None], "quality": 30},
            "analysis": {"image": cutting(*size)[None]},
            "hyper_synthesis": {"symbols_z": z, "quality": 30},
            "synthesis": {"y_hat": random.normal(0, 1, (1, h, w, m)).astype(np.float32)},
        }[role]
        sides = {"height": size[0], "width": size[1]} if role == "synthesis" else {}
        for a, b in zip(run(free, **given, **sides), run(fixed, **given), strict=True):
            assert a.dtype == b.dtype
            atol = 1e-5 if a.dtype == np.float32 else 1
            np.testing.assert_allclose(a.astype(float), b.astype(float), atol=atol, rtol=1e-5)
            assert a.dtype == np.float32 or np.mean(a != b) < 1e-3


@pytest.mark.parametrize("adapted", [False, True])
def test_half_precision_is_near_and_leaves_what_is_exact_alone(adapted):
    options = {"task": "detection", "adapters": random_adapters()} if adapted else {}
    image = cutting(83, 101)[None]
    full = run(graphs.build(default(), "analysis", 0.5, **options), image=image)
    half = run(graphs.build(default(), "analysis", 0.5, precision="fp16", **options), image=image)
    for a, b in zip(full, half, strict=True):
        assert b.dtype == np.float32
        error = np.abs(a - b).max()
        assert 0 < error < 4e-3 * max(1, np.abs(a).max())
    model = graphs.build(default(), "encoder", 0.5, precision="fp16", **options)
    types = _element_types(model)
    half = onnx.TensorProto.FLOAT16
    exact = [node for node in model.graph.node if node.name.startswith("exact/")]
    assert len(exact) > 100
    for node in exact:
        assert all(types[name] != half for name in (*node.input, *node.output) if name)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    wide = [node for node in convolutions if types[node.input[0]] != half]
    # The frequency gate: amplitudes of large maps leave half precision.
    assert {node.name.rpartition("/")[2] for node in wide} == (
        {"f_dw", "f_inter"} if adapted else set()
    )


def _element_types(model):
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


@pytest.mark.parametrize("width", WIDTHS)
def test_graphs_pass_the_checker_and_have_all_shapes_inferred(width):
    for role in BUILT:
        for options in (
            {},
            {"size": (50, 70)},
            {"precision": "fp16"},
            {"task": "segmentation", "adapters": random_adapters()},
        ):
            model = graphs.build(default(), role, width, **options)
            onnx.checker.check_model(model, full_check=True)
            inferred = onnx.shape_inference.infer_shapes(
                model, check_type=True, strict_mode=True, data_prop=True
            )
            known = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output)}
            for node in model.graph.node:
                for output in node.output:
                    assert known[output].type.tensor_type.HasField("shape"), output
            assert model.opset_import[0].version <= 20 and len(model.opset_import) == 1


def test_names_are_unique_and_tell_what_a_node_is_for():
    model = graphs.build(default(), "encoder", 0.5)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names) and all(names)
    assert "g_a/blocks_8/0/mix_in" in names and "exact/h_s/context_64/matmul" in names
    constants = [tensor.name for tensor in model.graph.initializer]
    assert "g_a.blocks_8.0.mix_in.weight" in constants
    contents = [(t.data_type, tuple(t.dims), t.raw_data) for t in model.graph.initializer]
    assert len(set(contents)) == len(contents)


def test_graphs_have_their_width_only():
    sizes = [graphs.build(default(), "analysis", width).ByteSize() for width in WIDTHS]
    assert sizes == sorted(sizes) and 8 * sizes[0] < sizes[-1]


def test_equal_bundles_give_equal_bytes(tmp_path):
    for name in ("one.onnx", "two.onnx"):
        model = graphs.build(
            default(), "encoder", 0.25, "detection", adapters=random_adapters(), size=(40, 60)
        )
        graphs.save(model, tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_metadata_say_where_a_graph_is_from():
    model = graphs.build(default(), "synthesis", 0.5, size=(40, 60))
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found == {
        "icmh.bundle": "default",
        "icmh.fingerprint": default().fingerprint,
        "icmh.precision": "fp32",
        "icmh.role": "synthesis",
        "icmh.size": "40x60",
        "icmh.task": "human",
        "icmh.width": "0.5",
    }


def test_no_torch_is_needed():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from icmh_rt import bundle, graphs\n"
        "for role in ('encoder', 'analysis', 'hyper_synthesis', 'synthesis'):\n"
        "    graphs.build(bundle.load(), role, 0.25)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"role": "decoder"}, "role 'decoder' is unknown: use one of encoder, "),
        ({"role": "features"}, "has no feature head for task 'human'"),
        ({"width": 0.3}, "width 0.3 is not in bundle 'default'"),
        ({"task": "counting"}, "task 'counting' is unknown; not in bundle 'default'"),
        ({"precision": "int8"}, "precision is 'int8': use fp32 or fp16"),
        ({"size": (0, 5)}, r"size is \(0, 5\): give \(height, width\)"),
        ({"size": 5}, "size is 5"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": True}, "batch is True"),
    ],
)
def test_mistakes_are_told(arguments, message):
    arguments = {"role": "analysis", "width": 0.25, **arguments}
    with pytest.raises(OptionError, match=message):
        graphs.build(default(), arguments.pop("role"), arguments.pop("width"), **arguments)


def test_bundles_that_do_not_fit_are_told():
    from dataclasses import replace

    transforms = dict(default().transforms)
    del transforms["g_a.down.bias"]
    with pytest.raises(BundleError, match=r"lacks 'g_a\.down\.bias'"):
        graphs.build(replace(default(), transforms=transforms), "analysis", 0.25)
    transforms = default().transforms | {"g_a.stem.weight": np.zeros((8, 192), np.float16)}
    with pytest.raises(BundleError, match=r"has \(8, 192\) for g_a\.stem\.weight"):
        graphs.build(replace(default(), transforms=transforms), "analysis", 0.25)
    with pytest.raises(BundleError, match="has no 'blocks_8' in its config"):
        config = {k: v for k, v in default().config.items() if k != "blocks_8"}
        graphs.build(replace(default(), config=config), "analysis", 0.25)
    converted = PublishedBundle.__new__(PublishedBundle)
    object.__setattr__(converted, "name", "tic")
    with pytest.raises(OptionError, match="'tic' is a converted checkpoint"):
        graphs.build(converted, "analysis", 0.25)
