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
from icmh_rt.places import place_of


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
    return {Path(result.job.source).name: result for result in results}


def streams(output: Path) -> dict[str, bytes]:
    return {p.relative_to(output).as_posix(): p.read_bytes() for p in output.rglob("*.icmh")}


def recorded(output: str | Path) -> dict[str, dict]:
    """The manifest, by output."""
    return folder_encoding._by_output(place_of(output).lines(MANIFEST))


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
    assert len(taken) <= 1 + 2 * 4
    many.close()
    assert len(taken) <= 1 + 2 * 4


def test_images_that_share_a_call_are_those_of_one_each(encoder) -> None:
    """Small and large ones, and some that fail, in short lists and long ones."""
    broken = np.zeros((4, 4, 7), np.uint8)
    large = np.tile(picture(0), (20, 20, 1))
    for images in ([], [broken], [picture(1)], [picture(i) for i in range(5)] + [broken, large]):
        found = encoder.encode_together(images)
        assert [isinstance(each, ImageError) for each in found] == [i is broken for i in images]
        assert [each for each in found if isinstance(each, bytes)] == [
            encoder.encode(image) for image in images if image is not broken
        ]


def test_one_image_that_cannot_be_transformed_leaves_the_others(encoder, monkeypatch) -> None:
    """Values that are not finite belong to one of the images that went through together."""
    together = encoder.backend.encode_transforms_together

    def fails_on_black(images, *settings):
        if any(not image.any() for image in images):
            raise ImageError("not finite")
        return together(images, *settings)

    monkeypatch.setattr(encoder.backend, "pixels_together", lambda *_: 1 << 20)
    monkeypatch.setattr(encoder.backend, "encode_transforms_together", fails_on_black)
    first, black, last = encoder.encode_together([picture(0), picture(1) * 0, picture(2)])
    assert isinstance(black, ImageError)
    assert [first, last] == [encoder.encode(picture(0)), encoder.encode(picture(2))]


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
        return [job.target for job in find_jobs(arguments, out, iter(lines))]

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


def test_ugly_lists(encoder, tree: Path, tmp_path: Path) -> None:
    """Every line that names no image is a failure of its own."""
    (tree / "folder.png").mkdir()
    ugly = [
        ".",
        "..",
        "/",
        "../..",
        "   ",
        "folder.png",
        "\udcff.png",
        "x" * 5000,
        "y" * 250 + ".png",
    ]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tree / "pipe.png")  # opening it would wait for ever
        ugly.append(str(tree / "pipe.png"))
    lines = [f"{name}\r\n" for name in ugly] + ["\n", f"{tree}/a.png"]
    out = tmp_path / "out"
    finished = list(FolderEncoding(encoder, out).run(find_jobs(["-"], out, lines)))
    assert [f.job.source for f in finished] == [*ugly, f"{tree}/a.png"]
    assert [bool(f.error) for f in finished] == [True] * len(ugly) + [False]
    assert not any("\n" in f.error for f in finished)
    assert len((out / FAILED).read_text().splitlines()) == len(ugly)
    assert not [p for p in tmp_path.iterdir() if p.name not in ("in", "out")]
    for content in (b"\xff\xd8 no list \0\0", b"a.png\0b.png\0"):
        (tree / "list.txt").write_bytes(content)
        with pytest.raises(OptionError, match="no list of paths"):
            find_jobs([str(tree / "list.txt")], out, ())


