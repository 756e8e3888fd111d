"""Configuration of adapter training: one YAML file, validated; every key has a default but the
data's folder and the network's kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from icmh_rt.bitstream import BASE_TASK, MAX_QUALITY, MIN_QUALITY, TASKS
from icmh_rt.tasks.datasets import LAYOUTS
from icmh_rt.tasks.registry import KINDS, NetworkConfig
from icmh_rt.training.fields import build, check


@dataclass(frozen=True)
class AdapterDataConfig:
    """``layout``: "images" (any folder, searched recursively), "imagenet" (a folder of pictures
    each class), "coco" (a folder of images, those of the ``annotations`` file if one is named) or
    "camvid" (``<split>`` and ``<split>_labels``). ``crop``: (height, width) of the training crops,
    multiples of 64. ``scale``: least and largest factor by which pictures are resized before the
    cut, drawn geometrically; a picture too small for its crop is enlarged. ``batch``: crops a
    width, a step and a process. ``tiles``: the network sees ``tiles`` x ``tiles`` crops, decoded
    each on its own, side by side as one picture: so a network of fixed input size looks at crops at
    the scale at which it will look at whole pictures. ``in_memory``: keep decoded pictures.
    ``workers``: threads that read the next steps' crops meanwhile."""

    layout: str = "images"
    folder: str = ""
    annotations: str = ""
    split: str = "train"
    crop: tuple[int, int] = (256, 256)
    scale: tuple[float, float] = (1.0, 1.0)
    batch: int = 4
    tiles: int = 1
    in_memory: bool = False
    workers: int = 1


@dataclass(frozen=True)
class AdapterOptimizerConfig:
    """Adam at ``lr``, which warms up over ``warmup_steps``, stays, and falls linearly to
    ``final_lr_fraction`` over the last ``decay_fraction`` of ``steps``. ``ema_decay``: of the
    average of the weights that is saved as the adapter; 0 for the last weights."""

    steps: int = 20000
    lr: float = 1e-3
    warmup_steps: int = 100
    decay_fraction: float = 0.6
    final_lr_fraction: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.998


