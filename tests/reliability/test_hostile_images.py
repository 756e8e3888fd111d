"""Damaged, absurd and huge image files of every format that is read: one line, or a picture."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from icmh_rt.errors import ImageError
from icmh_rt.images import _READ_FORMATS, load_image

MAX_PIXELS = 2**16
PIXELS = np.random.default_rng(4).integers(0, 256, (21, 34, 3), dtype=np.uint8)
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16")


def samples() -> Iterator[tuple[str, bytes]]:
    """A file of every format in every mode that Pillow writes."""
    Image.init()
    for name in (*_READ_FORMATS, "MPO", "ICO", "PSD", "EPS", "PDF", "ICNS", "IM", "XBM"):
        if name not in Image.SAVE:
            continue
        for mode in MODES:
            file = io.BytesIO()
            try:
                Image.fromarray(PIXELS).convert(
                    "L" if mode in ("I", "F", "I;16") else mode
                ).convert(mode).save(file, name)
            except (OSError, ValueError, KeyError):  # a mode that the format has not
                continue
            yield f"{name} {mode}", file.getvalue()


SAMPLES = dict(samples())


def attempt(what: str, path: Path, data: bytes, max_pixels: int = MAX_PIXELS) -> str | None:
    """Load it; the message, or None where it is a picture."""
    path.write_bytes(data)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            pixels = load_image(path, max_pixels=max_pixels)
        except ImageError as error:
            text = str(error)
            assert text and "\n" not in text and len(text) < 600, f"{what}: {text!r}"
            return text
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        finally:
            assert not told, f"{what}: {told[0].message}"
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert 0 < pixels.shape[0] * pixels.shape[1] <= max_pixels
    return None


@pytest.mark.parametrize("name", sorted({what.split()[0] for what in SAMPLES}))
def test_damaged_files(name: str, tmp_path: Path) -> None:
    """Cut, with bytes altered, with bytes of extremes, doubled."""
    rng = np.random.default_rng(len(name))
    tried = 0
    for what, whole in SAMPLES.items():
        if what.split()[0] != name:
            continue
        attempt(what, tmp_path / "image", whole)
        cuts = [whole[:n] for n in np.linspace(1, len(whole) - 1, 8).astype(int)]
        altered = []
        for _ in range(20):
            data = bytearray(whole)
            for _ in range(rng.integers(1, 4)):  # headers are where it hurts
                at = int(rng.integers(0, min(len(data), 100 if rng.random() < 0.7 else len(data))))
                data[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, data[at] ^ 1]))
            altered.append(bytes(data))
        for number, data in enumerate([*cuts, *altered, whole + whole, whole[len(whole) // 2 :]]):
            attempt(f"{what} #{number}", tmp_path / "image", data)
            tried += 1
    assert tried >= 30


def test_how_many_kinds() -> None:
    assert 30 * len(SAMPLES) >= 1000


@pytest.mark.parametrize("name", ["GIF", "PNG", "TIFF", "WEBP"])
def test_animations(name: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(PIXELS, i, 0)) for i in range(3)]
    file = io.BytesIO()
    try:
        frames[0].save(file, name, save_all=True, append_images=frames[1:])
    except (OSError, KeyError):
        pytest.skip(f"this Pillow writes no {name} with frames")
    text = attempt(name, tmp_path / "image", file.getvalue())
    assert text is not None and "3 frames" in text


def png(width: int, height: int, data: bytes, colour: int = 2, depth: int = 8) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        whole = kind + body
        return struct.pack(">I", len(body)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


HUGE = {
    "png": lambda w, h: png(w, h, zlib.compress(bytes(1000))),
    "bmp": lambda w, h: (
        b"BM"
        + struct.pack("<IHHI", 100, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, w, h, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "ppm": lambda w, h: f"P6 {w} {h} 255\n".encode() + bytes(100),
    "gif": lambda w, h: (
        b"GIF89a"
        + struct.pack("<HHBBB", w & 0xFFFF, h & 0xFFFF, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, w & 0xFFFF, h & 0xFFFF, 0)
        + b"\x02\x02\x4c\x01\x00;"
    ),
    "tga": lambda w, h: (
        struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, w & 0xFFFF, h & 0xFFFF, 24, 0)
        + b"\xff\0\0\0" * 10
    ),
    "qoi": lambda w, h: b"qoif" + struct.pack(">IIBB", w, h, 3, 0) + bytes(20),
    "sgi": lambda w, h: (
        struct.pack(">hBBHHHHII", 474, 0, 1, 3, w & 0xFFFF, h & 0xFFFF, 3, 0, 255) + bytes(600)
    ),
    "pcx": lambda w, h: (
        struct.pack("<BBBBHHHH", 10, 5, 1, 8, 0, 0, (w - 1) & 0xFFFF, (h - 1) & 0xFFFF)
        + bytes(53)
        + b"\x03"
        + struct.pack("<H", w & 0xFFFE)
        + bytes(60)
    ),
}


@pytest.mark.parametrize("kind", HUGE)
@pytest.mark.parametrize(
    ("width", "height"),
    [(65535, 65535), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (0, 0), (60000, 9)],
)
def test_huge_claims_allocate_nothing(kind: str, width: int, height: int, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        assert attempt(f"{kind} {width}x{height}", tmp_path / "image", HUGE[kind](width, height))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("where", ["image", "text", "profile"])
def test_decompression_bombs(where: str, tmp_path: Path) -> None:
    """A megabyte of nothing a thousand times over, in each place where PNG keeps zlib streams."""
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
    data = png(8, 8, bomb)
    if where != "image":
        kind = {"text": b"zTXt", "profile": b"iCCP"}[where]
        whole = kind + b"name\0\0" + bomb
        extra = struct.pack(">I", len(whole) - 4) + whole + struct.pack(">I", zlib.crc32(whole))
        data = png(8, 8, zlib.compress(bytes(8 * 25)))
        data = data[:33] + extra + data[33:]
    tracemalloc.start()
    try:
        attempt(f"bomb in the {where}", tmp_path / "image", data)
        assert tracemalloc.get_traced_memory()[1] < 80e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["EPS", "PDF", "PSD", "ICNS", "XBM", "IM"])
def test_formats_that_are_no_photographs_are_not_tried(name: str, tmp_path: Path) -> None:
    found = [data for what, data in SAMPLES.items() if what.split()[0] == name]
    if not found:
        pytest.skip(f"this Pillow writes no {name}")
    text = attempt(name, tmp_path / "image", found[0])
    assert text is not None and "not in any known image format" in text


def test_the_formats_that_are_read_can_be_written_here() -> None:
    """So that the tests above are about all of them."""
    optional = {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000"}
    lacking = {n for n in _READ_FORMATS if not any(w.startswith(f"{n} ") for w in SAMPLES)}
    for name, feature in optional.items():
        if name in lacking:
            assert not features.check(feature)
            lacking.discard(name)
    assert lacking <= {"QOI"}  # which older Pillows only read
