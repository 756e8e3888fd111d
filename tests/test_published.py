"""Streams of converted checkpoints: every family, real photographs, other processes, damage."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the torch extra is not installed")

import torch
from published_models import (
    FAMILIES,
    SLIMMABLE,
    has_hyperprior,
    has_means,
    make,
    model_bits,
    padded,
    save,
)

from icmh_rt import bitstream, bundle, rans
from icmh_rt.backends import create
from icmh_rt.codec import Decoder, Encoder
from icmh_rt.convert import bundle_of, convert
from icmh_rt.errors import (
    BackendUnavailableError,
    BitstreamError,
    BundleError,
    ModelMismatchError,
    OptionError,
)
from icmh_rt.models import reference_synthesis

PHOTO = Path(__file__).resolve().parents[1] / "examples" / "kodim23.png"
CASES = [(f, w) for f in FAMILIES for w in ((0.67, 1.0) if f in SLIMMABLE else (1.0,))]
IMAGES = [family for family, width in CASES if width == 1.0]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.asarray(Image.open(PHOTO).convert("RGB"))


@pytest.fixture(scope="module")
def crop(photo) -> np.ndarray:
    """A piece whose sides are no multiples of anything."""
    return np.ascontiguousarray(photo[100:207, 200:345])


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Path]:
    """A bundle of every family, converted from a file."""
    folder = tmp_path_factory.mktemp("published")
    for family in FAMILIES:
        save(family, folder / f"{family}.pth.tar")
        convert(folder / f"{family}.pth.tar", folder / family)
    return {family: folder / family for family in FAMILIES}


@pytest.fixture(scope="module")
def streams(bundles, crop) -> dict[tuple[str, float], bytes]:
    return {(f, w): Encoder(model=bundles[f], width=w).encode(crop) for f, w in CASES}


def run(model: torch.nn.Module, x: torch.Tensor, family: str, width: float) -> dict:
    with torch.inference_mode():
        return model(x, width=width) if family in SLIMMABLE else model(x)


# -- there and back --------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "width"), CASES)
def test_a_stream_holds_what_the_model_computes(bundles, crop, family, width):
    """Latents there and back; they are the model's own; its decoder's output of them."""
    report = Encoder(model=bundles[family], width=width).encode_detailed(crop)
    decoder = Decoder(model=bundles[family])
    decoded = decoder.latents(report.data)
    assert np.array_equal(decoded.symbols_z, report.latents.symbols_z)
    assert np.array_equal(decoded.symbols_y, report.latents.symbols_y)
    assert np.array_equal(decoded.indexes_y, report.latents.indexes_y)
    assert bool(decoded.symbols_z.size) == has_hyperprior(family)
    assert np.abs(decoded.symbols_y).max() > 0

    model = make(family)
    x, top, left = padded(crop, family)
    output = run(model, x, family, width)
    y_hat = torch.from_numpy(decoded.y_hat).permute(2, 0, 1)[None]
    if "y_hat" in output:
        # A mean apart from the model's by a rounding can tip a symbol next to a half.
        differs = (y_hat - output["y_hat"]).abs() > 1e-3
        assert differs.float().mean() < 1e-3
    height, columns = crop.shape[:2]
    with torch.inference_mode():
        if width == 1.0:
            expected = (model.g_s(y_hat)[0] * 255.0).round().clamp(0, 255).permute(1, 2, 0).numpy()
            image = decoder.decode(report.data)
            expected = expected[top : top + height, left : left + columns]
            assert image.shape == crop.shape and image.dtype == np.uint8
            assert np.abs(image - expected).max() <= 1 and (image == expected).mean() > 0.999
        else:
            expected = model.feature(y_hat, width)[0].numpy()
            features = decoder.features(report.data)
            assert set(features) == {"fea"}
            assert features["fea"].shape == (256, -(-height // 8), -(-columns // 8))
            expected = expected[:, : features["fea"].shape[1], : features["fea"].shape[2]]
            assert np.abs(features["fea"] - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(("family", "width"), CASES)
def test_sizes_are_what_the_model_estimates(bundles, photo, family, width):
    report = Encoder(model=bundles[family], width=width).encode_detailed(photo[:256, :256])
    assert len(report.data) <= 1.01 * report.estimated_bits / 8 + 40
    # The forward pass knows the scale itself and the tables the next larger one of 64, 13 % apart.
    # Random weights predict wrong scales, so that it shows; trained ones lose far below 1 %.
    x, _, _ = padded(photo[:256, :256], family)
    assert len(report.data) <= 1.06 * model_bits(run(make(family), x, family, width)) / 8 + 40


@pytest.mark.parametrize("family", IMAGES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 70), (65, 2), (64, 64)])
def test_images_of_every_size_come_back_in_their_shape(bundles, photo, family, height, width):
    if family.startswith("tic") and (height, width) != (65, 2):
        height, width = height + 200, width + 1  # one size at which its padding differs from 64's
    image = np.ascontiguousarray(photo[:height, :width])
    data = Encoder(model=bundles[family]).encode(image)
    assert Decoder(model=bundles[family]).decode(data).shape == image.shape


def test_padding_is_the_published_one(bundles):
    sizes = {family: bundle.load(bundles[family]).padding for family in FAMILIES}
    assert sizes["tic"].size((1, 257)) == (256, 512) and sizes["tic"].start((1, 257)) == (0, 0)
    compressai = sizes["mbt2018-mean"]
    assert compressai.size((1, 64)) == (64, 64) and compressai.start((1, 64)) == (31, 0)
    assert compressai.size((65, 127)) == (128, 128) and compressai.start((65, 127)) == (31, 0)
    assert sizes["slimmable-hyper"].start((1, 1)) == (0, 0)


def test_more_channels_than_a_byte_can_count(photo):
    from icmh_rt.models.compressai_families import FactorizedPrior

    torch.manual_seed(1)
    wide = bundle_of(FactorizedPrior(4, 260).eval(), name="wide")
    wide = dataclasses.replace(wide, fingerprint="0" * 8)
    report = Encoder(model=wide).encode_detailed(photo[:70, :50])
    decoded = Decoder(model=wide).latents(report.data)
    assert decoded.indexes_y.dtype == np.uint16 and decoded.indexes_y.max() == 259
    assert np.array_equal(decoded.symbols_y, report.latents.symbols_y)


# -- the same everywhere ---------------------------------------------------------------------------

_DECODE = """
import hashlib, json, sys
import torch
torch.set_num_threads(int(sys.argv[2]))
from icmh_rt.codec import Decoder
digests = []
for folder, stream in json.load(open(sys.argv[1])):
    latents = Decoder(model=folder, dtype=sys.argv[3]).latents(bytes.fromhex(stream))
    digest = hashlib.sha256(latents.y_hat.tobytes() + latents.indexes_y.tobytes())
    digests.append(digest.hexdigest())
