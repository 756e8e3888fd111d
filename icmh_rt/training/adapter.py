"""Trainer of adapters: ``icmh train adapter --task TASK --config FILE``.

The base is a bundle and stays what it is; the adapters of one task learn, for all qualities and all
widths in one run. Every step trains the largest and the smallest width, and now and then one
between. Randomness is a function of (seed, step, process), so a run that was killed and resumed
ends where an unbroken one would.
"""

from __future__ import annotations

import copy
import json
import math
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

from icmh_rt.bundle import CodecBundle, load
from icmh_rt.errors import TrainingError
from icmh_rt.models.adapter_places import CHILD
from icmh_rt.models.adapters import (
    AdapterReport,
    adapter_parameters,
    attach_adapters,
    save_adapters,
)
from icmh_rt.tasks.datasets import open_dataset
from icmh_rt.tasks.network import TaskNetwork
from icmh_rt.tasks.registry import create
from icmh_rt.training.adapter_config import AdapterConfig, from_dict
from icmh_rt.training.crops import Crops
from icmh_rt.training.data import step_rng
from icmh_rt.training.frozen_base import FrozenBase
from icmh_rt.training.perceptual import AdapterOutcome, Batch, PerceptualRateDistortion
from icmh_rt.training.run import (
    TrainingRun,
    learning_rate_factor,
    load_state,
    sandwich,
    update_average,
)

ADAPTERS = "adapters.safetensors"
_PROBE_PURPOSE = 3  # separates the probe's crops from the steps' crops
_MOST_SKIPPED = 10  # in a row, before a run is given up


