"""Folding a trained checkpoint into a bundle: ``icmh bundle``.

Folding turns everything that entropy coding depends on into integers: the hyper-synthesis (with its
accumulator proof), what quality means at each width, and the CDF tables. The transforms become half
precision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icmh_rt import rans
from icmh_rt.backends.registry import create
from icmh_rt.bitstream import MAX_QUALITY, MIN_QUALITY
from icmh_rt.bundle import Bundle, WidthTables
from icmh_rt.errors import BundleError
from icmh_rt.gaussian import ScaleTable
from icmh_rt.models.quantize import (
    FloatLayer,
    calibrate,
    evaluate,
    quantize_hyper_synthesis,
)
from icmh_rt.models.slimmable_hyperprior import SlimmableHyperprior
from icmh_rt.training.base import load_checkpoint_file
from icmh_rt.training.data import CropSource, step_rng

TAIL_MASS = 2.0**-20
"""Probability outside a table row on both sides together; the escape codes it."""

PRECISION = 15
"""Bits of the quantized probabilities: most symbols of an image are worth a hundredth of a bit,
where 14 bits cost twice as much as 15, and the others cost three times as much with 16
(docs/rans.md)."""

_MAX_INDEX_ERROR = 0.1
"""Scale-index steps by which the integer network may differ from the float one, on average: a step
is 13 % of the standard deviation, and a tenth of one costs less than 0.01 % of the rate."""

_CALIBRATION_QUALITIES = (1, 15, 30, 45, 60, 75, 90, 100)
_CALIBRATION_CROP = 256
_PURPOSE = 2  # separates these crops from those of training


def fold(
    checkpoint: str | Path,
    data: str | Path,
    name: str,
    crops: int = 48,
    weights: str = "ema",
    report: Callable[[str], None] = lambda text: None,
) -> Bundle:
    """A bundle of ``checkpoint``, calibrated on crops of the images in ``data``.

    Args:
        checkpoint: a trainer's checkpoint.
        data: folder of images like those it was trained on; never those it will be measured on.
        name: the bundle's name.
        crops: how many 256x256 crops to calibrate with.
        weights: "ema" or "model" (the last step's).
        report: called with a line of progress.

    Raises:
        TrainingError: the checkpoint or the folder cannot be used.
        BundleError: the hyper-synthesis cannot be brought under the 2**24 bound.
    """
    state = load_checkpoint_file(checkpoint)
    config = state["config"].model
    model = SlimmableHyperprior(config)
    model.load_state_dict(state[weights])
    model = model.eval().requires_grad_(False)
    source = CropSource(data, min_size=_CALIBRATION_CROP)
    rng = step_rng(0, 0, 0, [_PURPOSE])
    images = source.crops(rng, crops, _CALIBRATION_CROP)

    scales = ScaleTable(config.scale_min, config.scale_max, config.scale_levels)
    pmfs, offsets = scales.pmf_rows(TAIL_MASS)
    widths = {}
    for index, width in enumerate(config.widths):
        widths[width] = _fold_width(model, index, images)
        error = index_error(model, index, widths[width], images[:8])
        report(f"width {width}: integer scale indexes are off by {error:.4f} on average")
        if error > _MAX_INDEX_ERROR:
            raise BundleError(
                f"width {width}: integer scale indexes are off by {error:.2f} on average, above "
                f"{_MAX_INDEX_ERROR}; calibrate with more crops or train longer"
            )
    bundle = Bundle(
        name=name,
        config=config.to_dict(),
        tasks=("human",),
        transforms=_half_transforms(model),
        widths=widths,
        tables=rans.Tables.from_pmfs(pmfs, offsets=offsets, precision=PRECISION),
        training={
            "steps": int(state["step"]),
            "weights": weights,
            "config": _without_paths(state["config"].to_dict()),
        },
    )
    report("fitting the CDF tables to the symbols of the calibration crops")
    tables = _fit_tables(bundle, images, pmfs, offsets)
    return dataclasses.replace(bundle, tables=tables)


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration is worth keeping: where somebody's files lay is not."""
    data = {k: v for k, v in config["data"].items() if k != "folder"}
    return {**{k: v for k, v in config.items() if k != "output"}, "data": data}


def _half_transforms(model: SlimmableHyperprior) -> dict[str, np.ndarray]:
    kept = ("g_a.", "h_a.", "g_s.")
    return {
        name: value.detach().numpy().astype(np.float16)
        for name, value in model.state_dict().items()
        if name.startswith(kept)
    }


def hyper_synthesis_layers(
    model: SlimmableHyperprior, width: int
) -> tuple[list[FloatLayer], FloatLayer, FloatLayer]:
    """(trunk, mean head, scale head) of h_s at width index ``width``, as the quantizer takes
    them.
    """
    h_s = model.h_s

    def layer(name: str, kind: str, relu: bool = True, shuffle: bool = False) -> FloatLayer:
        module = getattr(h_s, name)
        out, inputs = module.out_channels[width], module.in_channels[width]
        weight = module.weight[:out] if kind == "depthwise3x3" else module.weight[:out, :inputs]
        return FloatLayer.from_torch_layout(
            name, kind, weight.numpy(), module.bias[width, :out].numpy(), relu, shuffle
        )

    trunk = [
        layer("context_64", "conv3x3"),
        layer("up_32", "conv1x1", shuffle=True),
        layer("context_32", "conv3x3"),
        layer("up_16", "conv1x1", shuffle=True),
        layer("context_16", "depthwise3x3"),
    ]
    return trunk, layer("mean", "conv1x1", relu=False), layer("scale", "conv1x1", relu=False)


def _fold_width(model: SlimmableHyperprior, index: int, images: np.ndarray) -> WidthTables:
    config = model.config
    quality = torch.arange(MIN_QUALITY, MAX_QUALITY + 1, dtype=torch.float32)
    log_gain, log_hyper_gain, hyper_scale = (
        table[:, :, 0, 0].double().numpy() for table in model.quality_vectors(quality, index)
    )
    gain, hyper_gain = np.exp(log_gain), np.exp(log_hyper_gain)
    trunk, mean_head, scale_head = hyper_synthesis_layers(model, index)
    network = quantize_hyper_synthesis(
        trunk,
        mean_head,
        scale_head,
        calibrate(trunk, mean_head, scale_head, _hyper_inputs(model, index, images, hyper_gain)),
        z_step=1.0 / hyper_gain,
        gain=gain,
        log_scale_step=config.log_scale_step,
        scales=config.scale_levels,
    )
    hyper_index = np.rint(hyper_scale).clip(0, config.scale_levels - 1)
    return WidthTables(
        gain=gain.astype(np.float32),
        inverse_gain=(1.0 / gain).astype(np.float32),
        hyper_gain=hyper_gain.astype(np.float32),
        hyper_index=hyper_index.astype(np.uint8),
        hyper_synthesis=network,
    )


def _hyper_latent(model: SlimmableHyperprior, index: int, image: np.ndarray) -> np.ndarray:
    """z of uint8 ``(3, H, W)`` before quantization, float64 ``(h, w, Z)``."""
    x = torch.from_numpy(image)[None].float() / 255.0 - 0.5
    return model.h_a(model.g_a(x, index), index)[0].permute(1, 2, 0).double().numpy()


def index_error(
    model: SlimmableHyperprior, index: int, tables: WidthTables, images: np.ndarray
) -> float:
    """Mean distance of the integer network's scale indexes from the float network's, rounded."""
    config, network = model.config, tables.hyper_synthesis
    trunk, mean_head, scale_head = hyper_synthesis_layers(model, index)
    distances = []
    for image in images:
        z = _hyper_latent(model, index, image)
        for quality in _CALIBRATION_QUALITIES:
            gain = tables.hyper_gain[quality - 1].astype(np.float64)
            symbols = np.rint(z * gain).astype(np.int64)
            _, scale = evaluate(trunk, mean_head, scale_head, symbols / gain)
            scale += np.log(tables.gain[quality - 1].astype(np.float64)) / config.log_scale_step
            expected = np.rint(scale).clip(0, config.scale_levels - 1)
            _, found = network.run(symbols, quality)
            distances.append(np.abs(found - expected).mean())
    return float(np.mean(distances))


def _hyper_inputs(
    model: SlimmableHyperprior, index: int, images: np.ndarray, hyper_gain: np.ndarray
) -> Iterator[np.ndarray]:
    """Dequantized hyper-latents float64 ``(h, w, Z)``, over images and qualities."""
    for position, image in enumerate(images):
        z = _hyper_latent(model, index, image)
        for quality in _CALIBRATION_QUALITIES[position % 2 :: 2]:
            row = hyper_gain[quality - 1]
            yield np.rint(z * row) / row


def _fit_tables(
    bundle: Bundle, images: np.ndarray, pmfs: list[np.ndarray], offsets: np.ndarray
) -> rans.Tables:
    """CDF tables from what symbols really do, with the Gaussians as the prior.

    The trained densities are Gaussian, real residuals have a sharper peak and heavier tails. A
    table is free at run time, so each row becomes the symmetrised histogram of its symbols over
    the crops plus ``PRIOR_COUNT`` observations' worth of its Gaussian.
    """
    backend = create(bundle, device="cpu")
    counts = [np.zeros(len(row)) for row in pmfs]
    outside = np.zeros(len(pmfs))
    for position, image in enumerate(images):
        pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
        for width in bundle.widths:
            for quality in _CALIBRATION_QUALITIES[position % 2 :: 2]:
                latents = backend.encode_transforms(pixels, width, "human", quality)
                symbols, rows = latents.symbols_y.reshape(-1), latents.indexes_y.reshape(-1)
                for row in np.unique(rows):
                    values = symbols[rows == row] - offsets[row]
                    inside = (values >= 0) & (values < len(counts[row]))
                    counts[row] += np.bincount(values[inside], minlength=len(counts[row]))
                    outside[row] += np.count_nonzero(~inside)
    fitted, tails = [], []
    for row, pmf in enumerate(pmfs):
        seen = 0.5 * (counts[row] + counts[row][::-1]) + PRIOR_COUNT * pmf
        tail = outside[row] + PRIOR_COUNT * TAIL_MASS
        total = seen.sum() + tail
        fitted.append(seen / total)
        tails.append(tail / total)
    return rans.Tables.from_pmfs(
        fitted, offsets=offsets, precision=PRECISION, tail_masses=np.array(tails)
    )


PRIOR_COUNT = 2000.0
"""How many observations the Gaussian prior of a table row weighs."""


def describe(bundle: Bundle) -> dict[str, Any]:
    """What `icmh bundle` prints: sizes and the proof's worst case of every width."""
    worst = {}
    for width, tables in bundle.widths.items():
        bound = max(tables.hyper_synthesis.prove(), key=lambda b: b.worst)
        worst[str(width)] = {"stage": bound.name, "worst_accumulator": bound.worst}
    parameters = int(sum(v.size for v in bundle.transforms.values()))
    return {"name": bundle.name, "parameters": parameters, "accumulators": worst}
