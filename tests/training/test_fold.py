"""Folding: a checkpoint becomes a bundle that codes what the float network would have."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("compressai")
pytest.importorskip("accelerate")

from icmh_rt import bundle  # noqa: E402
from icmh_rt.codec import Decoder, Encoder  # noqa: E402
from icmh_rt.models.slimmable_hyperprior import SlimmableHyperprior  # noqa: E402
from icmh_rt.training.base import BaseTrainer, load_checkpoint_file  # noqa: E402
from icmh_rt.training.config import from_dict  # noqa: E402
from icmh_rt.training.fold import fold  # noqa: E402
from icmh_rt.training.objective import RateDistortion  # noqa: E402
from icmh_rt.training.run import CHECKPOINT  # noqa: E402

from .tiny import tiny_config, write_images  # noqa: E402


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(image folder, checkpoint, bundle folder) of a short run."""
    folder = tmp_path_factory.mktemp("fold")
    images = write_images(folder / "images")
    config = tiny_config(images, folder / "run", optimizer={"steps": 30, "lr": 2e-3})
    BaseTrainer(from_dict(config)).run(progress=False)
    checkpoint = folder / "run" / CHECKPOINT
    bundle.save(fold(checkpoint, images, "tiny", crops=8), folder / "bundle")
    return images, checkpoint, folder / "bundle"


def _picture(images) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(sorted(images.iterdir())[0]).convert("RGB"))[:192, :256]


@pytest.mark.parametrize("width", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("quality", [1, 50, 100])
def test_bundle_codes_what_the_float_network_estimates(trained, width, quality):
    """Rate and distortion of real streams against one pass of the float model."""
    images, checkpoint, folder = trained
    state = load_checkpoint_file(checkpoint)
    model = SlimmableHyperprior(state["config"].model)
    model.load_state_dict(state["ema"])
    picture = _picture(images)
    x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255.0
    objective = RateDistortion(model.eval(), autocast_dtype=None).eval()
    with torch.no_grad():
        index = model.config.width_index(width)
        outcome = objective.forward_width(x, torch.tensor([float(quality)]), index)
    report = Encoder(width=width, quality=quality, model=folder).encode_detailed(picture)
    decoded = Decoder(model=folder).decode(report.data)
    mse = np.mean((decoded.astype(np.float64) - picture) ** 2) / 255.0**2
    bits = outcome.bpp.item() * picture.shape[0] * picture.shape[1]
    assert report.estimated_bits == pytest.approx(bits, rel=0.02)
    assert len(report.data) * 8 <= 1.03 * bits + 8 * 40
    assert -10 * np.log10(mse) == pytest.approx(-10 * np.log10(outcome.mse.item()), abs=0.1)


def test_folding_is_deterministic(trained, tmp_path):
    images, checkpoint, folder = trained
    again = bundle.save(fold(checkpoint, images, "tiny", crops=8), tmp_path / "again")
    assert again == bundle.load(folder).fingerprint


def test_command_line_trains_and_folds(trained, tmp_path, capsys):
    """`icmh train base` and `icmh bundle`, as a user runs them."""
    import yaml

    from icmh_rt.cli import main

    images, _, _ = trained
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny_config(images, tmp_path / "unused")))
    run = tmp_path / "run"
    arguments = ["train", "base", "--config", str(config), "--output", str(run)]
    assert main([*arguments, "--steps", "4"]) == 0
    assert main([*arguments, "--steps", "4"]) == 1  # exists
    assert "--resume" in capsys.readouterr().err
    assert main([*arguments, "--steps", "6", "--resume"]) == 0
    out = tmp_path / "bundle"
    fold_arguments = ["--data", str(images), "-o", str(out), "--name", "mine", "--crops", "2"]
    assert main(["bundle", str(run / CHECKPOINT), *fold_arguments]) == 0
    assert bundle.load(out).name == "mine"
    assert str(tmp_path) not in (out / bundle.MANIFEST).read_text()
    assert str(images) not in (out / bundle.MANIFEST).read_text()
    assert main(["bundle", str(tmp_path / "none.pt"), *fold_arguments]) == 1


def test_channels_that_training_shut_off_cost_no_precision(trained):
    """A hyper-latent channel ends as a gain near zero; its huge step must not take the budget."""
    from icmh_rt.training.fold import _fold_width, index_error

    _, checkpoint, _ = trained
    state = load_checkpoint_file(checkpoint)
    model = SlimmableHyperprior(state["config"].model)
    model.load_state_dict(state["ema"])
    model.eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    crops = np.repeat(rng.integers(0, 256, (6, 3, 16, 16), np.uint8), 16, axis=2).repeat(16, axis=3)
    before = index_error(model, 2, _fold_width(model, 2, crops), crops)
    model.quality_tables.log_hyper_gain[2, 0, :3] = -12.0
    model.quality_tables.log_hyper_gain[2, :, 3] = -12.0
    after = index_error(model, 2, _fold_width(model, 2, crops), crops)
    assert before < 0.05 and after < 0.05
