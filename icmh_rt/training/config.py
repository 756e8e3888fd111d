"""Training configuration: one YAML file, validated; every key has a default but data.folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from icmh_rt.errors import TrainingError
from icmh_rt.models.slimmable_hyperprior import SlimmableHyperpriorConfig
from icmh_rt.training.fields import build, read_yaml


@dataclass(frozen=True)
class DataConfig:
    """``crop``: side of the square training crops in pixels, a multiple of 64. ``crop_schedule``:
    pairs (fraction of the run, side) that replace ``crop`` from then on. ``batch``: crops a
    width, a step and a process; scaled by ``(crop / side)²`` when the schedule changes the
    side."""

    folder: str = ""
    crop: int = 128
    batch: int = 8
    crop_schedule: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam. ``lr``: of the transforms; ``table_lr``: of the quality tables. Both warm up over
    ``warmup_steps``, stay, and fall linearly to ``final_lr_fraction`` over the last
    ``decay_fraction`` of ``steps``."""

    steps: int = 20000
    lr: float = 1.5e-3
    table_lr: float = 1e-2
    warmup_steps: int = 100
    decay_fraction: float = 0.6
    final_lr_fraction: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.998


@dataclass(frozen=True)
class TrainConfig:
    """``middle_every``: a width between the largest and the smallest joins every so many steps (the
    sandwich rule of Yu & Huang, "Universally slimmable networks", ICCV 2019, thinned out: the
    middle widths learn most of what they need from the two ends)."""

    output: str = "runs/base"
    seed: int = 0
    precision: str = "bf16"
    threads: int = 0
    middle_every: int = 2
    loss_exponent: float = 0.45
    klt_crops: int = 400
    log_every: int = 100
    checkpoint_every: int = 500
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    model: SlimmableHyperpriorConfig = field(default_factory=SlimmableHyperpriorConfig)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """Validated configuration from plain values; TrainingError names the key that is wrong."""
    config = build(TrainConfig, values)
    crops = [config.data.crop, *(size for _, size in config.data.crop_schedule)]
    for size in crops:
        if size < 64 or size % 64:
            raise TrainingError(f"data.crop must be a positive multiple of 64, got {size}")
    if config.precision not in ("bf16", "fp32"):
        raise TrainingError(f"precision must be bf16 or fp32, got {config.precision!r}")
    for name, value in (("data.batch", config.data.batch), ("steps", config.optimizer.steps)):
        if value < 1:
            raise TrainingError(f"{name} must be at least 1, got {value}")
    return config


def load_config(path: str | Path) -> TrainConfig:
    """Read a YAML file; TrainingError when it cannot be read or holds a wrong key or value."""
    return from_dict(read_yaml(path))
