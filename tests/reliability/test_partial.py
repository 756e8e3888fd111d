"""What can be had of a stream that was cut: asked for, told apart, and never more than is true."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the torch extra is not installed")

from icmh_rt import bitstream, cli, tiles
from icmh_rt.bundle import load
from icmh_rt.codec import Decoder, Encoder
from icmh_rt.errors import BitstreamError, ModelMismatchError


def picture(height: int, width: int) -> np.ndarray:
    """Waves and noise, uint8 ``(H, W, 3)``."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / (5 + k) + columns / (9 - k)) for k in range(3)], -1)
    noise = np.random.default_rng(height).normal(0, 20, waves.shape)
    return (127 + 80 * waves + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("tile", [0, 64])
def test_every_cut_of_a_small_stream(small, tile):
    settings = {"model": small, "backend": "torch", "device": "cpu", "tile": tile}
    data = Encoder(1.0, quality=20, **settings).encode(picture(170, 100))
    decoder = Decoder(**settings)
    whole, symbols = decoder.decode(data), decoder.latents(data).symbols_y
    stream = bitstream.parse(data)
    first = len(data) - 4 - len(stream.y_section)  # where y begins
    before, most = (0.0, 0), (0.0, 0)
    step = max(1, (len(data) - first) // 60)
    last = len(data) - 12
    for cut in (*range(first), *range(first, last, step), *range(last, len(data))):
        with pytest.raises(BitstreamError):
            decoder.decode(data[:cut])
        if cut < first:
            with pytest.raises(BitstreamError) as caught:
                decoder.decode_partial(data[:cut])
            assert "\n" not in str(caught.value)
            continue
        found = decoder.decode_partial(data[:cut])
        assert found.header == stream.header
        np.testing.assert_array_equal(found.image[: found.rows], whole[: found.rows])
        assert before <= (found.fraction, found.rows) <= (1.0, 170)
        assert found.fraction <= 1.0 and found.rows <= 170 * found.fraction + 16
        before = found.fraction, found.rows
        most = max(most, before if cut < len(data) - 4 else most)
        if cut == first:
            assert (found.fraction, found.rows) == (0.0, 0)
    assert 0.9 < most[0] < 1.0 and most[1] > 64, "next to nothing is claimed"
    assert before == (1.0, 170), "without the checksum nothing is missing"
    np.testing.assert_array_equal(found.image, whole)
    complete = decoder.decode_partial(data)
    np.testing.assert_array_equal(complete.image, whole)
    assert (complete.fraction, complete.rows) == (1.0, 170)
    assert symbols.any()


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
    assert 0.5 < found.fraction < 1.0 and found.rows == 0
    assert Decoder(**settings).decode_partial(data).rows == 170


def test_the_default_bundle(tmp_path):
    decoder = Decoder(backend="torch", device="cpu")
    image = picture(400, 160)
    data = Encoder(0.25, backend="torch", device="cpu").encode(image)
    whole = decoder.decode(data)
    found = decoder.decode_partial(data[: int(0.7 * len(data))])
    assert 0.4 < found.fraction < 0.9
    assert found.rows >= 160 * found.fraction
    np.testing.assert_array_equal(found.image[: found.rows], whole[: found.rows])
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
    assert f"cut: the first {expected.rows} of 170 rows" in capsys.readouterr().out
    np.testing.assert_array_equal(np.asarray(Image.open(out)), expected.image)
    assert cli.main([*common, "--partial", "--force", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["partial"] == {"rows": expected.rows, "fraction": round(expected.fraction, 6)}
    cut.write_bytes(data)
    assert cli.main([*common, "--partial", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["partial"] == {"rows": 170, "fraction": 1.0}
