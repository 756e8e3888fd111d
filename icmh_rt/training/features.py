"""Trainer of feature heads: ``icmh train features --config FILE``.

Codec and vision network stay what they are; the head learns to give, from the latents that streams
of one task and width hold, the features that the network would have made of the original picture,
and what it would have said in the end. No labels are needed. Randomness is a function of (seed,
step, process), so a run that was killed and resumed ends where an unbroken one would.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from icmh_rt.backends.torch import create as torch_backend
from icmh_rt.bundle import Bundle, CodecBundle, load
from icmh_rt.errors import BundleError, TrainingError
from icmh_rt.feature_files import TrainedFeatureHead, save_feature_head
from icmh_rt.models.feature_head import FeatureHead
from icmh_rt.tasks.datasets import open_dataset
from icmh_rt.tasks.network import TaskNetwork
from icmh_rt.tasks.registry import create
from icmh_rt.training.crops import Views
from icmh_rt.training.data import step_rng
from icmh_rt.training.feature_config import FeatureConfig, from_dict
from icmh_rt.training.feature_pairs import Pairs, features_of, make_pairs
from icmh_rt.training.run import (
    TrainingRun,
    learning_rate_factor,
    load_state,
    update_average,
)

HEAD = "features.safetensors"
_LATENT_DEVIATIONS = 4.0
_LEAST_SCALE = 0.3  # of the mean of all channels' deviations
_STATISTICS = 256  # pairs that the head's first and last layer are scaled by


@dataclass(frozen=True)
class Units:
    """What is one for the head while it learns, each ``(C,)``: latents are divided by ``latents``,
    and features are ``offset`` and so many times ``scale``. Steps are of one size for all weights,
    so what weights meet must be too. Latents have long tails and a head clips: their unit is some
    deviations.
    """

    latents: Tensor
    scale: Tensor
    offset: Tensor

    @classmethod
    def of(cls, pairs: Pairs) -> Units:
        """By the first pairs. Channels that are all but dead, as many are behind a ReLU and at low
        quality, must not count by what they lack.
        """
        some = slice(_STATISTICS)
        features = pairs.features[some].float()
        return cls(
            _LATENT_DEVIATIONS * _not_least(pairs.latents[some].float().std((0, 1, 2))),
            _not_least(features.std((0, 2, 3))),
            features.mean((0, 2, 3)),
        )

    def to(self, device: torch.device) -> Units:
        return Units(self.latents.to(device), self.scale.to(device), self.offset.to(device))

    def folded(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A head's weights for latents and features as they are."""
        weights = dict(weights)
        weights["stem.weight"] = weights["stem.weight"] / self.latents
        weights["out.weight"] = weights["out.weight"] * self.scale[:, None]
        weights["out.bias"] = weights["out.bias"] * self.scale + self.offset
        return weights


def _not_least(deviations: Tensor) -> Tensor:
    return deviations.clamp(min=_LEAST_SCALE * float(deviations.mean()) + 1e-6)


