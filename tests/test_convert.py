"""`icmh convert`: what it prints, what it refuses, and that it leaves nothing half-done."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")

import torch
from published_models import FAMILIES, make, save

from icmh_rt import bundle, cli, convert
from icmh_rt.errors import BundleError, OptionError
from icmh_rt.published import GAUSSIAN


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.pth.tar"
    save("mbt2018-mean", path)
    return path


def icmh(capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, output and errors of the command, run in this process."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_prints(capsys, tmp_path, family):
    model = save(family, tmp_path / "model.pth.tar")
    code, out, err = icmh(
        capsys, "convert", tmp_path / "model.pth.tar", "-o", tmp_path / "bundle", "--json"
    )
    assert (code, err) == (0, "")
    report = json.loads(out)
    loaded = bundle.load(tmp_path / "bundle")
    assert report["family"] == family == loaded.family
    assert report["fingerprint"] == loaded.fingerprint
    assert report["name"] == "bundle" == loaded.name
    assert report["parameters"] == sum(p.numel() for p in model.parameters())
    assert report["bytes"] == sum(f.stat().st_size for f in (tmp_path / "bundle").iterdir())
    assert report["tasks"] == ["human"]
    assert report["adapted_tasks"] == (["human"] if family == "tic-sfma" else [])
    assert set(report["widths"]) == {str(width) for width in loaded.widths}


def test_the_same_for_people(capsys, checkpoint, tmp_path):
    code, out, err = icmh(capsys, "convert", checkpoint, "-o", tmp_path / "b", "--name", "mine")
    assert (code, err) == (0, "")
    loaded = bundle.load(tmp_path / "b")
    assert loaded.name == "mine"
    for part in ("mbt2018-mean", "N=8, M=12", "parameters", loaded.fingerprint, "bytes"):
        assert part in out


def test_a_task_names_the_adapters(capsys, tmp_path, checkpoint):
    save("tic-sfma", tmp_path / "sfma.pth.tar")
    code, out, _ = icmh(
        capsys, "convert", tmp_path / "sfma.pth.tar", "-o", tmp_path / "b", "--task", "detection"
    )
    assert code == 0 and "detection (with adapters)" in out
    loaded = bundle.load(tmp_path / "b")
    assert (loaded.tasks, loaded.adapted_tasks) == (("human", "detection"), ("detection",))
    code, out, err = icmh(
        capsys, "convert", checkpoint, "-o", tmp_path / "c", "--task", "detection"
    )
    assert (code, out) == (2, "") and "has none" in err and err.count("\n") == 1
    code, _, err = icmh(capsys, "convert", checkpoint, "-o", tmp_path / "c", "--task", "smell")
    assert code == 2 and "smell" in err and err.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_an_existing_bundle_is_kept_unless_forced(capsys, checkpoint, tmp_path):
    target = tmp_path / "b"
    assert icmh(capsys, "convert", checkpoint, "-o", target)[0] == 0
    before = bundle.load(target).fingerprint
    save("mbt2018-mean", checkpoint, seed=4)
    code, _, err = icmh(capsys, "convert", checkpoint, "-o", target)
    assert code == 1 and "--force" in err and err.count("\n") == 1
    assert bundle.load(target).fingerprint == before
    assert icmh(capsys, "convert", checkpoint, "-o", target, "--force")[0] == 0
    assert bundle.load(target).fingerprint != before
    assert sorted(os.listdir(tmp_path)) == ["b", "model.pth.tar"]


def test_what_is_no_bundle_is_never_replaced(capsys, checkpoint, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("...")
    for target in (tmp_path / "precious", checkpoint):
        code, _, err = icmh(capsys, "convert", checkpoint, "-o", target, "--force")
        assert code == 1 and "is no bundle" in err
    assert (tmp_path / "precious" / "thesis.tex").exists() and checkpoint.is_file()


def test_a_failure_leaves_nothing(monkeypatch, checkpoint, tmp_path):
    target = tmp_path / "b"
    convert.convert(checkpoint, target)
    before = bundle.load(target).fingerprint

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(convert.PublishedBundle, "save", fail)
        with pytest.raises(OSError, match="No space"):
            convert.convert(checkpoint, tmp_path / "new")
        with pytest.raises(OSError, match="No space"):
            convert.convert(checkpoint, target, force=True)
    real = os.rename

    def halfway(source, destination):
        if ".new." in str(source):
            raise OSError(5, "Input/output error")
        real(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", halfway)
        with pytest.raises(OSError, match="Input/output"):
            convert.convert(checkpoint, target, force=True)
    assert bundle.load(target).fingerprint == before
    assert sorted(os.listdir(tmp_path)) == ["b", "model.pth.tar"]


def test_bad_checkpoints_are_one_line(capsys, tmp_path):
    (tmp_path / "text.pth").write_text("no checkpoint")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    state = make("bmshj2018-hyperprior").state_dict()
    state["h_s.2.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "nan.pth")
    for name in ("text.pth", "other.pth", "nan.pth", "missing.pth"):
        code, out, err = icmh(capsys, "convert", tmp_path / name, "-o", tmp_path / "b")
        assert (code, out) == (1, "") and err.count("\n") == 1, err
        assert not (tmp_path / "b").exists()
    assert "h_s.2.weight" in icmh(capsys, "convert", tmp_path / "nan.pth", "-o", tmp_path / "b")[2]


def test_usage_errors(capsys, checkpoint, tmp_path):
    for arguments in (["convert"], ["convert", checkpoint], ["convert", checkpoint, "-o", ""]):
        code, out, err = icmh(capsys, *arguments)
        assert (code, out) == (2, "") and err.count("\n") == 1
    with pytest.raises(OptionError, match="unknown"):
        convert.convert(checkpoint, tmp_path / "b", task="smell")


def test_stored_tables_are_taken_as_they_are(tmp_path):
    """What CompressAI's update() would have put there: other tables than the parameters'."""
    model = make("mbt2018-mean")
    computed = convert.bundle_of(model, name="computed").widths[1.0]
    row = np.array([0, 1000, 60000, 65000, 2**16], np.int32)
    bottleneck = model.entropy_bottleneck
    bottleneck._quantized_cdf = torch.from_numpy(np.tile(row, (8, 1)))
    bottleneck._cdf_length = torch.full((8,), 5, dtype=torch.int32)
    bottleneck._offset = torch.full((8,), -1, dtype=torch.int32)
    torch.save(model.state_dict(), tmp_path / "stored.pth")
    convert.convert(tmp_path / "stored.pth", tmp_path / "b")
    stored = bundle.load(tmp_path / "b").widths[1.0]
    assert stored.tables.precision == 16 and np.array_equal(stored.tables.cdfs[3], row)
    assert stored.tables != computed.tables and stored.gaussian == computed.gaussian
    bottleneck._quantized_cdf[2, 1] = 70000
    with pytest.raises(BundleError, match=r"entropy_bottleneck cannot be used: cdfs\[2\]"):
        convert.bundle_of(model, name="bad")


def test_stored_scales_are_taken_as_they_are():
    model = make("mbt2018-mean")
    gaussian = model.get_submodule(GAUSSIAN)
    gaussian.scale_table = torch.tensor([0.5, 1.0, 4.0])
    made = convert.bundle_of(model, name="scales")
    assert made.scales.tolist() == [0.5, 1.0, 4.0]
    assert made.widths[1.0].gaussian.num_tables == 3
    gaussian.scale_table = torch.tensor([1.0, 0.5, 4.0])
    with pytest.raises(BundleError, match="must rise"):
        convert.bundle_of(model, name="scales")


def test_the_command_in_a_process(checkpoint, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "icmh_rt", "convert", str(checkpoint), "-o", "out/bundle"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path / "out" / "bundle")) == ["bundle.json", "model.safetensors"]
