"""The trainer: what it trains on, that it learns, resumes exactly, and refuses what is wrong."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("compressai")
pytest.importorskip("accelerate")

from icmh_rt.errors import TrainingError  # noqa: E402
from icmh_rt.training import base  # noqa: E402
from icmh_rt.training.base import BaseTrainer, load_checkpoint_file  # noqa: E402
from icmh_rt.training.config import from_dict, load_config  # noqa: E402
from icmh_rt.training.data import CropSource, step_rng  # noqa: E402
from icmh_rt.training.run import CHECKPOINT, LOG, learning_rate_factor  # noqa: E402

from .tiny import tiny_config, write_images  # noqa: E402


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def _equal_states(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_resume_ends_where_an_unbroken_run_ends(images, tmp_path):
    unbroken = BaseTrainer(from_dict(tiny_config(images, tmp_path / "a")))
    unbroken.run(progress=False)
    first = BaseTrainer(from_dict(tiny_config(images, tmp_path / "b")))
    first.run(until=4, progress=False)
    second = BaseTrainer(from_dict(tiny_config(images, tmp_path / "b")), resume=True)
    assert second.step == 4
    second.run(progress=False)
    assert _equal_states(unbroken.model.state_dict(), second.model.state_dict())
    assert _equal_states(unbroken.ema, second.ema)


def test_one_seed_one_result_and_another_seed_another(images, tmp_path):
    runs = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trainer = BaseTrainer(from_dict(tiny_config(images, tmp_path / name, seed=seed)))
        trainer.run(until=2, progress=False)
        runs.append(trainer.model.state_dict())
    assert _equal_states(runs[0], runs[1])
    assert not _equal_states(runs[0], runs[2])


def test_it_learns(images, tmp_path):
    """150 steps must cut the loss of a fixed batch well below the KLT starting point."""
    config = from_dict(
        tiny_config(
            images, tmp_path / "a", optimizer={"steps": 150, "lr": 4e-3, "decay_fraction": 0.3}
        )
    )
    trainer = BaseTrainer(config)

    def loss() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return trainer.objective(trainer.batches(10_000))[0].item()

    before = loss()
    trainer.run(progress=False)
    assert loss() < 0.8 * before
    lines = (tmp_path / "a" / LOG).read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["step"] == 150
    assert {"bpp", "psnr_db"} <= set(last["widths"]["1.0"])


def test_killed_while_saving_keeps_the_old_checkpoint(images, tmp_path, monkeypatch):
    trainer = BaseTrainer(from_dict(tiny_config(images, tmp_path / "a")))
    trainer.run(until=4, progress=False)

    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(until=8, progress=False)
    assert load_checkpoint_file(tmp_path / "a" / CHECKPOINT)["step"] == 4


def test_sandwich_covers_every_width(images, tmp_path):
    config = from_dict(tiny_config(images, tmp_path))
    widths = [base.widths_of_step(config, step) for step in range(8)]
    assert all(w[:2] == [2, 0] for w in widths)
    assert {i for w in widths for i in w} == {0, 1, 2}


def test_learning_rate_warms_up_stays_and_falls(images, tmp_path):
    config = from_dict(
        tiny_config(
            images, tmp_path, optimizer={"steps": 100, "warmup_steps": 10, "decay_fraction": 0.5}
        )
    )
    factors = [learning_rate_factor(config.optimizer, s) for s in range(100)]
    assert factors[0] == 0.1 and factors[30] == 1.0
    assert np.all(np.diff(factors[50:]) < 0) and factors[99] < 0.05


def test_crop_schedule_keeps_the_pixels_about_constant(images, tmp_path):
    config = from_dict(
        tiny_config(images, tmp_path, data={"crop_schedule": [[0.5, 128]], "batch": 8})
    )
    assert base.crop_of_step(config, 3) == (64, 8)
    assert base.crop_of_step(config, 4) == (128, 2)


def test_crops_depend_on_the_step_alone(images):
    source = CropSource(images, 64)
    a = source.crops(step_rng(1, 5, 0), 3, 64)
    source.crops(step_rng(1, 6, 0), 3, 64)
    assert np.array_equal(a, source.crops(step_rng(1, 5, 0), 3, 64))
    assert a.shape == (3, 3, 64, 64) and a.dtype == np.uint8
    assert not np.array_equal(a, source.crops(step_rng(1, 5, 1), 3, 64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"crop": 100}}, "multiple of 64, got 100"),
        ({"data": {"batch": 0}}, "data.batch must be at least 1, got 0"),
        ({"data": {"folder": "/no/such/folder"}}, "does not exist"),
        ({"precision": "int4"}, "precision must be bf16 or fp32, got 'int4'"),
        ({"optimizer": {"steps": "many"}}, r"optimizer.steps must be int, got 'many'"),
        ({"learning_rate": 1}, r"unknown key config.learning_rate; known: output"),
        ({"data": {"crop": 320}}, "no image of at least 320x320"),
    ],
)
def test_wrong_configuration_is_named(images, tmp_path, changes, message):
    with pytest.raises(TrainingError, match=message):
        BaseTrainer(from_dict(tiny_config(images, tmp_path, **changes)))


def test_config_file_errors_are_one_line(tmp_path):
    broken = tmp_path / "c.yaml"
    broken.write_text("data: [1, 2\nx: {")
    with pytest.raises(TrainingError) as error:
        load_config(broken)
    assert "\n" not in str(error.value)
    with pytest.raises(TrainingError, match="cannot read config"):
        load_config(tmp_path / "missing.yaml")


def test_an_existing_run_is_not_overwritten(images, tmp_path):
    trainer = BaseTrainer(from_dict(tiny_config(images, tmp_path / "a")))
    trainer.save()
    with pytest.raises(TrainingError, match="--resume"):
        BaseTrainer(from_dict(tiny_config(images, tmp_path / "a")))


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(TrainingError, match="no checkpoint"):
        load_checkpoint_file(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="not a trainer's checkpoint"):
        load_checkpoint_file(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(TrainingError, match="not a trainer's checkpoint"):
        load_checkpoint_file(path)


def test_shipped_config_is_valid():
    from pathlib import Path

    config = load_config(Path(base.__file__).parent / "configs" / "default.yaml")
    assert config.optimizer.steps > 0


@pytest.mark.slow
def test_two_processes_train_one_model(images, tmp_path):
    """What `accelerate launch` does with several GPUs, here with two processes on the CPU."""
    import subprocess
    import sys

    import yaml

    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny_config(images, tmp_path / "run")))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = ["-m", "icmh_rt", "train", "base", "--config", str(config)]
    result = subprocess.run(
        [*launch, *command],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    state = load_checkpoint_file(tmp_path / "run" / CHECKPOINT)
    assert state["step"] == 8
    single = BaseTrainer(from_dict(tiny_config(images, tmp_path / "single")))
    single.run(progress=False)
    # The second process brings other crops: the result is not that of one process.
    assert not _equal_states(single.model.state_dict(), state["model"])
    assert len((tmp_path / "run" / LOG).read_text().splitlines()) == 2
