"""The `icmh` command as a user runs it: real processes, the real codec, the default bundle."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

import icmh_rt
from icmh_rt import _native, bitstream
from icmh_rt.images import load_image

pytest.importorskip("torch", reason="the torch extra is not installed")


def smooth(height: int, width: int) -> np.ndarray:
    """A colourful picture that a codec can compress: waves of a few periods, uint8 (H, W, 3)."""
    y = np.linspace(0, 1, height)[:, None, None]
    x = np.linspace(0, 1, width)[None, :, None]
    phase = np.array([0.0, 2.0, 4.0])
    wave = np.sin(9 * x + phase) * np.cos(7 * y - phase) + 0.5 * np.sin(31 * x * y + phase)
    return np.clip(127 + 75 * wave, 0, 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a.astype(float) - b) ** 2) / 255**2 + 1e-12))


def icmh(*arguments, cwd, **environment) -> subprocess.CompletedProcess:
    """Run the command as a process; no outcome may show a traceback."""
    result = subprocess.run(
        [sys.executable, "-m", "icmh_rt", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "Traceback" not in result.stderr, result.stderr
    return result


def reseal(stream: bytes, position: int, value: bytes) -> bytes:
    """The stream with other bytes at `position` and a checksum that is right for them."""
    body = bytearray(stream[:-4])
    body[position : position + len(value)] = value
    return bytes(body) + struct.pack("<I", _native.crc32c(bytes(body)))


def sixteen_bit_png(samples: np.ndarray) -> bytes:
    """uint16 (H, W, 3) as a PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = samples.shape[:2]
    raw = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture(scope="module")
def encoder():
    return icmh_rt.Encoder(width=0.25, quality=60)


@pytest.fixture(scope="module")
def stream(encoder):
    return encoder.encode(smooth(96, 128))


def test_a_photograph_there_and_back(tmp_path):
    picture = smooth(160, 208)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    encoded = icmh(
        "encode", "photo.png", "--width", "0.5", "--quality", "80", "--json", cwd=tmp_path
    )
    assert (encoded.returncode, encoded.stderr) == (0, "")
    record = json.loads(encoded.stdout)
    assert record["model"] == "default" and record["image_size"] == [160, 208]
    assert record["stream_bytes"] == (tmp_path / "photo.icmh").stat().st_size

    shown = icmh("info", "photo.icmh", "--json", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    info = json.loads(shown.stdout)
    assert {key: record[key] for key in info if key != "input"} == {
        key: value for key, value in info.items() if key != "input"
    }
    assert (info["width"], info["quality"], info["task"]) == (0.5, 80, "human")

    # Another number of threads must not matter.
    decoded = icmh("decode", "photo.icmh", "-o", "out/back.png", cwd=tmp_path, OMP_NUM_THREADS="2")
    assert (decoded.returncode, decoded.stderr) == (0, "")
    back = load_image(tmp_path / "out" / "back.png")
    assert back.shape == picture.shape
    assert psnr(picture, back) > 25
    here = icmh_rt.Decoder().decode((tmp_path / "photo.icmh").read_bytes())
    assert np.abs(here.astype(int) - back).max() <= 1  # float transforms may round differently


def test_images_of_every_kind_come_back_in_their_shape(tmp_path):
    sizes = [(1, 1), (1, 70), (70, 1), (17, 3), (64, 64), (65, 127)]
    expected = {}
    for height, width in sizes:
        Image.fromarray(smooth(height, width)).save(tmp_path / f"{height}x{width}.png")
        expected[f"{height}x{width}"] = (height, width, 3)
    Image.fromarray(smooth(30, 40)[..., 0]).save(tmp_path / "gray.png")
    Image.fromarray(smooth(30, 40)).convert("RGBA").save(tmp_path / "opaque.png")
    Image.fromarray(smooth(30, 40)).quantize(32).save(tmp_path / "palette.png")
    (tmp_path / "deep.png").write_bytes(sixteen_bit_png(smooth(30, 40).astype(np.uint16) * 257))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth(30, 40)).save(tmp_path / "turned.jpg", exif=exif)
    expected |= dict.fromkeys(("gray", "opaque", "palette", "deep"), (30, 40, 3))
    expected["turned"] = (40, 30, 3)

    inputs = sorted(path.name for path in tmp_path.iterdir())
    encoded = icmh("encode", *inputs, "--width", "0.25", "-o", "streams", cwd=tmp_path)
    assert (encoded.returncode, encoded.stderr) == (0, "")
    streams = sorted(os.path.join("streams", name) for name in os.listdir(tmp_path / "streams"))
    assert len(streams) == len(expected)
    decoded = icmh("decode", *streams, "-o", "images", cwd=tmp_path)
    assert (decoded.returncode, decoded.stderr) == (0, "")
    shapes = {p.stem: load_image(p).shape for p in (tmp_path / "images").iterdir()}
    assert shapes == expected


