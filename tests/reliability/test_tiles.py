"""Large images by tiles: what the whole image gives is the oracle."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("torch", reason="the torch extra is not installed")
import torch

from icmh_rt import cli, tiles
from icmh_rt.backends import available, create
from icmh_rt.backends.base import measured_by, stopwatch
from icmh_rt.bundle import CodecBundle, load
from icmh_rt.codec import Decoder, Encoder
from icmh_rt.errors import BitstreamError, ImageError, OptionError

BACKENDS = [name for name in ("torch", "onnxruntime") if name in available()]


@pytest.fixture(scope="module")
def rough(small) -> CodecBundle:
    """The small bundle with blocks that look around themselves: fresh ones do nothing."""
    bundle, generator = load(small), np.random.default_rng(3)
    transforms = {
        name: generator.normal(0, 0.3, array.shape).astype(array.dtype)
        if name.endswith(("mix_out.weight", "ffn_out.weight"))
        else array
        for name, array in bundle.transforms.items()
    }
    return dataclasses.replace(bundle, transforms=transforms)


def picture(height: int, width: int) -> np.ndarray:
    """Waves and noise, uint8 ``(H, W, 3)``."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / (7 + k) + columns / (11 - k)) for k in range(3)], -1)
    noise = np.random.default_rng(height).normal(0, 15, waves.shape)
    return (127 + 80 * waves + noise).clip(0, 255).astype(np.uint8)


