"""What can be had of a stream that was cut: asked for, told apart, and never more than is true."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the torch extra is not installed")

from icmh_rt import bitstream, cli, codec, rans, tiles
from icmh_rt.backends import Latents
from icmh_rt.bundle import load
from icmh_rt.codec import Decoder, Encoder
from icmh_rt.errors import BitstreamError, ModelMismatchError


def picture(height: int, width: int) -> np.ndarray:
    """Waves and noise, uint8 ``(H, W, 3)``."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / (5 + k) + columns / (9 - k)) for k in range(3)], -1)
    noise = np.random.default_rng(height).normal(0, 20, waves.shape)
    return (127 + 80 * waves + noise).clip(0, 255).astype(np.uint8)


def limits(decoder: Decoder, latents: codec.DecodedLatents) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value that the table of each symbol of y has."""
    tables = decoder.backend.coding(latents.header.width, latents.header.quality).tables_y
    low = tables.offsets[latents.indexes_y]
    return low, low + tables.lengths[latents.indexes_y] - 3  # one entry is the escape's


def with_outliers(decoder: Decoder, data: bytes, places: list[tuple[int, int, int]]) -> bytes:
    """The stream with symbols of y outside of their tables at these places and nowhere else."""
    latents = decoder.latents(data)
    header, symbols_z = latents.header, latents.symbols_z
    coding = decoder.backend.coding(header.width, header.quality)
    symbols_y = np.clip(latents.symbols_y, *limits(decoder, latents)).astype(np.int32)
    for number, place in enumerate(places):
        symbols_y[place] = 300 if number % 2 else -300
    prediction = coding.predict(symbols_z, header.image_size)
    low, high = codec._seals(Latents(symbols_z, symbols_y, prediction), coding)
    z = rans.encode(symbols_z, coding.indexes_z(header.image_size), coding.tables_z, seal=low)
    y = rans.encode(symbols_y, prediction.indexes, coding.tables_y, seal=high)
    return bitstream.pack(header, z, y)


def escapes(decoder: Decoder, data: bytes) -> tuple[np.ndarray, int]:
    """Which symbols of y are outside of their tables, and the bytes that their values take."""
    latents = decoder.latents(data)
    low, high = limits(decoder, latents)
    distance = np.maximum(low - latents.symbols_y, latents.symbols_y - high)
    bits = sum(2 * int(value).bit_length() for value in distance[distance > 0])
    return distance > 0, -(-bits // 8)


def check_picture(found: codec.PartialPicture, whole: np.ndarray) -> None:
    """What is claimed is true, and rows are what follows of the squares."""
    height, width = whole.shape[:2]
    assert found.exact.shape == (-(-height // 16), -(-width // 16))
    pixels = np.repeat(np.repeat(found.exact, 16, 0), 16, 1)[:height, :width]
    np.testing.assert_array_equal(found.image[pixels], whole[pixels])
    rows = 0
    while rows < height and pixels[rows].all():
        rows += 1
    assert found.rows == rows


@pytest.mark.parametrize("tile", [0, 64])
@pytest.mark.parametrize("outliers", [None, [], [(0, 0, 3), (5, 6, 0), (10, 2, 11)]])
def test_every_cut_of_a_small_stream(small, tile, outliers):
    settings = {"model": small, "backend": "torch", "device": "cpu", "tile": tile}
    data = Encoder(1.0, quality=20, **settings).encode(picture(170, 100))
    decoder = Decoder(**settings)
    if outliers is not None:  # as it is, one symbol in ten is outside of its table
        data = with_outliers(decoder, data, outliers)
    whole, symbols = decoder.decode(data), decoder.latents(data).symbols_y
    stream = bitstream.parse(data)
    first = len(data) - 4 - len(stream.y_section)  # where y begins
    found = None
    words_end = len(data) - 4 - escapes(decoder, data)[1]
    step = max(1, (len(data) - first) // 30)
    last = words_end - 6
    for cut in (*range(first), *range(first, last, step), *range(last, len(data))):
        with pytest.raises(BitstreamError):
            decoder.decode(data[:cut])
        if cut < first:
            with pytest.raises(BitstreamError) as caught:
                decoder.decode_partial(data[:cut])
            assert "\n" not in str(caught.value)
            continue
        before, found = found, decoder.decode_partial(data[:cut])
        assert found.header == stream.header
        check_picture(found, whole)
        if before is None:
            assert (found.fraction, found.rows, found.exact.any()) == (0.0, 0, False)
            continue
        assert before.fraction <= found.fraction <= 1.0
        assert found.exact[before.exact].all(), "more bytes, fewer squares"
        if cut == words_end:
            most = found
    outside = escapes(decoder, data)[0]
    assert most.fraction == 1.0 - outside.sum() / outside.size, "the words tell all but the escapes"
    if outliers is not None:
        assert 0.4 < most.exact.mean() and (most.rows == 0 if outliers else most.rows == 170)
    for last in (found, decoder.decode_partial(data)):  # nothing is missing but the checksum
        assert (last.fraction, last.rows, last.exact.all()) == (1.0, 170, True)
        np.testing.assert_array_equal(last.image, whole)
    assert symbols.any()


def test_squares_that_nothing_missing_reaches():
    """Against a look at every position around every square."""
    generator = np.random.default_rng(0)
    for shape in ((1, 1), (1, 9), (4, 3), (12, 17), (30, 2)):
        for synthesis in (0, 1, 3, 20):
            known = generator.random(shape) > 0.02
            expected = np.empty(shape, bool)
            for row, column in np.ndindex(shape):
                above, left = max(0, row - synthesis), max(0, column - synthesis)
                around = known[above : row + synthesis + 1, left : column + synthesis + 1]
                expected[row, column] = around.all()
            reach = tiles.Reach(0, 0, synthesis)
            np.testing.assert_array_equal(tiles.exact_squares(known, reach), expected)
        assert tiles.exact_squares(known, None).all() == known.all()
        assert tiles.exact_squares(known, None).any() == known.all()


def test_lost_values_are_taken_as_predicted_and_what_is_behind_them_is_there(small):
    """The cut of nothing but the values outside of the tables."""
    settings = {"model": small, "backend": "torch", "device": "cpu"}
    decoder = Decoder(**settings)
    data = Encoder(1.0, quality=20, **settings).encode(picture(170, 100))
    data = with_outliers(decoder, data, [(0, 0, 0)])
    latents = decoder.latents(data)
    outside, size = escapes(decoder, data)
    assert outside[0, 0, 0] and outside.sum() == 1
    coding = decoder.backend.coding(1.0, 20)
    symbols = np.where(outside, 0, latents.symbols_y)
    y_hat = coding.dequantize(symbols, coding.predict(latents.symbols_z, (170, 100)))
    expected = decoder.backend.synthesis(y_hat, 1.0, "human", (170, 100))
    found = decoder.decode_partial(data[: len(data) - 4 - size])
    np.testing.assert_array_equal(found.image, expected)
    assert found.fraction == 1.0 - outside.sum() / outside.size
    reach = tiles.reach_of(load(small), 1.0, "human")
    np.testing.assert_array_equal(found.exact, tiles.exact_squares(~outside.any(-1), reach))
    assert found.rows == 0 and found.exact.any()
    check_picture(found, decoder.decode(data))


def test_what_is_missing_is_as_predicted(small):
    """From z alone: the picture of symbols that are all zero."""
    settings = {"model": small, "backend": "torch", "device": "cpu"}
    decoder = Decoder(**settings)
    data = Encoder(1.0, quality=20, **settings).encode(picture(90, 64))
    latents = decoder.latents(data)
    coding = decoder.backend.coding(1.0, 20)
    zeros = np.zeros_like(latents.symbols_y)
    y_hat = coding.dequantize(zeros, coding.predict(latents.symbols_z, (90, 64)))
    expected = decoder.backend.synthesis(y_hat, 1.0, "human", (90, 64))
    begin = len(data) - 4 - len(bitstream.parse(data).y_section)
    found = decoder.decode_partial(data[:begin])
    np.testing.assert_array_equal(found.image, expected)


def test_adapters_look_everywhere_so_no_row_is_final(small):
    settings = {"model": small, "backend": "torch", "device": "cpu"}
    data = Encoder(1.0, "detection", 20, **settings).encode(picture(170, 100))
    found = Decoder(**settings).decode_partial(data[:-30])
    assert 0.5 < found.fraction < 1.0 and found.rows == 0 and not found.exact.any()
    found = Decoder(**settings).decode_partial(data)
    assert found.rows == 170 and found.exact.all()


def test_the_default_bundle(tmp_path):
    decoder = Decoder(backend="torch", device="cpu")
    image = picture(400, 160)
    data = Encoder(0.25, backend="torch", device="cpu").encode(image)
    whole = decoder.decode(data)
    found = decoder.decode_partial(data[: int(0.7 * len(data))])
    assert 0.4 < found.fraction < 0.9
    assert found.rows >= 160 * found.fraction
    check_picture(found, whole)
    reach = tiles.reach_of(load(), 0.25, "human").synthesis
    assert found.rows % 16 == 0 and found.rows <= 400 * found.fraction - 16 * (reach - 1)


def test_damage_and_strangers_are_errors_as_ever(small):
    settings = {"model": small, "backend": "torch", "device": "cpu"}
    decoder = Decoder(max_pixels=170 * 100, **settings)
    data = Encoder(1.0, quality=20, **settings).encode(picture(170, 100))
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 4
    other_version = data[:4] + b"\2" + data[5:]
    for bad in (bytes(damaged), data + b"x", b"", b"no stream", other_version, data[:3]):
        with pytest.raises(BitstreamError):
            decoder.decode_partial(bad)
    with pytest.raises(BitstreamError, match="above the limit of 16999 pixels"):
        Decoder(max_pixels=170 * 100 - 1, **settings).decode_partial(data[:-9])
    with pytest.raises(ModelMismatchError):
        Decoder(backend="torch", device="cpu").decode_partial(data[:-9])


def test_altered_beginnings_give_a_picture_or_one_line(small):
    settings = {"model": small, "backend": "torch", "device": "cpu"}
    decoder = Decoder(max_pixels=10_000, **settings)
    data = Encoder(1.0, quality=20, **settings).encode(picture(90, 64))
    generator = np.random.default_rng(0)
    pictures = 0
    for _ in range(300):
        altered = bytearray(data[: generator.integers(1, len(data))])
        for _ in range(generator.integers(1, 4)):
            altered[generator.integers(len(altered))] = generator.integers(256)
        try:
            found = decoder.decode_partial(bytes(altered))
        except (BitstreamError, ModelMismatchError) as error:
            assert "\n" not in str(error)
            continue
        pictures += 1
        assert found.image.shape[:2] == found.header.image_size
        assert 0 <= found.rows <= found.header.image_size[0] and 0.0 <= found.fraction <= 1.0
        assert found.exact.shape == tuple(-(-side // 16) for side in found.header.image_size)
    assert pictures > 30


def test_the_command(small, tmp_path, capsys):
    settings = {"model": small, "backend": "torch", "device": "cpu"}
    data = Encoder(1.0, quality=20, **settings).encode(picture(170, 100))
    cut, out = tmp_path / "cut.icmh", tmp_path / "cut.png"
    cut.write_bytes(data[: int(0.8 * len(data))])
    common = ["decode", str(cut), "--model", str(small), "--backend", "torch", "--device", "cpu"]
    assert cli.main(common) == 1
    assert "truncated" in capsys.readouterr().err and not out.exists()
    assert cli.main([*common, "--partial"]) == 0
    expected = Decoder(**settings).decode_partial(cut.read_bytes())
    line = capsys.readouterr().out
    assert f"cut: {expected.fraction:.1%} of the latent arrived" in line
    assert f"{expected.exact.mean():.1%} of the picture is exact" in line
    assert f"from the top {expected.rows} of 170 rows" in line
    np.testing.assert_array_equal(np.asarray(Image.open(out)), expected.image)
    assert cli.main([*common, "--partial", "--force", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["partial"] == {
        "rows": expected.rows,
        "exact": round(float(expected.exact.mean()), 6),
        "fraction": round(expected.fraction, 6),
    }
    cut.write_bytes(data)
    assert cli.main([*common, "--partial", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["partial"] == {
        "rows": 170,
        "exact": 1.0,
        "fraction": 1.0,
    }
