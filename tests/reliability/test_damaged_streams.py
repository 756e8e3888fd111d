"""Streams cut at every byte, with every byte altered, or forged: an error of the family, never a
picture, and never more memory than the promise allows.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

import icmh_rt  # noqa: E402
from icmh_rt import _native, bitstream, rans  # noqa: E402
from icmh_rt import bundle as bundles  # noqa: E402
from icmh_rt.coding import coding_of  # noqa: E402
from icmh_rt.errors import BitstreamError, IcmhError, ModelMismatchError  # noqa: E402

SETTINGS = [
    (0.5, "human", 1, (1, 1)),
    (0.5, "detection", 60, (5, 7)),
    (1.0, "human", 100, (20, 35)),
]
MEMORY_BYTES, MEMORY_BYTES_PER_PIXEL = 64 * 2**20, 64


def picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def decoder(small: Path) -> icmh_rt.Decoder:
    return icmh_rt.Decoder(small, "torch", "cpu", max_pixels=2**16)


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda s: f"{s[0]}-{s[1]}-{s[2]}")
def stream(request, small: Path) -> bytes:
    width, task, quality, size = request.param
    encoder = icmh_rt.Encoder(width, task, quality, small, "torch", "cpu")
    return encoder.encode(picture(*size))


def with_checksum(body: bytes) -> bytes:
    return body + struct.pack("<I", _native.crc32c(body))


def sections_start(stream: bytes) -> int:
    parsed = bitstream.parse(stream)
    return len(stream) - 4 - len(parsed.z_section) - len(parsed.y_section)


def refused(decoder: icmh_rt.Decoder, data: bytes) -> str:
    """What the decoder says, on one line; fails if it gives a picture."""
    with pytest.raises((BitstreamError, ModelMismatchError)) as caught:
        decoder.decode(data)
    text = str(caught.value)
    assert text and "\n" not in text and len(text) < 500
    return text


def test_whole_streams_decode(decoder, stream) -> None:
    """What the rest of this file begins with."""
    assert decoder.decode(stream).dtype == np.uint8


def test_cut_at_every_byte(decoder, stream) -> None:
    for length in range(len(stream)):
        refused(decoder, stream[:length])
        refused(decoder, stream[len(stream) - length :])


def test_every_byte_altered(decoder, stream) -> None:
    altered = bytearray(stream)
    for position, value in enumerate(stream):
        for other in values(value):
            altered[position] = other
            refused(decoder, bytes(altered))
        altered[position] = value


@pytest.mark.slow
def test_every_byte_altered_to_every_value(decoder, stream) -> None:
    altered = bytearray(stream)
    for position, value in enumerate(stream):
        for other in range(256):
            if other != value:
                altered[position] = other
                refused(decoder, bytes(altered))
        altered[position] = value


def values(value: int) -> set[int]:
    """What a byte is altered to: every bit of it, and the extremes."""
    return ({value ^ (1 << bit) for bit in range(8)} | {0, 255, value ^ 255}) - {value}


def test_sections_cut_under_right_checksums(decoder, stream) -> None:
    """By somebody who mends the container: the entropy coder's states and seals tell."""
    parsed = bitstream.parse(stream)
    for which in ("z_section", "y_section"):
        whole = getattr(parsed, which)
        for length in range(len(whole)):
            for cut in (whole[:length], whole[len(whole) - length :]):
                sections = {"z_section": parsed.z_section, "y_section": parsed.y_section}
                sections[which] = cut
                refused(decoder, bitstream.pack(parsed.header, **sections))
        for tail in (b"\0", b"\xff", whole, bytes(100)):
            sections = {"z_section": parsed.z_section, "y_section": parsed.y_section}
            sections[which] = whole + tail
            refused(decoder, bitstream.pack(parsed.header, **sections))


def test_sections_altered_under_right_checksums(decoder, stream) -> None:
    """The latents' checksum has 32 bits; nothing here hits it by chance."""
    start = sections_start(stream)
    body = bytearray(stream[:-4])
    for position in range(start, len(body)):
        value = body[position]
        for other in values(value):
            body[position] = other
            refused(decoder, with_checksum(bytes(body)))
        body[position] = value


def test_headers_altered_under_right_checksums(decoder, stream) -> None:
    """A forged header may be a true one, of a picture cut otherwise; else it is an error."""
    pixels = bitstream.read_header(stream).image_size
    body = bytearray(stream[:-4])
    for position in range(sections_start(stream)):
        value = body[position]
        for other in range(256):
            body[position] = other
            forged = with_checksum(bytes(body))
            try:
                image = decoder.decode(forged)
            except IcmhError as error:
                assert "\n" not in str(error)
                continue
            header = bitstream.read_header(forged)
            assert image.shape == (*header.image_size, 3)
            assert grid(header.image_size) == grid(pixels)
        body[position] = value