print(json.dumps(digests))
"""


def test_latents_are_identical_in_another_process(bundles, streams, tmp_path):
    """Other thread counts of BLAS and of torch, another dtype of the transforms."""
    expected = []
    for (family, _), data in streams.items():
        latents = Decoder(model=bundles[family]).latents(data)
        digest = hashlib.sha256(latents.y_hat.tobytes() + latents.indexes_y.tobytes())
        expected.append(digest.hexdigest())
    path = tmp_path / "streams.json"
    path.write_text(json.dumps([(str(bundles[f]), s.hex()) for (f, _), s in streams.items()]))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    result = subprocess.run(
        [sys.executable, "-c", _DECODE, str(path), "2", "bf16"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, **dict.fromkeys(names, "2")},
    )
    assert json.loads(result.stdout) == expected


@pytest.mark.parametrize(("family", "width"), CASES)
def test_a_bf16_encoder_makes_streams_for_everybody(bundles, crop, family, width):
    data = Encoder(model=bundles[family], width=width, dtype="bf16").encode(crop[:70, :30])
    Decoder(model=bundles[family]).latents(data)


# -- what a stream says ----------------------------------------------------------------------------


def test_flags_tell_the_reference_path(streams):
    for (family, width), data in streams.items():
        header = bitstream.read_header(data)
        assert header.flags == (bitstream.FLAG_REFERENCE_PATH if has_hyperprior(family) else 0)
        assert (header.width, header.quality, header.task) == (width, 50, "human")


def test_wrong_flags_are_an_error(bundles, streams):
    for (family, _), data in streams.items():
        stream = bitstream.parse(data)
        header = dataclasses.replace(stream.header, flags=1 - stream.header.flags)
        with pytest.raises(BitstreamError, match="stream has flags 0x0"):
            Decoder(model=bundles[family]).latents(
                bitstream.pack(header, stream.z_section, stream.y_section)
            )


def test_only_what_the_checkpoint_has(bundles, streams):
    with pytest.raises(
        OptionError, match=r"quality 7 is not in bundle 'tic'.* leave quality at 50"
    ):
        Encoder(model=bundles["tic"], quality=7)
    with pytest.raises(OptionError, match="task 'detection' is not in bundle"):
        Encoder(model=bundles["tic-sfma"], task="detection")
    with pytest.raises(OptionError, match=r"width 0.5 is not in bundle.*use one of 0.67, 1.0"):
        Encoder(model=bundles["slimmable-hyper"], width=0.5)
    with pytest.raises(OptionError, match=r"use one of 1\.0"):
        Encoder(model=bundles["mbt2018-mean"], width=0.67)
    stream = bitstream.parse(streams["tic", 1.0])
    header = dataclasses.replace(stream.header, quality=7)
    with pytest.raises(BitstreamError, match="quality 7 is not in bundle"):
        Decoder(model=bundles["tic"]).decode(
            bitstream.pack(header, stream.z_section, stream.y_section)
        )
    with pytest.raises(ModelMismatchError):
        Decoder(model=bundles["tic"]).decode(streams["tic-sfma", 1.0])


@pytest.mark.parametrize("family", SLIMMABLE)
def test_features_and_images_are_told_apart(bundles, streams, family):
    decoder = Decoder(model=bundles[family])
    with pytest.raises(OptionError, match=r"width 0.67 .* hold a feature and no image"):
        decoder.decode(streams[family, 0.67])
    with pytest.raises(OptionError, match=r"width 1.0 .* hold an image and no feature"):
        decoder.features(streams[family, 1.0])


def test_families_without_features_say_so(bundles, streams):
    with pytest.raises(OptionError, match="no feature head for task 'human'"):
        Decoder(model=bundles["mbt2018-mean"]).features(streams["mbt2018-mean", 1.0])


def test_a_named_task_runs_with_the_adapters_and_human_without(bundles, crop):
    model = make("tic-sfma")
    named = bundle_of(model, name="named", task="detection")
    assert (named.tasks, named.adapted_tasks) == (("human", "detection"), ("detection",))
    base = bundle_of(make("tic"), name="base")
    named = dataclasses.replace(named, fingerprint="0" * 7 + "1")
    base = dataclasses.replace(
        base,
        fingerprint="0" * 7 + "2",
        state={k: v for k, v in named.state.items() if "_sfmas." not in k},
        widths=named.widths,
    )
    adapted, plain, reference = (
        Encoder(model=b, task=t).encode_detailed(crop)
        for b, t in ((named, "detection"), (named, "human"), (base, "human"))
    )
    assert not np.array_equal(adapted.latents.symbols_y, plain.latents.symbols_y)
    assert np.array_equal(plain.latents.symbols_y, reference.latents.symbols_y)
    images = [Decoder(model=b).decode(r.data) for b, r in ((named, plain), (base, reference))]
    assert np.array_equal(*images)
    assert bitstream.read_header(adapted.data).task == "detection"
    assert not np.array_equal(images[0], Decoder(model=named).decode(adapted.data))


# -- damage and divergence -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "width"), [("mbt2018-mean", 1.0), ("slimmable-factorized", 0.67)]
)
def test_every_altered_byte_and_every_truncation_is_an_error(bundles, photo, family, width):
    data = Encoder(model=bundles[family], width=width).encode(photo[:1, :1])
    decoder = Decoder(model=bundles[family])
    for position in range(len(data)):
        for altered in (
            data[:position],
            data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :],
        ):
            with pytest.raises(BitstreamError):
                decoder.latents(altered)


@pytest.mark.parametrize(
    ("family", "width"), [("mbt2018-mean", 1.0), ("slimmable-factorized", 0.67)]
)
def test_forged_sections_are_errors(bundles, photo, family, width):
    """Damage with a right checksum of the stream: the latents' own finds it."""
    stream = bitstream.parse(Encoder(model=bundles[family], width=width).encode(photo[:64, :64]))
    decoder = Decoder(model=bundles[family])
    sections = {"z_section": stream.z_section, "y_section": stream.y_section}
    for name, section in sections.items():
        for position in range(0, len(section), max(1, len(section) // 60)):
            for altered in (
                section[:position],
                section[:position] + bytes([section[position] ^ 0x40]) + section[position + 1 :],
            ):
                forged = bitstream.pack(stream.header, **{**sections, name: altered})
                with pytest.raises(BitstreamError):
                    decoder.latents(forged)


@pytest.mark.parametrize("family", [f for f in FAMILIES if has_hyperprior(f)])
@pytest.mark.parametrize("what", ["index", "mean"])
def test_a_machine_that_computes_otherwise_is_found_out(
    monkeypatch, bundles, streams, family, what
):
    """One index or one mean another than the encoder's: an error and never a picture."""
    if what == "mean" and not has_means(family):
        what = "index"
    right = reference_synthesis.ReferenceSynthesis.predict

    def wrong(self, z_hat):
        mean, indexes = right(self, z_hat)
        if what == "index":
            indexes.flat[indexes.size // 2] ^= 1
        else:
            mean.flat[mean.size // 2] = np.nextafter(mean.flat[mean.size // 2], np.float32(9))
        return mean, indexes

    monkeypatch.setattr(reference_synthesis.ReferenceSynthesis, "predict", wrong)
    with pytest.raises(BitstreamError):
        Decoder(model=bundles[family]).latents(streams[family, 1.0])


def test_a_decoder_that_disagrees_says_so(bundles, crop):
    for family in ("bmshj2018-factorized", "bmshj2018-hyperprior"):
        report = Encoder(model=bundles[family]).encode_detailed(crop)
        stream = bitstream.parse(report.data)
        y_section = rans.encode(
            report.latents.symbols_y, report.latents.indexes_y, report.coding.tables_y, seal=77
        )
        data = bitstream.pack(stream.header, stream.z_section, y_section)
        with pytest.raises(BitstreamError, match=r"checksum 0x.* the encoder's had 0x004d"):
            Decoder(model=bundles[family]).latents(data)


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_other_backends_refuse_such_bundles(bundles, backend):
    with pytest.raises(
        BackendUnavailableError, match=f"'{backend}' does not run converted checkpoints.*use torch"
    ):
        Encoder(model=bundles["tic"], backend=backend)
    assert create(bundle.load(bundles["tic"])).name == "torch"


# -- bundles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load_give_the_same(bundles, tmp_path, family):
    loaded = bundle.load(bundles[family])
    assert loaded.save(tmp_path / "again") == loaded.fingerprint
    again = bundle.load(tmp_path / "again")
    for width, part in loaded.widths.items():
        assert again.widths[width].tables == part.tables
        assert np.array_equal(again.widths[width].medians, part.medians)
    for name in (bundle.MANIFEST, bundle.WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (bundles[family] / name).read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bundle_keeps_the_checkpoint(bundles, family):
    from icmh_rt.models.checkpoints import from_state_dict

    state = {k: torch.from_numpy(v.copy()) for k, v in bundle.load(bundles[family]).state.items()}
    again = from_state_dict(state).state_dict()
    for key, value in make(family).state_dict().items():
        assert torch.equal(again[key], value), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(architecture="cheng2020"), "'cheng2020' is unknown"),
        (lambda m: m.update(tasks=["smell"]), "smell"),
        (lambda m: m.update(qualities=[10, 50]), "one rate"),
        (lambda m: m["widths"]["1.0"].update(output="sound"), "'sound' is unknown"),
        (lambda m: m["widths"]["1.0"].update(bottleneck="none"), "lacks 'none'"),
        (lambda m: m["widths"]["1.0"].update(latent_channels=13), "latent of 13 needs 26"),
        (lambda m: m.pop("padding"), "lacks 'padding'"),
        (lambda m: m.update(widths=7), "has widths 7: it must be"),
        (lambda m: m.update(entropy=["entropy_bottleneck"]), "only one of"),
    ],
)
def test_manifests_that_do_not_fit(bundles, tmp_path, change, message):
    source = bundles["mbt2018-mean"]
    manifest = json.loads((source / bundle.MANIFEST).read_text())
    change(manifest)
    weights = (source / bundle.WEIGHTS).read_bytes()
    manifest["fingerprint"] = bundle._fingerprint(manifest, weights)
    (tmp_path / bundle.MANIFEST).write_text(json.dumps(manifest))
    (tmp_path / bundle.WEIGHTS).write_bytes(weights)
    with pytest.raises(BundleError, match=message) as error:
        Encoder(model=tmp_path)
    assert "\n" not in str(error.value)


def test_streams_of_published_bundles_are_read_without_torch(streams):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['safetensors'] = None\n"
        "import icmh_rt; print(icmh_rt.read_header(bytes.fromhex(sys.argv[1])).flags)"
    )
    data = streams["mbt2018-mean", 1.0].hex()
    result = subprocess.run(
        [sys.executable, "-c", code, data], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "1"


def test_images_side_by_side_compute_on_a_thread_each() -> None:
    loaded = bundle_of(make("bmshj2018-factorized"), name="small")
    backend = create(loaded, "torch", "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with backend.workers(2) as workers:
            assert set(workers.map(lambda _: torch.get_num_threads(), range(8))) == {1}
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