def compare(bundle: CodecBundle, width: float, size: tuple[int, int], tile: int, backend: str):
    """A picture by tiles and at once, through everything."""
    image = picture(*size)
    shares: list[float] = []
    settings = {"model": bundle, "backend": backend, "device": "cpu"}
    by_tiles = Encoder(width, quality=80, tile=tile, **settings)
    whole = Encoder(width, quality=80, tile=0, **settings).encode_detailed(image)
    found = by_tiles.encode_detailed(image, progress=shares.append)
    assert len(shares) >= 4, "it was not cut"
    assert shares == sorted(shares) and shares[0] > 0.0 and shares[-1] == 1.0
    np.testing.assert_array_equal(found.latents.symbols_z, whole.latents.symbols_z)
    np.testing.assert_array_equal(found.latents.symbols_y, whole.latents.symbols_y)
    assert found.data == whole.data
    assert found.estimated_bits == whole.estimated_bits
    tiled, at_once = Decoder(tile=tile, **settings), Decoder(tile=0, **settings)
    np.testing.assert_array_equal(tiled.decode(found.data), at_once.decode(found.data))
    latents, expected = tiled.latents(found.data), at_once.latents(found.data)
    for name in ("y_hat", "symbols_z", "symbols_y", "indexes_y"):
        np.testing.assert_array_equal(getattr(latents, name), getattr(expected, name))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("size", "tile"),
    [
        ((129, 128), 64),  # one more row than four tiles have
        ((193, 145), 64),  # the last tile has one row of pixels
        ((1, 17000), 64),  # narrower than what is around a tile
        ((2100, 9), 64),
        ((300, 257), 71),  # a side that is no multiple of 16
        ((400, 170), 127),
    ],
)
def test_tiles_give_what_the_whole_gives(rough, backend, size, tile):
    for width in rough.widths:
        compare(rough, width, size, tile, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tiles_of_the_default_bundle(backend):
    compare(load(), 0.25, (145, 161), 64, backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(
    ("size", "tile"), [((601, 475), 128), ((17, 4000), 64), ((1025, 769), 256), ((385, 2000), 256)]
)
def test_many_tiles_of_the_default_bundle(backend, width, size, tile):
    compare(load(), width, size, tile, backend)


# How far the transforms look ----------------------------------------------------------------------


def touched(before: np.ndarray, after: np.ndarray) -> list[int]:
    """Rows that differ."""
    return list(np.flatnonzero((before != after).reshape(len(before), -1).any(1)))


@pytest.mark.parametrize("name", ["rough", "default"])
def test_the_reach_is_what_the_networks_have(name, rough):
    """A change reaches as far as `reach_of` says, and no farther."""
    bundle = rough if name == "rough" else load()
    backend = create(bundle, "torch", "cpu", "fp32")
    module = backend.module_of("human")
    rows, place = 24, 12
    for width in bundle.widths:
        before, after, synthesis = tiles.reach_of(bundle, width, "human")
        image = picture(16 * rows, 16)
        other = image.copy()
        other[16 * place : 16 * place + 16] ^= 0x3F
        y, changed = (
            backend.latent_to_host(backend.analysis(array, width, "human")).copy()
            for array in (image, other)
        )
        assert touched(y, changed) == list(range(place - after, place + before + 1))

        latent = torch.from_numpy(y).permute(2, 0, 1)[None]
        changed = latent.clone()
        changed[:, :, place] += 1.0
        index = list(bundle.widths).index(width)
        with torch.inference_mode():
            pictures = [module.g_s(array, index)[0, 0].numpy() for array in (latent, changed)]
        squares = {row // 16 for row in touched(*pictures)}
        assert squares == set(range(place - synthesis, place + synthesis + 1))

        network = bundle.widths[width].hyper_synthesis
        z = network.probe_input(50, 9, 1)
        changed = z.copy()
        changed[4] = -changed[4]
        rows_of = (np.concatenate(network.run(array, 50), 2) for array in (z, changed))
        positions = {row // 4 for row in touched(*rows_of)}
        assert positions <= set(range(4 - network.reach, 5 + network.reach))


def test_parts_of_the_prediction_are_those_of_the_whole(small):
    coding = create(load(small), "torch", "cpu", "fp32").coding(1.0, 60)
    size = (199, 150)
    z = np.random.default_rng(0).integers(-9, 9, coding.indexes_z(size).shape).astype(np.int32)
    whole = coding.predict(z, size)
    height, width, _ = whole.indexes.shape
    for first, last in ((0, height), (3, 4), (5, height), (height - 1, height)):
        part = slice(first, last), slice(first // 2, min(width, last))
        found = coding.predict_part(z, size, *part)
        np.testing.assert_array_equal(found.mean, whole.mean[part])
        np.testing.assert_array_equal(found.indexes, whole.indexes[part])


# The plan -----------------------------------------------------------------------------------------


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(64, 2048), st.integers(0, 9))
def test_tiles_cover_an_image_once(height, width, tile, reach):
    tiling = tiles.tiling_of((height, width), tile, tiles.Reach(reach, reach, reach))
    if height * width <= 4 * tile * tile:
        assert tiling is None
        return
    assert tiling.shape == (-(-height // 16), -(-width // 16))
    for parts in (tiling.rows, tiling.columns):
        assert parts[0][0] == 0
        assert [first for first, _ in parts[1:]] == [last for _, last in parts[:-1]]
        assert all(first % 4 == 0 and first < last for first, last in parts)
        lengths = [last - first for first, last in parts[:-1]] or [parts[0][1]]
        assert max(lengths) - min(lengths) <= 4
    areas = [
        (bottom - top) * (right - left)
        for top, bottom in tiling.rows
        for left, right in tiling.columns
    ]
    assert max(areas) <= (tile / 16) ** 2 * 1.01 + 8 * sum(tiling.shape) ** 0.5 + 16 or tile < 128
    spans = list(tiling.spans(reach + 3, reach, 4))
    for axis, length in enumerate(tiling.shape):
        for span in (pair[axis] for pair in spans):
            assert span.first % 4 == 0
            assert span.first <= max(0, span.start - reach - 3)
            assert span.end >= min(length, span.stop + reach) and span.end <= length
        sizes = {span.end - span.first for span in (pair[axis] for pair in spans)}
        assert max(sizes) - min(sizes) <= 3, "memory of one does not fit the next"


@pytest.mark.parametrize("tile", [-1, 1, 63, 2**21, 1.5, "64", None, True])
def test_other_tiles_are_refused(small, tile):
    for make in (lambda: Encoder(1.0, model=small, tile=tile), lambda: Decoder(small, tile=tile)):
        with pytest.raises(OptionError, match=r"tile is .*: give the side of tiles in pixels, 64"):
            make()


def test_adapters_are_computed_whole_up_to_a_limit(small, monkeypatch):
    image = picture(80, 70)
    monkeypatch.setattr(tiles, "MAX_WHOLE_PIXELS", 80 * 70)
    settings = {"model": small, "backend": "torch", "device": "cpu"}
    encoder = Encoder(1.0, "detection", tile=64, **settings)
    data = encoder.encode(image)
    Decoder(tile=64, **settings).decode(data)
    monkeypatch.setattr(tiles, "MAX_WHOLE_PIXELS", 80 * 70 - 1)
    with pytest.raises(ImageError, match=r"80x70 pixels .* above 5599 pixels only the task"):
        encoder.encode(image)
    for read in (Decoder(**settings).decode, Decoder(**settings).latents):
        with pytest.raises(BitstreamError, match="or give tile=0 to compute it whole anyway"):
            read(data)
    whole = Encoder(1.0, "detection", tile=0, **settings)
    assert whole.encode(image) == data
    assert Decoder(tile=0, **settings).decode(data).shape == image.shape
    Encoder(1.0, "human", tile=64, **settings).encode(image)


# Progress, stages, the command --------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_progress_raises_ends_the_work(small, error):
    shares: list[float] = []

    def stop(share: float) -> None:
        shares.append(share)
        if len(shares) == 3:
            raise error

    settings = {"model": small, "backend": "torch", "device": "cpu", "tile": 64}
    encoder, decoder = Encoder(1.0, **settings), Decoder(**settings)
    image = picture(200, 200)
    data = encoder.encode(image)
    for call in (encoder.encode, decoder.decode):
        shares.clear()
        with pytest.raises(error):
            call(image if call == encoder.encode else data, progress=stop)
        assert len(shares) == 3
    assert encoder.encode(image) == data


def test_small_images_have_no_progress(small):
    def never(share: float) -> None:
        raise AssertionError(share)

    encoder = Encoder(1.0, model=small, backend="torch", device="cpu", tile=64)
    Decoder(small, "torch", "cpu", tile=64).decode(
        encoder.encode(picture(128, 128), progress=never), progress=never
    )


def test_stages_of_tiles_are_measured(small):
    encoder = Encoder(1.0, model=small, backend="torch", device="cpu", tile=64)
    report = encoder.encode_detailed(picture(200, 200))
    assert {"read", "g_a", "h_a", "h_s", "quantize", "entropy_coding"} <= set(report.times)
    watch = stopwatch()
    with measured_by(watch):
        Decoder(small, "torch", "cpu", tile=64).decode(report.data)
    assert {"parse", "entropy_decoding", "h_s", "dequantize", "g_s"} <= set(watch.times)


class _Terminal:
    """Standard error that is a terminal, and what was shown on it."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.shown.append(text)

    def flush(self) -> None:
        pass


def test_the_command_shows_how_far_a_long_one_is(small, tmp_path, monkeypatch):
    Image.fromarray(picture(200, 200)).save(tmp_path / "in.png")
    names = [str(tmp_path / name) for name in ("in.png", "s.icmh", "out.png")]
    common = ["--model", str(small), "--backend", "torch", "--device", "cpu"]
    streams = []
    for tile, seconds in (("64", 0.0), ("64", 60.0), ("0", 0.0)):
        terminal = _Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(cli._Progress, "LONG_SECONDS", seconds)
        assert cli.main(["encode", names[0], "-o", names[1], *common, "--tile", tile]) == 0
        assert cli.main(["decode", names[1], "-o", names[2], *common, "--tile", tile]) == 0
        streams.append(Path(names[1]).read_bytes())
        shown = "".join(terminal.shown)
        if tile == "64" and seconds == 0.0:
            assert "] in.png 100%" in shown and "] s.icmh 100%" in shown
            assert shown.endswith("\r\x1b[K"), "the bar is left standing"
        else:
            assert shown == ""
    assert streams[0] == streams[1] == streams[2]


def test_a_bad_tile_of_the_command_is_one_line(tmp_path, capsys):
    Image.fromarray(picture(8, 8)).save(tmp_path / "in.png")
    assert cli.main(["encode", str(tmp_path / "in.png"), "--tile", "5"]) == 2
    assert capsys.readouterr().err.startswith("icmh: error: tile is 5: give the side of tiles")


# Memory -------------------------------------------------------------------------------------------

_ONE = """
import sys, icmh_rt
from icmh_rt.profiling.memory import forget_peak, peak_bytes
path, tile = sys.argv[1], int(sys.argv[2])
codec = {"backend": "torch", "device": "cpu", "tile": tile}
encoder, decoder = icmh_rt.Encoder(0.25, **codec), icmh_rt.Decoder(**codec)
data = icmh_rt.Encoder(0.25, backend="torch", device="cpu", tile=512).encode(path)
call = (lambda: encoder.encode(path)) if sys.argv[3] == "encode" else (lambda: decoder.decode(data))
forget_peak()
base = peak_bytes()
call()
print(peak_bytes() - base)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the peak can be forgotten on Linux"
)
def test_memory_of_a_large_image_is_that_of_its_symbols(tmp_path):
    """By tiles: picture, symbols, indexes and a tile. Whole: all feature maps."""
    image = tmp_path / "in.ppm"
    Image.fromarray(np.tile(picture(512, 512), (8, 8, 1))).save(image)
    for operation in ("encode", "decode"):
        taken = {}
        for tile in (0, 512):
            command = [sys.executable, "-c", _ONE, str(image), str(tile), operation]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stderr
            taken[tile] = int(result.stdout) / 4096**2
        print(operation, taken)
        assert taken[512] < 12.0, taken  # bytes a pixel
        assert taken[512] < taken[0] / 1.5, taken
