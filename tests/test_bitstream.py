"""The container format: round trips, every kind of damage, the document's worked example."""

from __future__ import annotations

import dataclasses
import re
import struct
import subprocess
import sys
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import icmh_rt
from icmh_rt import _native, bitstream
from icmh_rt.bitstream import Header, Stream, pack, parse, read_header
from icmh_rt.errors import BitstreamError, IcmhError, OptionError

KODAK = Header(
    format_version=1,
    flags=0,
    fingerprint="01234567",
    width=0.25,
    task="human",
    quality=50,
    image_size=(512, 768),
)
STREAM = pack(KODAK, b"z" * 5, b"y" * 200)


def with_crc(body: bytes) -> bytes:
    """A stream whose checksum is right, whatever else is wrong with it."""
    return body + struct.pack("<I", _native.crc32c(body))


def hand_packed(
    *,
    magic=b"ICMH",
    version=1,
    flags=0,
    fingerprint=bytes(4),
    width_id=100,
    task_id=0,
    quality=50,
    sizes=b"\x01\x01\x00\x00",
    sections=b"",
) -> bytes:
    """A stream written field by field, independent of `pack`, with a right checksum."""
    fields = bytes([version, flags]) + fingerprint + bytes([width_id, task_id, quality])
    return with_crc(magic + fields + sizes + sections)


def leb128(value: int, length: int) -> bytes:
    """The LEB128 form of `value` with exactly `length` bytes, also where that is not minimal."""
    groups = [(value >> (7 * i)) & 0x7F for i in range(length)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


headers = st.builds(
    Header,
    format_version=st.just(1),
    flags=st.sampled_from((0, 1)),
    fingerprint=st.binary(min_size=4, max_size=4).map(bytes.hex),
    width=st.integers(1, 200).map(lambda width_id: width_id / 100),
    task=st.sampled_from(bitstream.TASKS),
    quality=st.integers(1, 100),
    image_size=st.tuples(st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1)),
)


@given(headers, st.binary(max_size=300), st.binary(max_size=300))
def test_parse_gives_back_what_pack_was_given(header, z_section, y_section):
    data = pack(header, z_section, y_section)
    assert parse(data, max_pixels=2**64) == Stream(header, z_section, y_section)
    assert read_header(data, max_pixels=2**64) == header
    assert len(data) <= 37 + len(z_section) + len(y_section)


@pytest.mark.parametrize("container", [bytes, bytearray, memoryview])
def test_every_documented_container_is_read(container):
    assert parse(container(STREAM)) == Stream(KODAK, b"z" * 5, b"y" * 200)
    assert read_header(container(STREAM)) == KODAK


def test_sections_are_copies_of_a_mutable_input():
    buffer = bytearray(STREAM)
    stream = parse(buffer)
    buffer[:] = bytes(len(buffer))
    assert stream.y_section == b"y" * 200


def test_overhead_is_at_most_26_bytes_for_a_photograph():
    for z_bytes, y_bytes in [(0, 0), (300, 20_000), (2**14 - 1, 2**21 - 1)]:
        data = pack(KODAK, bytes(z_bytes), bytes(y_bytes))
        assert len(data) - z_bytes - y_bytes <= 26


def test_hand_packed_stream_is_read_like_the_document_says():
    data = hand_packed(
        fingerprint=bytes(range(4)),
        width_id=67,
        task_id=3,
        quality=100,
        sizes=leb128(300, 2) + leb128(127, 1) + leb128(2, 1) + leb128(1, 1),
        sections=b"zzy",
    )
    expected = Header(1, 0, "00010203", 0.67, "segmentation", 100, (300, 127))
    assert parse(data) == Stream(expected, b"zz", b"y")
    assert pack(expected, b"zz", b"y") == data


def test_every_truncation_is_refused():
    for length in range(len(STREAM)):
        with pytest.raises(BitstreamError, match=r"truncated|altered|empty"):
            parse(STREAM[:length])


def test_every_altered_byte_is_refused():
    for position in range(len(STREAM)):
        altered = bytearray(STREAM)
        for value in range(256):
            if value == STREAM[position]:
                continue
            altered[position] = value
            with pytest.raises(BitstreamError) as caught:
                parse(altered)
            assert "\n" not in str(caught.value)


@given(st.integers(0, 2**32), st.integers(1, 2**32 - 1))
def test_every_burst_of_32_bits_is_refused(position, difference):
    altered = bytearray(STREAM)
    position %= len(STREAM) - 3
    word = struct.unpack_from("<I", altered, position)[0]
    struct.pack_into("<I", altered, position, word ^ difference)
    with pytest.raises(BitstreamError):
        parse(altered)


@given(st.binary(min_size=1, max_size=40))
def test_trailing_bytes_are_refused(tail):
    with pytest.raises(BitstreamError):
        parse(STREAM + tail)


