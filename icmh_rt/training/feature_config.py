"""Configuration of feature head training: one YAML file, validated."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from icmh_rt.bitstream import MIN_QUALITY
from icmh_rt.tasks.registry import NetworkConfig
from icmh_rt.training.adapter_config import checks_of_any
from icmh_rt.training.fields import build, check


@dataclass(frozen=True)
class FeatureDataConfig:
    """``layout``, ``folder``, ``annotations``, ``split``, ``in_memory``: as in
    `AdapterDataConfig`. ``part``, ``aspect``: which parts of pictures are seen, see `Views`.
    ``pool``: how many views are encoded, once, before the first step; all steps draw from these,
    which take 0.3 MB of memory each at 352x352. ``batch``: views a step and a process."""

    layout: str = "images"
    folder: str = ""
    annotations: str = ""
    split: str = "train"
    part: tuple[float, float] = (0.35, 1.0)
    aspect: float = 1.35
    pool: int = 6000
    batch: int = 16
    in_memory: bool = False


@dataclass(frozen=True)
class FeatureOptimizerConfig:
    """Adam at ``lr``, with the schedule and the average of `AdapterOptimizerConfig`."""

    steps: int = 3000
    lr: float = 3e-3
    warmup_steps: int = 100
    decay_fraction: float = 0.7
    final_lr_fraction: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.995


@dataclass(frozen=True)
class FeatureConfig:
    """``bundle``: name or folder of the codec, ``task`` and ``width``: whose streams the head
    reads. ``network``: the vision network, whose ``layers`` are the features; each must have a
    position for every 16x16 pixels. ``size``: (height, width) of the pictures, empty for the
    network's own. ``channels``, ``blocks``: of the head. ``qualities``: range of the streams.
    ``feature_weight``: of the features' difference beside that of what the network says in the
    end, where the network can go on from features."""

    task: str = ""
    bundle: str = "default"
    width: float = 0.25
    output: str = "runs/features"
    seed: int = 0
    precision: str = "bf16"
    threads: int = 0
    size: tuple[int, ...] = ()
    channels: int = 128
    blocks: int = 6
    qualities: tuple[int, int] = (MIN_QUALITY, 64)
    feature_weight: float = 10.0
    log_every: int = 50
    checkpoint_every: int = 250
    data: FeatureDataConfig = field(default_factory=FeatureDataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: FeatureOptimizerConfig = field(default_factory=FeatureOptimizerConfig)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def from_dict(values: dict[str, Any]) -> FeatureConfig:
    """Validated configuration from plain values; TrainingError names the key that is wrong."""
    config = build(FeatureConfig, values)
    data = config.data
    check(
        *checks_of_any(config),
        (
            bool(config.network.layers),
            "network.layers is empty: name the layers whose outputs the head gives",
        ),
        (
            len(config.size) in (0, 2) and all(side >= 16 for side in config.size),
            f"size must be height and width of 16 or more, got {list(config.size)}",
        ),
        (
            0.0 < data.part[0] <= data.part[1] <= 1.0,
            f"data.part must be a range within 0 to 1, got {list(data.part)}",
        ),
        (data.aspect >= 1.0, f"data.aspect must be at least 1, got {data.aspect}"),
        (
            data.pool >= data.batch,
            f"data.pool must be at least data.batch, got {data.pool} and {data.batch}",
        ),
        (config.channels >= 1, f"channels must be at least 1, got {config.channels}"),
        (config.blocks >= 0, f"blocks must not be negative, got {config.blocks}"),
        (
            config.feature_weight > 0,
            f"feature_weight must be positive, got {config.feature_weight}",
        ),
    )
    return config
