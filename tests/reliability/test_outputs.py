"""What is left of outputs when writing fails: the old file, one line, and nothing beside it.

Each case runs in a forked child, which can be killed, limited and robbed of its rights.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the torch extra is not installed")
if not hasattr(os, "fork"):
    pytest.skip("this system has no fork", allow_module_level=True)
import resource

from mounts import make_read_only, own_mounts

import icmh_rt
from icmh_rt import _files, bundle, cli
from icmh_rt.errors import IcmhError

OLD = b"what was there before"
NOBODY = 65534


@pytest.fixture(scope="module")
def room(small) -> Iterator[Path]:
    """A folder that other users may enter, with an image and a stream of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
        (folder / "photos").mkdir()
        Image.fromarray(image).save(folder / "photos" / "in.png")
        encoder = icmh_rt.Encoder(1.0, model=small, backend="torch", device="cpu")
        (folder / "in.icmh").write_bytes(encoder.encode(image))
        # Once here: what children without rights may not read has been imported by then.
        for writer in WRITERS:
            writer(folder, folder / "first", small)
        yield folder


def encode(room: Path, out: Path, small: Path) -> Path:
    _command("encode", room / "photos" / "in.png", "-o", out / "old.icmh", "--model", small)
    return out / "old.icmh"


def decode(room: Path, out: Path, small: Path) -> Path:
    _command("decode", room / "in.icmh", "-o", out / "old.png", "--model", small)
    return out / "old.png"


def encode_folder(room: Path, out: Path, small: Path) -> Path:
    _command("encode", room / "photos", "-o", out, "--jobs", "1", "--force", "--model", small)
    return out / "in.icmh"


def save_bundle(room: Path, out: Path, small: Path) -> Path:
    bundle.save(bundle.load(small), out)
    return out / bundle.WEIGHTS


def export_graphs(room: Path, out: Path, small: Path) -> Path:
    parts = ("--width", "1.0", "--role", "synthesis", "--unproven")
    _command("export", "onnx", "--model", small, "-o", out, *parts)
    return out / "manifest.json"


WRITERS = [encode, decode, encode_folder, save_bundle]
if importlib.util.find_spec("onnx"):
    WRITERS.append(export_graphs)


class _Failed(Exception):
    """The command's exit code was not 0."""


def _command(*arguments: object) -> None:
    extra = ("--backend", "torch", "--device", "cpu") if arguments[0] != "export" else ()
    if cli.main([*map(str, arguments), *extra]):
        raise _Failed


