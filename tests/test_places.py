"""Folders and buckets behind one interface; leftovers of killed processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from icmh_rt import places
from icmh_rt._files import remove_leftovers, replace_file
from icmh_rt.errors import OptionError
from icmh_rt.places import images_of, is_uri, place_of, read_uri


@pytest.fixture(params=["folder", "file:///", "mock:///", "fsspec"])
def place(request, tmp_path: Path):
    """One of each kind; the last is a file system that only fsspec knows."""
    if request.param == "folder":
        return place_of(tmp_path / "out")
    pytest.importorskip("pyarrow.fs", exc_type=ImportError, reason="the ray extra is not installed")
    places._file_system.cache_clear()  # a new mock is empty
    if request.param == "mock:///":
        return place_of("mock:///bucket/out")
    if request.param == "fsspec":
        pytest.importorskip("fsspec", reason="the ray extra is not installed")
        return place_of(f"memory://{tmp_path}/out")
    return place_of(f"file://{tmp_path}/out")


def test_what_is_a_uri() -> None:
    for name in ("s3://b/x", "file:///x", "fsspec+memory:///", "gs://b"):
        assert is_uri(name)
    for name in ("a.png", "/x//y", "C:\\x", "a b://x", "-", "", "://x", "./s3://x"):
        assert not is_uri(name)


@pytest.mark.parametrize("name", ["a.icmh", "b/c d.icmh", "deep/er/ü%41#x.icmh"])
def test_files(place, name: str) -> None:
    assert place.size(name) is None
    with pytest.raises(FileNotFoundError):
        place.read(name)
    place.remove(name)
    place.write(name, b"one")
    assert (place.read(name), place.size(name)) == (b"one", 3)
    place.write(name, b"")
    assert (place.read(name), place.size(name)) == (b"", 0)
    place.remove(name)
    assert place.size(name) is None
    assert place.size("") is None  # a folder is no file


def test_lines(place, monkeypatch) -> None:
    assert list(place.lines("list")) == []
    with place.appending("list"):
        pass
    assert list(place.lines("list")) == []
    with place.appending("list") as append:
        append("one")
    with pytest.raises(KeyError), place.appending("list") as append:
        append("two")
        raise KeyError
    monkeypatch.setattr(places, "_PART_SECONDS", 0.0)
    with place.appending("list") as append:
        for number in range(3):
            append(str(number))
            assert f"{number}\n" in list(place.lines("list"))  # already
    assert [line.strip() for line in place.lines("list")] == ["one", "two", "0", "1", "2"]
    assert list(place.lines("lis")) == []


def test_parts_that_a_killed_run_left_are_read(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.fs", exc_type=ImportError, reason="the ray extra is not installed")
    place = place_of(f"file://{tmp_path}")
    (tmp_path / "list").write_text("a\nto")  # torn, by a run on a local folder
    (tmp_path / "list.00000000000000000002").write_text("c\n")
    (tmp_path / "list.00000000000000000001").write_text("b\n")
    (tmp_path / "list.1").write_text("no part\n")
    with place.appending("list") as append:
        append("d")
    assert (tmp_path / "list").read_text() == "a\nto\nb\nc\nd\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["list", "list.1"]


def test_a_torn_line_is_ended(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a\nto")
    with place_of(tmp_path).appending("list") as append:
        append("d")
    assert list(place_of(tmp_path).lines("list")) == ["a\n", "to\n", "d\n"]


def test_images_below_a_uri(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.fs", exc_type=ImportError, reason="the ray extra is not installed")
    names = ["b/a.png", "b/ä%41?.JPG", "c.png", ".hidden/x.png", "b/.y.png", "z.txt", "out/q.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.png").mkdir()
    uri = f"file://{tmp_path}/"
    found = list(images_of(uri, (".png", ".jpg"), f"{uri}out"))
    assert [name for _, name in found] == ["b/a.png", "b/ä%41?.JPG", "c.png"]
    for place, name in found:
        assert read_uri(place) == name.encode()
    assert list(images_of(f"{uri}c.png", (".png",), "")) == [(f"{uri}c.png", "c.png")]
    assert list(images_of(f"{uri}nowhere", (".png",), "")) == []
    with pytest.raises(FileNotFoundError, match=r"No such file.*nowhere"):
        read_uri(f"{uri}nowhere")


def test_unknown_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="is a file: a folder is needed"):
        place_of(tmp_path / "file")
    pytest.importorskip("pyarrow.fs", exc_type=ImportError, reason="the ray extra is not installed")
    with pytest.raises(OptionError, match="no place that pyarrow or fsspec knows") as error:
        place_of("nonsense://bucket/x")
    assert "\n" not in str(error.value)


def test_leftovers_of_processes_that_are_gone(tmp_path: Path) -> None:
    program = "import os, sys; sys.path[:] = eval(sys.argv[2])\n"
    program += "from icmh_rt._files import replace_file\n"
    program += "with replace_file(sys.argv[1]) as file: file.write(b'half'); os._exit(0)"
    target = tmp_path / "x.icmh"
    subprocess.run([sys.executable, "-c", program, target, repr(sys.path)], check=True)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".x.icmh.")
    others = [".x.icmh.tmp", ".x.1x.12345678.tmp", "x.99999999.12345678.tmp"]
    for name in others:
        (tmp_path / name).touch()
    with replace_file(target) as file:
        file.write(b"whole")
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1 + len(others)  # that of this process is in use
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["x.icmh", *others])
    remove_leftovers(tmp_path / "nowhere")
    if os.path.exists("/proc/1"):
        (tmp_path / f".x.{'9' * 30}.12345678.tmp").touch()  # no number of a process
        (tmp_path / ".x.1.12345678.tmp").touch()  # runs
        remove_leftovers(tmp_path)
        names = {p.name for p in tmp_path.iterdir()}
        assert names == {"x.icmh", ".x.1.12345678.tmp", *others}
