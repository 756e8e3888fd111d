"""The container format, version 1: paired `pack` and `parse`. docs/bitstream.md is normative.

    offset  size     field
    0       4        magic b"ICMH"
    4       1        version, 1
    5       1        flags, 0 or 1
    6       4        fingerprint of the bundle
    10      1        width id, round(100 * width), 1..200
    11      1        task id, 0..3
    12      1        quality, 1..100
    13      1..5 x4  image height, image width, length of z, length of y   (LEB128, minimal)
    ...     z, y     the two entropy-coded sections
    end-4   4        CRC-32C over everything before it

All integers are little-endian. Parsing is total: whatever bytes come in, the result is a `Stream`
or a `BitstreamError`, and no allocation is larger than the input. This module knows no torch, no
numpy, and nothing about what is inside the sections.
"""

from __future__ import annotations

import operator
import string
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icmh_rt import _native
from icmh_rt.errors import BitstreamError, OptionError

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAGIC = b"ICMH"
FORMAT_VERSION = 1
TASKS = ("human", "classification", "detection", "segmentation")  # index = task id
STREAM_SUFFIX = ".icmh"  # of files
BASE_TASK = TASKS[0]  # the one without adapters
FINGERPRINT_BYTES = 4
FLAG_REFERENCE_PATH = 0x01
"""The scale indexes of y come from the reference path (docs/reference_synthesis.md)."""
_KNOWN_FLAGS = FLAG_REFERENCE_PATH
MIN_WIDTH_ID, MAX_WIDTH_ID = 1, 200
MIN_QUALITY, MAX_QUALITY = 1, 100
MAX_VARINT_BYTES = 5
MAX_VARINT_VALUE = 2**32 - 1

# 268 megapixels: above every camera, below what would make a decoder allocate gigabytes by the
# dozen. Callers that handle untrusted streams should choose a smaller one.
DEFAULT_MAX_PIXELS = 2**28

_FIXED = struct.Struct(f"<4sBB{FINGERPRINT_BYTES}sBBB")
_U32 = struct.Struct("<I")
_VARINT_FIELDS = (
    "image height",
    "image width",
    "length of z",
    "length of y",
)
_MIN_STREAM_BYTES = _FIXED.size + len(_VARINT_FIELDS) + _U32.size


@dataclass(frozen=True)
class Header:
    """What a stream says about itself.

    Attributes:
        format_version: 1.
        flags: 0 or `FLAG_REFERENCE_PATH`; the other bits are reserved.
        fingerprint: 8 lower-case hex digits, the identity of the bundle that made the stream.
        width: channel multiplier, a multiple of 0.01 from 0.01 to 2.0.
        task: one of `TASKS`.
        quality: 1 (smallest) to 100 (best).
        image_size: (height, width) in pixels, both at least 1.
        model: name of the installed bundle with this fingerprint, None where it is not known.
            It is not stored in the stream; `icmh_rt.read_header` fills it in.
    """

    format_version: int
    flags: int
    fingerprint: str
    width: float
    task: str
    quality: int
    image_size: tuple[int, int]
    model: str | None = None


@dataclass(frozen=True)
class Stream:
    """A parsed stream: its header and the two entropy-coded sections (rANS payloads)."""

    header: Header
    z_section: bytes
    y_section: bytes


def width_to_id(width: float) -> int:
    """The byte that stands for a channel multiplier: 100 * width, 1..200.

    Raises:
        OptionError: `width` is not a multiple of 0.01 from 0.01 to 2.0.
    """
    try:
        scaled = 100.0 * float(width)
        width_id = round(scaled)
    except (TypeError, ValueError, OverflowError):  # not a number; NaN; infinity
        scaled, width_id = 0.0, 0
    # The tolerance only forgives binary fractions (0.29 * 100 = 28.999...), never another width.
    if not MIN_WIDTH_ID <= width_id <= MAX_WIDTH_ID or abs(scaled - width_id) > 1e-6:
        raise OptionError(
            f"width {width!r} cannot be stored: use a multiple of 0.01 from 0.01 to 2.0"
        )
    return width_id


def pack(header: Header, z_section: Buffer, y_section: Buffer) -> bytes:
    """Write one stream; `parse` of the result gives back the same header and sections.

    Args:
        header: all fields but `model` are stored.
        z_section, y_section: entropy-coded payloads, each below 4 GiB.

    Returns:
        The stream: at most 26 bytes longer than the two sections where the image has at most
        16383 pixels a side, z is below 16 KiB and y below 2 MiB; never more than 37.

    Raises:
        OptionError: a field is outside what the format can hold; names it and its value.
    """
    version = _integer("format_version", header.format_version, FORMAT_VERSION, FORMAT_VERSION)
    flags = _integer("flags", header.flags, 0, _KNOWN_FLAGS)
    quality = _integer("quality", header.quality, MIN_QUALITY, MAX_QUALITY)
    try:
        height, width = header.image_size
    except (TypeError, ValueError):
        raise OptionError(
            f"image_size is {header.image_size!r}: give (height, width) in pixels"
        ) from None
    if header.task not in TASKS:
        raise OptionError(f"unknown task {header.task!r}: use one of {', '.join(TASKS)}")
    z_view, y_view = _byte_view(z_section, OptionError), _byte_view(y_section, OptionError)
    parts: list[Buffer] = [
        _FIXED.pack(
            MAGIC,
            version,
            flags,
            _fingerprint_bytes(header.fingerprint),
            width_to_id(header.width),
            TASKS.index(header.task),
            quality,
        ),
        _varint(_integer("image height", height, 1, MAX_VARINT_VALUE)),
        _varint(_integer("image width", width, 1, MAX_VARINT_VALUE)),
        _varint(_integer("length of z", len(z_view), 0, MAX_VARINT_VALUE)),
        _varint(_integer("length of y", len(y_view), 0, MAX_VARINT_VALUE)),
        z_view,
        y_view,
    ]
    body = b"".join(parts)
    return body + _U32.pack(_native.crc32c(body))


