"""Images in and out: whatever users have becomes 8-bit RGB, or an `ImageError` that says why not.

The rules, in one place:

- EXIF orientation is applied. Embedded colour profiles are not: pixel values are taken as they are.
- Gray becomes RGB with three equal channels; palettes and YCbCr, HSV, CMYK modes are converted by
  Pillow.
- A transparency that hides nothing is dropped. One that does hide or blend pixels is refused: what
  should stand behind them is for the caller to say.
- 16-bit gray, and 16-bit PNGs of any colour type, are rounded to the nearest of 256 levels,
  (value + 128) // 257. Pillow itself reads 16-bit colour as the high byte; that is still what a
  16-bit colour TIFF, or a PIL.Image that Pillow has already reduced, gives.
- 32-bit integers and floats have no agreed white level and are refused.
- A file with several frames or pages is refused; a PIL.Image stands for its current frame. Camera
  files whose further pictures are previews (MPO) give their main picture.
- Images above a pixel limit are refused before they are decompressed.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, BinaryIO, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffTags import TAGS_V2_GROUPS

from icmh_rt._files import replace_file
from icmh_rt.bitstream import DEFAULT_MAX_PIXELS
from icmh_rt.errors import ImageError

# What is tried on a file. Not every format that Pillow knows: some run other programs (EPS starts
# Ghostscript) and some are not photographs in any sense.
_READ_FORMATS = (
    "PNG JPEG WEBP AVIF JPEG2000 TIFF BMP DIB GIF PPM QOI TGA SGI PCX"  # JPEG includes MPO
).split()

# Only formats that keep every pixel: a decoded image should not be degraded once more in passing.
_WRITE_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".bmp": ("BMP", {}),
    ".ppm": ("PPM", {}),
}
WRITABLE_SUFFIXES = tuple(_WRITE_OPTIONS)

# "P" is among them because a palette can hold transparent colours.
_ALPHA_MODES = frozenset({"RGBA", "LA", "P", "PA", "RGBa", "La"})
_CONVERTED_MODES = frozenset({"1", "L", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"})
_SIXTEEN_BIT_GRAY_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})

# Pillow checks sizes again while it loads some formats, against a limit of its own (89 megapixels
# unless the program changed it). Below this many pixels nothing needs to be switched off.
_SURELY_BELOW_PILLOWS_LIMIT = 2**26

# numpy calls for orientations 2..8 (EXIF 2.3, tag 0x0112) on an (H, W, 3) array.
_ORIENTATIONS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
_ORIENTATION_TAG = 0x0112


class TensorLike(Protocol):
    """A torch tensor, for type checkers: here torch is neither needed nor imported."""

    @property
    def is_cuda(self) -> bool:
        """Whether it is on a GPU; what tells tensors from arrays."""
        ...


ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[np.uint8] | TensorLike"
"""What `load_image` takes."""


def readable_suffixes() -> tuple[str, ...]:
    """Suffixes of files that `load_image` reads, in lower case."""
    Image.init()
    return tuple(
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in _READ_FORMATS and name in Image.OPEN
    )


def load_image(source: ImageLike, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
    """Any supported image as 8-bit RGB. The module's docstring has the rules of conversion.

    Args:
        source: a path; a PIL.Image; a uint8 numpy array (H, W, 3) or (H, W); or a uint8 torch
            tensor (3, H, W) on any device. It is never changed.
        max_pixels: refuse images of more pixels than this, before decompressing them.

    Returns:
        uint8 array (H, W, 3), C-contiguous and writable, H and W at least 1. It may share memory
        with `source`: make a copy before changing it.

    Raises:
        ImageError: the image cannot be read, is empty or too large, or has no safe meaning as
            8-bit RGB. One line; names the file where there is one.
    """
    # Pillow's buffers are read-only, which torch.from_numpy warns about: copied only where needed.
    return np.require(_load(source, max_pixels), requirements=("C", "W"))


def _load(source: Any, max_pixels: int) -> NDArray[Any]:
    if isinstance(source, (str, os.PathLike)):
        return _from_file(source, max_pixels)
    if isinstance(source, Image.Image):
        return _from_pillow(source, max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    # A caller who holds a tensor has imported torch; nobody else should pay for importing it.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.Tensor):
        return _from_tensor(source, max_pixels, torch)
    hint = ": open it with PIL.Image.open(io.BytesIO(...))" if isinstance(source, bytes) else ""
    raise ImageError(
        f"an image is a path, a PIL.Image, a uint8 numpy array or a uint8 torch tensor, "
        f"not {type(source).__name__}{hint}"
    )


def save_image(array: NDArray[np.uint8], path: str | os.PathLike[str]) -> None:
    """Write 8-bit RGB without loss, in the format that the suffix of `path` names.

    The file appears under its name only when it is complete; one that was there is replaced.

    Args:
        array: uint8 (H, W, 3) or (H, W).
        path: ends in .png, .webp, .tif, .tiff, .bmp or .ppm.

    Raises:
        ImageError: the array is no image, the suffix is not one of these, or writing failed.
    """
    pixels = _from_array(array, max_pixels=None)
    image_format, options = _write_options(path)
    image = Image.fromarray(pixels)
    try:
        with replace_file(path) as file:
            image.save(file, format=image_format, **options)
    # The encoders of Pillow raise what they like (ValueError for a WebP above 16383 pixels a side,
    # struct.error for a BMP above 4 GiB, ...): all of it means that this file cannot be written.
    except Exception as error:
        raise ImageError(f"{os.fspath(path)}: cannot be written ({_reason(error)})") from error


def size_of(pixels: NDArray[Any]) -> tuple[int, int]:
    """(height, width) of pixels (H, W, ...)."""
    height, width = pixels.shape[:2]
    return height, width


def check_writable_suffix(path: str | os.PathLike[str]) -> None:
    """Raise the ImageError that `save_image` would, for a suffix it does not write."""
    _write_options(path)


def _write_options(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in _WRITE_OPTIONS:
        kinds = ", ".join(WRITABLE_SUFFIXES)
        raise ImageError(
            f"{os.fspath(path)}: images are written without loss, as {kinds}, "
            f"not {repr(suffix) if suffix else 'without a suffix'}"
        )
    return _WRITE_OPTIONS[suffix]


def load_image_bytes(
    data: bytes, name: str, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> NDArray[Any]:
    """What `load_image` makes of a file of these bytes; ``name`` is for messages."""
    with _naming(name):
        return np.require(_decode_file(io.BytesIO(data), max_pixels), requirements=("C", "W"))


def _from_file(path: str | os.PathLike[str], max_pixels: int) -> NDArray[Any]:
    with _naming(os.fsdecode(path)):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
            kind = "a folder" if stat.S_ISDIR(mode) else "not an ordinary file"
            raise ImageError(f"is {kind}: name an image file")
        with open(path, "rb") as file:
            return _decode_file(file, max_pixels)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Whatever is raised becomes an ImageError that begins with the file's name."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    # Pillow's decoders raise what they like on damaged files: SyntaxError, struct.error, KeyError,
    # zlib.error, MemoryError... From foreign code on foreign bytes all of it means one thing.
    except Exception as error:
        raise ImageError(f"{name}: cannot be read as an image ({_reason(error)})") from error


def _decode_file(file: BinaryIO, max_pixels: int) -> NDArray[Any]:
    if not file.read(1):
        raise ImageError("is empty")
    image = _open(file)
    _check_size(image.height, image.width, max_pixels)
    with _pillow_without_limits():  # further pages may be damaged, which it warns about
        frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ImageError(
            f"has {frames} frames or pages: extract one, or pass a PIL.Image at the one you want"
        )
    with _pillow_without_limits() if _is_huge(image) else nullcontext():
        wide = _sixteen_bit_png(image, file)
        if wide is None:
            return _from_pillow(image, max_pixels)
        pixels = np.empty((image.height, image.width, 3), np.uint8)
        for band in _bands(image):
            pixels[band] = _rgb_from_sixteen_bits(wide(band), image.info.get("transparency"))
        return _orient(pixels, image)


def _open(file: BinaryIO) -> Image.Image:
    """Open without decompressing."""
    Image.init()
    formats = [name for name in _READ_FORMATS if name in Image.OPEN]
    file.seek(0)
    with _pillow_without_limits():
        return Image.open(file, formats=formats)


# Both things that this changes belong to the whole process, so one thread at a time.
_pillow_lock = threading.RLock()


@contextmanager
def _pillow_without_limits() -> Iterator[None]:
    """Pillow without its own pixel limit (ours is checked instead) and without its warnings."""
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _is_huge(image: Image.Image) -> bool:
    """Whether Pillow's limit, or the one that the program has set, could be in the way."""
    limit = Image.MAX_IMAGE_PIXELS
    least = _SURELY_BELOW_PILLOWS_LIMIT
    return image.height * image.width > (least if limit is None else min(limit, least))