def test_a_manifest_of_nonsense_counts_for_nothing(encoder, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    lines = ["null", "[]", "{}", '{"output": 3}', '{"output": "a.icmh"}', "", "\0", '{"output": "b']
    (out / MANIFEST).write_bytes("\n".join(lines).encode() + b"\xff\xfe")
    assert not any(result.skipped for result in run(encoder, [tree], out).values())
    assert all(result.skipped for result in run(encoder, [tree], out).values())


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
    assert len(recorded(out)) == 3


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
    result = command("-", "-o", tmp_path / "out2", *settings, input="\0")
    assert result.returncode == 2 and "no list of paths" in result.stderr
    result = command("-", "-o", tmp_path / "out2", *settings, stdin=subprocess.DEVNULL)
    assert result.returncode == 2 and "- names no image" in result.stderr
    result = command("nonsense://x", "-o", tmp_path / "out2", *settings)
    assert result.returncode in (1, 2) and result.stderr.count("\n") == 1
    result = command(tree / "a.png", "-o", "nonsense://x", *settings)  # no folder of that name
    assert result.returncode in (1, 2) and result.stderr.count("\n") == 1
    assert command(tree, *settings).returncode == 2  # where to?
    assert command(tree, "-o", tree / "a.png", *settings).returncode == 2
    assert command(tree / "a.png", "--force", *settings).returncode == 2
    assert command(tree, "-o", tmp_path / "o", "--jobs", "-3", *settings).returncode == 2


@pytest.fixture(scope="module")
def sixty(encoder, tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """Photographs in folders, some of them no images, and what an unbroken run makes of them."""
    source = tmp_path_factory.mktemp("sixty")
    for seed in range(60):
        path = source / f"{seed % 3}" / f"{seed:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(seed, 200, 300)).save(path)
    (source / "0" / "broken.png").write_text("no image")
    out = tmp_path_factory.mktemp("unbroken")
    run(encoder, [source], out)
    assert len(streams(out)) == 60
    return source, streams(out)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("kind", ["folder", "pattern", "list", "-", "uri"])
def test_killed_at_any_moment_and_started_again(sixty, tmp_path: Path, kind: str) -> None:
    """No work is lost, no file is broken, however often."""
    source, expected = sixty
    out, place = tmp_path / "out", str(tmp_path / "out")
    if kind == "uri":
        pytest.importorskip("pyarrow.fs", exc_type=ImportError, reason="no ray extra here")
        argument, place = source.as_uri(), f"file://{out}"
    elif kind in ("list", "-"):
        listed, below = tmp_path / "list.txt", str(source)
        argument = "-" if kind == "-" else str(listed)
        listed.write_text("\n".join(sorted(str(path) for path in source.rglob("*.png"))))
        expected = {below[1:] + "/" + name: data for name, data in expected.items()}
    else:
        argument = str(source) if kind == "folder" else f"{source}/**/*.png"
    arguments = [sys.executable, "-m", "icmh_rt", "encode", argument, "-o", place, "--json"]
    arguments += ["--width", "0.25", "--device", "cpu", "--jobs", "2"]
    standard_input = (tmp_path / "list.txt").read_text() if kind == "-" else ""
    random = np.random.default_rng(len(kind))
    before: dict[str, dict] = {}
    for killed in range(1, 4 if kind == "folder" else 2):
        pipes = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }
        process = subprocess.Popen(arguments, text=True, **pipes)
        process.stdin.write(standard_input)
        process.stdin.close()
        until, known = time.monotonic() + 120, len(streams(out))
        while time.monotonic() < until and process.poll() is None and len(streams(out)) <= known:
            time.sleep(0.002)
        time.sleep(random.uniform(0.0, 0.15))
        process.kill()
        process.wait()
        found, done = streams(out), recorded(place)
        assert all(expected[name] == data for name, data in found.items())
        assert set(before) <= set(done) <= set(found)
        # What is there and not in the manifest was in work, but for buckets' manifests, which are
        # written every few seconds.
        assert kind == "uri" or len(found) - len(done) <= 5 * killed
        before = done
    result = subprocess.run(
        arguments, capture_output=True, text=True, timeout=300, input=standard_input
    )
    assert result.returncode == 1 and "1 failed" in result.stderr, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert {r["output"] for r in records if r.get("skipped")} == set(before)
    assert streams(out) == expected
    others = {p.name for p in out.rglob("*") if p.is_file() and p.suffix != ".icmh"}
    assert {name for name in others if not name.endswith(".tmp")} == {MANIFEST, FAILED}
    assert kind == "uri" or len(others) == 2  # nothing half written
