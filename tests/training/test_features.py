"""Training of feature heads: what they learn from, that they learn, and runs that are resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("compressai")

from PIL import Image  # noqa: E402
from task_networks import Tiny, write_detector  # noqa: E402

import icmh_rt  # noqa: E402
from icmh_rt import bundle as bundles  # noqa: E402
from icmh_rt import cli  # noqa: E402
from icmh_rt.errors import OptionError, TrainingError  # noqa: E402
from icmh_rt.models.feature_head import module_of  # noqa: E402
from icmh_rt.tasks import FastestDet, ModuleNetwork, OnnxNetwork  # noqa: E402
from icmh_rt.tasks.remainder import OnnxRemainder, remainder  # noqa: E402
from icmh_rt.training.cli import config_path  # noqa: E402
from icmh_rt.training.crops import Views  # noqa: E402
from icmh_rt.training.feature_config import from_dict  # noqa: E402
from icmh_rt.training.feature_pairs import Pairs, features_of, latents_of, make_pairs  # noqa: E402
from icmh_rt.training.features import HEAD, FeatureTrainer, Units  # noqa: E402
from icmh_rt.training.fields import read_yaml  # noqa: E402
from icmh_rt.training.run import CHECKPOINT, LOG  # noqa: E402

from .tiny import write_images  # noqa: E402

LAYER = "Concat_224"  # of the small detector, at 1/16


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), size=144)


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Path:
    pytest.importorskip("onnx2torch")
    return write_detector(tmp_path_factory.mktemp("detector") / "d.onnx")


def _values(images: Path, output: Path, **changes) -> dict:
    values = {
        "task": "human",
        "output": str(output),
        "seed": 3,
        "precision": "fp32",
        "threads": 1,
        "channels": 16,
        "blocks": 1,
        "log_every": 2,
        "checkpoint_every": 2,
        "data": {"folder": str(images), "pool": 6, "batch": 2, "in_memory": True},
        "network": {"kind": "fastestdet", "layers": [LAYER]},
        "optimizer": {"steps": 4, "lr": 2e-3, "warmup_steps": 2},
    }
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return values


def _trainer(images, output, detector, resume=False, **changes) -> FeatureTrainer:
    network = FastestDet(detector, [LAYER])
    return FeatureTrainer(from_dict(_values(images, output, **changes)), resume, network=network)


def _equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# -- what is learned from --------------------------------------------------------------------------


def test_latents_are_those_of_streams(images) -> None:
    from icmh_rt.backends.torch import create

    backend = create(bundles.load(), "cpu", "auto")
    picture = Views(sorted(images.iterdir()), (50, 70)).draw(np.random.default_rng(0))
    found = latents_of(backend, picture, 0.25, "human", 33)
    stream = icmh_rt.Encoder(0.25, quality=33, backend="torch", device="cpu").encode(picture)
    assert np.array_equal(found, icmh_rt.Decoder(device="cpu").latents(stream).y_hat)


def test_pairs_belong_together_and_are_of_their_seed(images, detector) -> None:
    from icmh_rt.backends.torch import create

    backend, network = create(bundles.load(), "cpu", "auto"), FastestDet(detector, [LAYER])
    views = Views(sorted(images.iterdir()), (64, 64))

    def made(seed: int):
        return make_pairs(backend, network, views, 3, (90, 90), (0.25, "human"), (seed, 0), False)

    first, same, other = made(0), made(0), made(1)
    assert first.latents.shape == (3, 4, 4, 192) and first.features.shape == (3, 6, 4, 4)
    assert torch.equal(first.latents, same.latents) and torch.equal(first.features, same.features)
    assert not torch.equal(first.latents, other.latents)
    # At high quality the decoded picture's features are nearly the original's.
    coding = backend.coding(0.25, 90)
    assert coding is not None
    for latents, features in zip(first.latents, first.features, strict=True):
        decoded = backend.synthesis(latents.float().numpy(), 0.25, "human", (64, 64))
        pixels = torch.from_numpy(decoded).permute(2, 0, 1)[None].float() / 255.0
        again = network.features(pixels)[LAYER][0]
        scale = features.float().std()
        assert (again - features).square().mean().sqrt() < 0.5 * scale


def test_views_are_parts_of_pictures(tmp_path) -> None:
    y, x = np.mgrid[:60, :90]
    Image.fromarray(np.stack([y, x, 0 * x], -1).astype(np.uint8)).save(tmp_path / "a.png")
    views = Views([tmp_path / "a.png"], (30, 40), (0.25, 0.5), 1.2)
    rng = np.random.default_rng(0)
    spans, flipped = [], 0
    for _ in range(60):
        view = views.draw(rng)
        assert view.shape == (30, 40, 3) and view.flags.writeable
        rows, columns = view[:, 0, 0].astype(int), view[0, :, 1].astype(int)
        assert (np.diff(rows) >= 0).all()
        flipped += columns[0] > columns[-1]
        spans.append((rows[-1] - rows[0] + 1) * (abs(columns[-1] - columns[0]) + 1) / 5400)
    assert 0.15 < min(spans) and max(spans) < 0.6 and max(spans) - min(spans) > 0.1
    assert 15 < flipped < 45
    whole = Views([tmp_path / "a.png"], (60, 90), (1.0, 1.0), 1.0).draw(rng)
    assert np.array_equal(np.sort(whole[0, :, 1]), np.arange(90))


def test_layers_at_other_resolutions_are_refused() -> None:
    network = ModuleNetwork(Tiny(), ["maps"])
    with pytest.raises(TrainingError, match=r"layer 'maps.fine' gives .* choose layers with"):
        features_of(network, torch.zeros(1, 3, 64, 64))


# -- what goes on from features --------------------------------------------------------------------


def test_the_remainder_goes_on_as_the_whole(detector, tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    network = FastestDet(detector, [LAYER])
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = network.features(pictures)
    whole = torch.cat([network.run(p) for p in network.preprocess(pictures).split(1)])
    assert torch.allclose(network.remainder()(features), whole, atol=1e-6)

    ort = pytest.importorskip("onnxruntime")
    onnx.save(remainder(detector, [LAYER]), tmp_path / "rest.onnx")
    session = ort.InferenceSession(str(tmp_path / "rest.onnx"), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == [LAYER]
    (found,) = session.run(None, {LAYER: features[LAYER][:1].numpy()})
    assert np.allclose(found, whole[:1].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("sides", "axis", "batch"),
    [
        # Shapes in the file are those of one picture, also within a channel shuffle.
        (([4, 2, 9], [1, 8, 3, 3]), -1, None),
        (([1, 4, 2, 9], [1, 8, 3, 3]), 1, None),
        # What mixes pictures stays one at a time: over the first side, or in one long row.
        (([1, 72], [1, 8, 3, 3]), 0, 1),
        (([1, -1], [1, -1, 3, 3]), -1, 1),
    ],
)
def test_batches_that_only_shapes_forbid(tmp_path, sides, axis, batch) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    value, float32 = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    shape = [1, 8, 3, 3]
    nodes = [helper.make_node("Relu", ["x"], ["t0"], name="relu")]
    for i in range(2):
        nodes.append(helper.make_node("Reshape", [f"t{i}", f"s{i}"], [f"t{i + 1}"], name=f"r{i}"))
    nodes.append(helper.make_node("Softmax", ["t2"], ["y"], name="end", axis=axis))
    shapes = [numpy_helper.from_array(np.array(s, np.int64), f"s{i}") for i, s in enumerate(sides)]
    ends = [value("x", float32, shape)], [value("y", float32, shape)]
    graph = helper.make_graph(nodes, "g", *ends, shapes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    onnx.save(model, str(tmp_path / "g.onnx"))
    rest = OnnxRemainder(tmp_path / "g.onnx", {"relu": "relu"}, 1)
    assert rest.batch == batch
    pictures = torch.rand(3, *shape[1:], generator=torch.Generator().manual_seed(0))
    alone = [rest.body(picture[None]) for picture in pictures]
    assert torch.allclose(rest({"relu": pictures}), torch.cat(alone))


def test_layers_may_be_named_by_their_outputs(detector) -> None:
    model = remainder(detector, ["t3"])
    assert [value.name for value in model.graph.input] == ["t3"]
    network = OnnxNetwork(detector, ["t3"], bgr=True, filter="area")
    (name,) = network.layers
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = network.features(pictures)
    assert list(features) == [name]
    whole = network.run(network.preprocess(pictures))
    assert torch.allclose(network.remainder()(features), whole, atol=1e-6)


def test_a_remainder_that_cannot_be_says_so(detector, tmp_path) -> None:
    with pytest.raises(OptionError, match="no layer 'nowhere'"):
        remainder(detector, ["nowhere"])
    with pytest.raises(OptionError, match="no ONNX file"):
        remainder(tmp_path / "none.onnx", ["x"])
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(OptionError, match=r"cannot be read"):
        remainder(tmp_path / "bad.onnx", ["x"])


def test_the_detectors_distance_is_least_at_the_original() -> None:
    network = object.__new__(FastestDet)
    rng = torch.Generator().manual_seed(0)
    original = torch.rand(2, 85, 4, 4, generator=rng)
    original[:, 5:] = original[:, 5:].softmax(1)
    least = FastestDet.output_distance(network, original, original)
    for channels in (slice(0, 1), slice(1, 5), slice(5, 85)):
        moved = original.clone()
        moved[:, channels] = moved[:, channels] * 0.5
        assert FastestDet.output_distance(network, original, moved) > least


# -- runs ------------------------------------------------------------------------------------------


def test_shipped_configuration_trains(images, tmp_path, detector) -> None:
    """Random weights, tiny data: two steps, and a head that a bundle takes and streams run with."""
    values = read_yaml(config_path("features_fastestdet"))
    values |= {"output": str(tmp_path / "run"), "task": "human", "threads": 1}
    values["data"] |= {"folder": str(images), "pool": 4, "batch": 2}
    values["network"] |= {"weights": str(detector), "layers": [LAYER]}
    values["optimizer"]["steps"] = 2
    trainer = FeatureTrainer(from_dict(values))
    trainer.run(progress=False)
    folder = shutil.copytree(bundles.find("default"), tmp_path / "bundle")
    shutil.rmtree(folder / bundles.FEATURES, ignore_errors=True)
    assert bundles.add_feature_head(folder, tmp_path / "run" / HEAD) == "human"
    picture = np.asarray(Image.open(sorted(images.iterdir())[0]).convert("RGB"))[:64, :64]
    stream = icmh_rt.Encoder(0.25, model=folder, device="cpu").encode(picture)
    found = icmh_rt.Decoder(folder, device="cpu").features(stream)
    assert found[LAYER].shape == (6, 4, 4)
    assert bundles.load(folder).feature_heads["human"].size == (64, 64)


def test_a_head_learns(images, tmp_path, detector) -> None:
    trainer = _trainer(
        images,
        tmp_path / "run",
        detector,
        qualities=[60, 60],
        data={"pool": 8, "batch": 8},
        optimizer={"steps": 60, "lr": 4e-3, "ema_decay": 0.0},
        log_every=20,
        checkpoint_every=60,
    )
    trainer.run(progress=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / LOG).open()]
    losses = [row["widths"]["0.25"] for row in rows]
    assert losses[-1]["features"] < 0.6 * losses[0]["features"]
    assert losses[-1]["outputs"] < losses[0]["outputs"]


def test_dead_channels_do_not_count_by_what_they_lack(images, tmp_path, detector) -> None:
    pairs = _trainer(images, tmp_path, detector).pairs
    features = pairs.features.clone()
    features[:, 0] = 0.0
    scale = Units.of(Pairs(pairs.latents, features)).scale
    assert 0.2 * scale[1:].mean() < scale[0] < scale[1:].mean()


def test_a_saved_head_is_what_learned(images, tmp_path, detector) -> None:
    """Units are folded in."""
    trainer = _trainer(images, tmp_path, detector)
    trainer.run(until=2, progress=False)
    latents, _ = trainer.batch(0)
    trainer.head.load_state_dict(trainer.average)
    units = trainer.units
    with torch.no_grad():
        learned = trainer.head(latents / units.latents[:, None, None])
        learned = learned * units.scale[:, None, None] + units.offset[:, None, None]
        saved = module_of(trainer.trained())(latents)
    assert (saved - learned).abs().max() < 5e-3 * learned.abs().max()


def test_resume_ends_where_an_unbroken_run_ends(images, tmp_path, detector) -> None:
    unbroken = _trainer(images, tmp_path / "a", detector)
    unbroken.run(progress=False)
    _trainer(images, tmp_path / "b", detector).run(until=2, progress=False)
    second = _trainer(images, tmp_path / "b", detector, resume=True)
    assert second.step == 2
    second.run(progress=False)
    assert _equal(unbroken.head.state_dict(), second.head.state_dict())
    assert (tmp_path / "a" / HEAD).read_bytes() == (tmp_path / "b" / HEAD).read_bytes()


def test_runs_are_not_mixed_up(images, tmp_path, detector) -> None:
    _trainer(images, tmp_path / "run", detector).save()
    with pytest.raises(TrainingError, match="--resume"):
        _trainer(images, tmp_path / "run", detector)
    with pytest.raises(TrainingError, match="has channels 16, the config 24"):
        _trainer(images, tmp_path / "run", detector, resume=True, channels=24)
    path = tmp_path / "run" / CHECKPOINT
    state = torch.load(path, weights_only=True)
    torch.save({**state, "latents": "0" * 16}, path)
    with pytest.raises(TrainingError, match="trained on latents of 0000000000000000"):
        _trainer(images, tmp_path / "run", detector, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"layers": []}}, "network.layers is empty"),
        ({"data": {"pool": 1}}, "data.pool must be at least data.batch, got 1 and 2"),
        ({"data": {"part": [0.5, 0.2]}}, "data.part must be a range"),
        ({"qualities": [0, 5]}, "qualities must be a range in 1 to 100"),
        ({"size": [64]}, "size must be height and width"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"width": "wide"}, "config.width must be float, got 'wide'"),
        ({"colour": 1}, "unknown key config.colour"),
    ],
)
def test_wrong_configurations_are_refused(images, tmp_path, changes, message) -> None:
    with pytest.raises(TrainingError, match=message):
        from_dict(_values(images, tmp_path, **changes))


def test_sizes_that_do_not_fit_are_refused(images, tmp_path, detector) -> None:
    with pytest.raises(TrainingError, match=r"size is \(32, 32\), the network takes \(64, 64\)"):
        _trainer(images, tmp_path, detector, size=[32, 32])
    network = ModuleNetwork(Tiny(), ["maps"])
    with pytest.raises(TrainingError, match="size is empty"):
        FeatureTrainer(from_dict(_values(images, tmp_path)), network=network)


def test_command(images, tmp_path, detector, capsys) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps(_values("nowhere", "elsewhere")))
    arguments = ["train", "features", "--config", str(config), "--data", str(images)]
    arguments += ["--weights", str(detector), "--output", str(tmp_path / "run")]
    assert cli.main([*arguments, "--steps", "2"]) == 0
    assert (tmp_path / "run" / HEAD).stat().st_size > 1000
    assert cli.main([*arguments, "--steps", "2"]) == 1  # exists
    assert "Traceback" not in capsys.readouterr().err