class AdapterTrainer(TrainingRun):
    """One training run; :meth:`run` trains to the configured step and leaves a checkpoint and the
    adapters, in half precision.

    Args:
        config: what to do.
        resume: go on from the output folder's checkpoint.
        bundle: instead of the one that the config names.
        network: instead of the one that the config describes.
    """

    COLUMNS: ClassVar = {"bpp": 5, "distortion": 5, "loss": 5}
    LABEL = "{bpp:.3f} bpp {distortion:.4f}"

    def __init__(
        self,
        config: AdapterConfig,
        resume: bool = False,
        bundle: CodecBundle | None = None,
        network: TaskNetwork | None = None,
    ) -> None:
        super().__init__(config, resume)
        bundle = load(config.bundle) if bundle is None else bundle
        data = config.data
        dataset = open_dataset(data.layout, data.folder, data.annotations, data.split)
        self.source = Crops(dataset.paths, data.crop, data.scale, data.in_memory)
        base = FrozenBase(bundle, torch.bfloat16 if config.precision == "bf16" else None)
        torch.manual_seed(config.seed)
        self.report: AdapterReport = attach_adapters(
            base.model, config.task, middle=config.middle, factor=config.factor
        )
        self.fingerprint = bundle.fingerprint
        self.base = base
        self.objective = PerceptualRateDistortion(
            base,
            create(config.network) if network is None else network,
            config.task,
            data.tiles,
            config.normalise,
            config.pixel_lambda,
            config.task_lambda,
        )
        # Every step runs every adapter, and no buffer changes.
        options = DistributedDataParallelKwargs(broadcast_buffers=False)
        self.accelerator = Accelerator(kwargs_handlers=[options])
        self.rank = self.accelerator.process_index
        self.parameters = adapter_parameters(base.model, config.task)
        optimizer = torch.optim.Adam(list(self.parameters.values()), lr=config.optimizer.lr)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.objective, optimizer)
        self.average = {k: v.detach().clone() for k, v in self.parameters.items()}
        self.step = 0
        self.skipped = 0  # steps in a row whose gradients were not finite
        self.folder.mkdir(parents=True, exist_ok=True)
        self._readers = ThreadPoolExecutor(max_workers=max(1, data.workers))
        self._ahead: dict[int, Future] = {}
        if resume:
            self.load(self.checkpoint)

    # -- state -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "config": json.dumps(self.config.to_dict()),
            "fingerprint": self.fingerprint,
            "step": self.step,
            "adapters": {k: v.detach() for k, v in self.parameters.items()},
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }

    def saved(self) -> None:
        self.save_adapters(self.folder / ADAPTERS)
        self.write_log({"step": self.step, "factor_of_base": self.probe()})

    @torch.no_grad()
    def save_adapters(self, path: Path) -> None:
        """The averaged adapters in half precision, as `load_adapters` reads them."""
        model = copy.deepcopy(self.base.model)
        for name, parameter in adapter_parameters(model, self.config.task).items():
            parameter.copy_(self.average[name])
        model.get_submodule(CHILD).half()
        save_adapters(model, path, self.config.task)

    def load(self, path: Path) -> None:
        state = load_adapter_checkpoint(path)
        self.check_same(path, state["config"], ("task", "middle", "factor"))
        if state["fingerprint"] != self.fingerprint:
            raise TrainingError(
                f"{str(path)!r} was trained on the bundle with fingerprint "
                f"{state['fingerprint']}, this one has {self.fingerprint}"
            )
        with torch.no_grad():  # in place: the file is on the CPU, these may not be
            for name, parameter in self.parameters.items():
                parameter.copy_(state["adapters"][name])
                self.average[name].copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    # -- data --------------------------------------------------------------------------------------

    def widths_of_step(self, step: int) -> list[int]:
        return sandwich(len(self.base.widths), self.config.middle_every, step)

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Crops and qualities of one width."""
        count, (low, high) = self.config.data.batch, self.config.qualities
        crops = self.source.draw(rng, count)
        # Stratified, and in an order of chance, so that no tile always has the best quality.
        position = (rng.permutation(count) + rng.random(count)) / count
        span = high - low + 1
        quality = low + np.floor(span * position**self.config.quality_bias).clip(max=span - 1)
        return crops, quality.astype(np.int64)

    def _read(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        rng = step_rng(self.config.seed, step + 1, self.rank)
        return [self._draw(rng) for _ in self.widths_of_step(step)]

    def batches(self, step: int) -> list[Batch]:
        """What ``step`` trains on, on this process."""
        ahead = self._ahead.pop(step, None)
        drawn = self._read(step) if ahead is None else ahead.result()
        last = min(step + self.config.data.workers, self.config.optimizer.steps - 1)
        for later in range(step + 1, last + 1):
            if later not in self._ahead:
                self._ahead[later] = self._readers.submit(self._read, later)
        widths = self.widths_of_step(step)
        return [self._batch(w, *one) for w, one in zip(widths, drawn, strict=True)]

    def _batch(self, width: int, crops: np.ndarray, quality: np.ndarray) -> Batch:
        device, last = self.accelerator.device, len(self.base.widths) - 1
        narrowness = (last - width) / last if last else 0.0
        trade_offs = [self.config.lambda_of(int(q)) for q in quality]
        weights = [self.config.weight_of(int(q), narrowness) for q in quality]
        return Batch(
            width,
            torch.from_numpy(crops).to(device).float().div_(255.0),
            torch.from_numpy(quality).to(device),
            torch.tensor(trade_offs, device=device),
            torch.tensor(weights, device=device),
        )

    # -- training ----------------------------------------------------------------------------------

    def train_step(self) -> list[tuple[int, AdapterOutcome]]:
        step, limits = self.step, self.config.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = limits.lr * learning_rate_factor(self.config.optimizer, step)
        self.optimizer.zero_grad(set_to_none=True)
        batches = self.batches(step)
        torch.manual_seed((self.config.seed * 1_000_003 + step) * 64 + self.rank)
        loss, outcomes = self.wrapped(batches)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.parameters.values(), limits.clip_norm)
        if math.isfinite(float(norm)):
            self.optimizer.step()
            self.skipped = 0
        else:
            self._skip(step)
        self.step += 1
        decay = self.config.optimizer.ema_decay
        update_average(self.average, self.parameters, self.step, decay)
        return [(batch.width, o) for batch, o in zip(batches, outcomes, strict=True)]

    def _skip(self, step: int) -> None:
        """An adapter is a product of what it sees: on a picture unlike all before it can overflow,
        and one crop must not end a run.
        """
        self.skipped += 1
        if self.skipped >= _MOST_SKIPPED:
            raise TrainingError(
                f"gradients are not finite for {self.skipped} steps up to step {step}; lower the "
                "learning rate"
            )

    @torch.no_grad()
    def probe(self, count: int = 2) -> dict[str, dict[str, float]]:
        """Of the largest and the smallest width, over the same few crops every time: what the
        averaged adapters do to rate, distortion and loss, as a factor of the base's.
        """
        learned = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._give(self.average)
        self.base.eval()
        try:
            return {
                str(self.base.widths[width]): self._probe_width(width, count)
                for width in sorted({0, len(self.base.widths) - 1})
            }
        finally:
            self.objective.task = self.config.task
            self.base.train()
            self._give(learned)

    def _give(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def _probe_width(self, width: int, count: int) -> dict[str, float]:
        rng = step_rng(self.config.seed, 0, 0, [_PROBE_PURPOSE])
        sums = np.zeros((2, 3))
        for _ in range(count):
            batch = self._batch(width, *self._draw(rng))
            for row, task in enumerate((None, self.config.task)):
                self.objective.task = task
                outcome = self.objective.forward_width(batch)
                values = (outcome.bpp, outcome.distortion, outcome.loss)
                sums[row] += [value.mean().item() for value in values]
        factors = sums[1] / np.maximum(sums[0], 1e-12)
        names = ("bpp", "distortion", "loss")
        return {name: round(float(f), 4) for name, f in zip(names, factors, strict=True)}

    def advance(self) -> list[tuple[str, tuple[float, ...]]]:
        rows = []
        for width, outcome in self.train_step():
            values = (outcome.bpp, outcome.distortion, outcome.loss)
            row = tuple(v.detach().mean().item() for v in values)
            rows.append((str(self.base.widths[width]), row))
        return rows


def load_adapter_checkpoint(path: str | Path) -> dict[str, Any]:
    """An adapter trainer's checkpoint with its parsed configuration; TrainingError when it is not
    one.
    """
    return load_state(path, "an adapter", ("fingerprint", "adapters", "average"), from_dict)
