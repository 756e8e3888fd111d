"""Whole encodes with adapters for benchmarks/sfma.py, through our kernels and through eager
modules.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from sfma_contestants import arguments_of, eager_formula
from tic_compress import CHANNELS, LATENT_CHANNELS, _Eager
from timing import interleaved
from torch import Tensor, nn

from icmh_rt.backends.published import PublishedBackend
from icmh_rt.backends.torch import TorchBackend
from icmh_rt.bundle import load
from icmh_rt.codec import Encoder
from icmh_rt.convert import bundle_of
from icmh_rt.errors import ImageError, OptionError
from icmh_rt.images import load_image
from icmh_rt.kernels._op import ENVIRONMENT
from icmh_rt.models.adapters import adapter_parameters, attach_adapters, use_task
from icmh_rt.models.sfma import SFMA
from icmh_rt.models.tic import TIC

HEIGHT, WIDTH = 512, 768
TASK = "detection"
BAR, AIM = 2.0, 3.0
OURS, EAGER, EAGER_SFMA = "icmh_rt", "eager modules", "eager SFMA alone"
CPU = torch.device("cpu")
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

Encode = Callable[[], bytes]


def encode_cases(
    quick: bool, rounds: int, warmup: int, progress: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Both codecs, measured."""
    image = _photograph()
    image = np.ascontiguousarray(image[:64, :96]) if quick else image
    size = "x".join(map(str, image.shape[:2]))
    made = []
    for name, encodes in (
        ("default codec with SFMAs", _default_codec(image)),
        ("TIC with SFMAs", _tic(image, *((16, 32) if quick else (CHANNELS, LATENT_CHANNELS)))),
    ):
        timed = interleaved(encodes, rounds, warmup, progress=progress)
        streams = {who: rows[0][1] for who, rows in timed.items()}
        _check_alike(name, {who: len(data) for who, data in streams.items()})
        made.append(
            {
                "kind": "encode",
                "name": f"{name}, {size}",
                "judge": EAGER,
                "speed_bars": {EAGER: [0.0 if quick else BAR, None if quick else AIM]},
                "missing": {},
                "rows": [
                    {
                        "name": who,
                        "times_s": [seconds for seconds, _ in rows],
                        "bytes": len(streams[who]),
                    }
                    for who, rows in timed.items()
                ],
            }
        )
    return made


def _photograph() -> np.ndarray:
    """The one in examples/: entropy coding's time depends on what is in a picture."""
    found = sorted(EXAMPLES.glob("*.png"))
    if not found:
        raise ImageError(f"no photograph in {EXAMPLES.name}/")
    return np.ascontiguousarray(load_image(found[0])[:HEIGHT, :WIDTH])


def _check_alike(name: str, sizes: dict[str, int]) -> None:
    """Streams of the same model differ by rounding alone."""
    if max(sizes.values()) > 1.01 * min(sizes.values()) + 16:
        raise OptionError(f"{name}: streams of {sizes} bytes are not of the same model")


def _default_codec(image: np.ndarray) -> dict[str, Encode]:
    bundle = load("default")

    def backend() -> TorchBackend:
        made = TorchBackend(bundle, CPU, torch.float32)
        torch.manual_seed(0)
        attach_adapters(made._model, TASK)
        with torch.no_grad():
            for name, parameter in adapter_parameters(made._model, TASK).items():
                if "_up." in name:  # zero when they are new
                    parameter.normal_(std=0.02)
        return made

    eager, eager_sfma = backend(), backend()
    for other in (eager, eager_sfma):
        _make_eager(other._model)

    def encode(of: TorchBackend) -> Encode:
        encoder = Encoder(model=bundle, device="cpu", dtype="fp32")
        encoder._backend = of

        def run() -> bytes:
            # A bundle has no adapters yet, so that they are chosen as in training.
            with use_task(of._model, TASK):
                return encoder.encode(image)

        return run

    return {
        OURS: encode(backend()),
        EAGER: _with_reference(encode(eager)),
        EAGER_SFMA: encode(eager_sfma),
    }


def _tic(image: np.ndarray, channels: int, latent_channels: int) -> dict[str, Encode]:
    torch.manual_seed(0)
    model = TIC(channels, latent_channels, adapters=True).eval()
    with tempfile.TemporaryDirectory() as folder:  # a bundle has its fingerprint when it is saved
        bundle_of(model, name="tic-sfma", task=TASK).save(folder)
        bundle = load(folder)

    def backend() -> PublishedBackend:
        return PublishedBackend(bundle, CPU, torch.float32)

    def encode(of: PublishedBackend) -> Encode:
        encoder = Encoder(model=bundle, task=TASK, device="cpu", dtype="fp32")
        encoder._backend = of
        return lambda: encoder.encode(image)

    eager, eager_sfma = backend(), backend()
    for other in (eager, eager_sfma):
        _make_eager(other._models[TASK])
    layers = _Eager(eager._models[TASK])
    eager._models[TASK].g_a, eager._models[TASK].h_a = layers.g_a, layers.h_a
    return {
        OURS: encode(backend()),
        EAGER: _with_reference(encode(eager)),
        EAGER_SFMA: encode(eager_sfma),
    }


def _make_eager(model: nn.Module) -> None:
    """Let every SFMA run the paper's formula."""
    for module in model.modules():
        if isinstance(module, SFMA):

            def forward(x: Tensor, inplace: bool = False, module: SFMA = module) -> Tensor:
                return eager_formula(x, *arguments_of(module, x.shape[1]))

            module.forward = forward


def _with_reference(encode: Encode) -> Encode:
    """It with the plain PyTorch of every op."""

    def run() -> bytes:
        with environment(ENVIRONMENT, "reference"):
            return encode()

    return run