def grid(size: tuple[int, int]) -> tuple[int, int]:
    """Positions of the latent."""
    return -(-size[0] // 16), -(-size[1] // 16)


@pytest.mark.parametrize("seed", range(4))
def test_mutations_under_right_checksums(decoder, stream, seed) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(300):
        body = bytearray(stream[:-4])
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, len(body)))
            length = int(rng.integers(1, 9))
            kind = rng.integers(0, 4)
            if kind == 0:
                body[at : at + length] = rng.bytes(length)
            elif kind == 1 and len(body) > 20:
                del body[at : at + length]
            elif kind == 2:
                body[at:at] = rng.bytes(length)
            else:
                body[at:at] = body[at : at + length]
        data = with_checksum(bytes(body))
        try:
            image = decoder.decode(data)
        except IcmhError as error:
            assert "\n" not in str(error)
        else:
            assert image.shape == (*bitstream.read_header(data).image_size, 3)


def test_a_decoder_that_disagrees_says_so(small: Path, monkeypatch) -> None:
    """Desynchronization: other scale indexes than the encoder's, of a stream without damage."""
    encoder = icmh_rt.Encoder(1.0, model=small, backend="torch", device="cpu")
    data = encoder.encode(picture(40, 70))
    decoder = icmh_rt.Decoder(small, "torch", "cpu")
    right = decoder.latents(data)
    native = type(bundles.load(small).widths[1.0].hyper_synthesis)
    original = native.run
    for position in range(0, right.indexes_y.size, 37):

        def run(self, *arguments, position=position, **options):
            mean, indexes = original(self, *arguments, **options)
            indexes = indexes.copy()
            row = position // right.indexes_y[0].size
            indexes[row].flat[position % right.indexes_y[0].size] ^= 1
            return mean, indexes

        monkeypatch.setattr(native, "run", run)
        text = refused(decoder, data)
        assert "disagrees with the encoder" in text or "rANS" in text


# Memory -------------------------------------------------------------------------------------------


def forged(small: Path, size: tuple[int, int], z_section: bytes, y_section: bytes) -> bytes:
    header = bitstream.Header(1, 0, bundles.load(small).fingerprint, 1.0, "human", 50, size)
    return bitstream.pack(header, z_section, y_section)


def cheapest_sections(small: Path, size: tuple[int, int]) -> tuple[bytes, bytes]:
    """Sections of a true stream of the fewest bytes: all symbols the likeliest."""
    coding = coding_of(bundles.load(small), 1.0, 50)
    indexes_z = coding.indexes_z(size)
    zeros = np.zeros(indexes_z.shape, np.int32)
    indexes = coding.predict(zeros, size).indexes
    return (
        rans.encode(zeros, indexes_z, coding.tables_z),
        rans.encode(np.zeros(indexes.shape, np.int32), indexes, coding.tables_y),
    )


@pytest.mark.parametrize("side", [1, 2**10, 2**13])
@pytest.mark.parametrize("kind", ["empty", "noise", "zeros", "true"])
def test_memory_of_python_stays_within_the_promise(small: Path, side: int, kind: str) -> None:
    """What small streams of large claims allocate: numpy's arrays, as tracemalloc counts them."""
    size = (side, side)
    rng = np.random.default_rng(side)
    sections = {
        "empty": (b"", b""),
        "noise": (rng.bytes(300), rng.bytes(300)),
        "zeros": (bytes(300), bytes(300)),
    }
    # A true stream of 64 megapixels takes seconds to make.
    z, y = sections[kind] if kind in sections else cheapest_sections(small, (min(side, 1024),) * 2)
    data = forged(small, size, z, y)
    decoder = icmh_rt.Decoder(small, "torch", "cpu")
    tracemalloc.start()
    try:
        with pytest.raises(IcmhError):
            decoder.latents(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= MEMORY_BYTES + MEMORY_BYTES_PER_PIXEL * side * side
    if side > 2**10 and kind != "true":  # z is damaged, and y is 16 times as large
        assert peak <= MEMORY_BYTES + 2 * side * side


def test_images_above_the_limit_allocate_nothing(small: Path) -> None:
    data = forged(small, (2**16, 2**16), b"", b"")
    decoder = icmh_rt.Decoder(small, "torch", "cpu", max_pixels=2**20)
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match="above the limit of 1048576 pixels"):
            decoder.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("width", [0.25, 1.0])
def test_resident_memory_of_a_picture_stays_within_the_promise(width: float) -> None:
    """The whole decoder with the default bundle, transforms included, in a process of its own."""
    code = f"""
import numpy as np, icmh_rt
encoder = icmh_rt.Encoder({width}, device="cpu", backend="torch", quality=5)
decoder = icmh_rt.Decoder(device="cpu", backend="torch")
side = 1536
y, x = np.mgrid[:side, :side]
image = np.stack([x // 6 % 256, y // 6 % 256, (x + y) // 12 % 256], -1).astype(np.uint8)
data = encoder.encode(image)
decoder.decode(encoder.encode(image[:64, :64]))  # libraries and threads
open("/proc/self/clear_refs", "w").write("5")  # the peak from here on
def kilobytes(key):
    return next(int(s.split()[1]) for s in open("/proc/self/status") if s.startswith(key))
before = kilobytes("VmRSS:")
decoder.decode(data)
print((kilobytes("VmHWM:") - before) * 1024, side * side)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    if "clear_refs" in result.stderr:
        pytest.skip("this system does not let the peak be reset")
    assert result.returncode == 0, result.stderr
    grown, pixels = map(int, result.stdout.split())
    assert grown <= MEMORY_BYTES + MEMORY_BYTES_PER_PIXEL * pixels, f"{grown / pixels:.0f} a pixel"
