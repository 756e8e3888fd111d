"""Images of every kind in, 8-bit RGB or a clear error out; and lossless, all-or-nothing writing."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from icmh_rt import _files, images
from icmh_rt.errors import ImageError
from icmh_rt.images import load_image, save_image

pytestmark = pytest.mark.filterwarnings("error")  # Pillow's warnings must not reach the user

HEIGHT, WIDTH = 5, 7


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


RGB = noise(HEIGHT, WIDTH, 3)


def png_bytes(samples: np.ndarray, colour_type: int, extra: bytes = b"") -> bytes:
    """A PNG written from its specification: `samples` (H, W) or (H, W, C), uint8 or uint16."""
    height, width = samples.shape[:2]
    depth = 8 * samples.dtype.itemsize
    rows = samples.astype(samples.dtype.newbyteorder(">"))
    raw = b"".join(b"\x00" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(raw))
        + png_chunk(b"IEND", b"")
    )


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def saved(tmp_path: Path, image: Image.Image, name: str, **options) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def rejected(source, pattern: str, **options) -> None:
    with pytest.raises(ImageError, match=pattern) as caught:
        load_image(source, **options)
    assert "\n" not in str(caught.value)


def check(result: np.ndarray, expected: np.ndarray) -> None:
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous and result.flags.writeable
    np.testing.assert_array_equal(result, expected)


# --- files and PIL images -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".tga", ".pcx"])
def test_lossless_rgb_files(tmp_path, suffix):
    path = saved(tmp_path, Image.fromarray(RGB), "photo" + suffix)
    check(load_image(path), RGB)
    check(load_image(str(path)), RGB)
    with Image.open(path) as image:
        check(load_image(image), RGB)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".gif"])
def test_other_files_equal_what_pillow_reads(tmp_path, suffix):
    path = saved(tmp_path, Image.fromarray(noise(33, 17, 3)), "photo" + suffix)
    with Image.open(path) as image:
        check(load_image(path), np.asarray(image.convert("RGB")))


def test_the_content_counts_not_the_suffix(tmp_path):
    path = tmp_path / "photo.txt"
    Image.fromarray(RGB).save(path, format="PNG")
    check(load_image(path), RGB)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_and_bilevel_files(tmp_path, mode):
    image = Image.fromarray(noise(HEIGHT, WIDTH)).convert(mode)
    expected = np.repeat(np.asarray(image.convert("L"))[..., None], 3, axis=2)
    check(load_image(saved(tmp_path, image, "gray.png")), expected)
    check(load_image(image), expected)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV"])
def test_other_colour_modes_are_converted(mode):
    image = Image.fromarray(RGB).convert(mode)
    check(load_image(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_files(tmp_path, suffix):
    path = saved(tmp_path, Image.fromarray(RGB).convert("CMYK"), "print" + suffix)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
        check(load_image(path), np.asarray(image.convert("RGB")))


def test_palette_file(tmp_path):
    image = Image.fromarray(RGB).quantize(16)
    path = saved(tmp_path, image, "palette.png")
    check(load_image(path), np.asarray(image.convert("RGB")))


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7) % 4, mode=None).convert("P")
    used = sorted(set(np.asarray(image).ravel().tolist()))
    unused = bytes([255] * (used[-1] + 1) + [0])
    check(
        load_image(saved(tmp_path, image, "unused.png", transparency=unused)),
        np.asarray(image.convert("RGB")),
    )
    path = saved(tmp_path, image, "used.png", transparency=bytes([128] * (used[0] + 1)))
    rejected(path, "used.png: image has transparent pixels")
    rejected(saved(tmp_path, image, "used.gif", transparency=used[0]), "transparent")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_opaque_alpha_is_dropped_and_other_alpha_is_refused(mode):
    gray = Image.fromarray(np.repeat(noise(HEIGHT, WIDTH)[..., None], 3, axis=2))
    straight = {"La": "LA", "RGBa": "RGBA"}.get(mode, mode)
    image = gray.convert("P").convert("PA") if mode == "PA" else gray.convert(straight)
    check(load_image(image.convert(mode)), np.asarray(image.convert("RGB")))
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[2, 3] = 254
    image.putalpha(Image.fromarray(alpha))
    rejected(image.convert(mode), "transparent pixels.* flatten")


def test_alpha_in_files(tmp_path):
    opaque = np.dstack([RGB, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    check(load_image(saved(tmp_path, Image.fromarray(opaque), "opaque.png")), RGB)
    rejected(
        saved(tmp_path, Image.fromarray(noise(HEIGHT, WIDTH, 4)), "see_through.webp"),
        "see_through.webp: image has transparent pixels",
    )


@pytest.mark.parametrize("colour", ["used", "unused"])
@pytest.mark.parametrize("kind", ["rgb8", "rgb16", "gray8", "gray16"])
def test_a_transparent_colour_matters_where_it_occurs(tmp_path, kind, colour):
    dtype = np.uint16 if kind.endswith("16") else np.uint8
    samples = noise(HEIGHT, WIDTH, 3, dtype=dtype) if kind[0] == "r" else noise(5, 7, dtype=dtype)
    key = samples[1, 2].copy()
    if colour == "unused":
        # For 16 bits the neighbour differs only in its low byte: the comparison must be exact.
        samples[(samples == key).all(axis=-1) if samples.ndim == 3 else samples == key] ^= 1
    extra = png_chunk(b"tRNS", np.asarray(key, ">u2").tobytes())
    path = tmp_path / "keyed.png"
    path.write_bytes(png_bytes(samples, 2 if samples.ndim == 3 else 0, extra))
    if colour == "used":
        rejected(path, "transparent")
    else:
        assert load_image(path).shape == (HEIGHT, WIDTH, 3)


def eight_bits(samples: np.ndarray) -> np.ndarray:
    """The nearest of 256 levels, in floating point: the slow twin."""
    return np.rint(samples / 65535.0 * 255.0).astype(np.uint8)


@pytest.mark.parametrize(
    ("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["gray", "rgb", "la", "rgba"]
)
def test_sixteen_bit_png_is_rounded_to_nearest(tmp_path, colour_type, channels):
    samples = noise(300, 250, channels, dtype=np.uint16)
    if colour_type in (4, 6):
        samples[..., -1] = 65535
    path = tmp_path / "deep.png"
    path.write_bytes(png_bytes(samples, colour_type))
    colours = samples[..., : 3 if channels >= 3 else 1]
    check(load_image(path), np.broadcast_to(eight_bits(colours), (300, 250, 3)))
    if colour_type in (4, 6):
        samples[123, 45, -1] = 65534  # the high byte alone would look opaque
        path.write_bytes(png_bytes(samples, colour_type))
        rejected(path, "transparent")


def test_every_sixteen_bit_level_is_rounded_to_nearest(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.repeat(eight_bits(levels)[..., None], 3, axis=2)
    path = tmp_path / "levels.png"
    path.write_bytes(png_bytes(levels, 0))
    check(load_image(path), expected)
    with Image.open(path) as image:
        check(load_image(image), expected)


def test_sixteen_bit_gray_in_other_containers(tmp_path):
    levels = noise(HEIGHT, WIDTH, dtype=np.uint16)
    expected = np.repeat(eight_bits(levels)[..., None], 3, axis=2)
    check(load_image(saved(tmp_path, Image.fromarray(levels), "deep.tif")), expected)
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5 7 5 65535\n" + levels.astype(">u2").tobytes())
    check(load_image(path), expected)


def test_sixteen_bit_exif_rotation(tmp_path):
    samples = noise(4, 6, 3, dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "deep.png"
    path.write_bytes(png_bytes(samples, 2, png_chunk(b"eXIf", exif.tobytes()[6:])))
    check(load_image(path), np.rot90(eight_bits(samples), -1))


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_modes_without_a_meaning_in_eight_bits_are_refused(tmp_path, mode):
    rejected(Image.new(mode, (WIDTH, HEIGHT)), f"mode '{mode}'.* convert it to RGB")
    path = saved(tmp_path, Image.new(mode, (WIDTH, HEIGHT)), "wide.tif")
    rejected(path, f"wide.tif: image has mode '{mode}'")


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / ("turned" + suffix)
    options = {} if suffix == ".jpg" else {"lossless": True}
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).save(path, exif=exif, **options)
    with Image.open(path) as image:
        image.load()
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        assert expected.shape == ((7, 5, 3) if 5 <= orientation <= 8 else (5, 7, 3))
        check(load_image(image), expected)
    check(load_image(path), expected)


def test_a_damaged_exif_block_is_ignored(tmp_path):
    path = tmp_path / "damaged.jpg"
    Image.fromarray(RGB).save(path, exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff garbage")
    assert load_image(path).shape == (HEIGHT, WIDTH, 3)


def test_a_pil_image_is_not_changed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, Image.fromarray(RGB), "turned.png", exif=exif)
    with Image.open(path) as image:
        load_image(image)
        assert (image.mode, image.size, image.getexif()[0x0112]) == ("RGB", (WIDTH, HEIGHT), 6)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_several_frames_are_refused_as_a_file_and_readable_one_by_one(tmp_path, suffix):
    frames = [Image.fromarray(np.full((HEIGHT, WIDTH, 3), 80 * i, np.uint8)) for i in range(3)]
    options = {"save_all": True, "append_images": frames[1:]}
    path = saved(tmp_path, frames[0], "moving" + suffix, lossless=True, **options)
    rejected(path, f"moving{suffix}: has 3 frames")
    with Image.open(path) as image:
        image.seek(2)
        check(load_image(image), np.full((HEIGHT, WIDTH, 3), 160, np.uint8))


def test_a_camera_file_with_a_preview_gives_the_main_picture(tmp_path):
    main, preview = Image.fromarray(noise(16, 24, 3)), Image.fromarray(noise(8, 12, 3))
    path = saved(tmp_path, main, "camera.mpo", save_all=True, append_images=[preview])
    with Image.open(path) as image:
        assert image.format == "MPO"
        check(load_image(path), np.asarray(image.convert("RGB")))


# --- what cannot be read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", "bad.png: is empty"),
        (b"hello, this is not an image\n", "not in any known image format"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read"),
        (b"\xff\xd8\xff", "cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not in any known image format"),
        (bytes(1000), "cannot be read"),
        (b"ICMH\x01\x00" + bytes(40), "not in any known image format"),
    ],
)
def test_files_that_are_no_images(tmp_path, content, pattern):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    rejected(path, pattern)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".ppm", ".tif", ".gif"])
def test_truncated_files(tmp_path, suffix):
    whole = saved(tmp_path, Image.fromarray(noise(64, 64, 3)), "whole" + suffix).read_bytes()
    path = tmp_path / ("cut" + suffix)
    for fraction in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
        path.write_bytes(whole[: int(len(whole) * fraction)])
        rejected(path, "cut")


@given(st.data())
def test_damaged_files_give_pixels_or_an_image_error(tmp_path_factory, data):
    image_format = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF"]))
    buffer = io.BytesIO()
    Image.fromarray(noise(24, 24, 3)).save(buffer, format=image_format)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        result = load_image(path, max_pixels=2**20)
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert result.ndim == 3 and result.dtype == np.uint8


def test_paths_that_lead_nowhere(tmp_path):
    rejected(tmp_path / "missing.png", "missing.png: no such file")
    rejected(tmp_path, "is a folder")
    rejected(tmp_path / "a" / "b.png", "no such file")
    rejected("bad\x00name.png", "cannot be read")
    rejected("", "no such file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    rejected(tmp_path / "pipe.png", "not an ordinary file")


def test_unreadable_permissions_are_one_line(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(RGB), "secret.png")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    rejected(path, r"secret.png: cannot be read as an image \(Permission denied\)")


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be large and holds nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"\x78\x9c")


@pytest.mark.parametrize("size", [(16385, 16384), (2**31 - 1, 2**31 - 1), (2**28 + 1, 1)])
def test_decompression_bombs_are_refused_by_our_limit(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(*size))
    limit = Image.MAX_IMAGE_PIXELS
    rejected(path, "bomb.png: .* above the limit of 268435456 pixels")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_our_limit_replaces_pillows(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(RGB), "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)  # below half of it Pillow would raise
    check(load_image(path), RGB)
    check(load_image(Image.fromarray(RGB)), RGB)
    assert Image.MAX_IMAGE_PIXELS == 3


def test_an_image_above_pillows_limit_loads_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_SURELY_BELOW_PILLOWS_LIMIT", 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    deep = noise(HEIGHT, WIDTH, 3, dtype=np.uint16)
    (tmp_path / "deep.png").write_bytes(png_bytes(deep, 2))
    check(load_image(tmp_path / "deep.png"), eight_bits(deep))
    check(load_image(saved(tmp_path, Image.fromarray(RGB), "photo.tif")), RGB)


def test_the_limit_holds_for_every_kind_of_source(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB), "photo.png")
    for source in (path, RGB, RGB[..., 0], Image.fromarray(RGB)):
        assert load_image(source, max_pixels=35).shape == (5, 7, 3)
        rejected(source, "5x7 pixels .* above the limit of 34", max_pixels=34)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("odd", ["two orientations", "a long text", "a long text below"])
def test_odd_tags_of_a_tiff_are_no_warnings(odd, compression, tmp_path):
    """Pillow reads them while it loads, beside other threads, whose warnings are not to be
    touched.
    """
    path, entry, long = tmp_path / "photo.tif", struct.Struct("<HHI"), 2**30
    tags = Image.Exif()
    tags[0x0112], tags[0x010E] = 1, "a text"
    Image.fromarray(RGB).save(path, compression=compression, exif=tags)
    data = path.read_bytes()
    if odd == "two orientations":
        old, new, more = entry.pack(0x0112, 3, 1), entry.pack(0x0112, 3, 2), b""
    elif odd == "a long text":
        old, new, more = entry.pack(0x010E, 2, 7), entry.pack(0x010E, 2, long), b""
    else:  # in a directory of its own, behind the rest
        old = data[(place := data.index(entry.pack(0x010E, 2, 7))) : place + 12]
        new = entry.pack(0x8769, 4, 1) + struct.pack("<I", len(data))
        more = b"\1\0" + entry.pack(0x9003, 2, long) + bytes(8)
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new) + more)
    check(load_image(path), RGB)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(path)
    check(load_image(image), RGB)


def test_threads_leave_the_warning_filters_alone(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB), "photo.png")
    before, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    threads = [
        threading.Thread(target=lambda: [load_image(path) for _ in range(20)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (warnings.filters, Image.MAX_IMAGE_PIXELS) == (before, limit)


def test_a_closed_pil_image_is_an_image_error(tmp_path):
    image = Image.open(saved(tmp_path, Image.fromarray(RGB), "photo.png"))
    image.close()
    rejected(image, "cannot be read")


# --- arrays ---------------------------------------------------------------------------------------


@given(
    hnp.arrays(
        np.uint8,
        st.one_of(
            st.tuples(st.integers(1, 9), st.integers(1, 9)),
            st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)),
        ),
    )
)
def test_arrays_keep_their_pixels(array):
    expected = array if array.ndim == 3 else np.dstack([array] * 3)
    check(load_image(array), expected)


@pytest.mark.parametrize(
    "view",
    [
        RGB[::-1],
        RGB[:, ::-2],
        RGB[..., ::-1],
        np.asfortranarray(RGB),
        RGB.transpose(1, 0, 2),
        noise(HEIGHT, WIDTH, 4)[..., :3],
        np.broadcast_to(np.uint8([1, 2, 3]), (4, 4, 3)),
        noise(HEIGHT, WIDTH).T,
    ],
)
def test_arrays_of_any_layout(view):
    before = view.copy()
    result = load_image(view)
    check(result, before if view.ndim == 3 else np.repeat(before[..., None], 3, axis=2))
    np.testing.assert_array_equal(view, before)


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 5, 3), (5, 0, 3), (0, 5), (5, 0)])
def test_arrays_without_pixels(shape):
    rejected(np.zeros(shape, np.uint8), "no pixels")
    rejected(Image.new("RGB", (shape[1], shape[0])), "no pixels")


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((), ""),
        ((9,), ""),
        ((5, 7, 0), ""),
        ((5, 7, 1), r"array\[..., 0\]"),
        ((5, 7, 2), ""),
        ((5, 7, 4), "flatten"),
        ((3, 5, 7), "transpose"),
        ((2, 5, 7, 3), "one image at a time"),
    ],
)
def test_arrays_of_a_wrong_shape(shape, hint):
    rejected(np.zeros(shape, np.uint8), rf"shape {re.escape(str(shape))}.*{hint}")


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.int8, np.uint16, np.int64, bool, object, "S3"]
)
def test_arrays_of_a_wrong_dtype(dtype):
    rejected(np.zeros((5, 7, 3), dtype), "not uint8: ")


def test_nan_and_masked_arrays():
    rejected(np.full((5, 7, 3), np.nan), "dtype float64, not uint8: scale it to 0..255")
    rejected(np.ma.masked_equal(RGB, RGB[0, 0, 0]), "masked")


@pytest.mark.parametrize("source", [None, 7, b"\x89PNG", bytearray(9), [[1, 2]], object()])
def test_what_is_no_image_at_all(source):
    rejected(source, f"not {type(source).__name__}")


def test_images_work_without_torch():
    program = (
        "import sys, numpy; from icmh_rt.images import load_image; "
        "load_image(numpy.zeros((2, 2), numpy.uint8)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# --- tensors --------------------------------------------------------------------------------------


def test_tensors():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    tensor = torch.from_numpy(RGB.transpose(2, 0, 1).copy())
    check(load_image(tensor), RGB)
    check(load_image(tensor.flip(2)), RGB[:, ::-1])
    check(load_image(torch.from_numpy(RGB).permute(2, 0, 1)), RGB)
    rejected(tensor.float(), "dtype torch.float32, not torch.uint8")
    rejected(tensor.permute(1, 2, 0), r"shape \(5, 7, 3\).*permute")
    rejected(tensor[:1], r"shape \(1, 5, 7\)")
    rejected(tensor[None], r"shape \(1, 3, 5, 7\)")
    rejected(tensor[:, :0], "no pixels")
    rejected(tensor, "above the limit of 34", max_pixels=34)
    rejected(tensor.to("meta"), "cannot be read")


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*images.WRITABLE_SUFFIXES, ".PNG"])
def test_written_images_are_read_back_exactly(tmp_path, suffix):
    path = tmp_path / ("out" + suffix)
    save_image(RGB, path)
    check(load_image(path), RGB)
    save_image(RGB[::-1, ::-1, 0], str(path))
    check(load_image(path), np.dstack([RGB[::-1, ::-1, 0]] * 3))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["out.jpg", "out", "out.npy", ".png"])
def test_lossy_and_unknown_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ImageError, match=r"without loss, as \.png"):
        save_image(RGB, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_bad_arrays_are_not_written(tmp_path):
    for array in (RGB.astype(np.float32), RGB[:0], np.zeros((3, 3, 4), np.uint8)):
        with pytest.raises(ImageError):
            save_image(array, tmp_path / "out.png")
    assert not list(tmp_path.iterdir())


def test_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")

    def half(self, file, **options):
        file.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(ImageError, match=r"out.png: cannot be written \(No space left on device\)"):
        save_image(RGB, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(ImageError, match="No such file or directory"):
        save_image(RGB, tmp_path / "missing" / "out.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="is a folder"):
        save_image(RGB, tmp_path / "folder.png")


# --- replace_file ---------------------------------------------------------------------------------


def test_replace_file_appears_only_when_complete(tmp_path):
    path = tmp_path / "out.bin"
    with _files.replace_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_replace_file_cleans_up_after_any_exception(tmp_path, error):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), _files.replace_file(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.bin"]


def test_replace_file_gives_ordinary_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    with _files.replace_file(tmp_path / "out.bin"):
        pass
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "out.bin")}
    assert len(modes) == 1


def test_replace_file_follows_links_and_spares_devices(tmp_path):
    target, link = tmp_path / "target.bin", tmp_path / "link.bin"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with _files.replace_file(link) as file:
        file.write(b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    with pytest.raises(OSError, match="not an ordinary file"), _files.replace_file(os.devnull):
        pass


# --- bands: large images are converted some rows at a time ----------------------------------------

BANDS = (1, 13, 40, 3 * 13 + 1)  # pixels of a band; the images below have rows of 13


@pytest.mark.parametrize("pixels", BANDS)
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK", "YCbCr", "HSV", "P", "RGBX"])
def test_bands_of_every_mode(mode, pixels, monkeypatch):
    image = Image.fromarray(noise(11, 13, 3)).convert(mode)
    monkeypatch.setattr(images, "_BAND_PIXELS", pixels)
    check(load_image(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("pixels", BANDS)
@pytest.mark.parametrize(("colour_type", "channels"), [(0, ()), (2, (3,)), (4, (2,)), (6, (4,))])
def test_bands_of_sixteen_bits(tmp_path, colour_type, channels, pixels, monkeypatch):
    samples = noise(11, 13, *channels, dtype=np.uint16)
    if channels in ((2,), (4,)):
        samples[..., -1] = 65535
    path = tmp_path / "wide.png"
    path.write_bytes(png_bytes(samples, colour_type))
    whole = load_image(path)
    monkeypatch.setattr(images, "_BAND_PIXELS", pixels)
    check(load_image(path), whole)


@pytest.mark.parametrize("row", range(0, 11, 5))
@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB"])
def test_a_transparent_pixel_in_any_band_is_refused(mode, row, monkeypatch):
    monkeypatch.setattr(images, "_BAND_PIXELS", 13)
    pixels = np.full((11, 13, len(mode)), 255, np.uint8)
    image = Image.fromarray(pixels, mode=mode)
    if mode == "RGB":
        image.info["transparency"] = (7, 8, 9)
    assert load_image(image).min() == 255
    image.putpixel((12, row), (7, 8, 9) if mode == "RGB" else (255,) * (len(mode) - 1) + (254,))
    rejected(image, "transparent")