def parse(data: Buffer, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Stream:
    """Read one stream, checking every byte of it.

    Args:
        data: the whole stream, bytes, bytearray or memoryview (any contiguous buffer of bytes).
        max_pixels: refuse images of more pixels (height * width) than this.

    Raises:
        BitstreamError: not an ICMH stream, another version, unknown flags, task or width,
            truncated, altered, followed by other bytes, or larger than `max_pixels`.
        OptionError: `max_pixels` is not a positive integer.
    """
    view, header, z_range, y_range = _parse(data, max_pixels)
    return Stream(header, bytes(view[slice(*z_range)]), bytes(view[slice(*y_range)]))


def parse_beginning(data: Buffer, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[Stream, int]:
    """Read a stream whose end may be missing: what is there of its sections, and how many bytes of
    the y section are not.

    The checksum is gone with the end: that what is there is what was written is not known. A stream
    that is all there is read, checked and refused as by `parse`.

    Raises:
        BitstreamError: as `parse`, and where not even the z section is whole.
    """
    max_pixels = _integer("max_pixels", max_pixels, 1, None)
    view = _byte_view(data, BitstreamError)
    if bytes(view[: len(MAGIC)]) != MAGIC or (len(view) > len(MAGIC) and view[4] != FORMAT_VERSION):
        return parse(data, max_pixels=max_pixels), 0  # which says what it is
    if len(view) < _FIXED.size + len(_VARINT_FIELDS):
        raise BitstreamError(f"stream ends within its header: it has {len(view)} bytes")
    header, (z_length, y_length), position = _read_fields(view, max_pixels, end_is_missing=True)
    y_start = position + z_length
    if y_start + y_length + _U32.size <= len(view):
        return parse(data, max_pixels=max_pixels), 0
    if y_start > len(view):
        raise BitstreamError(
            f"stream ends within its z section, after {len(view)} of {y_start} bytes: without all "
            "of it nothing can be decoded"
        )
    y_section = bytes(view[y_start : y_start + y_length])
    return Stream(header, bytes(view[position:y_start]), y_section), y_length - len(y_section)


def read_header(data: Buffer, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Header:
    """The header of a stream. Checks, and fails, exactly like `parse`, but copies no payload."""
    return _parse(data, max_pixels)[1]


def _parse(
    data: Buffer, max_pixels: int
) -> tuple[memoryview, Header, tuple[int, int], tuple[int, int]]:
    """The stream's bytes, its header, and the (start, stop) of z and of y."""
    max_pixels = _integer("max_pixels", max_pixels, 1, None)
    view = _byte_view(data, BitstreamError)
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise BitstreamError(_not_ours(view))
    if len(view) > len(MAGIC) and view[4] != FORMAT_VERSION:
        raise BitstreamError(
            f"stream has format version {view[4]}, this icmh_rt reads version {FORMAT_VERSION}: "
            "the stream is altered, or made by another release"
        )
    if len(view) < _MIN_STREAM_BYTES:
        raise BitstreamError(
            f"stream is truncated: it has {len(view)} bytes, the smallest has {_MIN_STREAM_BYTES}"
        )
    # The checksum comes before the fields' meaning: a flipped bit is then reported as damage,
    # and "unknown task 7" is only ever said of a stream that was really written so.
    stored = _U32.unpack_from(view, len(view) - _U32.size)[0]
    computed = _native.crc32c(view[: -_U32.size])
    if stored != computed:
        raise BitstreamError(_describe_damage(view, stored, computed))
    header, (z_length, y_length), position = _read_fields(view, max_pixels)
    promised = position + z_length + y_length + _U32.size
    if promised != len(view):
        raise BitstreamError(f"stream has {len(view)} bytes, its header promises {promised}")
    y_start = position + z_length
    return view, header, (position, y_start), (y_start, y_start + y_length)


def _read_fields(
    view: memoryview, max_pixels: int, *, end_is_missing: bool = False
) -> tuple[Header, tuple[int, int], int]:
    """The header, the lengths of z and y, and the position after the fields."""
    _, version, flags, fingerprint, width_id, task_id, quality = _FIXED.unpack_from(view)
    if flags & ~_KNOWN_FLAGS:
        raise BitstreamError(f"stream has unknown flags 0x{flags:02x}: a newer icmh_rt made it")
    if not MIN_WIDTH_ID <= width_id <= MAX_WIDTH_ID:
        raise BitstreamError(
            f"stream has unknown width id {width_id}: {MIN_WIDTH_ID} to {MAX_WIDTH_ID} are defined"
        )
    if task_id >= len(TASKS):
        raise BitstreamError(
            f"stream has unknown task id {task_id}: 0 to {len(TASKS) - 1} are defined"
        )
    if not MIN_QUALITY <= quality <= MAX_QUALITY:
        raise BitstreamError(
            f"stream has quality {quality}: {MIN_QUALITY} to {MAX_QUALITY} are defined"
        )
    checksum = 0 if end_is_missing else _U32.size
    (height, width, z_length, y_length), position = _read_varints(view, len(view) - checksum)
    if height < 1 or width < 1:
        raise BitstreamError(f"stream claims an image of {height}x{width} pixels (height x width)")
    if height * width > max_pixels:
        raise BitstreamError(
            f"stream claims an image of {height}x{width} pixels (height x width), above the limit "
            f"of {max_pixels} pixels: raise max_pixels if you trust it"
        )
    header = Header(
        format_version=version,
        flags=flags,
        fingerprint=fingerprint.hex(),
        width=width_id / 100,
        task=TASKS[task_id],
        quality=quality,
        image_size=(height, width),
    )
    return header, (z_length, y_length), position


def _varint(value: int) -> bytes:
    """LEB128: seven bits a byte, lowest first, the top bit set on all bytes but the last."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varints(view: memoryview, stop: int) -> tuple[list[int], int]:
    """The four varints after the fixed fields, and the position after them, ``stop`` at most: they
    may not reach into the checksum.
    """
    values, position = [], _FIXED.size
    for name in _VARINT_FIELDS:
        value = 0
        for count in range(MAX_VARINT_BYTES):
            if position >= stop:
                raise BitstreamError(f"stream is truncated inside its {name}")
            byte = view[position]
            position += 1
            value |= (byte & 0x7F) << (7 * count)
            if byte < 0x80:
                break
        else:
            raise BitstreamError(f"{name} of the stream takes more than {MAX_VARINT_BYTES} bytes")
        if count > 0 and byte == 0:
            raise BitstreamError(f"{name} of the stream is not in its shortest form")
        if value > MAX_VARINT_VALUE:
            raise BitstreamError(f"{name} of the stream is {value}, above {MAX_VARINT_VALUE}")
        values.append(value)
    return values, position


def _not_ours(view: memoryview) -> str:
    if not view:
        return "not an ICMH stream: it is empty"
    start = bytes(view[: len(MAGIC)])
    if MAGIC.startswith(start):
        return f"stream is truncated: it has {len(view)} bytes"
    return f"not an ICMH stream: it starts with {start!r} instead of {MAGIC!r}"


def _describe_damage(view: memoryview, stored: int, computed: int) -> str:
    """Say "truncated" where the lengths tell so, else name both checksums.

    The lengths are not trusted for anything but this sentence.
    """
    try:
        (_, _, z_length, y_length), position = _read_varints(view, len(view) - _U32.size)
    except BitstreamError as error:
        return f"{error}: it is truncated or altered"
    promised = position + z_length + y_length + _U32.size
    if promised > len(view):
        return (
            f"stream is truncated or altered: it has {len(view)} bytes, "
            f"its header promises {promised}"
        )
    if promised < len(view):
        return (
            f"stream is altered, or followed by {len(view) - promised} other bytes: "
            f"it has {len(view)} bytes, its header promises {promised}"
        )
    return (
        f"stream is altered: its CRC-32C is 0x{computed:08x}, it says 0x{stored:08x}; "
        "get a fresh copy of it"
    )


def _byte_view(data: Any, error: type[BitstreamError] | type[OptionError]) -> memoryview:
    """`data` as a flat read-only view of bytes, without copying."""
    try:
        view = memoryview(data)
    except TypeError:
        raise error(
            f"a stream is bytes, bytearray or memoryview, not {type(data).__name__}"
        ) from None
    if view.itemsize != 1 or not view.c_contiguous:
        raise error(
            f"a stream is contiguous bytes, not a buffer of {view.itemsize}-byte items with "
            f"strides {view.strides}"
        )
    # cast() refuses shapes with a zero in them; an empty buffer is an empty stream.
    return view.cast("B") if view.nbytes else memoryview(b"")


def _fingerprint_bytes(fingerprint: str) -> bytes:
    if (
        not isinstance(fingerprint, str)
        or len(fingerprint) != 2 * FINGERPRINT_BYTES
        or not set(fingerprint) <= set(string.digits + "abcdef")
    ):
        raise OptionError(
            f"fingerprint is {fingerprint!r}: it must be {2 * FINGERPRINT_BYTES} lower-case "
            "hex digits"
        )
    return bytes.fromhex(fingerprint)


def _integer(name: str, value: Any, low: int, high: int | None) -> int:
    allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or number < low or (high is not None and number > high):
        raise OptionError(f"{name} is {value!r}: it must be an integer {allowed}")
    return number
