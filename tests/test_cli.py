"""The `icmh` command with a stand-in codec: files, names, messages and exit codes.

tests/test_cli_codec.py runs the same commands as processes with the real one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

import icmh_rt
from icmh_rt import bitstream, cli
from icmh_rt.errors import BackendUnavailableError, BitstreamError, ModelMismatchError, OptionError
from icmh_rt.images import load_image

FINGERPRINT = "01234567"
HEADER = bitstream.Header(1, 0, FINGERPRINT, 1.0, "human", 50, (5, 7), 0)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
STREAM = bitstream.pack(HEADER, b"z", PIXELS.tobytes())


class FakeEncoder:
    """Stores the pixels as they are in the y section."""

    backend = types.SimpleNamespace(name="abacus")

    def __init__(self, **options):
        if options["width"] not in (0.25, 1.0):
            raise OptionError(f"width is {options['width']}: use 0.25 or 1.0")
        if options["device"] == "cuda":
            raise BackendUnavailableError("device 'cuda' is not there: use cpu")
        self.options = options

    def encode(self, image, progress=None):
        pixels = load_image(image)
        if pixels.max() == 0:
            raise KeyboardInterrupt
        if pixels.min() == 255:
            raise RuntimeError("a bug inside the codec")
        header = dataclasses.replace(
            HEADER,
            width=self.options["width"],
            quality=self.options["quality"],
            image_size=pixels.shape[:2],
        )
        return bitstream.pack(header, b"z", pixels.tobytes())


class FakeDecoder:
    backend = types.SimpleNamespace(name="abacus")

    def __init__(self, **options):
        self.options = options

    def decode(self, data, progress=None):
        stream = bitstream.parse(data)
        if stream.header.fingerprint != FINGERPRINT:
            raise ModelMismatchError(f"stream is of {stream.header.fingerprint}, not {FINGERPRINT}")
        return np.frombuffer(stream.y_section, np.uint8).reshape(*stream.header.image_size, 3)


@pytest.fixture(autouse=True)
def fake_codec(monkeypatch):
    codec = types.ModuleType("icmh_rt.codec")
    codec.Encoder, codec.Decoder = FakeEncoder, FakeDecoder
    monkeypatch.setitem(sys.modules, "icmh_rt.codec", codec)
    bundle = types.ModuleType("icmh_rt.bundle")
    bundle.name_of = {FINGERPRINT: "stand-in"}.get
    monkeypatch.setitem(sys.modules, "icmh_rt.bundle", bundle)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def icmh(capsys):
    """Run a command line; gives (exit code, stdout, stderr) and checks what always holds."""

    def run(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit:  # argparse leaves this way
            code = exit.code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert code == 0 or captured.err
        return code, captured.out, captured.err

    return run


def photo(path, pixels=PIXELS):
    Image.fromarray(pixels).save(path)
    return path


def names(path):
    return sorted(item.name for item in path.iterdir())


# -- encode and decode -----------------------------------------------------------------------------


def test_encode_and_decode_choose_names_beside_the_input(folder, icmh):
    photo("photo.png")
    code, out, err = icmh("encode", "photo.png")
    assert (code, err) == (0, "")
    assert out.startswith("photo.png -> photo.icmh: 7x5, ")
    assert len(out.splitlines()) == 1
    os.remove("photo.png")
    assert icmh("decode", "photo.icmh")[0] == 0
    assert names(folder) == ["photo.icmh", "photo.png"]
    np.testing.assert_array_equal(load_image("photo.png"), PIXELS)


def test_options_reach_the_encoder(folder, icmh):
    photo("photo.png")
    assert icmh("encode", "photo.png", "--width", "0.25", "--quality", "7")[0] == 0
    header = icmh_rt.read_header((folder / "photo.icmh").read_bytes())
    assert (header.width, header.quality) == (0.25, 7)


def test_output_may_be_a_file_in_a_folder_yet_to_be_made(folder, icmh):
    photo("photo.png")
    assert icmh("encode", "photo.png", "-o", "a/b/out.bin")[0] == 0
    assert icmh("decode", "a/b/out.bin", "-o", "c/back.PPM")[0] == 0
    np.testing.assert_array_equal(load_image("c/back.PPM"), PIXELS)


@pytest.mark.parametrize("output", ["out/", "out"])
def test_output_may_be_a_folder(folder, icmh, output):
    if output == "out":
        (folder / "out").mkdir()
    photo("photo.x.png")
    assert icmh("encode", "photo.x.png", "-o", output)[0] == 0
    assert names(folder / "out") == ["photo.x.icmh"]


def test_many_inputs_go_to_a_folder_made_for_them(folder, icmh):
    for name in "abc":
        photo(f"{name}.png")
    code, out, _ = icmh("encode", "a.png", "b.png", "c.png", "-o", "out")
    assert code == 0
    assert len(out.splitlines()) == 3
    assert names(folder / "out") == ["a.icmh", "b.icmh", "c.icmh"]


def test_one_bad_file_does_not_stop_the_rest(folder, icmh):
    photo("a.png")
    (folder / "bad.png").write_bytes(b"not an image")
    photo("c.png")
    code, out, err = icmh("encode", "a.png", "bad.png", "missing.png", "c.png", "-o", "out")
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["a.png", "c.png"]
    assert err.splitlines() == [
        "icmh: error: bad.png: cannot be read as an image (not in any known image format)",
        "icmh: error: missing.png: no such file",
    ]
    assert names(folder / "out") == ["a.icmh", "c.icmh"]


def test_json_is_one_object_a_line(folder, icmh):
    photo("a.png")
    (folder / "bad.png").write_bytes(b"not an image")
    code, out, err = icmh("encode", "a.png", "bad.png", "--json")
    good, bad = map(json.loads, out.splitlines())
    assert code == 1 and len(err.splitlines()) == 1
    assert good.pop("seconds") >= 0
    size = (folder / "a.icmh").stat().st_size
    assert good == {
        "input": "a.png",
        "output": "a.icmh",
        "format_version": 1,
        "model": "stand-in",
        "fingerprint": FINGERPRINT,
        "width": 1.0,
        "task": "human",
        "quality": 50,
        "image_size": [5, 7],
        "stream_bytes": size,
        "bits_per_pixel": round(size * 8 / 35, 6),
        "backend": "abacus",
    }
    assert bad["input"] == "bad.png" and "known image format" in bad["error"]
    decoded = json.loads(icmh("decode", "a.icmh", "-o", "b.png", "--json")[1])
    assert decoded["output"] == "b.png" and decoded["image_size"] == [5, 7]


def test_two_inputs_never_share_an_output(folder, icmh):
    photo("a.png")
    photo("a.bmp", PIXELS[::-1])
    code, out, err = icmh("encode", "a.png", "a.bmp", "a.png")
    assert code == 1
    assert len(out.splitlines()) == 1 and len(err.splitlines()) == 2
    assert "a.icmh is already the output of a.png" in err
    np.testing.assert_array_equal(FakeDecoder().decode((folder / "a.icmh").read_bytes()), PIXELS)


def test_decode_spares_existing_images_unless_told(folder, icmh):
    (folder / "photo.icmh").write_bytes(STREAM)
    (folder / "photo.png").write_bytes(b"the original")
    code, _, err = icmh("decode", "photo.icmh")
    assert code == 1 and "photo.png exists" in err and "--force" in err
    assert icmh("decode", "photo.icmh", "-o", ".")[0] == 1
    assert (folder / "photo.png").read_bytes() == b"the original"
    assert icmh("decode", "photo.icmh", "-o", "photo.png")[0] == 0
    (folder / "photo.png").write_bytes(b"the original")
    assert icmh("decode", "photo.icmh", "--force")[0] == 0
    np.testing.assert_array_equal(load_image("photo.png"), PIXELS)


@pytest.mark.parametrize("spelling", ["photo.png", "./photo.png", "link.png"])
def test_no_input_is_overwritten(folder, icmh, spelling):
    original = photo(folder / "photo.png").read_bytes()
    (folder / "link.png").symlink_to("photo.png")
    code, _, err = icmh("encode", "photo.png", "-o", spelling)
    assert code == 1 and "is an input" in err
    assert (folder / "photo.png").read_bytes() == original


def test_no_other_input_is_overwritten(folder, icmh):
    (folder / "a.icmh").write_bytes(STREAM)
    os.rename(photo("other.png"), "a.png")
    code, _, err = icmh("decode", "a.icmh", "a.png", "--force")
    assert code == 1 and "a.png is an input" in err
    np.testing.assert_array_equal(load_image("a.png"), PIXELS)


@pytest.mark.parametrize("suffix", [".png", ".icmh"])
def test_a_stream_may_have_any_name(folder, icmh, suffix):
    (folder / "stream").write_bytes(STREAM)
    assert icmh("decode", "stream")[0] == 0
    assert names(folder) == ["stream", "stream.png"]


def test_a_failed_encode_leaves_nothing_behind(folder, icmh):
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n half an image")
    (folder / "bad.icmh").write_bytes(b"old")
    assert icmh("encode", "bad.png")[0] == 1
    assert (folder / "bad.icmh").read_bytes() == b"old"
    assert names(folder) == ["bad.icmh", "bad.png"]


@pytest.mark.parametrize("length", [0, 3, 20, len(STREAM) - 1])
def test_damaged_streams_are_one_line_and_leave_nothing(folder, icmh, length):
    (folder / "cut.icmh").write_bytes(STREAM[:length])
    for command in (["decode"], ["info"]):
        code, out, err = icmh(*command, "cut.icmh")
        assert (code, out) == (1, "")
        assert err.startswith("icmh: error: cut.icmh: ")
        assert len(err.splitlines()) == 1
    assert names(folder) == ["cut.icmh"]


def test_a_stream_of_another_model_is_one_line(folder, icmh):
    other = dataclasses.replace(HEADER, fingerprint="ba987654")
    (folder / "other.icmh").write_bytes(bitstream.pack(other, b"z", PIXELS.tobytes()))
    code, _, err = icmh("decode", "other.icmh")
    assert code == 1
    assert err == "icmh: error: other.icmh: stream is of ba987654, not 01234567\n"


def test_a_gigantic_claim_is_refused(folder, icmh):
    giant = dataclasses.replace(HEADER, image_size=(2**32 - 1, 2**32 - 1))
    (folder / "giant.icmh").write_bytes(bitstream.pack(giant, b"", b""))
    for command in ("decode", "info"):
        code, _, err = icmh(command, "giant.icmh")
        assert code == 1 and "above the limit" in err


def test_a_large_file_that_is_no_stream_is_not_read(folder, icmh):
    with open("large.icmh", "wb") as file:
        file.truncate(2**40)
    code, _, err = icmh("info", "large.icmh")
    assert code == 1 and "not an ICMH stream" in err


def test_a_large_file_that_starts_like_a_stream(folder, icmh, monkeypatch):
    monkeypatch.setattr(cli, "_MAX_STREAM_BYTES", 100)
    (folder / "large.icmh").write_bytes(bitstream.pack(HEADER, b"", bytes(500)))
    code, _, err = icmh("info", "large.icmh")
    assert code == 1 and "larger than 100 bytes" in err


# -- usage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ([], "COMMAND"),
        (["frobnicate"], "invalid choice"),
        (["encode"], "IN"),
        (["info"], "IN"),
        (["decode"], "IN"),
        (["encode", "a.png", "--quality", "101"], "quality is 101"),
        (["encode", "a.png", "--quality", "0"], "quality is 0"),
        (["encode", "a.png", "--quality", "high"], "invalid int value"),
        (["encode", "a.png", "--width", "0.3"], "width is 0.3"),
        (["encode", "a.png", "--width", "wide"], "invalid float value"),
        (["encode", "a.png", "--task", "sleep"], "invalid choice"),
        (["encode", "a.png", "--bogus"], "unrecognized arguments"),
        (["encode", "a.png", "-o", ""], "empty name"),
        (["encode", "a.png", "b.png", "-o", "a.png"], "is a file"),
        (["encode", "a.png", "-o", "a.png/"], "is a file"),
        (["decode", "a.icmh", "-o", "out.jpg"], "without loss"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(folder, icmh, arguments, pattern):
    photo("a.png")
    code, out, err = icmh(*arguments)
    assert (code, out) == (2, "")
    assert pattern in err and err.startswith("icmh: error: ")
    assert len(err.splitlines()) == 1
    assert names(folder) == ["a.png"]


def test_what_the_machine_lacks_is_exit_1(folder, icmh):
    photo("a.png")
    code, _, err = icmh("encode", "a.png", "--device", "cuda")
    assert (code, err) == (1, "icmh: error: device 'cuda' is not there: use cpu\n")


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "-h"], ["decode", "-h"]])
def test_help(icmh, arguments):
    code, out, err = icmh(*arguments)
    assert (code, err) == (0, "") and out.startswith("usage: icmh")


def test_help_names_every_command(icmh):
    out = icmh("--help")[1]
    for command in ("encode", "decode", "info", "eval", "train", "bundle"):
        assert command in out


def test_version(icmh):
    assert icmh("--version")[:2] == (0, f"icmh {icmh_rt.__version__}\n")


# -- places and names ------------------------------------------------------------------------------


def test_places_that_cannot_be_written(folder, icmh):
    photo("a.png")
    (folder / "file").write_bytes(b"")
    for output in ("file/a.icmh", "file/deeper/a.icmh"):
        code, _, err = icmh("encode", "a.png", "-o", output)
        assert code == 1 and len(err.splitlines()) == 1
        assert "Not a directory" in err or "File exists" in err


@pytest.mark.parametrize("command", ["encode", "decode", "info"])
def test_folders_and_missing_files_as_inputs(folder, icmh, command):
    (folder / "sub").mkdir()
    assert "folder" in icmh(command, "sub")[2]
    code, _, err = icmh(command, "missing")
    assert code == 1 and len(err.splitlines()) == 1
    assert "missing" in err and "o such file" in err


def test_an_unwritable_folder_is_one_line(folder, icmh, monkeypatch):
    photo("a.png")
    real_open = os.open

    def refuse(path, flags, *rest, **options):
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    code, _, err = icmh("encode", "a.png")
    assert (code, err) == (1, "icmh: error: a.icmh: Permission denied\n")


@pytest.mark.parametrize(
    "name", ["with space.png", "new\nline.png", "\u00fcml\u00e4ut.png", "-dash.png"]
)
def test_odd_file_names(folder, icmh, name):
    photo(folder / name)
    assert icmh("encode", "--", name)[0] == 0
    code, _, err = icmh("info", "--", name)
    assert code == 1 and len(err.splitlines()) == 1


def test_a_file_name_that_is_not_text(folder, icmh):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        photo(name)
    except OSError:  # some file systems hold only valid UTF-8
        return
    assert cli.main(["info", name]) == 1
    result = subprocess.run(
        [sys.executable, "-m", "icmh_rt", "info", name], capture_output=True, timeout=60
    )
    assert result.returncode == 1 and b"Traceback" not in result.stderr


# -- interruptions, bugs, terminals ----------------------------------------------------------------


def test_ctrl_c_is_130_and_one_line(folder, icmh):
    photo("black.png", np.zeros((5, 7, 3), np.uint8))
    code, _, err = icmh("encode", "black.png")
    assert (code, err) == (130, "icmh: interrupted\n")
    assert names(folder) == ["black.png"]


def test_bugs_are_not_hidden(folder):
    photo("white.png", np.full((5, 7, 3), 255, np.uint8))
    with pytest.raises(RuntimeError, match="a bug inside the codec"):
        cli.main(["encode", "white.png"])


def test_progress_is_shown_on_terminals_only(folder, icmh, capsys, monkeypatch):
    for name in "ab":
        photo(f"{name}.png")
    assert icmh("encode", "a.png", "b.png")[2] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.main(["encode", "a.png", "b.png"]) == 0
    shown = capsys.readouterr().err
    assert "0/2 a.png" in shown and "1/2 b.png" in shown
    assert shown.endswith("\r\x1b[K")
    assert cli.main(["encode", "a.png"]) == 0
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_is_quiet(folder):
    (folder / "a.icmh").write_bytes(STREAM)
    command = f'"{sys.executable}" -m icmh_rt info ' + "a.icmh " * 2000 + "| true"
    result = subprocess.run(["sh", "-c", command], capture_output=True, timeout=120)
    assert b"Traceback" not in result.stderr and b"Exception" not in result.stderr


# -- info ------------------------------------------------------------------------------------------


def test_info_for_people(folder, icmh):
    (folder / "a.icmh").write_bytes(STREAM)
    code, out, err = icmh("info", "a.icmh")
    assert (code, err) == (0, "")
    for text in ("a.icmh:", "stand-in", FINGERPRINT, "7x5 pixels", "human", "50", "bpp"):
        assert text in out


def test_info_for_programs(folder, icmh):
    (folder / "a.icmh").write_bytes(STREAM)
    (folder / "b.icmh").write_bytes(
        bitstream.pack(dataclasses.replace(HEADER, fingerprint="ba987654"), b"", b"")
    )
    code, out, _ = icmh("info", "a.icmh", "b.icmh", "--json")
    first, second = map(json.loads, out.splitlines())
    assert code == 0
    assert (first["model"], second["model"]) == ("stand-in", None)
    assert first["stream_bytes"] == len(STREAM)


def test_info_works_without_torch(tmp_path):
    (tmp_path / "a.icmh").write_bytes(STREAM)
    program = (
        "import sys; sys.modules['torch'] = sys.modules['safetensors'] = None; "
        "from icmh_rt.cli import main; sys.exit(main(['info', sys.argv[1], '--json']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.icmh")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["fingerprint"] == FINGERPRINT


# -- commands that live elsewhere ------------------------------------------------------------------


def test_other_commands_are_imported_only_when_run(monkeypatch, icmh):
    seen = []

    def add_arguments(parser):
        parser.add_argument("what")
        parser.add_argument("--config")

    module = types.ModuleType("icmh_rt.training.cli")
    module.add_arguments = add_arguments
    module.run = lambda options: seen.append((options.what, options.config)) or 0
    monkeypatch.setitem(sys.modules, "icmh_rt.training.cli", module)
    assert icmh("train", "base", "--config", "c.yaml")[0] == 0
    assert seen == [("base", "c.yaml")]
    module.run = lambda options: (_ for _ in ()).throw(BitstreamError("no such data"))
    assert icmh("train", "base")[::2] == (1, "icmh: error: no such data\n")


def test_a_missing_extra_is_one_line_that_names_it(monkeypatch, icmh):
    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name == "icmh_rt.training.cli":
                raise ModuleNotFoundError("No module named 'yaml'", name="yaml")

    monkeypatch.delitem(sys.modules, "icmh_rt.training.cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    code, _, err = icmh("train", "base")
    assert code == 1
    assert err == (
        "icmh: error: icmh train needs the package 'yaml', which is not installed: "
        "pip install 'icmh-rt[train]'\n"
    )
