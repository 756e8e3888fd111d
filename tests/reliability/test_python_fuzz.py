"""The Python fuzzer's corpus, its seeds and mutations of both, without atheris."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")

from python_targets import Targets  # in tests/fuzz, on the path by conftest.py

import icmh_rt

ROOT = Path(__file__).resolve().parents[2]
MUTATIONS = {"stream": 4000, "rans": 2000, "parts": 150, "tensors": 300, "images": 600}


@pytest.fixture(scope="module")
def targets(tmp_path_factory) -> Targets:
    return Targets(tmp_path_factory.mktemp("fuzz"))


def corpus(target: str) -> list[bytes]:
    folder = ROOT / "tests" / "fuzz" / "corpus" / f"python-{target}"
    return [path.read_bytes() for path in sorted(folder.glob("*"))]  # some have none yet


def mutated(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    made = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at, length = int(rng.integers(0, len(made) + 1)), int(rng.integers(1, 17))
        kind = rng.integers(0, 6)
        if kind == 0:
            made[at : at + length] = rng.bytes(length)
        elif kind == 1:
            del made[at : at + length]
        elif kind == 2:
            made[at:at] = rng.bytes(length)
        elif kind == 3:
            made[at : at + 1] = bytes([rng.choice([0, 1, 0x7F, 0x80, 0xFF])])
        elif kind == 4:
            other = others[int(rng.integers(0, len(others)))]
            start = int(rng.integers(0, len(other) + 1))
            made[at:] = other[start:]
        else:
            made[at:at] = made[at : at + length]
    return bytes(made)


@pytest.mark.parametrize("target", MUTATIONS)
def test_corpus_and_mutations(targets: Targets, target: str) -> None:
    """A target raises only where something is wrong."""
    run, inputs = targets.all[target], corpus(target) + targets.seeds(target)
    for data in inputs:
        run(data)
    rng = np.random.default_rng(len(target))
    for number in range(MUTATIONS[target]):
        run(mutated(inputs[number % len(inputs)], rng, inputs))


def test_seeds_get_all_the_way(targets: Targets, monkeypatch) -> None:
    """Else the fuzzer would stop at the door."""
    reached = []
    latents = icmh_rt.Decoder.latents

    def noted(self, data):
        found = latents(self, data)
        reached.append(found.header.task)
        return found

    monkeypatch.setattr(icmh_rt.Decoder, "latents", noted)
    for seed in targets.seeds("stream"):
        targets.stream(seed)
    assert len(reached) == len(targets.seeds("stream")) and set(reached) == {"human", "detection"}


def test_a_target_notices_what_is_wrong(targets: Targets, monkeypatch) -> None:
    """The test that these tests can fail."""

    def breaks(self, data):
        raise RuntimeError("a bug")

    monkeypatch.setattr(icmh_rt.Decoder, "latents", breaks)
    with pytest.raises(RuntimeError, match="a bug"):
        targets.stream(targets.seeds("stream")[0])


@pytest.mark.parametrize(
    ("arguments", "message"), [(["nothing"], "unknown target"), (["stream", "many"], "no number")]
)
def test_the_script_names_what_is_wrong(arguments: list[str], message: str) -> None:
    result = subprocess.run(
        [ROOT / "scripts" / "fuzz_python.sh", *arguments], capture_output=True, text=True
    )
    assert result.returncode == 2 and message in result.stderr
