"""Encoding and decoding where there is no torch, and where there is one that nobody asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
pytest.importorskip("onnx", reason="the onnx extra is not installed")

# What no import may reach, by itself or through another package.
BLOCKED = ("torch", "torchvision", "compressai", "triton")
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED}));"

PROGRAM = """
import hashlib, json
import icmh_rt
from icmh_rt import bundle
from icmh_rt.backends import choose
image = sys.argv[1]
encoder = icmh_rt.Encoder({options})
data = encoder.encode(image)
decoder = icmh_rt.Decoder({decoder_options})
picture = decoder.decode(data)
latents = decoder.latents(data).y_hat
print(json.dumps({{
    "backend": encoder.backend.name,
    "reason": encoder.backend_reason,
    "latents": hashlib.sha256(latents.tobytes()).hexdigest(),
    "picture": picture.astype(int).sum(axis=(0, 1)).tolist(),
    "shape": picture.shape,
    "torch": sys.modules.get("torch") is not None,
    "data": data.hex(),
}}))
"""


@pytest.fixture
def image(tmp_path, photo) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(photo[:97, :130]).save(path)
    return path


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


def outcome(program: str, *arguments: str) -> dict:
    result = run("-c", program, *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_the_codec_works_without_torch(image):
    program = BLOCK + PROGRAM.format(options="width=0.5", decoder_options="")
    found = outcome(program, str(image))
    assert found["backend"] == "onnxruntime" and not found["torch"]
    assert "torch on cpu would come first, but torch" in found["reason"]
    assert found["shape"] == [97, 130, 3]
    # And a process with everything decodes the same.
    from icmh_rt.codec import Decoder

    latents = Decoder(device="cpu").latents(bytes.fromhex(found["data"])).y_hat
    import hashlib

    assert hashlib.sha256(latents.tobytes()).hexdigest() == found["latents"]


def test_torch_is_not_imported_where_it_is_not_asked_for(image):
    options = "backend='onnxruntime', device='cpu'"
    program = "import sys;" + PROGRAM.format(
        options=f"width=0.25, {options}", decoder_options=options
    )
    found = outcome(program, str(image))
    assert not found["torch"]
    assert found["reason"] == "onnxruntime on cpu: asked for by name"


def test_the_command_works_without_torch(image):
    main = BLOCK + "from icmh_rt.cli import main; sys.exit(main(sys.argv[1:]))"
    stream, decoded = image.with_suffix(".icmh"), image.with_name("decoded.png")
    result = run("-c", main, "encode", str(image), "--width", "0.25", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["backend"] == "onnxruntime"
    result = run("-c", main, "decode", str(stream), "-o", str(decoded))
    assert (result.returncode, result.stderr) == (0, "")
    original, found = (np.asarray(Image.open(path), int) for path in (image, decoded))
    assert np.abs(original - found).mean() < 8


def test_without_any_backend_one_line_says_how_to_get_one(image):
    block = BLOCK + "sys.modules['onnxruntime'] = None;"
    main = block + "from icmh_rt.cli import main; sys.exit(main(sys.argv[1:]))"
    result = run("-c", main, "encode", str(image))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    for extra in ("torch", "onnx"):
        assert f"pip install 'icmh-rt[{extra}]'" in result.stderr


def test_published_models_say_that_they_need_torch(image):
    program = BLOCK + (
        "from icmh_rt import published, backends\n"
        "bundle = published.PublishedBundle.__new__(published.PublishedBundle)\n"
        "object.__setattr__(bundle, 'name', 'tic')\n"
        "try:\n    backends.create(bundle)\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    result = run("-c", program)
    assert result.stdout.startswith("BackendUnavailableError no backend can be used here (torch on")