def _sixteen_bit_png(image: Image.Image, file: BinaryIO) -> Callable[[slice], NDArray[Any]] | None:
    """All 16 bits of some rows of a colour or gray-alpha PNG: uint16 (H, W, 2 | 3 | 4), or None if
    it is none.

    Pillow has no 16-bit colour mode and unpacks the high byte of each big-endian sample
    ("RGB;16B"). Asked for the other byte order ("RGB;16L") it unpacks the low byte, so reading the
    file twice gives both. Gray with alpha needs one reading: its two samples are four bytes.
    """
    if not isinstance(image, ImageFile) or image.format != "PNG" or len(image.tile) != 1:
        return None
    tile: Any = image.tile[0]  # a plain tuple in older Pillows
    codec, box, offset, arguments = tile[:4]
    rawmode = arguments if isinstance(arguments, str) else arguments[0]
    if rawmode == "LA;16B":
        tiles: list[Any] = [(codec, box, offset, "RGBA")]
        image.tile = tiles

        def from_pairs(rows: slice) -> NDArray[Any]:
            pairs = _rows_of(image, rows).astype(np.uint16)
            return pairs[..., 0::2] << 8 | pairs[..., 1::2]

        return from_pairs
    if rawmode not in ("RGB;16B", "RGBA;16B"):
        return None
    image.load()  # before the file is read for the other bytes
    again: Any = _open(file)
    again.tile = [(codec, box, offset, rawmode.replace("16B", "16L"))]
    return lambda rows: _rows_of(image, rows).astype(np.uint16) << 8 | _rows_of(again, rows)


