"""What the tests of graphs share: pictures, sessions, and adapters with random weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from PIL import Image

from icmh_rt import bundle

WIDTHS = (0.25, 0.5, 0.75, 1.0)
PHOTOGRAPH = Path(__file__).resolve().parents[2] / "examples" / "kodim23.png"


@cache
def default():
    return bundle.load()


@cache
def photograph() -> np.ndarray:
    with Image.open(PHOTOGRAPH) as image:
        return np.array(image.convert("RGB"))


def cutting(height: int, width: int) -> np.ndarray:
    return np.ascontiguousarray(photograph()[100 : 100 + height, 200 : 200 + width])


def noise(height: int, width: int, contrast: int = 255) -> np.ndarray:
    """Black and white, or less of both. At full contrast the default bundle's latents are beyond
    all measure, and so are differences of rounding in them.
    """
    random = np.random.default_rng(0)
    bits = random.integers(0, 2, (height, width, 3))
    return (128 - contrast // 2 + bits * contrast).astype(np.uint8)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(model, **inputs) -> list[np.ndarray]:
    """Inputs that are numbers become int64 without dimensions."""
    arrays = {
        name: np.array(value, np.int64) if isinstance(value, int) else value
        for name, value in inputs.items()
    }
    runner = model if isinstance(model, onnxruntime.InferenceSession) else session(model)
    return runner.run(None, arrays)


def random_adapters(
    seed: int = 0, middle: int = 48, factor: float | None = 0.7
) -> dict[str, np.ndarray]:
    """Of the default codec, named without their task."""
    config = default().config
    c, m = max(config["channels"]), max(config["latent_channels"])
    random = np.random.default_rng(seed)
    arrays = {}
    for part, channels in (("encoder_sfmas", (c, c, m)), ("decoder_sfmas", (c, c, m))):
        for i, outer in enumerate(channels):
            shapes = {
                "s_down1": (middle, outer, 1, 1),
                "s_down2": (middle, outer, 1, 1),
                "f_down": (middle, outer, 1, 1),
                "s_dw": (middle, 1, 5, 5),
                "f_dw": (middle, 1, 3, 3),
                "f_inter": (middle, middle, 1, 1),
                "s_up": (outer, middle, 1, 1),
                "f_up": (outer, middle, 1, 1),
            }
            for layer, shape in shapes.items():
                scale = 1.0 / np.sqrt(np.prod(shape[1:]))
                name = f"{part}.{i}.{layer}"
                arrays[f"{name}.weight"] = random.normal(0, scale, shape).astype(np.float32)
                arrays[f"{name}.bias"] = random.normal(0, 0.05, shape[0]).astype(np.float32)
    return arrays if factor is None else {**arrays, "factor": np.array(factor)}
