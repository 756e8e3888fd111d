"""Small images like photographs, and a stand-in for the codec with the codec's own interface."""

from __future__ import annotations

import io
import types

import numpy as np
from PIL import Image

from icmh_rt import bitstream
from icmh_rt.errors import OptionError

FINGERPRINT = "01234567"


def photograph(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Something smooth with an edge and some noise, so that codecs behave as on photographs."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = 128 + 60 * np.sin(x / (5 + seed)) + 40 * np.cos(y / 7) + 30 * (x + y > width * 0.8)
    noise = generator.normal(0, 6, (height, width, 3))
    tint = np.array([1.0, 0.9, 0.7])
    return np.clip(base[..., None] * tint + noise, 0, 255).astype(np.uint8)


class FakeEncoder:
    """JPEG inside the real container: what the codec promises, without its model.

    A higher width takes fewer bytes at a quality, through a coarser quantization of chroma.
    """

    def __init__(self, width=1.0, task="human", quality=50, model="default", backend="auto", **_):
        if model == "missing":
            raise OptionError("there is no bundle 'missing': use one of default")
        self.width, self.task, self.quality = width, task, quality

    def encode(self, image: np.ndarray) -> bytes:
        return self.encode_detailed(image).data

    def encode_detailed(self, image: np.ndarray) -> types.SimpleNamespace:
        file = io.BytesIO()
        chroma = "4:2:0" if self.width >= 0.5 else "4:4:4"
        options = {"quality": 5 + self.quality * 9 // 10, "subsampling": chroma}
        Image.fromarray(image).save(file, "JPEG", **options)
        header = bitstream.Header(
            format_version=1,
            flags=0,
            fingerprint=FINGERPRINT,
            width=self.width,
            task=self.task,
            quality=self.quality,
            image_size=image.shape[:2],
        )
        data = bitstream.pack(header, b"", file.getvalue())
        times = {"g_a": 0.004, "entropy": 0.001}
        bits = 8 * (len(data) - 20) / 1.002
        return types.SimpleNamespace(data=data, estimated_bits=bits, times=times)


class FakeDecoder:
    def __init__(self, model="default", backend="auto", **_):
        pass

    def decode(self, data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(bitstream.parse(data).y_section)) as image:
            return np.asarray(image)
