"""Encoding with Ray Data, on a Ray of this machine: the same folder as from one machine.

Takes half a minute: ``pip install 'icmh-rt[ray]'`` and ``pytest tests/test_distributed.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import icmh_rt
from icmh_rt.errors import BackendUnavailableError, OptionError
from icmh_rt.folder_encoding import FAILED, MANIFEST, FolderEncoding, Manifest, find_jobs
from icmh_rt.places import place_of

pytest.importorskip("pyarrow.fs", exc_type=ImportError, reason="the ray extra is not installed")
ray = pytest.importorskip("ray", reason="the ray extra is not installed")
distributed = pytest.importorskip("icmh_rt.distributed")
RayEncoding, encode_dataset = distributed.RayEncoding, distributed.encode_dataset

pytestmark = pytest.mark.slow
SETTINGS = {"width": 0.25, "device": "cpu"}
LIMITS = ({"max_pixels": 0}, {"max_pixels": 1.5}, {"max_pixels": True}, {"tile": 5}, {"tile": 64.5})


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One for all tests but that of the command."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Twelve photographs in two folders, of which two cannot be read."""
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(10):
        pixels = random.integers(0, 256, (30 + 7 * number, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / ("", "below")[number % 2] / f"{number} ä.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "below" / "empty.jpg").touch()
    return folder


def contents(place: str) -> dict[str, bytes]:
    root = Path(place.removeprefix("file://"))
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.icmh")}


def records(place: str) -> list[dict]:
    """The manifest without what differs from run to run."""
    lines = [json.loads(line) for line in place_of(place).lines(MANIFEST)]
    return sorted(
        ({k: v for k, v in line.items() if k != "seconds"} for line in lines),
        key=lambda line: line["output"],
    )


def test_it_is_what_one_machine_makes(tree: Path, tmp_path: Path) -> None:
    alone, many = str(tmp_path / "alone"), str(tmp_path / "many")
    jobs = find_jobs([str(tree)], alone, ())
    expected = list(FolderEncoding(icmh_rt.Encoder(**SETTINGS), alone).run(jobs))
    finished = list(encode_dataset(tree, many, **SETTINGS))
    assert sorted(f.job.source for f in finished) == sorted(job.source for job in jobs)
    assert contents(many) == contents(alone) and len(contents(many)) == 10
    assert records(many) == records(alone)
    failures = [
        sorted(Path(p, FAILED).read_text().replace(p, "").splitlines()) for p in (alone, many)
    ]
    assert failures[0] == failures[1] and len(failures[0]) == 2
    assert {f.error for f in finished} == {f.error for f in expected}

    # Either goes on where the other was.
    again = list(encode_dataset(str(tree), alone, **SETTINGS))
    assert sum(f.skipped for f in again) == 10
    again = list(FolderEncoding(icmh_rt.Encoder(**SETTINGS), many).run(jobs))
    assert sum(f.skipped for f in again) == 10
    other = list(encode_dataset(str(tree), many, **SETTINGS, quality=10))
    assert not any(f.skipped for f in other)


def test_from_a_bucket_to_a_bucket(tree: Path, tmp_path: Path) -> None:
    """A local one, by the same code as any other."""
    source, output = tree.as_uri(), f"file://{tmp_path}/out"
    finished = list(encode_dataset([source], output, **SETTINGS, actors=1, threads=2))
    assert len(contents(output)) == 10 and sum(bool(f.error) for f in finished) == 2
    assert all(f.job.source.startswith("file://") for f in finished)
    encoder = icmh_rt.Encoder(**SETTINGS)
    assert contents(output)["below/1 ä.icmh"] == encoder.encode(tree / "below" / "1 ä.png")
    os.unlink(tmp_path / "out" / "0 ä.icmh")
    again = list(encode_dataset([source], output, **SETTINGS))
    assert sum(f.skipped for f in again) == 9
    assert len(contents(output)) == 10
    left = {p.name for p in (tmp_path / "out").iterdir() if p.is_file() and p.suffix != ".icmh"}
    assert left == {MANIFEST, FAILED}  # no parts


def test_nothing_of_others_is_overwritten(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "0 ä.icmh").write_bytes(b"somebody's")
    name = str(tree / "0 ä.png")
    (finished,) = encode_dataset(name, out, **SETTINGS)
    assert "--force" in finished.error
    assert (out / "0 ä.icmh").read_bytes() == b"somebody's"
    (finished,) = encode_dataset(name, out, **SETTINGS, force=True)
    assert not finished.error and (out / "0 ä.icmh").read_bytes() != b"somebody's"


def test_a_limit_of_pixels_reaches_the_actors(tree: Path, tmp_path: Path) -> None:
    """The smallest photograph is 30x50, the next 37x50."""
    finished = list(encode_dataset(tree, tmp_path / "out", **SETTINGS, max_pixels=1500))
    refused = [f.error for f in finished if "above the limit of 1500 pixels" in f.error]
    assert len(refused) == 9
    assert list(contents(str(tmp_path / "out"))) == ["0 ä.icmh"]


def test_tiles_reach_the_actors(tree: Path, tmp_path: Path) -> None:
    """Not to be seen in the streams, which are those of the whole images."""
    large = str(tree / "below" / "9 ä.png")
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (200, 230, 3), np.uint8)).save(large)
    out = tmp_path / "out"
    finished = list(encode_dataset(large, out, **SETTINGS, tile=64))
    assert not finished[0].error
    whole = icmh_rt.Encoder(**SETTINGS, tile=0)
    assert contents(str(out)) == {"9 ä.icmh": whole.encode(large)}

    encoding = RayEncoding(out, **SETTINGS, tile=64)
    bundle = ray.put(encoding._bundle)
    made_of = distributed._Actor(bundle, encoding._encoder, str(out), force=False, threads=1)
    assert distributed._EncodingActor(made_of)._encode._encoder.tile == 64


