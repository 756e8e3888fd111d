"""What every trainer does around its steps: a folder with a checkpoint and a log, going on from
them, averaging of weights, learning rates.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from icmh_rt._files import replace_file
from icmh_rt.errors import TrainingError

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


class OptimizerConfig(Protocol):
    """What every trainer's configuration says of its optimizer."""

    steps: int
    warmup_steps: int
    decay_fraction: float
    final_lr_fraction: float
    ema_decay: float


class RunConfig(Protocol):
    """What every trainer's configuration says of its run."""

    @property
    def output(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def log_every(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...
    @property
    def optimizer(self) -> Any: ...  # an OptimizerConfig


def learning_rate_factor(o: OptimizerConfig, step: int) -> float:
    """Warm-up, plateau, linear decay; 1.0 on the plateau."""
    warmup = min(1.0, (step + 1) / max(1, o.warmup_steps))
    left = (o.steps - step) / max(1.0, o.decay_fraction * o.steps)
    return warmup * max(o.final_lr_fraction, min(1.0, left))


def sandwich(count: int, middle_every: int, step: int) -> list[int]:
    """Which of ``count`` widths ``step`` trains: largest, smallest, and every so often one
    between.
    """
    last = count - 1
    widths = [last] if last == 0 else [last, 0]
    if last > 1 and middle_every > 0 and step % middle_every == 0:
        widths.append(1 + (step // middle_every) % (last - 1))
    return widths


@torch.no_grad()
def update_average(
    average: Mapping[str, Tensor], current: Mapping[str, Tensor], step: int, decay: float
) -> None:
    """Exponential moving average in place, faster at the beginning; a decay of 0 copies."""
    decay = min(decay, (step + 1) / (step + 10)) if decay else 0.0
    values = [current[name].detach() for name in average]
    torch._foreach_lerp_(list(average.values()), values, 1.0 - decay)


def load_state(
    path: str | Path, kind: str, keys: Sequence[str], from_dict: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    """A checkpoint with at least ``keys``, its configuration parsed by ``from_dict``; TrainingError
    when it is no ``kind`` checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        lacking = {"config", "step", "optimizer", *keys} - set(state)
        if lacking:
            raise KeyError(min(lacking))
        state["config"] = from_dict(json.loads(state["config"]))
    except FileNotFoundError:
        raise TrainingError(f"no checkpoint at {str(path)!r}; train first") from None
    except (KeyError, TypeError, RuntimeError, OSError, ValueError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f"{str(path)!r} is not {kind} checkpoint: {reason}") from None
    return state


class TrainingRun(ABC):
    """One run: :meth:`run` trains to the configured step and leaves a checkpoint.

    Subclasses have the attribute ``step`` and say what a step, a checkpoint and a log line are.

    Args:
        config: what to do.
        resume: whether the folder's checkpoint, if there is one, will be gone on from.

    Attributes:
        COLUMNS: names and decimals of what a step tells of each part that it trained.
        LABEL: what a part's line at the progress bar says of them.

    Raises:
        TrainingError: there is a checkpoint and ``resume`` is not set.
    """

    COLUMNS: ClassVar[Mapping[str, int]]
    LABEL: ClassVar[str]
    accelerator: Accelerator
    step: int

    def __init__(self, config: RunConfig, resume: bool) -> None:
        self.config: Any = config
        self.folder = Path(config.output)
        self.checkpoint = self.folder / CHECKPOINT
        if not resume and self.checkpoint.exists():
            raise TrainingError(
                f"{str(self.checkpoint)!r} exists; pass --resume to go on with it or choose "
                "another output folder"
            )
        if config.threads:
            torch.set_num_threads(config.threads)

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""

    @abstractmethod
    def advance(self) -> list[tuple[str, tuple[float, ...]]]:
        """One step of training; of each part that it trained, a name and the `COLUMNS`."""

    def saved(self) -> None:
        """Called by the main process behind every checkpoint."""
        return None

    def check_same(self, path: Path, before: Any, names: Sequence[str]) -> None:
        """TrainingError if a checkpoint's configuration differs from this run's in one of them."""
        for name in names:
            then, now = getattr(before, name), getattr(self.config, name)
            if then != now:
                raise TrainingError(f"{str(path)!r} has {name} {then!r}, the config {now!r}")

    def save(self) -> None:
        """Write the checkpoint; a kill in the middle leaves the old one whole."""
        if self.accelerator.is_main_process:
            with replace_file(self.folder / CHECKPOINT) as file:
                torch.save(self.state(), file)
            self.saved()

    def run(self, until: int | None = None, progress: bool = True) -> None:
        """Train to step ``until`` (the configured end by default), logging and checkpointing."""
        end = min(until or self.config.optimizer.steps, self.config.optimizer.steps)
        window: dict[str, list[tuple[float, ...]]] = {}
        started, first = time.monotonic(), self.step
        main = self.accelerator.is_main_process
        with tqdm(
            total=end, initial=self.step, unit="step", disable=not (progress and main)
        ) as bar:
            while self.step < end:
                for part, row in self.advance():
                    if all(map(math.isfinite, row)):
                        window.setdefault(part, []).append(row)
                bar.update(1)
                if self.step % self.config.log_every == 0 or self.step == end:
                    seconds = (time.monotonic() - started) / (self.step - first)
                    self._log(window, seconds, bar)
                    window = {}
                if self.step % self.config.checkpoint_every == 0 or self.step == end:
                    self.save()

    def _log(
        self, window: Mapping[str, list[tuple[float, ...]]], seconds: float, bar: tqdm
    ) -> None:
        parts = {
            part: {
                name: round(float(mean), decimals)
                for (name, decimals), mean in zip(
                    self.COLUMNS.items(), np.mean(window[part], 0), strict=True
                )
            }
            for part in sorted(window)
        }
        self.write_log(
            {
                "step": self.step,
                "lr_factor": round(learning_rate_factor(self.config.optimizer, self.step), 4),
                "seconds_per_step": round(seconds, 4),
                "widths": parts,
            }
        )
        texts = (f"{part}: " + self.LABEL.format(**values) for part, values in parts.items())
        bar.set_postfix_str("  ".join(texts))

    def write_log(self, record: dict[str, Any]) -> None:
        """One line of the log, by the main process."""
        if self.accelerator.is_main_process:
            with open(self.folder / LOG, "a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