class FeatureDistance(nn.Module):
    """Runs head and remainder: ``(features' distance, outputs' distance)``, each ``()``.

    Args:
        head: what learns, in ``units``.
        network: whose features it gives.
        dtype: what the head computes in, None for float32.
    """

    def __init__(
        self, head: FeatureHead, network: TaskNetwork, units: Units, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.head, self.units, self.dtype = head, units, dtype
        # In a list: what does not learn is nobody's parameter.
        self._network, self._rest = [network], [network.remainder()]

    def forward(self, latents: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        units = self.units
        with torch.autocast(latents.device.type, self.dtype, enabled=self.dtype is not None):
            found = self.head(latents / units.latents[:, None, None])
        scale, offset = units.scale[:, None, None], units.offset[:, None, None]
        found = found.float()
        distance = (found - (features - offset) / scale).square().mean()
        found = found * scale + offset
        (rest,) = self._rest
        if rest is None:
            return distance, distance.new_zeros(())
        with torch.no_grad():
            original = rest(self.head.split(features))
        output = rest(self.head.split(found))
        return distance, self._network[0].output_distance(original, output)


class FeatureTrainer(TrainingRun):
    """One training run; :meth:`run` trains to the configured step and leaves a checkpoint and the
    head, in half precision.

    Args:
        config: what to do.
        resume: go on from the output folder's checkpoint.
        bundle: instead of the one that the config names.
        network: instead of the one that the config describes.
    """

    COLUMNS: ClassVar = {"features": 5, "outputs": 5}
    LABEL = "features {features:.4f} outputs {outputs:.4f}"

    def __init__(
        self,
        config: FeatureConfig,
        resume: bool = False,
        bundle: CodecBundle | None = None,
        network: TaskNetwork | None = None,
    ) -> None:
        super().__init__(config, resume)
        bundle = load(config.bundle) if bundle is None else bundle
        if not isinstance(bundle, Bundle):
            raise BundleError(
                f"bundle {bundle.name!r} is a converted checkpoint: feature heads are for the "
                "default architecture"
            )
        self.task, (self.width, _) = bundle.task(config.task), bundle.width(config.width)
        self.latents = bundle.fingerprint_of(config.task)
        self.accelerator = Accelerator()
        self.rank, device = self.accelerator.process_index, self.accelerator.device
        network = create(config.network) if network is None else network
        self.network = network.to(device)
        self.size = self._size()
        self.pairs = self._pairs(bundle)
        self.units = Units.of(self.pairs).to(device)
        head = self._head()
        self.outputs = head.outputs
        dtype = torch.bfloat16 if config.precision == "bf16" else None
        objective = FeatureDistance(head, self.network, self.units, dtype)
        optimizer = torch.optim.Adam(head.parameters(), lr=config.optimizer.lr, betas=(0.9, 0.98))
        self.head = head
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.average = {k: v.detach().clone() for k, v in head.named_parameters()}
        self.step = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume:
            self.load(self.checkpoint)

    # -- before the first step ---------------------------------------------------------------------

    def _size(self) -> tuple[int, int]:
        given = tuple(self.config.size) or None
        own = self.network.size
        if own and given and tuple(own) != given:
            raise TrainingError(f"size is {given}, the network takes {tuple(own)}: leave size out")
        size = own or given
        if not size:
            raise TrainingError("size is empty and the network takes any: give height and width")
        return int(size[0]), int(size[1])

    def _pairs(self, bundle: Bundle) -> Pairs:
        data, device = self.config.data, self.accelerator.device
        dataset = open_dataset(data.layout, data.folder, data.annotations, data.split)
        return make_pairs(
            torch_backend(bundle, str(device), "auto"),
            self.network,
            Views(dataset.paths, self.size, data.part, data.aspect, data.in_memory),
            data.pool,
            self.config.qualities,
            (self.width, self.task),
            (self.config.seed, self.rank),
            self.accelerator.is_main_process,
            lambda pictures: pictures.to(device),
        )

    def _head(self) -> FeatureHead:
        """The head at its start, which gives little more than the features' means."""
        device = self.accelerator.device
        sample = torch.zeros((1, 3, *self.size), device=device)
        outputs = [(k, v.shape[1]) for k, v in features_of(self.network, sample).items()]
        torch.manual_seed(self.config.seed)
        head = FeatureHead(
            self.pairs.latents.shape[-1], self.config.channels, self.config.blocks, outputs
        )
        with torch.no_grad():
            head.out.weight *= 0.1
        return head.to(device, memory_format=torch.channels_last)

    # -- state -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "config": json.dumps(self.config.to_dict()),
            "latents": self.latents,
            "step": self.step,
            "head": self.head.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }

    def saved(self) -> None:
        save_feature_head(self.folder / HEAD, self.task, self.trained())

    def trained(self) -> TrainedFeatureHead:
        """The averaged head in half precision."""
        return TrainedFeatureHead(
            {k: v.half().cpu().numpy() for k, v in self.units.folded(self.average).items()},
            self.width,
            self.config.channels,
            self.config.blocks,
            self.outputs,
            self.size,
            self.latents,
        )

    def load(self, path: Path) -> None:
        keys = ("latents", "head", "average")
        state = load_state(path, "a feature head's", keys, from_dict)
        self.check_same(path, state["config"], ("task", "width", "channels", "blocks"))
        if state["latents"] != self.latents:
            raise TrainingError(
                f"{str(path)!r} was trained on latents of {state['latents']}, the bundle's are of "
                f"{self.latents}"
            )
        try:
            self.head.load_state_dict(state["head"])
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise TrainingError(f"{str(path)!r} is of another network: {reason}") from None
        for name, average in self.average.items():  # in place: the file is on the CPU
            average.copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    # -- training ----------------------------------------------------------------------------------

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Latents ``(N, M, h, w)`` and features of ``step`` on this process."""
        rng = step_rng(self.config.seed, step + 1, self.rank)
        count = self.config.data.batch
        chosen = torch.from_numpy(rng.choice(len(self.pairs), count, replace=False))
        device = self.accelerator.device
        latents = self.pairs.latents[chosen].to(device).float().permute(0, 3, 1, 2)
        return latents, self.pairs.features[chosen].to(device).float()

    def advance(self) -> list[tuple[str, tuple[float, ...]]]:
        limits = self.config.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = limits.lr * learning_rate_factor(limits, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        features, outputs = self.objective(*self.batch(self.step))
        loss = self.config.feature_weight * features + outputs
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.head.parameters(), limits.clip_norm)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"loss is {loss.item()} at step {self.step}; lower the learning rate"
            )
        self.optimizer.step()
        self.step += 1
        update_average(
            self.average, dict(self.head.named_parameters()), self.step, limits.ema_decay
        )
        return [(str(self.width), (features.item(), outputs.item()))]
