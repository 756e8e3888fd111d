"""A user's program with type hints, which a type checker and Python both accept.

mypy                                 # checks it, with all else that pyproject.toml names
python tests/typed_programs/uses.py  # runs it
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import icmh_rt
from icmh_rt.bitstream import Header
from icmh_rt.images import ImageLike, load_image

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value, kind):
        return value


def round_trip(image: ImageLike) -> NDArray[np.uint8]:
    encoder = icmh_rt.Encoder(width=0.25, task="human", quality=50, device="cpu")
    data = assert_type(encoder.encode(image), bytes)
    several = assert_type(encoder.encode_batch([image]), list[bytes])
    numbered: Iterator[tuple[int, bytes]] = encoder.encode_many([image], workers=1)
    if several != [data] or list(numbered) != [(0, data)]:
        raise AssertionError("the three ways to encode disagree")
    header = assert_type(icmh_rt.read_header(memoryview(data)), Header)
    size: tuple[int, int] = header.image_size
    decoder = icmh_rt.Decoder(device="cpu", max_pixels=size[0] * size[1])
    report = decoder.decode_detailed(bytearray(data))
    seconds: float = sum(report.times.values())
    latents = decoder.latents(data)
    assert_type(latents.y_hat, NDArray[np.float32])
    if seconds < 0.0:
        raise AssertionError("time went backwards")
    return assert_type(decoder.decode(data), NDArray[np.uint8])


def features(data: bytes) -> dict[str, NDArray[np.float32]] | None:
    try:
        return assert_type(icmh_rt.Decoder().features(data), dict[str, NDArray[np.float32]])
    except icmh_rt.OptionError as error:
        message: str = str(error)
        return None if message else {}


def code_plane() -> int:
    pmfs = np.full((1, 4), 0.25)
    tables = assert_type(icmh_rt.rans.Tables.from_pmfs(pmfs), icmh_rt.rans.Tables)
    symbols = np.array([0, 3, 1, 2], np.int32)
    indexes = np.zeros(4, np.uint8)
    data = icmh_rt.rans.encode(symbols, indexes, tables)
    found = icmh_rt.rans.decode(bytes(data), indexes, tables)
    if found.tolist() != symbols.tolist():
        raise AssertionError("the coder lost symbols")
    bits: float = tables.bits(symbols, indexes)
    return round(bits)


def images(path: str | os.PathLike[str]) -> list[ImageLike]:
    pixels = assert_type(load_image(path), NDArray[np.uint8])
    return [path, Path(path), pixels, Image.fromarray(pixels)]


def main() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = round_trip(gray)
    print(icmh_rt.__version__, picture.shape, code_plane(), icmh_rt.get_num_threads())


if __name__ == "__main__":
    main()
