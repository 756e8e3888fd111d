"""Encoder and Decoder with the shipped bundle: what every user relies on."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("torch", reason="the torch extra is not installed")

from bare_bundle import bare

from icmh_rt import bitstream, bundle, rans
from icmh_rt.backends import available, create
from icmh_rt.codec import Decoder, Encoder
from icmh_rt.errors import (
    BackendUnavailableError,
    BitstreamError,
    BundleError,
    ImageError,
    ModelMismatchError,
    OptionError,
)

PHOTO = Path(__file__).resolve().parents[1] / "examples" / "kodim23.png"
WIDTHS = (0.25, 0.5, 0.75, 1.0)
QUALITIES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """The shipped photograph, uint8 (512, 768, 3)."""
    return np.asarray(Image.open(PHOTO).convert("RGB"))


@pytest.fixture(scope="module")
def crop(photo) -> np.ndarray:
    """A piece of it whose sides are no multiples of 16."""
    return np.ascontiguousarray(photo[100:207, 200:345])


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return -10.0 * np.log10(np.mean((a.astype(np.float64) - b) ** 2) / 255.0**2)


# -- pictures come back ----------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_photo_comes_back(photo, decoder, width):
    data = Encoder(width=width, quality=50).encode(photo)
    decoded = decoder.decode(data)
    assert decoded.shape == photo.shape and decoded.dtype == np.uint8
    assert psnr(decoded, photo) > 32.0
    assert len(data) * 8 / (512 * 768) < 0.6


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 700), (700, 1), (2, 3), (15, 17), (16, 16), (63, 65), (64, 64), (127, 33)],
)
def test_sizes(photo, decoder, height, width):
    image = np.resize(photo, (height, width, 3))
    data = Encoder(width=0.25, quality=60).encode(image)
    assert decoder.decode(data).shape == (height, width, 3)


@given(
    height=st.integers(1, 96),
    width=st.integers(1, 96),
    quality=st.integers(1, 100),
    model_width=st.sampled_from(WIDTHS),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_image_round_trips(height, width, quality, model_width, seed):
    """Noise, which no codec is trained for: latents equal, shape right, every symbol coded."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    report = Encoder(width=model_width, quality=quality).encode_detailed(image)
    decoder = Decoder()
    latents = decoder.latents(report.data)
    assert np.array_equal(latents.symbols_z, report.latents.symbols_z)
    assert np.array_equal(latents.symbols_y, report.latents.symbols_y)
    assert np.array_equal(latents.indexes_y, report.latents.indexes_y)
    assert decoder.decode(report.data).shape == image.shape


@pytest.mark.slow
def test_4096_squared(photo, decoder):
    image = np.tile(photo, (8, 6, 1))[:4096, :4096]
    data = Encoder(width=0.25, quality=20).encode(image)
    assert decoder.decode(data).shape == (4096, 4096, 3)


@pytest.mark.parametrize("value", [0, 255])
def test_flat_images_cost_little_and_stay_flat(decoder, value):
    image = np.full((128, 128, 3), value, np.uint8)
    data = Encoder(quality=50).encode(image)
    assert len(data) < 600
    assert np.abs(decoder.decode(data).astype(int) - value).mean() < 6


def test_kinds_of_input_give_the_same_stream(crop, tmp_path):
    import torch

    path = tmp_path / "crop.png"
    Image.fromarray(crop).save(path)
    encoder = Encoder(width=0.25)
    expected = encoder.encode(crop)
    for image in (
        path,
        str(path),
        Image.fromarray(crop),
        torch.from_numpy(crop).permute(2, 0, 1),
        np.asfortranarray(crop),
        np.repeat(crop, 2, axis=1)[:, ::2],
    ):
        assert encoder.encode(image) == expected


def test_gray_array_is_rgb_with_equal_channels(crop):
    gray = crop[:, :, 0]
    encoder = Encoder(width=0.25)
    assert encoder.encode(gray) == encoder.encode(np.repeat(gray[:, :, None], 3, axis=2))


# -- latents are the same everywhere ---------------------------------------------------------------

_DECODE = """
import hashlib, json, sys
import torch
torch.set_num_threads(int(sys.argv[2]))
from icmh_rt.codec import Decoder
decoder = Decoder(dtype=sys.argv[3])
digests = []
for stream in json.load(open(sys.argv[1])):
    latents = decoder.latents(bytes.fromhex(stream))
    decoder.decode(bytes.fromhex(stream))
    digests.append(hashlib.sha256(latents.y_hat.tobytes()).hexdigest())
print(json.dumps(digests))
"""


