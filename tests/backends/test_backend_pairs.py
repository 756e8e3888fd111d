"""Every backend decodes what every other encoded: equal latents, pictures one level apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("safetensors", reason="neither torch nor onnx extra is installed")

from icmh_rt.backends import available
from icmh_rt.codec import Decoder, Encoder

WIDTHS = (0.25, 0.5, 0.75, 1.0)
BACKENDS = [name for name, reason in available().items() if reason is None]
# Backend and dtype: reduced precision too must not change what decodes.
KINDS = [
    (name, dtype)
    for name in BACKENDS
    for dtype in {"torch": ("fp32", "bf16"), "onnxruntime": ("fp32", "fp16")}.get(name, ("auto",))
]


def device(name: str) -> str:
    return "auto" if name == "tensorrt" else "cpu"


def test_there_are_pairs():
    """Of what is installed here, nothing is left out."""
    if not BACKENDS:
        pytest.skip("no backend is installed: " + "; ".join(map(str, available().values())))
    assert {name for name, _ in KINDS} == {n for n, reason in available().items() if reason is None}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_every_backend_decodes_every_other(photo, kind, width):
    name, dtype = kind
    image = np.ascontiguousarray(photo[90:211, 200:345])
    encoder = Encoder(width, quality=60, backend=name, device=device(name), dtype=dtype)
    report = encoder.encode_detailed(image)
    sent = report.latents
    expected = sent.symbols_y + sent.prediction.mean
    expected *= encoder._coding._width.inverse_gain[59]
    pictures = {}
    for other, other_dtype in KINDS:
        decoder = Decoder(backend=other, device=device(other), dtype=other_dtype)
        latents = decoder.latents(report.data)
        assert np.array_equal(latents.symbols_z, sent.symbols_z)
        assert np.array_equal(latents.symbols_y, sent.symbols_y)
        assert np.array_equal(latents.indexes_y, sent.indexes_y)
        assert latents.y_hat.tobytes() == expected.astype(np.float32).tobytes()
        pictures[other, other_dtype] = decoder.decode(report.data).astype(int)
    for a, b in itertools.combinations(pictures, 2):
        difference = np.abs(pictures[a] - pictures[b])
        # bfloat16 has 8 bits: its pictures are its own.
        assert difference.max() <= (1 if "bf16" not in (a[1], b[1]) else 24), (a, b)
        assert difference.mean() < 1