def test_what_actors_cannot_do_is_one_line(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="an actor cannot encode: backend 'tensor"):
        list(encode_dataset(str(tree), tmp_path / "a", **SETTINGS, backend="tensorrt"))
    with pytest.raises(BackendUnavailableError, match="an actor needs 99 CPUs and 0 GPUs"):
        list(encode_dataset(str(tree), tmp_path / "b", **SETTINGS, threads=99))
    for wrong in ({"width": 0.3}, {"actors": -1}, {"threads": 0}, {"gpus": -1.0}, *LIMITS):
        with pytest.raises(OptionError) as error:
            RayEncoding(tmp_path / "c", **wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(OptionError, match="names no image"):
        list(encode_dataset((tmp_path / "nowhere").as_uri(), tmp_path / "d", **SETTINGS))


def test_killed_half_way_and_gone_on_with_alone(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    random = np.random.default_rng(1)
    for number in range(60):
        pixels = random.integers(0, 256, (400, 600, 3), np.uint8)
        Image.fromarray(pixels).save(source / f"{number:02}.png")
    command = [sys.executable, "-m", "icmh_rt", "encode", str(source), "-o", str(out)]
    command += ["--ray", "local", "--width", "0.25", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while time.monotonic() < until and not Manifest(place_of(out))._records:
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = Manifest(place_of(out))._records
    assert 0 < len(done) < 60
    time.sleep(2.0)  # its actors end a moment later
    encoder = icmh_rt.Encoder(**SETTINGS)
    jobs = find_jobs([str(source)], out, ())
    finished = list(FolderEncoding(encoder, out).run(jobs))
    assert {f.job.target for f in finished if f.skipped} == set(done)
    assert not any(f.error for f in finished)
    streams = contents(str(out))
    assert len(streams) == 60
    for job in jobs[::7]:
        assert streams[job.target] == encoder.encode(job.source)
    assert not list(out.glob(".*.tmp"))
