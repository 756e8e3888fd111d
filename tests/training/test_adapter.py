"""Adapter training: every shipped configuration runs, the base stays, runs resume, adapters are
usable.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("compressai")
pytest.importorskip("accelerate")

from bare_bundle import bare  # noqa: E402
from PIL import Image  # noqa: E402
from task_networks import Tiny, write_detector  # noqa: E402

from icmh_rt import cli  # noqa: E402
from icmh_rt.backends.torch import TorchBackend  # noqa: E402
from icmh_rt.bundle import load  # noqa: E402
from icmh_rt.errors import OptionError, TrainingError  # noqa: E402
from icmh_rt.models.adapters import adapter_parameters, load_adapters, use_task  # noqa: E402
from icmh_rt.tasks import ModuleNetwork  # noqa: E402
from icmh_rt.training import adapter, perceptual  # noqa: E402
from icmh_rt.training.adapter import AdapterTrainer, load_adapter_checkpoint  # noqa: E402
from icmh_rt.training.adapter_config import from_dict  # noqa: E402
from icmh_rt.training.cli import CONFIGS, config_path  # noqa: E402
from icmh_rt.training.fields import read_yaml  # noqa: E402
from icmh_rt.training.run import CHECKPOINT, LOG  # noqa: E402

from .tiny import write_images  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(path.stem for path in CONFIGS.glob("adapter_*.yaml"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), size=144)


def _values(images, output, **changes):
    values = {
        "task": "detection",
        "output": str(output),
        "seed": 3,
        "precision": "fp32",
        "threads": 1,
        "middle": 4,
        "lambdas": [1, 100],
        "log_every": 2,
        "checkpoint_every": 2,
        "data": {"folder": str(images), "crop": [64, 64], "batch": 2, "in_memory": True},
        "network": {"kind": "python", "layers": ["maps", "head"]},
        "optimizer": {"steps": 4, "lr": 2e-3, "warmup_steps": 2},
    }
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return values


def _trainer(images, output, resume=False, layers=("maps", "head"), **changes):
    config = from_dict(_values(images, output, **changes))
    return AdapterTrainer(config, resume, network=ModuleNetwork(Tiny(), layers))


def _base_state(trainer) -> dict:
    return {k: v.clone() for k, v in trainer.base.model.state_dict().items()}


def _equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# -- shipped configurations ------------------------------------------------------------------------


def _lay_out(folder: Path, name: str) -> Path:
    """A tiny dataset as the configuration wants it."""
    data = read_yaml(CONFIGS / f"{name}.yaml")["data"]
    places = {
        "images": [""],
        "coco": [""],
        "imagenet": [f"{data.get('split')}/{c}".strip("/") for c in ("n01", "n02")],
        "camvid": ["train", "train_labels"],
    }[data["layout"]]
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
        for index in range(2):
            pixels = np.random.default_rng(index).integers(0, 256, (80, 96, 3), np.uint8)
            Image.fromarray(pixels).save(folder / place / f"{index}.png")
    return folder


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configuration_trains(name, tmp_path, monkeypatch):
    """Random weights, tiny data: two steps through the network, the loss and the layout that the
    file names.
    """
    monkeypatch.chdir(ROOT)  # some name a network in benchmarks/
    values = read_yaml(config_path(name))
    values["output"] = str(tmp_path / "run")
    values["data"] |= {"folder": str(_lay_out(tmp_path / "data", name)), "crop": [64, 64]}
    values["data"]["batch"] = values["data"].get("tiles", 1) ** 2
    values["optimizer"]["steps"] = 2
    if values["network"]["kind"] == "fastestdet":
        pytest.importorskip("onnx2torch")
        values["network"]["weights"] = str(write_detector(tmp_path / "d.onnx"))
    if values["network"]["kind"].endswith(("resnet50", "_fpn")):
        pytest.importorskip("torchvision")
    trainer = AdapterTrainer(from_dict(values))
    before = _base_state(trainer)
    trainer.run(progress=False)
    assert _equal(before, _base_state(trainer))
    assert trainer.report.percent(values["task"]) < 6.0
    saved = tmp_path / "run" / adapter.ADAPTERS
    assert saved.stat().st_size <= 1_000_000
    losses = [json.loads(line) for line in (tmp_path / "run" / LOG).open()]
    assert losses[0]["step"] == 2 and set(losses[0]["widths"]) == {"0.25", "0.5", "1.0"}


def test_papers_lambdas_are_shipped():
    """Of the published configurations, lowest rate first."""
    sets = {name: read_yaml(config_path(name))["lambdas"] for name in SHIPPED}
    assert sets["adapter_imagenet_resnet50"] == [1.8, 3.5, 6.7, 13]
    assert sets["adapter_coco_fasterrcnn"] == [0.5, 1, 2, 5]
    assert sets["adapter_coco_maskrcnn"] == [0.5, 1, 2, 5]


# -- what is trained -------------------------------------------------------------------------------


def test_base_is_bit_identical_and_adapters_are_not(images, tmp_path):
    trainer = _trainer(images, tmp_path / "run")
    before = _base_state(trainer)
    started = {k: v.detach().clone() for k, v in trainer.parameters.items()}
    buffers = {k: v.clone() for k, v in trainer.objective.named_buffers()}
    trainer.run(progress=False)
    assert _equal(before, _base_state(trainer))
    assert _equal(buffers, dict(trainer.objective.named_buffers()))
    assert all(not torch.equal(started[k], v) for k, v in trainer.parameters.items())
    fresh = load("default").transforms
    assert all(np.array_equal(before[k].numpy().astype(np.float16), v) for k, v in fresh.items())


def test_gradients_reach_every_adapter_weight(images, tmp_path):
    trainer = _trainer(images, tmp_path / "run")
    trainer.train_step()  # the up-projections start at zero: what lies before them moves next
    trainer.train_step()
    for name, parameter in trainer.parameters.items():
        moved = (parameter.grad != 0).float().mean().item()
        assert torch.isfinite(parameter.grad).all() and moved > 0.5, (name, moved)


def test_untrained_adapters_leave_the_codec(images, tmp_path):
    trainer = _trainer(images, tmp_path / "run")
    trainer.base.eval()
    factors = trainer.probe(1)
    assert set(factors) == {"0.25", "1.0"}
    assert all(value == 1.0 for row in factors.values() for value in row.values())


def test_it_learns(images, tmp_path):
    """30 steps cut the loss over fixed crops, at the largest width and at the smallest (which has
    a quarter of the adapters' channels).
    """
    trainer = _trainer(
        images,
        tmp_path / "run",
        middle=16,
        checkpoint_every=1000,
        optimizer={"steps": 30, "lr": 1e-2},
    )
    trainer.run(progress=False)
    factors = trainer.probe(2)
    assert factors["1.0"]["loss"] < 0.95 and factors["0.25"]["loss"] < 0.995


def test_adapters_of_a_run_code_streams(images, tmp_path):
    """The file in half precision, in the codec's backend: fewer bits or other pictures, decodable
    by it alone.
    """
    from icmh_rt.codec import Decoder, Encoder

    trainer = _trainer(images, tmp_path / "run", optimizer={"steps": 6, "lr": 5e-3})
    trainer.run(progress=False)
    backend = TorchBackend(bare(), torch.device("cpu"), torch.float32)
    path = tmp_path / "run" / adapter.ADAPTERS
    assert load_adapters(backend._model, path) == ("detection",)
    for name, parameter in adapter_parameters(backend._model, "detection").items():
        assert torch.equal(parameter.data, trainer.average[name].half().float())
    picture = np.asarray(Image.open(sorted(images.iterdir())[0]).convert("RGB"))
    encoder = Encoder(device="cpu", dtype="fp32", quality=40)
    plain = encoder.encode(picture)
    encoder._backend = backend
    assert encoder.encode(picture) == plain  # nothing is active outside the block
    with use_task(backend._model, "detection"):
        adapted = encoder.encode(picture)
    assert adapted != plain
    assert Decoder(device="cpu", dtype="fp32").decode(adapted).shape == picture.shape


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_ends_where_an_unbroken_run_ends(images, tmp_path, workers):
    changes = {"data": {"workers": workers}}
    unbroken = _trainer(images, tmp_path / "a", **changes)
    unbroken.run(progress=False)
    _trainer(images, tmp_path / "b", **changes).run(until=2, progress=False)
    second = _trainer(images, tmp_path / "b", resume=True, **changes)
    assert second.step == 2
    second.run(progress=False)
    assert _equal(dict(unbroken.parameters), dict(second.parameters))
    assert _equal(unbroken.average, second.average)
    a, b = ((tmp_path / n / adapter.ADAPTERS).read_bytes() for n in "ab")
    assert a == b


def test_one_seed_one_result_and_another_seed_another(images, tmp_path):
    runs = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trainer = _trainer(images, tmp_path / name, seed=seed)
        trainer.run(until=2, progress=False)
        runs.append(dict(trainer.parameters))
    assert _equal(runs[0], runs[1]) and not _equal(runs[0], runs[2])


def test_killed_while_saving_keeps_the_old_checkpoint(images, tmp_path, monkeypatch):
    trainer = _trainer(images, tmp_path / "run")
    trainer.run(until=2, progress=False)

    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(until=4, progress=False)
    monkeypatch.undo()
    assert load_adapter_checkpoint(tmp_path / "run" / CHECKPOINT)["step"] == 2


def test_a_crop_that_overflows_is_passed_over(images, tmp_path, monkeypatch):
    trainer = _trainer(images, tmp_path / "run", optimizer={"steps": 40})
    trainer.train_step()
    before = {k: v.detach().clone() for k, v in trainer.parameters.items()}
    whole = trainer.objective.forward_width

    def overflowing(batch):
        outcome = whole(batch)
        return perceptual.AdapterOutcome(
            outcome.bpp, outcome.distortion, outcome.mse, outcome.loss * float("nan")
        )

    monkeypatch.setattr(trainer.objective, "forward_width", overflowing)
    trainer.train_step()
    assert trainer.step == 2 and trainer.skipped == 1
    assert _equal(before, dict(trainer.parameters))
    monkeypatch.undo()
    trainer.train_step()
    assert trainer.skipped == 0 and not _equal(before, dict(trainer.parameters))
    monkeypatch.setattr(trainer.objective, "forward_width", overflowing)
    with pytest.raises(TrainingError, match="not finite for 10 steps up to step 12"):
        trainer.run(progress=False)


def test_runs_are_not_mixed_up(images, tmp_path):
    _trainer(images, tmp_path / "run").save()
    with pytest.raises(TrainingError, match="--resume"):
        _trainer(images, tmp_path / "run")
    with pytest.raises(TrainingError, match="has middle 4, the config 8"):
        _trainer(images, tmp_path / "run", resume=True, middle=8)
    path = tmp_path / "run" / CHECKPOINT
    state = torch.load(path, weights_only=True)
    torch.save({**state, "fingerprint": "0" * 16}, path)
    with pytest.raises(TrainingError, match="bundle with fingerprint 0000000000000000"):
        _trainer(images, tmp_path / "run", resume=True)
    torch.save({"config": state["config"]}, path)
    with pytest.raises(TrainingError, match="not an adapter checkpoint"):
        load_adapter_checkpoint(path)


def test_qualities_cover_the_range(images, tmp_path):
    trainer = _trainer(images, tmp_path / "run", data={"batch": 4}, quality_bias=2.0)
    found = torch.cat([b.quality for step in range(100) for b in trainer.batches(step)])
    assert found.min() <= 2 and found.max() >= 98
    assert 0.4 < (found <= 25).float().mean() < 0.6  # the square root of 1/4
    assert 0.45 < (found[1::4] < found[2::4]).float().mean() < 0.55  # no order among the crops


# -- the loss --------------------------------------------------------------------------------------


def test_the_task_itself_can_be_in_the_loss(images, tmp_path):
    plain = _trainer(images, tmp_path / "plain")
    with_task = _trainer(images, tmp_path / "task", task_lambda=3.0)
    (batch, *_) = plain.batches(0)
    network = plain.objective.network
    decoded = (batch.images + 0.1).clamp(0, 1)
    with torch.no_grad():
        a = plain.objective.distortion(batch.images, decoded)
        b = with_task.objective.distortion(batch.images, decoded)
        said = network.run(batch.images), network.run(decoded)
    wanted = 3.0 * ((said[1] - said[0]).square().mean() / said[0].square().mean())
    assert wanted > 0 and torch.allclose(b - a, wanted.expand_as(a), rtol=1e-3)
    with_task.run(until=2, progress=False)


def test_the_task_in_the_loss_needs_one_tensor(images, tmp_path):
    class Says(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Tiny()

        def forward(self, x):
            return {"scores": self.inner(x)}

    config = from_dict(_values(images, tmp_path, task_lambda=1.0))
    trainer = AdapterTrainer(config, network=ModuleNetwork(Says(), ["inner.head"]))
    with pytest.raises(OptionError, match="says a dict, not a tensor"):
        trainer.train_step()


def test_lambdas_lie_geometrically_over_quality():
    config = from_dict(_values("x", "y", lambdas=[1, 4, 100, 100], loss_exponent=0.5))
    assert config.lambda_of(1) == 1 and config.lambda_of(34) == pytest.approx(4)
    assert config.lambda_of(17.5) == pytest.approx(2) and config.lambda_of(100) == 100
    assert config.weight_of(1) == pytest.approx(10) and config.weight_of(100) == 1
    assert from_dict(_values("x", "y", lambdas=[3])).lambda_of(50) == 3


def test_narrow_widths_weigh_more(images, tmp_path):
    trainer = _trainer(images, tmp_path / "run", lambdas=[2], narrow_weight=8.0)
    weights = {batch.width: batch.weight[0].item() for batch in trainer.batches(0)}
    assert weights == pytest.approx({3: 1.0, 0: 8.0, 1: 4.0})


def test_tiles_are_told_apart():
    """A difference in one crop is in the distortion of that crop alone."""
    crops = torch.rand(8, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    whole = perceptual.mosaic(crops, 2)
    assert whole.shape == (2, 3, 16, 24)
    assert torch.equal(whole[1, :, 8:, :12], crops[6])
    other = crops.clone()
    other[6] += 0.5
    found = perceptual.feature_distortion(whole, perceptual.mosaic(other, 2), 2, False)
    assert found.tolist() == pytest.approx([0, 0, 0, 0, 0, 0, 0.25, 0], abs=1e-6)
    relative = perceptual.feature_distortion(whole, perceptual.mosaic(other, 2), 2, True)
    assert relative[6].item() == pytest.approx(0.25 / whole.square().mean().item(), rel=1e-5)
    scores, changed = torch.zeros(2, 5), torch.tensor([[0.0] * 5, [1.0] * 5])
    assert perceptual.feature_distortion(scores, changed, 2, False).tolist() == [0] * 4 + [1] * 4


def test_loss_is_rate_plus_lambda_distortion(images, tmp_path):
    trainer = _trainer(images, tmp_path / "run", pixel_lambda=0.01)
    trainer.base.eval()
    (batch, *_) = trainer.batches(0)
    outcome = trainer.objective.forward_width(batch)
    distortion = outcome.distortion + 0.01 * 255**2 * outcome.mse
    expected = (batch.weight * (outcome.bpp + batch.trade_off * distortion)).mean()
    assert outcome.loss.item() == pytest.approx(expected.item(), rel=1e-5)


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "human"}, "task is 'human': use one of classification"),
        ({"task": ""}, "task is '': use one of"),
        ({"data": {"crop": [64, 100]}}, r"data.crop must be positive multiples of 64, got \[64"),
        ({"data": {"crop": [64]}}, "config.data.crop must have 2|data.crop must have 2 values"),
        ({"data": {"crop": 64}}, "data.crop must be a list, got 64"),
        ({"data": {"layout": "voc"}}, "data.layout is 'voc': use one of images, imagenet"),
        ({"data": {"tiles": 2, "batch": 6}}, "multiple of tiles², got 6 and 2 tiles"),
        ({"data": {"scale": [2, 1]}}, "the smaller first, got"),
        ({"data": {"in_memory": "yes"}}, "data.in_memory must be bool, got 'yes'"),
        ({"network": {"kind": "vgg"}}, "network.kind is 'vgg'"),
        ({"optimizer": {"steps": 1.5}}, "optimizer.steps must be int, got 1.5"),
        ({"optimizer": {"steps": True}}, "optimizer.steps must be int, got True"),
        ({"lambdas": []}, r"lambdas must be positive numbers, got \[\]"),
        ({"lambdas": ["a"]}, r"lambdas\[0\] must be float, got 'a'"),
        ({"qualities": [0, 100]}, "qualities must be a range in 1 to 100"),
        ({"narrow_weight": 0}, "narrow_weight must be positive, got 0"),
        ({"precision": "int8"}, "precision must be bf16 or fp32"),
        ({"learning_rate": 1}, "unknown key config.learning_rate; known: task"),
    ],
)
def test_wrong_configuration_is_named(changes, message):
    with pytest.raises(TrainingError, match=message):
        from_dict(_values("x", "y", **copy.deepcopy(changes)))


def test_command_trains_and_resumes(images, tmp_path, monkeypatch, capsys):
    source = tmp_path / "net.py"
    source.write_text("from torch import nn\ndef net():\n    return nn.Conv2d(3, 4, 3, 4)\n")
    values = _values(images, "replaced", task="segmentation")
    values["network"] = {"kind": "python", "factory": f"{source}:net", "layers": [""]}
    values["data"]["folder"] = "replaced"
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(values))
    output = tmp_path / "run"
    arguments = ["train", "adapter", "--task", "detection", "--config", str(config)]
    arguments += ["--data", str(images), "--output", str(output)]
    assert cli.main([*arguments, "--steps", "2"]) == 0
    assert "detection: 37,664 parameters, 0.58 %" in capsys.readouterr().out
    assert cli.main([*arguments, "--steps", "2"]) == 1  # exists
    assert cli.main([*arguments, "--steps", "4", "--resume"]) == 0
    assert load_adapter_checkpoint(output / CHECKPOINT)["step"] == 4
    error = capsys.readouterr().err
    assert "Traceback" not in error


def test_command_names_what_is_wrong(tmp_path, capsys):
    arguments = ["train", "adapter", "--task", "detection", "--output", str(tmp_path / "run")]
    assert cli.main([*arguments, "--config", "adapter_nothing"]) == 1
    assert "cannot read config 'adapter_nothing'" in capsys.readouterr().err
    assert cli.main([*arguments, "--config", "adapter_coco_fasterrcnn"]) == 1
    assert "data folder '' does not exist" in capsys.readouterr().err
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert cli.main([*arguments, "--config", str(tmp_path / "list.yaml")]) == 1
    assert "must be a mapping" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_one_set_of_adapters(images, tmp_path):
    """What `accelerate launch` does with several GPUs, here with two processes on the CPU."""
    import subprocess
    import sys

    source = tmp_path / "net.py"
    source.write_text("from torch import nn\ndef net():\n    return nn.Conv2d(3, 4, 3, 4)\n")
    values = _values(images, tmp_path / "run", optimizer={"steps": 2})
    values["network"] = {"kind": "python", "factory": f"{source}:net", "layers": [""]}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(values))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = ["-m", "icmh_rt", "train", "adapter", "--config", str(config)]
    result = subprocess.run(
        [*launch, *command],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    state = load_adapter_checkpoint(tmp_path / "run" / CHECKPOINT)
    assert state["step"] == 2
    single = AdapterTrainer(from_dict({**values, "output": str(tmp_path / "single")}))
    single.run(progress=False)
    assert not _equal(dict(single.parameters), state["adapters"])
