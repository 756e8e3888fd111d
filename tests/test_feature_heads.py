"""Feature heads: files, bundles, and the same features from every backend."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import icmh_rt
from icmh_rt import bundle as bundles
from icmh_rt import cli
from icmh_rt.errors import BundleError, OptionError
from icmh_rt.feature_files import TrainedFeatureHead, read_feature_head, save_feature_head

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
import torch.nn.functional as F  # noqa: E402
from bare_bundle import bare_copy  # noqa: E402
from feature_heads import OUTPUTS, TASK, WIDTH, random_head  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The default bundle with a feature head for its base task."""
    place = tmp_path_factory.mktemp("bundles")
    copied = bare_copy(place / "fed")
    save_feature_head(place / "head.safetensors", TASK, random_head())
    assert bundles.add_feature_head(copied, place / "head.safetensors") == TASK
    return copied


def picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / a + y / b) for a, b in ((9, 5), (4, 11), (13, 7))]
    return np.stack(waves, -1).astype(np.uint8)


def plainly(head: TrainedFeatureHead, y_hat: np.ndarray) -> np.ndarray:
    """The head layer by layer in double precision."""
    a = {k: torch.from_numpy(v.astype(np.float64)) for k, v in head.arrays.items()}

    def layer(x, name):
        return x @ a[f"{name}.weight"].T + a[f"{name}.bias"][0]

    x = layer(torch.from_numpy(y_hat.astype(np.float64)), "stem").clamp(-4.0, 4.0)
    for i in range(head.blocks):
        at = f"blocks.{i}."
        mixed = F.silu(layer(x, at + "mix_in")).permute(2, 0, 1)[None]
        mixed = F.conv2d(
            mixed,
            a[at + "mix_spatial.weight"],
            a[at + "mix_spatial.bias"][0],
            padding=1,
            groups=head.channels,
        )
        x = x + layer(mixed[0].permute(1, 2, 0), at + "mix_out")
        gated = F.silu(layer(x, at + "ffn_gate")) * layer(x, at + "ffn_value")
        x = (x + layer(gated, at + "ffn_out")).clamp(-4.0, 4.0)
    return layer(x, "out").permute(2, 0, 1).numpy()


