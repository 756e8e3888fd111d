"""`icmh encode` of folders, patterns and lists; `Encoder.encode_many` under it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import icmh_rt

pytest.importorskip("torch", reason="the torch extra is not installed")

from icmh_rt import folder_encoding
from icmh_rt.errors import ImageError, OptionError
from icmh_rt.folder_encoding import FAILED, MANIFEST, FolderEncoding, find_jobs


@pytest.fixture(scope="module")
def encoder() -> icmh_rt.Encoder:
    return icmh_rt.Encoder(width=0.25, device="cpu")


def picture(seed: int, height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """in/a.png, in/b/c.png, in/b/d.PNG, and what is no image."""
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for seed, name in enumerate(("a.png", "b/c.png", "b/d.PNG", ".hidden/e.png")):
        Image.fromarray(picture(seed)).save(folder / name)
    (folder / "notes.md").write_text("no image")
    return folder


def run(encoder, arguments, output: Path, lines=(), **options):
    """Results by input's name, of one run."""
    jobs = find_jobs([str(argument) for argument in arguments], output, iter(lines))
    results = list(FolderEncoding(encoder, output, **options).run(jobs))
    assert [result.job for result in results] == jobs  # in order
    return {result.job.source.name: result for result in results}


def streams(output: Path) -> dict[str, bytes]:
    return {p.relative_to(output).as_posix(): p.read_bytes() for p in output.rglob("*.icmh")}


# -- encode_many -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_many_images_give_the_bytes_of_each(encoder, workers: int) -> None:
    images = [picture(i, 16 + 13 * i, 90 - 11 * i) for i in range(7)]
    expected = list(enumerate(encoder.encode(image) for image in images))
    assert list(encoder.encode_many(iter(images), workers=workers)) == expected
    assert encoder.encode_batch(images) == [data for _, data in expected]


def test_images_are_taken_as_they_are_needed(encoder) -> None:
    taken = []

    def images():
        for i in range(100):
            taken.append(i)
            yield picture(i)

    many = encoder.encode_many(images(), workers=2)
    assert taken == []
    assert next(many)[0] == 0
    assert len(taken) <= 1 + 2 * 2
    many.close()
    assert len(taken) <= 1 + 2 * 2


def test_an_image_that_fails_is_reported_and_left_out(encoder) -> None:
    images = [picture(0), np.zeros((4, 4, 7), np.uint8), picture(2)]
    errors = []
    done = list(encoder.encode_many(images, on_error=lambda *error: errors.append(error)))
    assert [index for index, _ in done] == [0, 2]
    assert [index for index, _ in errors] == [1] and "shape" in str(errors[0][1])
    many = encoder.encode_many(images)
    assert next(many)[0] == 0
    with pytest.raises(ImageError, match="shape"):
        next(many)


def test_an_iterable_that_raises_ends_it(encoder) -> None:
    def images():
        yield picture(0)
        raise KeyError("of the caller")

    many = encoder.encode_many(images(), workers=1)
    with pytest.raises(KeyError, match="of the caller"):
        list(many)


def test_what_is_no_list_of_images_is_refused_at_once(encoder) -> None:
    with pytest.raises(ImageError, match="single ndarray"):
        encoder.encode_many(picture(0))
    with pytest.raises(OptionError, match="workers"):
        encoder.encode_many([], workers=-1)
    assert list(encoder.encode_many([])) == []


# -- what is encoded -------------------------------------------------------------------------------