def _rows_of(image: Image.Image, rows: slice) -> NDArray[np.uint8]:
    return np.asarray(image.crop((0, rows.start, image.width, rows.stop)))


def _rgb_from_sixteen_bits(wide: NDArray[Any], transparent_colour: Any) -> NDArray[Any]:
    """uint16 (H, W), or (H, W, 2 | 3 | 4) with alpha last in 2 and 4, as uint8 (H, W, 3)."""
    if wide.ndim == 3 and wide.shape[2] in (2, 4):
        _require_opaque(bool((wide[..., -1] == 65535).all()))
        wide = wide[..., 0] if wide.shape[2] == 2 else wide[..., :3]
    elif transparent_colour is not None:
        same = wide == np.asarray(transparent_colour)
        _require_opaque(not (same.all(axis=-1) if wide.ndim == 3 else same).any())
    narrow = np.empty(wide.shape, np.uint8)
    # Row by row: a whole image in 32 bits would be four times its 8-bit size.
    for row, target in zip(wide, narrow, strict=True):
        target[...] = (row.astype(np.uint32) + 128) // 257
    return _gray_to_rgb(narrow)


def _from_pillow(image: Image.Image, max_pixels: int) -> NDArray[Any]:
    _check_size(image.height, image.width, max_pixels)
    _read_tags(image)
    try:
        # Pillow before 13 also looks at its limit when it crops.
        with _pillow_without_limits() if _is_huge(image) else nullcontext():
            image.load()
            pixels = _pillow_pixels(image)
    except ImageError:
        raise
    # A file-backed image is decoded only now, and a closed one raises ValueError: see _from_file.
    except Exception as error:
        raise ImageError(f"image cannot be read ({_reason(error)})") from error
    return _orient(pixels, image)


def _read_tags(image: Image.Image) -> None:
    """Of a TIFF, all that Pillow reads of its tags while it loads it, and warns about. What it has
    read it keeps: loading, which threads do side by side, has nothing left to warn about.
    """
    if image.format != "TIFF":
        return
    # What is damaged is for loading to say, or does not concern the pixels.
    with suppress(Exception), _pillow_without_limits():
        tags = image.getexif()
        tags.get(_ORIENTATION_TAG)
        for group in TAGS_V2_GROUPS:
            if group in tags:
                tags.get_ifd(group)


def _pillow_pixels(image: Image.Image) -> NDArray[Any]:
    """uint8 (H, W, 3) of a loaded image, not yet oriented."""
    mode, key = image.mode, image.info.get("transparency")
    if mode in _SIXTEEN_BIT_GRAY_MODES or (mode == "I" and image.format in ("PNG", "PPM")):
        # Older Pillows read 16-bit gray into 32 bits ("I"); with these two formats it is surely so.
        return _rgb_from_sixteen_bits(np.asarray(image).astype(np.uint16), key)
    if mode not in _ALPHA_MODES and mode not in _CONVERTED_MODES:
        raise ImageError(
            f"image has mode {mode!r}, which has no agreed meaning in 8 bits: "
            "convert it to RGB first"
        )
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    # Band by band: Pillow has four bytes a pixel already, and each conversion would have them anew.
    for band in _bands(image):
        part = image.crop((0, band.start, image.width, band.stop))
        pixels[band] = _band_pixels(part, mode, key)
    return pixels


_BAND_PIXELS = 2**20