def test_bad_images_are_one_line_each_and_do_not_stop_the_rest(tmp_path):
    Image.fromarray(smooth(32, 32)).save(tmp_path / "first.png")
    whole = (tmp_path / "first.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(tmp_path / "glass.png")
    Image.new("F", (8, 8)).save(tmp_path / "float.tif")
    Image.fromarray(smooth(32, 32)).save(tmp_path / "last.png")
    bad = ["cut.png", "empty.png", "text.png", "folder.png", "glass.png", "float.tif", "none.png"]
    result = icmh("encode", "first.png", *bad, "last.png", "-o", "out", cwd=tmp_path)
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert [line.split()[2].rstrip(":") for line in lines] == bad
    assert all(line.startswith("icmh: error: ") for line in lines)
    assert sorted(os.listdir(tmp_path / "out")) == ["first.icmh", "last.icmh"]


def test_bad_streams_are_one_line_each_and_leave_nothing(tmp_path, stream):
    header = bitstream.read_header(stream)
    assert (header.image_size, header.quality) == ((96, 128), 60)
    flipped = bytearray(stream)
    flipped[len(stream) // 2] ^= 1
    _, y_section = _sections(stream)
    other = icmh_rt.Encoder(width=0.25, quality=60).encode(smooth(96, 128)[::-1].copy())
    other_z, _ = _sections(other)
    claims_more = bitstream.pack(
        bitstream.Header(**{**vars(header), "image_size": (2**20, 2**20)}), *_sections(stream)
    )
    another_size = bitstream.pack(
        bitstream.Header(**{**vars(header), "image_size": (960, 1280)}), *_sections(stream)
    )
    bad = {
        "empty": (b"", "empty"),
        "text": (b"not a stream", "not an ICMH stream"),
        "cut": (stream[:-10], "truncated"),
        "flipped": (bytes(flipped), "altered"),
        "longer": (stream + b"x", "altered"),
        "version": (reseal(stream, 4, b"\x02"), "version 2"),
        "flags": (reseal(stream, 5, b"\x01"), "flags 0x01"),
        "model": (reseal(stream, 6, bytes(4)), "00000000"),
        "width": (reseal(stream, 10, b"\x21"), "width 0.33"),
        "task": (reseal(stream, 11, b"\x03"), "stream was made with bundle"),
        "desync": (bitstream.pack(header, other_z, y_section), ""),
        "giant": (claims_more, "limit"),
        "resized": (another_size, ""),
        "no_payload": (bitstream.pack(header, b"", b""), ""),
        "garbage": (bitstream.pack(header, b"\xff" * 99, b"\x07" * 999), ""),
    }
    for name, (data, _) in bad.items():
        (tmp_path / f"{name}.icmh").write_bytes(data)
    (tmp_path / "good.icmh").write_bytes(stream)
    result = icmh("decode", *(f"{name}.icmh" for name in bad), "good.icmh", cwd=tmp_path)
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) == len(bad), result.stderr
    for line, (name, (_, reason)) in zip(lines, bad.items(), strict=True):
        assert line.startswith(f"icmh: error: {name}.icmh: ") and reason in line
    left = {path.name for path in tmp_path.iterdir() if path.suffix != ".icmh"}
    assert left == {"good.png"}


def _sections(stream: bytes) -> tuple[bytes, bytes]:
    parsed = bitstream.parse(stream)
    return parsed.z_section, parsed.y_section


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["--width", "0.33"], 2, "0.33"),
        (["--task", "counting"], 2, "counting"),
        (["--backend", "abacus"], 2, "abacus"),
        (["--device", "toaster"], 2, "toaster"),
        (["--model", "no_such_bundle"], 1, "no_such_bundle"),
    ],
)
def test_options_that_the_codec_refuses(tmp_path, options, code, reason):
    Image.fromarray(smooth(8, 8)).save(tmp_path / "photo.png")
    result = icmh("encode", "photo.png", *options, cwd=tmp_path)
    assert result.returncode == code
    assert reason in result.stderr and len(result.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == ["photo.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="processes are interrupted in another way")
def test_ctrl_c_leaves_only_whole_streams(tmp_path):
    inputs = [f"{number:03}.png" for number in range(300)]
    for name in inputs:
        Image.fromarray(smooth(200, 200)).save(tmp_path / name, compress_level=1)
    process = subprocess.Popen(
        [sys.executable, "-m", "icmh_rt", "encode", *inputs, "-o", "out"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore the signal, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout.readline().startswith("000.png")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, errors) == (130, "icmh: interrupted\n")
    written = sorted((tmp_path / "out").iterdir())
    assert 0 < len(written) < len(inputs)
    for path in written:
        assert icmh_rt.read_header(path.read_bytes()).image_size == (200, 200)


def test_the_python_api_and_the_command_agree(tmp_path, encoder):
    picture = smooth(40, 56)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    result = icmh("encode", "photo.png", "--width", 0.25, "--quality", 60, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    written = icmh_rt.Decoder().latents((tmp_path / "photo.icmh").read_bytes())
    here = icmh_rt.Decoder().latents(encoder.encode(picture))
    assert written.header.image_size == here.header.image_size == (40, 56)
    assert icmh_rt.read_header(encoder.encode(picture)).model == "default"
