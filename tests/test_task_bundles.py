"""Bundles with adapters: tasks beside a base that stays what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import icmh_rt
from icmh_rt import bundle as bundles
from icmh_rt.errors import BitstreamError, BundleError, ModelMismatchError, OptionError

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
from bare_bundle import bare, bare_copy  # noqa: E402

from icmh_rt.backends.torch import TorchBackend  # noqa: E402
from icmh_rt.models.adapters import (  # noqa: E402
    adapter_parameters,
    attach_adapters,
    save_adapters,
)

WIDTH = 0.25


def adapters_file(folder: Path, task: str, seed: int, scale: float = 0.05) -> Path:
    """A file with random adapters for the default bundle."""
    model = TorchBackend(bare(), torch.device("cpu"), torch.float32)._model
    torch.manual_seed(seed)
    attach_adapters(model, task, middle=8)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model, task).items():
            if "_up." in name:
                parameter.normal_(std=scale)
    path = folder / f"{task}-{seed}.safetensors"
    save_adapters(model.half(), path, task)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The default bundle with adapters for detection."""
    place = tmp_path_factory.mktemp("bundles")
    copied = bare_copy(place / "adapted")
    assert bundles.add_adapters(copied, adapters_file(place, "detection", 0)) == ("detection",)
    return copied


@pytest.fixture(scope="module")
def base(folder: Path, tmp_path_factory) -> Path:
    """The same without."""
    copied = tmp_path_factory.mktemp("base") / "base"
    shutil.copytree(folder, copied, ignore=shutil.ignore_patterns(bundles.ADAPTERS))
    return copied


def picture(height: int = 50, width: int = 70) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / a + y / b) for a, b in ((9, 5), (4, 11), (13, 7))]
    return np.stack(waves, -1).astype(np.uint8)


def test_bundles_of_one_base_with_other_adapters_are_not_mixed_up(folder, tmp_path) -> None:
    """Backends are shared by those who have the same bundle, and these have not."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    bundles.add_adapters(other, adapters_file(tmp_path, "detection", 1))
    image = picture()
    streams = []
    for place in (folder, other, folder):
        encoder = icmh_rt.Encoder(WIDTH, "detection", model=place, device="cpu")
        streams.append(encoder.encode(image))
        assert icmh_rt.Decoder(place, device="cpu").decode(streams[-1]).shape == image.shape
    assert streams[0] == streams[2]
    # Not only their headers differ: the latents were computed with other adapters.
    size = 24
    assert streams[0][size:] != streams[1][size:]
    with pytest.raises(ModelMismatchError):
        icmh_rt.Decoder(folder, device="cpu").decode(streams[1])


def test_a_task_is_a_stream_of_its_own(folder: Path, base: Path) -> None:
    image = picture()
    human = icmh_rt.Encoder(WIDTH, model=folder, device="cpu")
    adapted = icmh_rt.Encoder(WIDTH, "detection", model=folder, device="cpu")
    data, other = adapted.encode(image), human.encode(image)
    assert data != other
    assert icmh_rt.read_header(data).task == "detection"
    decoder = icmh_rt.Decoder(folder, device="cpu")
    assert decoder.decode(data).shape == image.shape
    assert not np.array_equal(decoder.decode(data), decoder.decode(other))
    # The base is what it was without adapters, streams and pictures.
    plain = icmh_rt.Encoder(WIDTH, model=base, device="cpu")
    assert plain.encode(image) == other and plain.fingerprint == human.fingerprint
    assert np.array_equal(icmh_rt.Decoder(base, device="cpu").decode(other), decoder.decode(other))


def test_another_decoders_adapters_are_a_mismatch(folder: Path, base: Path, tmp_path: Path) -> None:
    data = icmh_rt.Encoder(WIDTH, "detection", model=folder, device="cpu").encode(picture())
    with pytest.raises((ModelMismatchError, BitstreamError)):
        icmh_rt.Decoder(base, device="cpu").decode(data)
    retrained = tmp_path / "retrained"
    shutil.copytree(folder, retrained)
    bundles.add_adapters(retrained, adapters_file(tmp_path, "detection", 1))
    with pytest.raises(ModelMismatchError, match="stream was made with bundle"):
        icmh_rt.Decoder(retrained, device="cpu").decode(data)
    with pytest.raises(OptionError, match="human"):
        icmh_rt.Encoder(WIDTH, "detection", model=base, device="cpu")


def test_adapters_that_do_not_belong_are_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    path = other / bundles.ADAPTERS / "detection.safetensors"
    whole = path.read_bytes()
    for data in (b"", whole[:100], whole[: len(whole) // 2], b"\xff" * 64):
        path.write_bytes(data)
        with pytest.raises(BundleError, match="cannot be read"):
            bundles.load(other)
    path.write_bytes(whole.replace(b"icmh_adapters", b"icmh_adapterz"))
    with pytest.raises(BundleError, match="not an adapter file"):
        bundles.load(other)
    path.write_bytes(whole)
    shutil.copy(path, path.with_name("twice.safetensors"))
    with pytest.raises(BundleError, match="once more"):
        bundles.load(other)


def test_the_name_of_a_task_streams_bundle(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(bundles, "INSTALLED", folder.parent)
    fingerprint = bundles.load(folder).fingerprint_of("detection")
    assert bundles.name_of(fingerprint) == folder.name
    assert bundles.name_of("00000000") is None


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_backends_agree(folder: Path, backend: str) -> None:
    """Streams of either decode with the other, to pictures a level apart at most."""
    if icmh_rt.backends.available()[backend] is not None:
        pytest.skip(f"{backend} is not installed")
    image = picture(70, 45)
    data = icmh_rt.Encoder(WIDTH, "detection", model=folder, backend=backend, device="cpu").encode(
        image
    )
    pictures = [
        icmh_rt.Decoder(folder, other, "cpu").decode(data).astype(int)
        for other in ("torch", backend)
    ]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    plain = icmh_rt.Encoder(WIDTH, model=folder, backend=backend, device="cpu").encode(image)
    assert plain != data


def test_adapters_join_a_bundle_by_command(base: Path, tmp_path: Path, capsys) -> None:
    from icmh_rt import cli

    copied = tmp_path / "copied"
    shutil.copytree(base, copied)
    path = adapters_file(tmp_path, "segmentation", 3)
    assert cli.main(["bundle", str(path), "-o", str(copied)]) == 0
    assert "segmentation" in capsys.readouterr().out
    assert bundles.load(copied).tasks == ("human", "segmentation")
    assert cli.main(["bundle", "checkpoint.pt", "-o", str(copied)]) == 2
    assert "--data" in capsys.readouterr().err