@dataclass(frozen=True)
class AdapterConfig:
    """``bundle``: name or folder of the base. ``middle``: channels inside the adapters; 40 is 5.5 %
    of the default bundle's parameters and 0.7 MB in half precision, 64 (the paper's) 8.9 % and 1.1
    MB. ``lambdas``: what the perceptual distortion is multiplied with, spread evenly over quality 1
    ... 100 and geometric between; one value for all. ``normalise``: whether each layer's squared
    difference is divided by the mean square of the original's feature; without, λ are in the
    features' units, as in the paper. ``pixel_lambda``: weight of 255² MSE beside it, 0 for none.
    ``task_lambda``: weight beside it of the task itself, how far what the network says is from what
    it says of the original: no labels either; 0 for none, as published.
    ``loss_exponent``: the loss of a crop is divided by (λ / largest λ) to this power, so that every
    quality pulls with like force. ``qualities``: range that is trained. ``quality_bias``: qualities
    are drawn as the range times u to this power; above 1, low ones more often. ``narrow_weight``:
    of the smallest width's loss, where the largest's has 1, geometric between. Narrow widths use a
    part of what wide ones use; Adam does not care for the size of gradients, so a weight above 1
    leaves that part to them and takes nothing from the rest. ``middle_every``: as in
    `TrainConfig`."""

    task: str = ""
    bundle: str = "default"
    output: str = "runs/adapter"
    seed: int = 0
    precision: str = "bf16"
    threads: int = 0
    middle: int = 40
    factor: float = 1.0
    lambdas: tuple[float, ...] = (1.0,)
    normalise: bool = True
    pixel_lambda: float = 0.0
    task_lambda: float = 0.0
    loss_exponent: float = 0.45
    qualities: tuple[int, int] = (MIN_QUALITY, MAX_QUALITY)
    quality_bias: float = 1.0
    narrow_weight: float = 4.0
    middle_every: int = 2
    log_every: int = 50
    checkpoint_every: int = 200
    data: AdapterDataConfig = field(default_factory=AdapterDataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: AdapterOptimizerConfig = field(default_factory=AdapterOptimizerConfig)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lambda_of(self, quality: float) -> float:
        """λ at ``quality``: geometric between the set's values."""
        position = (quality - MIN_QUALITY) / (MAX_QUALITY - MIN_QUALITY) * (len(self.lambdas) - 1)
        low = min(int(position), max(0, len(self.lambdas) - 2))
        high = min(low + 1, len(self.lambdas) - 1)
        fraction = position - low
        return self.lambdas[low] ** (1.0 - fraction) * self.lambdas[high] ** fraction

    def weight_of(self, quality: float, narrowness: float = 0.0) -> float:
        """What the loss of a crop is multiplied with; narrowness is 0 for the largest width, 1 for
        the smallest.
        """
        of_quality = (self.lambda_of(quality) / max(self.lambdas)) ** -self.loss_exponent
        return of_quality * self.narrow_weight**narrowness


def checks_of_any(config: Any) -> Iterator[tuple[bool, str]]:
    """What configurations with a task network and a dataset have in common, for `check`."""
    data, (low, high) = config.data, config.qualities
    yield (
        config.precision in ("bf16", "fp32"),
        f"precision must be bf16 or fp32, got {config.precision!r}",
    )
    yield (
        config.network.kind in KINDS,
        f"network.kind is {config.network.kind!r}: use one of {', '.join(KINDS)}",
    )
    yield (
        data.layout in LAYOUTS,
        f"data.layout is {data.layout!r}: use one of {', '.join(LAYOUTS)}",
    )
    yield data.batch >= 1, f"data.batch must be at least 1, got {data.batch}"
    yield config.optimizer.steps >= 1, f"steps must be at least 1, got {config.optimizer.steps}"
    yield (
        MIN_QUALITY <= low <= high <= MAX_QUALITY,
        f"qualities must be a range in {MIN_QUALITY} to {MAX_QUALITY}, got {[low, high]}",
    )


def from_dict(values: dict[str, Any]) -> AdapterConfig:
    """Validated configuration from plain values; TrainingError names the key that is wrong."""
    config = build(AdapterConfig, values)
    data = config.data
    tasks = [task for task in TASKS if task != BASE_TASK]
    check(
        (config.task in tasks, f"task is {config.task!r}: use one of {', '.join(tasks)}"),
        *checks_of_any(config),
        (
            all(side >= 64 and side % 64 == 0 for side in data.crop),
            f"data.crop must be positive multiples of 64, got {list(data.crop)}",
        ),
        (
            0.0 < data.scale[0] <= data.scale[1] < math.inf,
            f"data.scale must be two positive factors, the smaller first, got {list(data.scale)}",
        ),
        (
            data.tiles >= 1 and data.batch % data.tiles**2 == 0,
            f"data.batch must be a multiple of tiles², got {data.batch} and {data.tiles} tiles",
        ),
        (data.workers >= 0, f"data.workers must not be negative, got {data.workers}"),
        (
            config.pixel_lambda >= 0 and config.task_lambda >= 0,
            f"pixel_lambda and task_lambda must not be negative, got {config.pixel_lambda} and "
            f"{config.task_lambda}",
        ),
        (config.middle >= 1, f"middle must be at least 1, got {config.middle}"),
        (
            bool(config.lambdas) and all(0.0 < v < math.inf for v in config.lambdas),
            f"lambdas must be positive numbers, got {list(config.lambdas)}",
        ),
        (config.quality_bias > 0, f"quality_bias must be positive, got {config.quality_bias}"),
        (config.narrow_weight > 0, f"narrow_weight must be positive, got {config.narrow_weight}"),
    )
    return config
