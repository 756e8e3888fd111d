"""examples/machine_and_person.py: the machine's stream alone, and the person's when asked for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("onnx2torch", reason="the train extra is not installed")
from feature_heads import detector_bundle
from PIL import Image
from task_networks import write_detector

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "machine_and_person.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("example")
    detector = write_detector(place / "detector.onnx")
    bundle = detector_bundle(place)

    def example(*arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, EXAMPLE, "--detector", detector, "--model", bundle]
        command += ["--output", place / "seen.png", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    example.picture = place / "seen.png"
    return example


def test_the_picture_is_sent_only_when_it_is_asked_for(run) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    small = int(re.search(r"small stream: ([\d,]+) bytes", done.stdout)[1].replace(",", ""))
    found = [int(label) for label in re.findall(r"class (\d+), score", done.stdout)]
    assert "nothing more is sent" in done.stdout and not run.picture.exists()
    assert found, "the random detector sees something everywhere"
    done = run("--look", found[0])
    assert done.returncode == 0, done.stderr
    full = int(re.search(r"full stream: ([\d,]+) bytes", done.stdout)[1].replace(",", ""))
    assert full > 5 * small
    with Image.open(run.picture) as picture:
        assert np.asarray(picture).shape == (512, 768, 3)


def test_mistakes_are_one_line(run, tmp_path) -> None:
    for arguments in (
        ["--model", "default-without-such-a-name"],
        [tmp_path / "none.png"],
        ["--detector", tmp_path / "none.onnx"],
    ):
        done = run(*arguments)
        assert done.returncode == 1 and done.stderr.startswith("machine_and_person: error: ")
        assert len(done.stderr.splitlines()) == 1