def test_a_tree_is_mirrored(encoder, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = run(encoder, [tree], out)
    assert sorted(results) == ["a.png", "c.png", "d.PNG"]
    found = streams(out)
    assert sorted(found) == ["a.icmh", "b/c.icmh", "b/d.icmh"]
    assert found["b/c.icmh"] == encoder.encode(tree / "b" / "c.png")
    assert not (out / FAILED).exists()


def test_patterns_lists_and_standard_input(tree: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"

    def targets(*arguments: str, lines=()) -> list[str]:
        return [job.target.as_posix() for job in find_jobs(arguments, out, iter(lines))]

    assert targets(f"{tree}/**/*.png") == ["a.icmh", "b/c.icmh"]
    assert targets(f"{tree}/a.png", f"{tree}/b/c.png") == ["a.icmh", "c.icmh"]
    monkeypatch.chdir(tree.parent)
    assert targets("in/*/*.png") == ["b/c.icmh"]
    (tree / "list.txt").write_text("in/b/c.png\n\nin/../in/a.png\n")
    assert targets("in/list.txt") == ["in/b/c.icmh", "in/a.icmh"]
    assert targets("-", lines=["../x/in/a.png\n", "/far/away.jpg"]) == [
        "x/in/a.icmh",
        "far/away.icmh",
    ]
    assert targets("in", "in/a.png") == ["a.icmh", "b/c.icmh", "b/d.icmh"]  # each once
    with pytest.raises(OptionError, match="names no image"):
        targets("in/*.gif")
    (tree / "list.txt").write_text("")
    with pytest.raises(OptionError, match="names no image"):
        targets("in/list.txt")


def test_the_output_inside_the_input_is_not_searched(encoder, tree: Path) -> None:
    out = tree / "out"
    out.mkdir()
    Image.fromarray(picture(9)).save(out / "not_me.png")
    assert "not_me.png" not in run(encoder, [tree], out)


def test_two_images_of_one_name_are_not_one_stream(encoder, tree: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(7)).save(tree / "a.bmp")
    results = run(encoder, [tree], tmp_path / "out")
    assert "already the stream of" in results["a.png"].error
    assert streams(tmp_path / "out")["a.icmh"] == encoder.encode(tree / "a.bmp")


# -- again -----------------------------------------------------------------------------------------


def test_a_second_run_does_what_is_new(encoder, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(encoder, [tree], out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.icmh")}
    assert all(result.skipped for result in run(encoder, [tree], out).values())
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.icmh")}

    Image.fromarray(picture(20)).save(tree / "a.png")  # other content, same name
    Image.fromarray(picture(21)).save(tree / "new.png")
    (out / "b" / "c.icmh").unlink()
    results = run(encoder, [tree], out)
    assert [name for name, result in results.items() if result.skipped] == ["d.PNG"]
    assert streams(out)["a.icmh"] == encoder.encode(tree / "a.png")
    assert all(result.skipped for result in run(encoder, [tree], out).values())


def test_other_settings_are_other_work(encoder, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(encoder, [tree], out)
    other = icmh_rt.Encoder(width=0.25, quality=10, device="cpu")
    assert not any(result.skipped for result in run(other, [tree], out).values())
    assert streams(out)["a.icmh"] == other.encode(tree / "a.png")


def test_a_stream_from_elsewhere_is_not_overwritten(encoder, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.icmh").write_bytes(b"somebody's")
    results = run(encoder, [tree], out)
    assert "--force" in results["a.png"].error
    assert (out / "a.icmh").read_bytes() == b"somebody's"
    listed = [json.loads(line) for line in (out / FAILED).read_text().splitlines()]
    assert [Path(entry["input"]).name for entry in listed] == ["a.png"]
    run(encoder, [tree], out, force=True)
    assert streams(out)["a.icmh"] == encoder.encode(tree / "a.png")
    assert not (out / FAILED).exists()  # of the run before


def test_a_torn_manifest_is_gone_on_with(encoder, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(encoder, [tree], out)
    manifest = out / MANIFEST
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[:2]) + lines[2][:20])  # killed while it wrote a line
    results = run(encoder, [tree], out)
    assert sum(result.skipped for result in results.values()) == 2
    assert not any(result.error for result in results.values())
    assert all(result.skipped for result in run(encoder, [tree], out).values())
    assert len(folder_encoding._read_manifest(manifest)) == 3


def test_bad_files_are_set_aside(encoder, tree: Path, tmp_path: Path) -> None:
    (tree / "b" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tree / "empty.jpg").touch()
    out = tmp_path / "out"
    results = run(encoder, [tree], out)
    assert len(streams(out)) == 3
    listed = [json.loads(line) for line in (out / FAILED).read_text().splitlines()]
    assert [Path(entry["input"]).name for entry in listed] == ["empty.jpg", "broken.png"]
    assert all("\n" not in entry["error"] for entry in listed)
    assert results["empty.jpg"].error.endswith("is empty")


# -- the command -----------------------------------------------------------------------------------


def command(*arguments, **options) -> subprocess.CompletedProcess:
    result = subprocess.run(
        [sys.executable, "-m", "icmh_rt", "encode", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )
    assert "Traceback" not in result.stderr, result.stderr
    return result


def test_the_command(tree: Path, tmp_path: Path) -> None:
    (tree / "bad.png").write_text("no image")
    settings = ("--width", "0.25", "--device", "cpu")
    result = command(tree, "-o", tmp_path / "out", "--json", *settings)
    assert result.returncode == 1
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [("error" in record) for record in records] == [False, True, False, False]
    assert "3 encoded, 1 failed (listed in " in result.stderr
    (tree / "bad.png").unlink()
    result = command("-", "-o", tmp_path / "out2", "--jobs", "1", *settings, input=f"{tree}/a.png")
    assert result.returncode == 0 and result.stderr.strip() == "icmh: 1 encoded"
    assert command(tree, *settings).returncode == 2  # where to?
    assert command(tree, "-o", tree / "a.png", *settings).returncode == 2
    assert command(tree / "a.png", "--force", *settings).returncode == 2
    assert command(tree, "-o", tmp_path / "o", "--jobs", "-3", *settings).returncode == 2


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_half_way_and_started_again(encoder, tmp_path: Path) -> None:
    """No work is lost, no file is broken."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for seed in range(60):
        Image.fromarray(picture(seed, 200, 300)).save(source / f"{seed:02}.png")
    arguments = [sys.executable, "-m", "icmh_rt", "encode", str(source), "-o", str(out)]
    arguments += ["--width", "0.25", "--device", "cpu"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while time.monotonic() < until and len(list(out.glob("*.icmh"))) < 8:
        time.sleep(0.005)
    process.kill()
    process.wait()
    finished = streams(out)
    assert 8 <= len(finished) < 60
    for name, data in finished.items():
        assert data == encoder.encode(source / name.replace(".icmh", ".png"))
    recorded = folder_encoding._read_manifest(out / MANIFEST)
    result = subprocess.run([*arguments, "--json"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert {r["output"] for r in records if r["skipped"]} == set(recorded) and recorded
    assert len(streams(out)) == 60
    left = {p.name for p in out.iterdir() if p.suffix != ".icmh" and p.name != MANIFEST}
    assert all(name.startswith(".") and name.endswith(".tmp") for name in left)
    assert os.path.exists(out / MANIFEST)