def in_child(call: Callable[[], object], before: Callable[[], object]) -> tuple[int, str]:
    """(exit code or minus the signal, the error) of ``call`` after ``before`` in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code, error = 0, io.StringIO()
        sys.stdout = sys.stderr = error
        try:
            before()
            call()
        except _Failed:
            code = 1
        except (IcmhError, OSError) as caught:
            code = 1
            error.write(f"{caught}\n")
        except BaseException as caught:
            code = 99
            error.write(repr(caught))
        os.write(writer, error.getvalue().encode()[-4000:])
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        text = file.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def full_disk() -> None:
    """Files end after so many bytes; Python ignores the signal, so it is an error like any."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def kill_at_the_end() -> None:
    """Killed when everything is written and only the name is missing."""

    def replace(*paths: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    _files.os.replace = replace  # of this child alone


def kill_half_way() -> None:
    """Killed before the last byte is written."""
    original = os.fdopen

    def fdopen(*arguments: object) -> object:
        file = original(*arguments)
        write = file.write

        class Half:
            def __getattr__(self, name: str) -> object:
                return getattr(file, name)

            def __enter__(self) -> Half:
                return self

            def __exit__(self, *_: object) -> None:
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

            def write(self, data: bytes) -> int:
                write(data[: len(data) // 2])
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
                return 0

        return Half()

    _files.os.fdopen = fdopen


def prepared(out: Path) -> dict[str, bytes]:
    """Old files in an output folder that others may read."""
    out.mkdir()
    out.chmod(0o755)
    names = ("old.icmh", "old.png", "in.icmh", "manifest.json", bundle.WEIGHTS, bundle.MANIFEST)
    for name in names:
        (out / name).write_bytes(OLD)
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in out.iterdir()
        if path.is_file() and path.name not in ("icmh-failed.jsonl", "icmh-manifest.jsonl")
    }


@pytest.mark.parametrize("writer", WRITERS)
def test_writers_replace_the_old_file(writer, room, small, tmp_path):
    """Without a failure: the cases below are not empty."""
    old = prepared(tmp_path / "out")
    code, error = in_child(lambda: writer(room, tmp_path / "out", small), lambda: None)
    assert code == 0, error
    changed = {name for name, data in contents(tmp_path / "out").items() if data != old.get(name)}
    expected = {
        encode: {"old.icmh"},
        decode: {"old.png"},
        encode_folder: {"in.icmh"},
        save_bundle: {bundle.WEIGHTS, bundle.MANIFEST},
    }
    assert changed == expected[writer] if writer in expected else "manifest.json" in changed


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_line_and_the_old_file(writer, room, small, tmp_path):
    old = prepared(tmp_path / "out")
    code, error = in_child(lambda: writer(room, tmp_path / "out", small), full_disk)
    assert code == 1, error
    assert "File too large" in error and str(tmp_path / "out") in error, error
    # Of a folder, the image's and that of the list of what failed.
    assert len(_complaints(error)) == (2 if writer is encode_folder else 1), error
    assert contents(tmp_path / "out") == old


@pytest.fixture(scope="module")
def mounts(tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("mounted")
    code, error = in_child(lambda: make_read_only(folder), own_mounts)
    if code:
        pytest.skip(f"this system lets no process have mounts of its own: {error.strip()}")


@pytest.mark.parametrize("place", ["old", "new"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_read_only_file_system_is_one_line(writer, place, room, small, tmp_path, mounts):
    """A folder that is there, and one that would have to be made."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    old = prepared(mounted / "old")
    before = times(mounted)

    def mount() -> None:
        own_mounts()
        make_read_only(mounted)

    code, error = in_child(lambda: writer(room, mounted / place, small), mount)
    assert code == 1, error
    (line,) = _complaints(error)
    assert "Read-only file system" in line and str(mounted / place) in line
    assert contents(mounted / "old") == old and times(mounted) == before


def times(folder: Path) -> dict[str, int]:
    """When every file and folder below was changed."""
    return {str(path): path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_without_rights_is_one_line(writer, room, small):
    """Another user's folder; root becomes nobody for it."""
    out = room / f"of_root_{writer.__name__}"
    old = prepared(out)
    if os.geteuid() != 0:
        out.chmod(0o555)

    def without_rights() -> None:
        if os.geteuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)

    shared = room / "small"  # where nobody may read it
    if not shared.exists():
        shutil.copytree(small, shared)
        shared.chmod(0o755)
    code, error = in_child(lambda: writer(room, out, shared), without_rights)
    out.chmod(0o755)
    assert code == 1, error
    assert "Permission denied" in error and len(_complaints(error)) == 1, error
    assert contents(out) == old


def _complaints(error: str) -> list[str]:
    """Lines that are no summary of the command."""
    return [line for line in error.splitlines() if not line.startswith("icmh: 1 failed")]


@pytest.mark.parametrize("kill", [kill_half_way, kill_at_the_end])
@pytest.mark.parametrize("writer", WRITERS)
def test_killed_while_writing_the_old_file_stays(writer, kill, room, small, tmp_path):
    out = tmp_path / "out"
    old = prepared(out)
    code, error = in_child(lambda: writer(room, out, small), kill)
    assert code == -signal.SIGKILL, error
    left = contents(out)
    assert {name: data for name, data in left.items() if name in old} == old
    beside = set(left) - set(old)
    assert all(name.startswith(".") and name.endswith(".tmp") for name in beside), beside
    _files.remove_leftovers(out)
    assert contents(out) == old


def test_a_failed_folder_is_listed_and_done_later(room, small, tmp_path):
    """A full disk sets images aside; with room again the same command does them."""
    out = tmp_path / "out"
    in_child(lambda: encode_folder(room, out, small), full_disk)
    listed = out / "icmh-failed.jsonl"
    code, error = in_child(lambda: encode_folder(room, out, small), lambda: None)
    assert code == 0, error
    assert not listed.exists() or not listed.read_text()
    assert icmh_rt.read_header((out / "in.icmh").read_bytes()).image_size == (40, 50)
    assert json.loads((out / "icmh-manifest.jsonl").read_text().splitlines()[0])


def test_a_bundle_keeps_both_files_where_one_cannot_be_written(small, tmp_path):
    """Weights without their description would be a damaged bundle."""
    out = tmp_path / "out"
    bundle.save(bundle.load(small), out)
    weights = (out / bundle.WEIGHTS).read_bytes()
    (out / bundle.MANIFEST).unlink()
    (out / bundle.MANIFEST).mkdir()
    other = dataclasses.replace(bundle.load(small), name="other", training={"steps": 1})
    other.transforms["g_a.stem.weight"] = other.transforms["g_a.stem.weight"] * 2
    with pytest.raises(OSError, match="is a folder"):
        bundle.save(other, out)
    assert (out / bundle.WEIGHTS).read_bytes() == weights
    assert sorted(path.name for path in out.iterdir()) == [bundle.MANIFEST, bundle.WEIGHTS]
