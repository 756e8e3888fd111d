"""Task networks: features by name, pictures as each network wants them, and clear refusals."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402
from task_networks import OUTPUT, Tiny, write_detector  # noqa: E402

from icmh_rt.errors import OptionError  # noqa: E402
from icmh_rt.tasks import FastestDet, ModuleNetwork, NetworkConfig, OnnxNetwork, create  # noqa: E402
from icmh_rt.tasks.fastestdet import LAYERS, non_maximum_suppression  # noqa: E402
from icmh_rt.tasks.resize import area_weights, resize  # noqa: E402


def _pictures(count: int = 2, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


# -- any module ------------------------------------------------------------------------------------


def test_features_are_the_named_layers_outputs():
    network = ModuleNetwork(Tiny(), ["first", "maps", "head"])
    x = _pictures()
    found = network.features(x)
    assert list(found) == ["first", "maps.fine", "maps.coarse", "head"]
    assert torch.equal(found["first"], network.body.first(x))
    assert torch.equal(found["maps.fine"], torch.relu(found["first"]))
    assert found["head"].shape == (2, 5)


def test_features_in_parts_are_those_of_the_whole():
    whole = ModuleNetwork(Tiny(), ["maps", "head"]).features(_pictures(5))
    parts = ModuleNetwork(Tiny(), ["maps", "head"], batch=2).features(_pictures(5))
    assert all(torch.allclose(whole[n], parts[n], atol=1e-6) for n in whole)


def test_it_is_frozen_and_differentiable():
    network = ModuleNetwork(nn_with_norm(), ["1"]).train()
    assert not network.body.training and not any(p.requires_grad for p in network.parameters())
    x = _pictures().requires_grad_()
    network.features(x)["1"].square().sum().backward()
    assert (x.grad != 0).any()


def nn_with_norm() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))


def test_no_hook_is_left():
    network = ModuleNetwork(Tiny(), ["maps"])
    network.features(_pictures())
    assert not network.body.maps._forward_hooks
    with pytest.raises(RuntimeError):
        network.features(torch.zeros(1, 4, 8, 8))
    assert not network.body.maps._forward_hooks


def test_channels_are_normalised_in_the_networks_order():
    network = ModuleNetwork(
        torch.nn.Identity(), [""], mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0), bgr=True, peak=255.0
    )
    x = torch.tensor([0.1, 0.2, 0.3])[None, :, None, None]
    found = network.preprocess(x).flatten()
    expected = [(0.3 * 255 - 1) / 2, (0.2 * 255 - 2) / 4, (0.1 * 255 - 3) / 8]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("layers", "message"),
    [([], "layers is empty: name some of first"), (["third"], "no layer 'third' in the network")],
)
def test_wrong_layers_are_named(layers, message):
    with pytest.raises(OptionError, match=message):
        ModuleNetwork(Tiny(), layers)


# -- resizing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "size"), [(64, 96, (16, 24)), (37, 50, (11, 50))])
def test_area_is_the_mean_of_what_a_pixel_covers(height, width, size):
    x = _pictures(1, height, width)
    found = resize(x, size, "area")
    # Pillow's BOX computes the same in 8 bits a channel; here on whole numbers.
    plane = (x[0, 0] * 255).round()
    image = Image.fromarray(plane.numpy().astype(np.float32))
    expected = np.asarray(image.resize(size[::-1], Image.Resampling.BOX))
    exact = resize(plane[None, None], size, "area")[0, 0].numpy()
    whole = height % size[0] == 0 and width % size[1] == 0
    assert np.abs(exact - expected).max() < (0.01 if whole else 40)
    assert found.mean().item() == pytest.approx(x.mean().item(), abs=1e-5)


def test_area_weights_by_hand():
    expected = torch.tensor([[2 / 3, 1 / 3, 0.0], [0.0, 1 / 3, 2 / 3]])
    assert torch.allclose(area_weights(3, 2), expected)
    assert torch.allclose(area_weights(2, 4).sum(1), torch.ones(4))


def test_unknown_filter_is_named():
    with pytest.raises(OptionError, match="filter is 'nearest'"):
        resize(_pictures(), (8, 8), "nearest")


# -- ONNX ------------------------------------------------------------------------------------------


def test_onnx_file_runs_as_in_onnxruntime(tmp_path):
    pytest.importorskip("onnx2torch")
    ort = pytest.importorskip("onnxruntime")
    path = write_detector(tmp_path / "d.onnx")
    network = OnnxNetwork(path, [LAYERS[0], "758"])
    assert (network.size, network.batch) == ((64, 64), 1)
    x = _pictures(3, 64, 64)
    found = network.features(x)
    assert found[LAYERS[0]].shape[0] == 3
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for slot in range(3):
        expected = session.run(None, {"input.1": x[slot : slot + 1].numpy()})[0]
        assert np.allclose(found[OUTPUT][slot], expected[0], atol=1e-5)


def test_onnx_file_of_any_size(tmp_path):
    pytest.importorskip("onnx2torch")
    path = write_detector(tmp_path / "d.onnx", batch="N")
    assert OnnxNetwork(path, LAYERS).batch is None


def test_onnx_mistakes_are_named(tmp_path):
    pytest.importorskip("onnx2torch")
    path = write_detector(tmp_path / "d.onnx")
    with pytest.raises(OptionError, match="no ONNX file"):
        OnnxNetwork(tmp_path / "missing.onnx", LAYERS)
    with pytest.raises(OptionError, match="no layer 'Conv_9' in the network: it has "):
        OnnxNetwork(path, ["Conv_9"])
    with pytest.raises(OptionError, match=r"takes \(64, 64\): leave size out"):
        OnnxNetwork(path, LAYERS, size=(32, 32))
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(OptionError, match="cannot be read") as error:
        OnnxNetwork(tmp_path / "bad.onnx", LAYERS)
    assert "\n" not in str(error.value)


# -- FastestDet ------------------------------------------------------------------------------------


@pytest.fixture
def detector(tmp_path):
    pytest.importorskip("onnx2torch")
    return FastestDet(write_detector(tmp_path / "d.onnx"))


def test_detector_sees_bgr_at_its_size(detector):
    x = _pictures(1, 64, 64)
    assert torch.equal(detector.preprocess(x), x.flip(1))
    assert detector.preprocess(_pictures(2, 96, 128)).shape == (2, 3, 64, 64)
    assert list(detector.features(x)) == list(LAYERS)


def test_decoding_by_hand(detector):
    """One box in a 2x2 grid of two classes."""
    output = np.zeros((7, 2, 2), np.float32)
    output[:, 1, 0] = [0.25, np.arctanh(0.5), np.arctanh(-0.25), 0.0, np.log(3.0), 0.2, 0.8]
    found = detector.decode(output)
    assert found.labels.tolist() == [1]
    assert found.scores[0] == pytest.approx(0.25**0.6 * 0.8**0.4)
    # centre ((0 + 0.5) / 2, (1 - 0.25) / 2), size sigmoid(0) x sigmoid(log 3)
    expected = [0.25 - 0.25, 0.375 - 0.375, 0.25 + 0.25, 0.375 + 0.375]
    assert found.boxes[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_predictions_are_ordered(detector):
    found = detector.predict(_pictures(2))
    assert len(found) == 2
    assert all((np.diff(one.scores) <= 0).all() and len(one.boxes) for one in found)


def test_suppression_keeps_other_classes_and_far_boxes():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 1, 0.9], [0, 0, 0.4, 1], [2, 2, 3, 3.0]])
    labels = np.array([0, 0, 1, 0, 0])
    assert non_maximum_suppression(boxes, labels, 0.45).tolist() == [0, 2, 3, 4]
    assert non_maximum_suppression(boxes[:0], labels[:0], 0.45).tolist() == []


# -- by configuration ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "count"),
    [("resnet50", 4), ("fasterrcnn_resnet50_fpn", 5), ("maskrcnn_resnet50_fpn", 5)],
)
def test_torchvisions_networks(kind, count):
    pytest.importorskip("torchvision")
    network = create(NetworkConfig(kind=kind))
    with torch.no_grad():
        found = network.features(_pictures(1, 64, 64))
    assert len(found) == count and all(f.dim() == 4 for f in found.values())
    if kind == "resnet50":
        assert network.predict(_pictures(1, 64, 64)).shape == (1, 1000)


def test_weights_files(tmp_path):
    from safetensors.torch import save_file

    source = tmp_path / "net.py"
    source.write_text(
        "from torch import nn\n"
        "def build(classes=5):\n"
        "    return nn.Sequential(nn.Conv2d(3, classes, 1))\n"
    )
    factory = f"{source}:build"
    made = create(NetworkConfig(kind="python", factory=factory, layers=("0",), classes=7))
    assert made.features(_pictures())["0"].shape[1] == 7
    state = {k: torch.full_like(v, 0.5) for k, v in made.body.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        config = NetworkConfig(
            kind="python",
            factory=factory,
            layers=("0",),
            classes=7,
            weights=str(tmp_path / name),
        )
        assert (create(config).body[0].weight == 0.5).all()
    with pytest.raises(OptionError, match="does not fit Sequential") as error:
        create(NetworkConfig(**{**config.__dict__, "classes": 6}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "vgg"}, "network.kind is 'vgg': use one of fastestdet"),
        ({"kind": "python", "factory": "here"}, "give 'package.module:name' or 'file.py:name'"),
        ({"kind": "python", "factory": "no.such:thing"}, "is not there"),
        ({"kind": "python", "factory": "math:nothing"}, "is not there"),
        ({"kind": "python", "factory": "builtins:dict"}, "gave a dict, not a torch module"),
        ({"kind": "onnx", "size": (3,)}, "size is .3.: give height and width"),
        ({"kind": "resnet50", "weights": "/no/such.pth"}, "no weights '/no/such.pth'"),
    ],
)
def test_wrong_configurations_are_named(config, message):
    with pytest.raises(OptionError, match=message):
        create(NetworkConfig(**config))


def test_weights_in_half_precision_are_read(tmp_path):
    """As benchmarks/tasks/export.py keeps them: float16, cast where they are used."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnx2torch")
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(0, 0.1, (6, 3, 3, 3)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["w.half"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["y"], ["z"], name="relu"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [value("z", TensorProto.FLOAT, ["N", 6, 6, 6])],
        [numpy_helper.from_array(weight, "w.half")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    onnx.save(model, tmp_path / "half.onnx")
    network = OnnxNetwork(tmp_path / "half.onnx", ["conv"])
    x = _pictures(2, 8, 8)
    wanted = torch.nn.functional.conv2d(x, torch.from_numpy(weight.astype(np.float32)))
    assert torch.allclose(network.features(x)["conv"], wanted, atol=1e-6)
    rest = network.remainder()
    assert torch.equal(rest(network.features(x)), network.run(x))