def test_latents_are_identical_in_other_processes(crop, decoder, tmp_path):
    """Another process, other thread counts, other dtypes of encoder and decoder: the same bits."""
    streams = [
        Encoder(width=width, quality=quality, dtype=dtype).encode(crop)
        for width, quality, dtype in itertools.product(WIDTHS, (1, 55, 100), ("fp32", "bf16"))
    ]
    expected = [hashlib.sha256(decoder.latents(s).y_hat.tobytes()).hexdigest() for s in streams]
    path = tmp_path / "streams.json"
    path.write_text(json.dumps([s.hex() for s in streams]))
    for threads, dtype in (("1", "bf16"), ("2", "fp32")):
        result = subprocess.run(
            [sys.executable, "-c", _DECODE, str(path), threads, dtype],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )
        assert json.loads(result.stdout) == expected


def test_same_input_same_bytes(crop):
    encoder = Encoder(width=0.5, quality=42)
    one = encoder.encode(crop)
    assert encoder.encode(crop) == one
    assert Encoder(width=0.5, quality=42).encode(crop) == one
    small = np.ascontiguousarray(crop[:30])
    assert encoder.encode_batch([small, crop]) == [encoder.encode(small), one]


def test_threads_share_encoder_and_decoder(crop, decoder):
    """Width and quality are no state: threads with interleaved settings get their own bytes."""
    settings = list(itertools.product((0.25, 1.0), (5, 95)))
    encoders = {s: Encoder(width=s[0], quality=s[1]) for s in settings}
    expected = {s: encoders[s].encode(crop) for s in settings}
    pictures = {s: decoder.decode(expected[s]) for s in settings}
    failures = []

    def work(setting):
        for _ in range(3):
            if encoders[setting].encode(crop) != expected[setting]:
                failures.append(("encode", setting))
            if not np.array_equal(decoder.decode(expected[setting]), pictures[setting]):
                failures.append(("decode", setting))

    threads = [threading.Thread(target=work, args=(s,)) for s in settings * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@given(
    symbol=st.integers(-(2**17), 2**17),
    mean=st.integers(-(2**21) + 1, 2**21 - 1),
    gain=st.floats(2.0**-20, 2.0**20, width=32),
)
def test_dequantization_is_one_rounding(symbol, mean, gain):
    """Symbol plus mean is exact in float32, so y_hat is the correctly rounded product."""
    total = np.float32(symbol) + np.float32(mean) * np.float32(2.0**-6)
    exact = Fraction(symbol) + Fraction(mean, 64)
    assert Fraction(float(total)) == exact
    product = float(np.float32(total) * np.float32(gain))
    assert product == float(np.float32(float(exact * Fraction(gain))))


# -- rate ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_rate_rises_with_quality_and_spans_eight_times(photo, decoder, width):
    sizes = [len(Encoder(width=width, quality=q).encode(photo)) for q in QUALITIES]
    assert all(np.diff(sizes) > 0), sizes
    assert sizes[-1] >= 8 * sizes[0], sizes
    worst, best = (
        psnr(decoder.decode(Encoder(width=width, quality=q).encode(photo)), photo) for q in (1, 100)
    )
    assert best > worst + 6.0


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("quality", [1, 50, 100])
def test_bytes_are_what_the_model_estimates(photo, width, quality):
    for image in (photo, photo[:64, :64], photo[:200, 300:401]):
        report = Encoder(width=width, quality=quality).encode_detailed(image)
        assert len(report.data) <= 1.01 * report.estimated_bits / 8 + 32


def test_width_changes_compute_not_the_settings(photo):
    header = bitstream.read_header(Encoder(width=0.25, quality=7).encode(photo[:64, :64]))
    assert (header.width, header.quality, header.task) == (0.25, 7, "human")
    assert header.image_size == (64, 64)


# -- what is wrong is said -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.3}, r"width 0.3 is not in bundle 'default': use one of 0.25, 0.5, 0.75, 1.0"),
        ({"width": "full"}, r"width 'full' is not in bundle"),
        ({"width": float("nan")}, r"width nan is not in bundle"),
        ({"quality": 0}, r"quality is 0: it must be a whole number 1 to 100"),
        ({"quality": 101}, r"quality is 101"),
        ({"quality": 50.5}, r"quality is 50.5"),
        ({"quality": True}, r"quality is True"),
        (
            {"task": "detection", "model": bare()},
            r"task 'detection' is not in bundle 'default': use one of human",
        ),
        ({"task": "smell"}, r"task 'smell' is unknown"),
        ({"backend": "abacus"}, r"backend 'abacus' is unknown: use auto or torch"),
        ({"device": "toaster"}, r"device 'toaster' is unknown"),
        ({"device": "meta"}, r"device 'meta' is unknown"),
        ({"dtype": "int3"}, r"dtype 'int3' is unknown"),
        ({"max_pixels": 0}, r"max_pixels is 0"),
        ({"model": 7}, r"model is a int"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message) as error:
        Encoder(**options)
    assert "\n" not in str(error.value)


def test_whole_numbers_of_any_type_are_qualities():
    assert [Encoder(quality=q).quality for q in (50, 50.0, np.int64(50), np.uint8(50))] == [50] * 4


def test_missing_device_and_bundle():
    with pytest.raises(BackendUnavailableError, match="cuda:99"):
        Encoder(device="cuda:99")
    with pytest.raises(BundleError, match="no bundle 'nothing': installed ones are default"):
        Encoder(model="nothing")


def test_bad_images(tmp_path):
    encoder = Encoder(width=0.25)
    text = tmp_path / "text.png"
    text.write_text("no image")
    for image in (
        text,
        tmp_path / "missing.png",
        np.zeros((0, 5, 3), np.uint8),
        np.full((8, 8, 3), np.nan, np.float32),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 5), np.uint8),
        None,
    ):
        with pytest.raises(ImageError) as error:
            encoder.encode(image)
        assert "\n" not in str(error.value)
    with pytest.raises(ImageError, match="use encode"):
        encoder.encode_batch(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ImageError, match="pixels"):
        Encoder(width=0.25, max_pixels=63).encode(np.zeros((8, 8, 3), np.uint8))


