"""Bundles on disk: what is written is what is read, and damage is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("safetensors", reason="no extra with safetensors is installed")

from icmh_rt import bundle
from icmh_rt.errors import BundleError

DEFAULT = bundle.INSTALLED / "default"


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(DEFAULT, tmp_path / "copy")


def test_shipped_bundle_is_small_and_named():
    assert sum(f.stat().st_size for f in DEFAULT.iterdir()) <= 20e6
    loaded = bundle.load()
    assert bundle.name_of(loaded.fingerprint) == "default"
    assert bundle.name_of("0" * 8) is None
    assert list(loaded.widths) == [0.25, 0.5, 0.75, 1.0]
    assert all(v.dtype == np.float16 for v in loaded.transforms.values())


def test_integer_networks_are_proven():
    for tables in bundle.load().widths.values():
        assert max(b.worst for b in tables.hyper_synthesis.prove()) < 2**24


def test_save_and_load_give_the_same(tmp_path):
    loaded = bundle.load()  # with all that is trained beside its base, which is not saved
    fingerprint = bundle.save(loaded, tmp_path / "again")
    assert fingerprint == loaded.fingerprint
    again = bundle.load(tmp_path / "again")
    assert again.tables == loaded.tables
    for width, tables in loaded.widths.items():
        assert np.array_equal(again.widths[width].gain, tables.gain)
    original, written = (f / bundle.WEIGHTS for f in (DEFAULT, tmp_path / "again"))
    assert original.read_bytes() == written.read_bytes()


def test_gain_times_inverse_gain_is_one():
    for tables in bundle.load().widths.values():
        assert np.allclose(tables.gain * tables.inverse_gain, 1.0, rtol=1e-6)


@pytest.mark.parametrize("position", [9, 1000, 200_000, -1])
def test_altered_weights_are_refused(copy, position):
    path = copy / bundle.WEIGHTS
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="damaged"):
        bundle.load(copy)


def test_altered_manifest_is_refused(copy):
    path = copy / bundle.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["config"]["scale_levels"] = 63
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="damaged"):
        bundle.load(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("[]", "bundle format None"),
        ('{"bundle_format": 99}', "bundle format 99"),
        ("\xff", "cannot be read"),
    ],
)
def test_other_manifests_are_refused(copy, text, message):
    (copy / bundle.MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match=message):
        bundle.load(copy)


def test_missing_weights_and_tensors_are_named(copy):
    (copy / bundle.WEIGHTS).unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.load(copy)
    from safetensors.numpy import save

    weights = save({"tables.cdfs": np.zeros((1, 2), np.int32)})
    (copy / bundle.WEIGHTS).write_bytes(weights)
    manifest = json.loads((copy / bundle.MANIFEST).read_text())
    manifest["fingerprint"] = bundle._fingerprint(manifest, weights)
    (copy / bundle.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="lacks"):
        bundle.load(copy)


def test_naming_a_stream_needs_no_torch_and_no_safetensors():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['safetensors'] = None\n"
        "from icmh_rt import bundle; print([name for name, _ in bundle.installed()])\n"
        "print(bundle.name_of('0' * 8))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "default" in result.stdout and "None" in result.stdout


def test_config_that_does_not_fit_is_named():
    pytest.importorskip("torch", reason="the torch extra is not installed")
    import dataclasses

    from icmh_rt.codec import Encoder

    loaded = bundle.load()
    for changes in ({"blocks_8": 3}, {"channels": [8, 8, 8, 8]}, {"colour": 1}):
        config = {**loaded.config, **changes}
        with pytest.raises(BundleError, match="does not fit its config") as error:
            Encoder(model=dataclasses.replace(loaded, config=config, fingerprint=str(changes)))
        assert "\n" not in str(error.value)
