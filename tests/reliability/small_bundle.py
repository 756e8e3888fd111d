"""A bundle of a few kilobytes, with adapters and a feature head: random weights, quick to load."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from icmh_rt import bundle as bundles
from icmh_rt import rans
from icmh_rt.backends.torch import TorchBackend
from icmh_rt.bundle import QUALITIES, Bundle, WidthTables
from icmh_rt.feature_files import TrainedFeatureHead, save_feature_head
from icmh_rt.gaussian import ScaleTable
from icmh_rt.models.adapters import adapter_parameters, attach_adapters, save_adapters
from icmh_rt.models.feature_head import FeatureHead
from icmh_rt.models.integer_network import IntegerHyperSynthesis, IntegerLayer
from icmh_rt.models.slimmable_hyperprior import SlimmableHyperprior, SlimmableHyperpriorConfig

CONFIG = SlimmableHyperpriorConfig(
    widths=(0.5, 1.0),
    channels=(8, 12),
    latent_channels=(8, 12),
    hyper_channels=(4, 6),
    hyper_latent_channels=(3, 4),
    blocks_8=(1, 1),
    blocks_16=(1, 1),
    gain_anchors=2,
    scale_max=16.0,
    scale_levels=12,
)
TASK = "detection"


def _network(rng: np.random.Generator, z: int, hidden: int, latent: int) -> IntegerHyperSynthesis:
    def layer(name: str, kind: str, rows: int, channels: int, shuffle: bool = False):
        shape = {
            "conv1x1": (rows, channels),
            "conv3x3": (rows, 3, 3, channels),
            "depthwise3x3": (rows, 3, 3),
        }[kind]
        head = name in ("mean", "scale")
        return IntegerLayer(
            name=name,
            kind=kind,
            weight=rng.integers(-40, 41, shape).astype(np.int16),
            bias=rng.integers(-500, 500, rows).astype(np.int32),
            shift=np.full(rows, 5, np.uint8),
            low=np.full(rows, -4000 if head else 0, np.int32),
            high=np.full(rows, 4000, np.int32),
            shuffle=shuffle,
        )

    return IntegerHyperSynthesis(
        trunk=(
            layer("context_64", "conv3x3", hidden, z),
            layer("up_32", "conv1x1", 4 * hidden, hidden, shuffle=True),
            layer("up_16", "conv1x1", 4 * hidden, hidden, shuffle=True),
            layer("context_16", "depthwise3x3", hidden, hidden),
        ),
        mean_head=layer("mean", "conv1x1", latent, hidden),
        scale_head=layer("scale", "conv1x1", latent, hidden),
        z_multiplier=rng.integers(100, 300, (QUALITIES, z)).astype(np.int32),
        mean_multiplier=rng.integers(1, 30, (QUALITIES, latent)).astype(np.int32),
        mean_shift=np.full((QUALITIES, latent), 8, np.uint8),
        index_offset=np.full((QUALITIES, latent), 1500, np.int32),
        z_shift=2,
        input_limit=400,
        mean_bits=6,
        mean_limit=2**15,
        index_bits=8,
        scales=CONFIG.scale_levels,
    )


def make() -> Bundle:
    """In memory; equal on every machine but for the transforms, which torch draws."""
    rng = np.random.default_rng(9)
    torch.manual_seed(9)
    state = SlimmableHyperprior(CONFIG).state_dict()
    pmfs, offsets = ScaleTable(CONFIG.scale_min, CONFIG.scale_max, CONFIG.scale_levels).pmf_rows(
        2.0**-20
    )
    widths = {}
    for index, width in enumerate(CONFIG.widths):
        z, m = CONFIG.hyper_latent_channels[index], CONFIG.latent_channels[index]
        gain = np.linspace(1, 40, QUALITIES, dtype=np.float32)[:, None]
        widths[width] = WidthTables(
            gain=np.repeat(gain, m, 1),
            inverse_gain=np.repeat(np.float32(1) / gain, m, 1),
            hyper_gain=np.repeat(gain, z, 1),
            hyper_index=np.full((QUALITIES, z), 6, np.uint8),
            hyper_synthesis=_network(rng, z, CONFIG.hyper_channels[index], m),
        )
    return Bundle(
        name="small",
        config=CONFIG.to_dict(),
        tasks=("human",),
        transforms={
            name: value.numpy().astype(np.float16)
            for name, value in state.items()
            if name.startswith(("g_a.", "h_a.", "g_s."))
        },
        widths=widths,
        tables=rans.Tables.from_pmfs(pmfs, offsets=offsets, precision=14),
    )


def write(folder: Path, *, parts: bool = True) -> Path:
    """Write it to ``folder``, whatever is there; with ``parts``, adapters and a feature head for
    detection too.
    """
    shutil.rmtree(folder, ignore_errors=True)
    bundles.save(make(), folder)
    if not parts:
        return folder
    base = TorchBackend(bundles.load(folder), torch.device("cpu"), torch.float32)._model
    torch.manual_seed(10)
    attach_adapters(base, TASK, middle=2)
    with torch.no_grad():
        for name, parameter in adapter_parameters(base, TASK).items():
            if "_up." in name:
                parameter.normal_(std=0.1)
    loose = folder / "loose.safetensors"
    save_adapters(base.half(), loose, TASK)
    bundles.add_adapters(folder, loose)
    latent = CONFIG.latent_channels[0]
    module = FeatureHead(latent, 4, 1, (("layer", 3),))
    head = TrainedFeatureHead(
        {k: v.detach().half().numpy() for k, v in module.state_dict().items()},
        CONFIG.widths[0],
        4,
        1,
        (("layer", 3),),
        (64, 64),
        bundles.load(folder).fingerprint_of(TASK),
    )
    save_feature_head(loose, TASK, head)
    bundles.add_feature_head(folder, loose)
    loose.unlink()
    return folder