def test_trailing_bytes_are_named():
    with pytest.raises(BitstreamError, match="followed by 3 other bytes"):
        parse(STREAM + b"abc")


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_any_bytes_give_a_stream_or_a_bitstream_error(data, magic, crc):
    if magic:
        data = b"ICMH\x01" + data
    if crc:
        data = with_crc(data)
    try:
        stream = parse(data)
    except BitstreamError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert pack(stream.header, stream.z_section, stream.y_section) == data


@given(st.binary(min_size=11, max_size=11), st.binary(max_size=40))
def test_any_fields_with_a_right_checksum_are_refused_or_canonical(fields, rest):
    data = with_crc(b"ICMH\x01\x00" + fields[:6] + bytes([fields[6] or 1, fields[7] % 5]) + rest)
    try:
        stream = parse(data)
    except BitstreamError:
        return
    assert pack(stream.header, stream.z_section, stream.y_section) == data


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_named(version):
    with pytest.raises(BitstreamError, match=f"version {version}, .* reads version 1"):
        parse(hand_packed(version=version))


@pytest.mark.parametrize("flags", [2, 3, 128, 255])
def test_unknown_flags_are_named(flags):
    with pytest.raises(BitstreamError, match=f"unknown flags 0x{flags:02x}"):
        parse(hand_packed(flags=flags))


@pytest.mark.parametrize("task_id", [4, 255])
def test_unknown_tasks_are_named(task_id):
    with pytest.raises(BitstreamError, match=f"unknown task id {task_id}"):
        parse(hand_packed(task_id=task_id))


@pytest.mark.parametrize("width_id", [0, 201, 255])
def test_unknown_widths_are_named(width_id):
    with pytest.raises(BitstreamError, match=f"unknown width id {width_id}"):
        parse(hand_packed(width_id=width_id))


@pytest.mark.parametrize("quality", [0, 101, 255])
def test_unknown_qualities_are_named(quality):
    with pytest.raises(BitstreamError, match=f"quality {quality}"):
        parse(hand_packed(quality=quality))


@pytest.mark.parametrize("sizes", [b"\x00\x01\x00\x00", b"\x01\x00\x00\x00", b"\0\0\0\0"])
def test_images_without_pixels_are_refused(sizes):
    with pytest.raises(BitstreamError, match="pixels"):
        parse(hand_packed(sizes=sizes))


@pytest.mark.parametrize("field", range(4))
@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_varints_must_be_minimal(field, length):
    values = [leb128(1, 1), leb128(1, 1), leb128(0, 1), leb128(0, 1)]
    values[field] = leb128(1 if field < 2 else 0, length)
    with pytest.raises(BitstreamError, match="shortest form"):
        parse(hand_packed(sizes=b"".join(values), sections=bytes(30)))


@pytest.mark.parametrize("field", range(4))
@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"\xff\xff\xff\xff\x10", "above 4294967295"),
        (b"\xff\xff\xff\xff\x7f", "above 4294967295"),
        (b"\xff\xff\xff\xff\xff\x01", "more than 5 bytes"),
        (b"\x80" * 40, "more than 5 bytes"),
    ],
)
def test_varints_above_32_bits_are_refused(field, encoded, reason):
    values = [leb128(1, 1), leb128(1, 1), leb128(0, 1), leb128(0, 1)]
    values[field] = encoded
    with pytest.raises(BitstreamError, match=reason):
        parse(hand_packed(sizes=b"".join(values), sections=bytes(30)))


@pytest.mark.parametrize("count", range(4))
def test_varints_must_not_run_into_the_checksums(count):
    data = with_crc(b"ICMH\x01\x00" + bytes(4) + b"\x64\x00\x32" + b"\x01" * count + b"\xff" * 4)
    with pytest.raises(BitstreamError):
        parse(data)