@pytest.mark.parametrize("size", [(1, 1), (16, 17), (50, 70), (130, 33)])
@pytest.mark.parametrize(
    ("backend", "dtype", "bound"),
    [
        ("torch", "fp32", 3e-5),
        ("torch", "bf16", 5e-2),
        ("torch", "auto", 2e-2),  # on AMX tiles products are rounded
        ("onnxruntime", "fp32", 1e-5),
        ("onnxruntime", "fp16", 1e-2),
    ],
)
def test_every_backend_gives_the_same(folder, size, backend, dtype, bound) -> None:
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    data = icmh_rt.Encoder(WIDTH, model=folder, device="cpu").encode(picture(*size))
    decoder = icmh_rt.Decoder(folder, backend, "cpu", dtype=dtype)
    found = decoder.features(data)
    head = bundles.load(folder).feature_heads[TASK]
    h, w = (-(-side // 16) for side in size)
    assert {name: f.shape for name, f in found.items()} == {n: (c, h, w) for n, c in OUTPUTS}
    wanted = plainly(head, decoder.latents(data).y_hat)
    both = np.concatenate(list(found.values()))
    assert both.dtype == np.float32
    assert np.abs(both - wanted).max() <= bound * np.abs(wanted).max()


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_what_half_precision_cannot_hold_is_computed_again(folder, tmp_path, backend) -> None:
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    head = random_head()
    arrays = {k: v.astype(np.float32) for k, v in head.arrays.items()}
    arrays["out.bias"] = arrays["out.bias"] + 70_000.0
    place = shutil.copytree(folder, tmp_path / "large")
    save_feature_head(tmp_path / "head.safetensors", TASK, replace(head, arrays=arrays))
    bundles.add_feature_head(place, tmp_path / "head.safetensors")
    data = icmh_rt.Encoder(WIDTH, model=place, device="cpu").encode(picture(40, 60))
    dtype = "fp16"
    decoder = icmh_rt.Decoder(place, backend, "cpu", dtype=dtype)
    both = np.concatenate(list(decoder.features(data).values()))
    wanted = plainly(replace(head, arrays=arrays), decoder.latents(data).y_hat)
    assert np.abs(wanted).max() < 1e6 and np.isfinite(both).all()
    assert np.abs(both - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_streams_do_not_depend_on_the_head(folder) -> None:
    image = picture(40, 40)
    with_head = icmh_rt.Encoder(WIDTH, model=folder, device="cpu").encode(image)
    assert with_head == icmh_rt.Encoder(WIDTH, device="cpu").encode(image)


def test_other_widths_and_tasks_say_where_features_are(folder) -> None:
    decoder = icmh_rt.Decoder(folder, device="cpu")
    wide = icmh_rt.Encoder(0.5, model=folder, device="cpu").encode(picture(20, 20))
    with pytest.raises(OptionError, match=r"at width 0.25 and none at 0.5: decode the image"):
        decoder.features(wide)
    assert decoder.decode(wide).shape == (20, 20, 3)
    bare = icmh_rt.Encoder(WIDTH, device="cpu").encode(picture(20, 20))
    with pytest.raises(OptionError, match="no feature head for task 'human': decode the image"):
        without = replace(bundles.load(), feature_heads={})
        icmh_rt.Decoder(without, device="cpu").features(bare)


def test_files_hold_all_of_a_head(tmp_path) -> None:
    head = random_head(1)
    save_feature_head(tmp_path / "a", TASK, head)
    task, found = read_feature_head(tmp_path / "a")
    assert task == TASK and replace(found, arrays={}).__dict__ == replace(head, arrays={}).__dict__
    assert found.arrays.keys() == head.arrays.keys()
    assert all(np.array_equal(found.arrays[k], v) for k, v in head.arrays.items())
    save_feature_head(tmp_path / "b", task, found)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def _with_arrays(**changes) -> TrainedFeatureHead:
    head = random_head()
    return replace(head, arrays={**head.arrays, **changes})


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (random_head(latents="0" * 16), "was trained on latents of 0000000000000000"),
        (random_head(width=0.5), "does not fit width 0.5"),
        (random_head(width=0.3), "does not fit width 0.3"),
        (random_head(channels=25), "does not fit its metadata"),
        (random_head(blocks=1), "does not fit its metadata"),
        (replace(random_head(), outputs=()), "does not fit its metadata"),
        (_with_arrays(extra=np.zeros(3, np.float16)), "does not fit its metadata"),
        (
            _with_arrays(**{"out.bias": np.full((1, 17), np.nan, np.float16)}),
            "'out.bias' is not finite",
        ),
        (
            _with_arrays(**{"out.bias": np.zeros((1, 17), np.int32)}),
            "'out.bias' is not finite numbers",
        ),
    ],
)
def test_heads_that_do_not_fit_are_refused(folder, tmp_path, head, message) -> None:
    save_feature_head(tmp_path / "head.safetensors", TASK, head)
    before = (folder / bundles.FEATURES / f"{TASK}.safetensors").read_bytes()
    with pytest.raises(BundleError, match=message):
        bundles.add_feature_head(folder, tmp_path / "head.safetensors")
    assert (folder / bundles.FEATURES / f"{TASK}.safetensors").read_bytes() == before


def test_a_head_for_a_task_that_the_bundle_lacks_is_refused(folder, tmp_path) -> None:
    save_feature_head(tmp_path / "head.safetensors", "segmentation", random_head())
    with pytest.raises(BundleError, match="task 'segmentation' that bundle"):
        bundles.add_feature_head(bare_copy(tmp_path / "bare"), tmp_path / "head.safetensors")


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 64])
def test_damaged_files_are_refused(tmp_path, content) -> None:
    (tmp_path / "head").write_bytes(content)
    with pytest.raises(BundleError, match=r"feature head file .* cannot be read"):
        read_feature_head(tmp_path / "head")


def test_metadata_is_checked(tmp_path) -> None:
    import safetensors.numpy

    cases = {
        "is not a feature head file": {},
        "has damaged metadata": {"icmh_features": "{"},
        "is of format 7": {"icmh_features": '{"format": 7}'},
    }
    for message, metadata in cases.items():
        path = tmp_path / "head"
        path.write_bytes(safetensors.numpy.save({"x": np.zeros(1)}, metadata))
        with pytest.raises(BundleError, match=message):
            read_feature_head(path)


def test_the_command_adds_a_head(folder, tmp_path, capsys) -> None:
    copied = shutil.copytree(folder, tmp_path / "bundle")
    save_feature_head(tmp_path / "head.safetensors", TASK, random_head(3))
    assert cli.main(["bundle", str(tmp_path / "head.safetensors"), "-o", str(copied)]) == 0
    assert json.loads(capsys.readouterr().out) == {"features": [TASK]}
    stem = bundles.load(copied).feature_heads[TASK].arrays["stem.weight"]
    assert np.array_equal(stem, random_head(3).arrays["stem.weight"])


def test_graphs_have_the_names_and_shapes(folder) -> None:
    onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
    from icmh_rt import graphs

    bundle = bundles.load(folder)
    for size in (None, (40, 70)):
        model = graphs.build(bundle, "features", WIDTH, TASK, size=size)
        onnx.checker.check_model(model, full_check=True)
        assert [o.name for o in model.graph.output] == [name for name, _ in OUTPUTS]
        dims = [
            d.dim_value or d.dim_param for d in model.graph.output[0].type.tensor_type.shape.dim
        ]
        assert dims == (["N", 5, 3, 5] if size else ["N", 5, "h", "w"])
    with pytest.raises(OptionError, match="no feature head"):
        graphs.build(replace(bundle, feature_heads={}), "features", WIDTH, TASK)