def _bands(image: Image.Image) -> Iterator[slice]:
    """All rows of an image, some at a time."""
    step = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, step):
        yield slice(top, min(image.height, top + step))


def _band_pixels(band: Image.Image, mode: str, key: Any) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) of some rows."""
    if mode in _ALPHA_MODES:
        if mode == "La":  # Pillow converts premultiplied gray only to its straight form
            band = band.convert("LA")
        with_alpha = np.asarray(band.convert("RGBA"))
        _require_opaque(bool((with_alpha[..., 3] == 255).all()))
        return with_alpha[..., :3]
    pixels = np.asarray(band.convert("RGB"))
    if key is not None and mode in ("1", "L", "RGB"):
        colour = np.asarray(255 * key if mode == "1" else key)
        _require_opaque(not (pixels == colour).all(axis=-1).any())
    return pixels


def _from_array(array: NDArray[Any], max_pixels: int | None) -> NDArray[Any]:
    if array.dtype != np.uint8:
        hint = {
            "f": "scale it to 0..255, round, and convert with .astype(np.uint8)",
            "b": "convert it with .astype(np.uint8) * 255",
        }.get(array.dtype.kind, "convert it to np.uint8, 0..255")
        raise ImageError(f"image array has dtype {array.dtype}, not uint8: {hint}")
    if isinstance(array, np.ma.MaskedArray):
        raise ImageError("image array is masked: fill it with .filled(value) first")
    # np.matrix and the like keep their own arithmetic; from here on only plain arrays.
    array = np.asarray(array)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ImageError(
            f"image array has shape {array.shape}: it must be (H, W, 3) or (H, W)"
            f"{_shape_hint(array.shape)}"
        )
    _check_size(array.shape[0], array.shape[1], max_pixels)
    return _gray_to_rgb(array)


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[2] == 4:
        return "; flatten the alpha channel first"
    if len(shape) == 3 and shape[2] == 1:
        return "; use array[..., 0]"
    if len(shape) == 3 and shape[0] == 3:
        return "; use array.transpose(1, 2, 0)"
    if len(shape) == 4:
        return "; pass one image at a time"
    return ""


def _from_tensor(tensor: Any, max_pixels: int, torch: Any) -> NDArray[Any]:
    shape = tuple(tensor.shape)
    if tensor.dtype != torch.uint8:
        raise ImageError(
            f"image tensor has dtype {tensor.dtype}, not torch.uint8: scale it to 0..255, round, "
            "and convert with .to(torch.uint8)"
        )
    if len(shape) != 3 or shape[0] != 3:
        hint = "; use tensor.permute(2, 0, 1)" if len(shape) == 3 and shape[2] == 3 else ""
        raise ImageError(f"image tensor has shape {shape}: it must be (3, H, W){hint}")
    _check_size(shape[1], shape[2], max_pixels)
    try:
        array = tensor.detach().cpu().numpy()
    # TypeError for sparse, NotImplementedError for meta tensors, RuntimeError for a lost device.
    except (TypeError, RuntimeError, ValueError) as error:
        raise ImageError(f"image tensor cannot be read ({_reason(error)})") from error
    return np.ascontiguousarray(array.transpose(1, 2, 0))


def _gray_to_rgb(array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim == 2:
        array = np.repeat(array[:, :, np.newaxis], 3, axis=2)
    return np.ascontiguousarray(array)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of a loaded image, 1 (upright) where there is none that can be read."""
    try:
        with _pillow_without_limits():
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    # A damaged EXIF block says nothing about the pixels; Pillow raises half a dozen types on it.
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) and orientation in _ORIENTATIONS else 1


def _orient(pixels: NDArray[Any], image: Image.Image) -> NDArray[Any]:
    """Turn loaded pixels upright. Formats that Pillow turns itself have lost the tag by now."""
    turn = _ORIENTATIONS.get(_orientation(image))
    return np.ascontiguousarray(turn(pixels) if turn else pixels)


def _require_opaque(opaque: bool) -> None:
    if not opaque:
        raise ImageError(
            "image has transparent pixels, which a stream cannot hold: flatten it over a "
            "background first"
        )


def _check_size(height: int, width: int, max_pixels: int | None) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"image has no pixels: it is {height}x{width} (height x width)")
    if max_pixels is not None and height * width > max_pixels:
        raise ImageError(
            f"image is {height}x{width} pixels (height x width), above the limit of "
            f"{max_pixels} pixels: cut it into tiles"
        )


def _reason(error: BaseException) -> str:
    """One line about a foreign exception. Pillow puts object addresses into some: leave these."""
    if isinstance(error, UnidentifiedImageError):
        return "not in any known image format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return text if text else type(error).__name__