@pytest.mark.parametrize(
    ("z_length", "y_length"),
    [(4, 0), (0, 4), (2, 2), (0, 2), (2**32 - 1, 2**32 - 1), (2**32 - 1, 0), (0, 2**31)],
)
def test_section_lengths_must_fill_the_stream_exactly(z_length, y_length):
    sizes = b"\x01\x01" + b"".join(
        leb128(n, max(1, -(-n.bit_length() // 7))) for n in (z_length, y_length)
    )
    with pytest.raises(BitstreamError, match="promises"):
        parse(hand_packed(sizes=sizes, sections=b"abc"))


def test_gigantic_sizes_are_refused_without_allocation():
    side = leb128(2**32 - 1, 5)
    data = hand_packed(sizes=side + side + b"\x00\x00")
    tracemalloc.start()
    with pytest.raises(BitstreamError, match=r"4294967295x4294967295 .* limit of 268435456"):
        parse(data)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_pixel_limit_is_inclusive_and_configurable():
    assert parse(STREAM, max_pixels=512 * 768).header == KODAK
    for reader in (parse, read_header):
        with pytest.raises(BitstreamError, match="above the limit of 393215 pixels"):
            reader(STREAM, max_pixels=512 * 768 - 1)
    assert bitstream.DEFAULT_MAX_PIXELS == 2**28


@pytest.mark.parametrize("max_pixels", [0, -1, 1.5, "9", True])
def test_a_bad_pixel_limit_is_an_option_error(max_pixels):
    with pytest.raises(OptionError, match="max_pixels"):
        parse(STREAM, max_pixels=max_pixels)


@pytest.mark.parametrize(
    "data",
    [None, "ICMH", 7, [73, 67], 1.5, memoryview(STREAM)[::2], np.zeros(9, np.float32), object()],
)
def test_what_is_not_bytes_is_refused(data):
    with pytest.raises(BitstreamError, match="bytes"):
        parse(data)


@pytest.mark.parametrize(
    "data", [b"", bytearray(), b"I", b"ICM", b"ICMH", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(99)]
)
def test_short_and_foreign_data_are_told_apart(data):
    reason = "empty" if not data else "truncated" if b"ICMH".startswith(data[:4]) else "not an ICMH"
    with pytest.raises(BitstreamError, match=reason):
        parse(data)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"flags": 2},
        {"fingerprint": "0123456789AB"},
        {"fingerprint": "0123"},
        {"fingerprint": b"01234567"},
        {"fingerprint": "0x23456789ab"},
        {"width": 0.0},
        {"width": 2.01},
        {"width": 0.333},
        {"width": float("nan")},
        {"width": float("inf")},
        {"width": "wide"},
        {"width": None},
        {"task": "depth"},
        {"quality": 0},
        {"quality": 101},
        {"quality": 50.0},
        {"quality": True},
        {"image_size": (0, 5)},
        {"image_size": (5, 2**32)},
        {"image_size": (5,)},
        {"image_size": 5},
        {"image_size": (5.0, 5)},
    ],
)
def test_pack_refuses_what_the_format_cannot_hold(change):
    with pytest.raises(OptionError) as caught:
        pack(dataclasses.replace(KODAK, **change), b"", b"")
    assert "\n" not in str(caught.value)


def test_pack_refuses_sections_that_are_not_bytes():
    with pytest.raises(OptionError, match="bytes"):
        pack(KODAK, "z", b"")
    with pytest.raises(OptionError, match="bytes"):
        pack(KODAK, b"", np.zeros(3, np.int32))


def test_pack_takes_numpy_numbers():
    header = dataclasses.replace(
        KODAK,
        width=np.float32(0.25),
        quality=np.int64(50),
        image_size=(np.int32(512), np.uint16(768)),
    )
    assert pack(header, b"z" * 5, b"y" * 200) == STREAM


def test_width_ids_cover_every_hundredth():
    assert [bitstream.width_to_id(n / 100) for n in range(1, 201)] == list(range(1, 201))


def test_errors_belong_to_the_family_and_to_value_error():
    with pytest.raises(IcmhError):
        parse(b"")
    with pytest.raises(ValueError, match="ICMH"):
        parse(b"")


def test_the_documented_example_is_what_pack_writes():
    text = (Path(__file__).parents[1] / "docs" / "bitstream.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- worked example -->\s+```text\n(.*?)```", text, re.DOTALL)
    assert block, "docs/bitstream.md has lost its worked example"
    data = bytes.fromhex("".join(line.split("  ")[0] for line in block[1].splitlines()))
    expected = Header(1, 0, "c0ffee12", 0.75, "detection", 42, (480, 640))
    assert parse(data) == Stream(expected, b"\x01\x02\x03", b"\xaa\xbb\xcc\xdd\xee")
    assert pack(expected, b"\x01\x02\x03", b"\xaa\xbb\xcc\xdd\xee") == data


@pytest.mark.parametrize("name", ["default", None])
def test_public_read_header_names_the_model(monkeypatch, name):
    bundle = types.ModuleType("icmh_rt.bundle")
    asked = []
    bundle.name_of = lambda fingerprint: asked.append(fingerprint) or name
    monkeypatch.setitem(sys.modules, "icmh_rt.bundle", bundle)
    assert icmh_rt.read_header(STREAM) == dataclasses.replace(KODAK, model=name)
    assert asked == ["01234567"]
    with pytest.raises(BitstreamError, match="above the limit of 9 pixels"):
        icmh_rt.read_header(STREAM, max_pixels=9)


def test_parsing_imports_neither_torch_nor_numpy():
    program = (
        "import sys; from icmh_rt.bitstream import parse; "
        "parse(bytes.fromhex(sys.argv[1])); import icmh_rt; "
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", program, STREAM.hex()], check=True, timeout=60)


def test_public_names_are_lazy_and_complete():
    assert set(icmh_rt.__all__) <= set(dir(icmh_rt))
    assert {"rans", "models", "__version__"} <= set(dir(icmh_rt))
    assert icmh_rt.bitstream is bitstream
    with pytest.raises(AttributeError, match="no attribute 'Encodre'"):
        _ = icmh_rt.Encodre


def test_version_is_the_installed_one():
    from importlib import metadata

    assert icmh_rt.__version__ == metadata.version("icmh-rt")
