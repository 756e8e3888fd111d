"""Trainer of the base codec: ``icmh train base --config FILE``.

Every step trains the largest and the smallest width, and now and then one between, each on its own
crops over the whole quality range. Randomness is a function of (seed, step, process), so a run that
was killed and resumed ends where an unbroken one would.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

from icmh_rt.bitstream import MAX_QUALITY, MIN_QUALITY
from icmh_rt.errors import TrainingError
from icmh_rt.models.slimmable_hyperprior import SlimmableHyperprior
from icmh_rt.training.config import TrainConfig, from_dict
from icmh_rt.training.data import CropSource, step_rng
from icmh_rt.training.klt import initialise_klt
from icmh_rt.training.objective import Outcome, RateDistortion
from icmh_rt.training.run import (
    TrainingRun,
    learning_rate_factor,
    load_state,
    sandwich,
    update_average,
)

_KLT_PURPOSE = 1  # separates the initialisation's crops from the steps' crops


def widths_of_step(config: TrainConfig, step: int) -> list[int]:
    """Width indices that ``step`` trains."""
    return sandwich(len(config.model.widths), config.middle_every, step)


def crop_of_step(config: TrainConfig, step: int) -> tuple[int, int]:
    """Side and count of the crops that ``step`` trains on, constant in pixels."""
    size = config.data.crop
    for fraction, scheduled in config.data.crop_schedule:
        if step >= fraction * config.optimizer.steps:
            size = scheduled
    return size, max(1, round(config.data.batch * (config.data.crop / size) ** 2))


def parameter_groups(config: TrainConfig, model: SlimmableHyperprior) -> list[dict[str, Any]]:
    """Adam's groups with their plateau rates; the quality tables, logarithms, move faster."""
    tables = list(model.quality_tables.parameters())
    in_tables = {id(p) for p in tables}
    others = [p for p in model.parameters() if id(p) not in in_tables]
    rates = (config.optimizer.lr, config.optimizer.table_lr)
    return [
        {"params": params, "lr": rate, "base_lr": rate}
        for params, rate in zip((others, tables), rates, strict=True)
    ]


class BaseTrainer(TrainingRun):
    """One training run; :meth:`run` trains to the configured step and leaves a checkpoint.

    Args:
        config: what to do.
        resume: go on from the output folder's checkpoint.
    """

    COLUMNS: ClassVar = {"bpp": 4, "psnr_db": 3}
    LABEL = "{bpp:.3f} bpp {psnr_db:.2f} dB"

    def __init__(self, config: TrainConfig, resume: bool = False) -> None:
        super().__init__(config, resume)
        self.folder.mkdir(parents=True, exist_ok=True)
        # A step leaves out the biases and quality tables of the widths that it does not run.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(kwargs_handlers=[unused])
        self.rank = self.accelerator.process_index
        largest = max([config.data.crop, *(size for _, size in config.data.crop_schedule)])
        self.source = CropSource(config.data.folder, min_size=largest)

        torch.manual_seed(config.seed)
        model = SlimmableHyperprior(config.model)
        if config.klt_crops:
            rng = step_rng(config.seed, 0, 0, [_KLT_PURPOSE])
            crops = self.source.crops(rng, config.klt_crops, config.data.crop)
            initialise_klt(model, torch.from_numpy(crops).float() / 255.0)
        model = model.to(memory_format=torch.channels_last)
        self.objective = RateDistortion(
            model,
            config.loss_exponent,
            torch.bfloat16 if config.precision == "bf16" else None,
        )
        self.optimizer = torch.optim.Adam(parameter_groups(config, model), betas=(0.9, 0.98))
        self.step = 0
        self.wrapped, self.optimizer = self.accelerator.prepare(self.objective, self.optimizer)
        self.model = model
        self.ema = {k: v.detach().clone() for k, v in model.state_dict().items()}
        if resume:
            self.load(self.checkpoint)

    # -- state -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "config": json.dumps(self.config.to_dict()),
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, path: Path) -> None:
        state = load_checkpoint_file(path)
        if state["config"].model != self.config.model:
            raise TrainingError(f"{str(path)!r} holds a model of other sizes than the config's")
        self.model.load_state_dict(state["model"])
        for name, average in self.ema.items():  # in place: the file is on the CPU, these may not be
            average.copy_(state["ema"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    # -- training ----------------------------------------------------------------------------------

    def batches(self, step: int) -> list[tuple[int, Tensor, Tensor]]:
        """Crops and qualities of ``step`` on this process; qualities are stratified over the
        range.
        """
        rng = step_rng(self.config.seed, step + 1, self.rank)
        size, count = crop_of_step(self.config, step)
        out = []
        for width in widths_of_step(self.config, step):
            crops = torch.from_numpy(self.source.crops(rng, count, size))
            position = (np.arange(count) + rng.random(count)) / count
            quality = torch.from_numpy(MIN_QUALITY + (MAX_QUALITY - MIN_QUALITY) * position)
            images = crops.to(self.accelerator.device).float().div_(255.0)
            images = images.contiguous(memory_format=torch.channels_last)
            out.append((width, images, quality.float().to(self.accelerator.device)))
        return out

    def train_step(self) -> list[tuple[int, Outcome]]:
        step = self.step
        factor = learning_rate_factor(self.config.optimizer, step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed((self.config.seed * 1_000_003 + step) * 64 + self.rank)
        batches = self.batches(step)
        loss, outcomes = self.wrapped(batches)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        if not math.isfinite(loss.item()):
            raise TrainingError(f"loss is {loss.item()} at step {step}; lower the learning rates")
        self.optimizer.step()
        self.step += 1
        decay = self.config.optimizer.ema_decay
        update_average(self.ema, self.model.state_dict(), self.step, decay)
        return [(width, o) for (width, _, _), o in zip(batches, outcomes, strict=True)]

    def advance(self) -> list[tuple[str, tuple[float, ...]]]:
        rows: list[tuple[str, tuple[float, ...]]] = []
        for width, outcome in self.train_step():
            psnr = -10.0 * torch.log10(outcome.mse.detach()).mean().item()
            name = str(self.config.model.widths[width])
            rows.append((name, (outcome.bpp.detach().mean().item(), psnr)))
        return rows


def load_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """A trainer's checkpoint with its parsed configuration; TrainingError when it is not one."""
    return load_state(path, "a trainer's", ("model", "ema"), from_dict)