def test_every_altered_byte_and_every_truncation_is_an_error(crop, decoder):
    data = Encoder(width=0.25, quality=1).encode(crop[:40, :50])
    for position in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            altered = bytearray(data)
            altered[position] ^= flip
            with pytest.raises(BitstreamError):
                decoder.decode(bytes(altered))
        with pytest.raises(BitstreamError):
            decoder.decode(data[:position])
    with pytest.raises(BitstreamError):
        decoder.decode(data + b"\0")


def test_a_decoder_that_disagrees_says_so(crop, decoder):
    """A stream whose symbols decode, but to others than the encoder had: never a wrong picture."""
    report = Encoder(width=0.25).encode_detailed(crop)
    stream = bitstream.parse(report.data)
    tables = bundle.load().tables
    latents = report.latents
    for seal in (0, 1, 0xFFFF):
        y_section = rans.encode(latents.symbols_y, latents.indexes_y, tables, seal=seal)
        data = bitstream.pack(stream.header, stream.z_section, y_section)
        with pytest.raises(BitstreamError, match=r"checksum 0x.* the encoder's had 0x"):
            decoder.decode(data)


@pytest.mark.parametrize("field", ["image_size", "width", "quality", "task"])
def test_a_forged_header_is_an_error(crop, decoder, field):
    """Right CRC, wrong claim: sections that do not fit it, or a task that the bundle lacks."""
    stream = bitstream.parse(Encoder(width=0.25, quality=50).encode(crop))
    value = {"image_size": (500, 500), "width": 1.0, "quality": 51, "task": "detection"}[field]
    header = dataclasses.replace(stream.header, **{field: value})
    with pytest.raises((BitstreamError, ModelMismatchError)):
        decoder.decode(bitstream.pack(header, stream.z_section, stream.y_section))


def test_gigantic_claims_are_refused_before_allocation(crop):
    stream = bitstream.parse(Encoder(width=0.25).encode(crop))
    header = dataclasses.replace(stream.header, image_size=(2**31, 2**31))
    data = bitstream.pack(header, stream.z_section, stream.y_section)
    with pytest.raises(BitstreamError, match="pixels"):
        Decoder().decode(data)
    with pytest.raises(BitstreamError, match="max_pixels"):
        Decoder(max_pixels=100).decode(Encoder(width=0.25).encode(crop))


def test_streams_of_another_bundle_are_named(crop, tmp_path):
    ours = bundle.load()
    transforms = dict(ours.transforms)
    name = next(iter(transforms))
    transforms[name] = transforms[name] + np.float16(0.01)
    folder = tmp_path / "other"
    fingerprint = bundle.save(dataclasses.replace(ours, transforms=transforms), folder)
    assert fingerprint != ours.fingerprint
    data = Encoder(model=folder, width=0.25).encode(crop)
    with pytest.raises(ModelMismatchError, match=f"{fingerprint}.*{ours.fingerprint}"):
        Decoder().decode(data)
    assert Decoder(model=folder).decode(data).shape == crop.shape


def test_features_need_a_head(crop, decoder):
    with pytest.raises(OptionError, match="no feature head for task 'human'"):
        decoder.features(Encoder(width=0.25).encode(crop))


# -- backends --------------------------------------------------------------------------------------


def test_backends_are_shared_and_listed():
    assert available()["torch"] is None
    loaded = bundle.load()
    assert create(loaded) is create(loaded)
    assert Encoder().backend is Decoder().backend


def test_shapes_round_up():
    coding = Encoder(width=0.25).backend.coding(0.25, 50)
    assert coding.latent_shape((1, 16))[:2] == (1, 1)
    assert coding.latent_shape((17, 4096)) == (2, 256, 192)
    assert coding.indexes_z((1, 64)).shape[:2] == (1, 1)
    assert coding.indexes_z((65, 129)).shape == (2, 3, 32)
