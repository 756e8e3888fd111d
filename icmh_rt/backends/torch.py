"""The torch backend: the transforms in PyTorch on a CPU or a GPU, there as CUDA graphs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from icmh_rt.backends import _devices
from icmh_rt.backends._cuda_graphs import CudaMachine, GraphRunner
from icmh_rt.backends.base import Backend, HostLatents, device_lap, lap
from icmh_rt.bitstream import BASE_TASK
from icmh_rt.bundle import Bundle
from icmh_rt.coding import DEFAULT_HYPER_STRIDE, DEFAULT_LATENT_STRIDE
from icmh_rt.errors import BackendUnavailableError, BundleError, OptionError
from icmh_rt.images import size_of
from icmh_rt.kernels._cpu_layers import LayerChain, chains_wanted
from icmh_rt.kernels._parallel import single_threaded_workers
from icmh_rt.kernels.images import image_in, image_out
from icmh_rt.models.adapter_modules import ACTIVE
from icmh_rt.models.adapters import adapters_by_place, attach_trained, use_task
from icmh_rt.models.chains import ChainedTransforms, chained
from icmh_rt.models.feature_head import FeatureHead, module_of
from icmh_rt.models.slimmable_hyperprior import (
    PATCH,
    Analysis,
    HyperAnalysis,
    SlimmableHyperprior,
    SlimmableHyperpriorConfig,
    Synthesis,
)

_MEAN = 0.5  # what g_a's input is shifted by
_PIXELS_TOGETHER = 1 << 20  # from a quarter of it on an image alone is as fast a pixel
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def create(bundle: Bundle, device: str, dtype: str) -> TorchBackend:
    """The entry point that the registry calls. dtype "auto" is fp16 on a GPU; on a CPU it is fp32,
    but for feature heads, which learned in bfloat16 and may multiply in it.
    """
    place = device_of(device)
    auto = torch.float16 if place.type == "cuda" else torch.float32
    return TorchBackend(bundle, place, dtype_of(dtype, auto), dtype == "auto")


def _check_sizes(config: SlimmableHyperpriorConfig, state: dict[str, Tensor]) -> None:
    """OptionError unless ``config`` is about arrays of ``state``'s sizes, before anything of a
    size that only the config claims is allocated.
    """
    with torch.device("meta"):
        parts: dict[str, torch.nn.Module] = {
            "g_a": Analysis(config),
            "h_a": HyperAnalysis(config),
            "g_s": Synthesis(config),
        }
    for part, module in parts.items():
        for key, value in module.state_dict().items():
            name = f"{part}.{key}"
            if name in state and state[name].shape != value.shape:
                raise OptionError(f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}")


def dtype_of(name: str, auto: torch.dtype = torch.float32) -> torch.dtype:
    """One of the registry's names of dtypes; ``auto`` is the one that "auto" means."""
    return auto if name == "auto" else _DTYPES[name]


def device_of(name: str) -> torch.device:
    """The device of that name; OptionError or BackendUnavailableError if there is none."""
    kind, index = _devices.parse(name)
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(kind) if index is None else torch.device(kind, index)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendUnavailableError(
            f"device {name!r} is not here: torch sees {torch.cuda.device_count()} CUDA device(s); "
            "use device='cpu'"
        )
    return device


class ComputesWithTorch(Backend):
    """What backends share whose transforms run in PyTorch, on ``_device``."""

    _device: torch.device

    def workers(self, count: int) -> ThreadPoolExecutor:
        if self._device.type != "cpu":
            return super().workers(count)
        # An image on one core beside another on the next beats both on two: nothing waits.
        return single_threaded_workers(count, "icmh_rt-images")


class TorchBackend(ComputesWithTorch):
    """PyTorch; ``dtype`` is that of the transforms, the border is always float32.

    On a GPU `analysis` runs g_a and h_a and brings both latents, so that its time is all of them,
    and what is repeated often is replayed as a CUDA graph (`graphs`).

    Half-precision numbers end at 65504, and gates multiply what they see: noise and checkerboards
    at full contrast overflow in the default bundle. Such pictures are computed again in float32.

    Attributes:
        graphs: counts calls, recordings and replays, and has the reasons of those that failed; None
            where there are no graphs, on a CPU.
    """

    name = "torch"
    bundle: Bundle

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device,
        dtype: torch.dtype,
        bfloat16_heads: bool = False,
    ) -> None:
        super().__init__(bundle)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        self.device = str(device)
        self._device = device
        self._dtype = dtype
        self._model, self._config = self._load(dtype)
        self._heads = {
            task: module_of(head, bfloat16_heads).to(device=device, dtype=dtype)
            for task, head in bundle.feature_heads.items()
        }
        self._wide_model = self._model if dtype == torch.float32 else None
        self._wide_lock = threading.Lock()
        self.graphs = GraphRunner(CudaMachine(device)) if device.type == "cuda" else None
        self._kept_chains: dict[tuple[int, str], ChainedTransforms | None] = {}
        self._kept_heads: dict[str, LayerChain] = {}

    def _load(self, dtype: torch.dtype) -> tuple[SlimmableHyperprior, SlimmableHyperpriorConfig]:
        """The bundle's transforms, on the device."""
        bundle = self.bundle
        state = {k: torch.from_numpy(v.astype(np.float32)) for k, v in bundle.transforms.items()}
        try:
            config = SlimmableHyperpriorConfig.from_dict(bundle.config)
            _check_sizes(config, state)
            model = SlimmableHyperprior(config)
            missing, unexpected = model.load_state_dict(state, strict=False)
        except (OptionError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise BundleError(f"bundle {bundle.name!r} does not fit its config: {reason}") from None
        # h_s runs as integers and the quality tables are folded: neither is in a bundle.
        lacking = [k for k in missing if not k.startswith(("h_s.", "quality_tables."))]
        if lacking or unexpected:
            raise BundleError(
                f"bundle {bundle.name!r} does not fit its config: lacks {lacking[:3]}, "
                f"has unknown {unexpected[:3]}"
            )
        del model.h_s, model.quality_tables
        for task, trained in bundle.adapters.items():
            try:
                attach_trained(model, task, trained)
            except OptionError as error:
                raise BundleError(f"bundle {bundle.name!r}: {error}") from None
        model = model.to(device=self._device, dtype=dtype, memory_format=torch.channels_last)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # other streams will read them
        return model.eval().requires_grad_(False), config

    def module_of(self, task: str) -> SlimmableHyperprior:
        return self._model

    # -- encoding ----------------------------------------------------------------------------------

    def analysis(self, image: np.ndarray, width: float, task: str) -> Tensor | HostLatents:
        return self.analyses([image], width, task)[0]

    @torch.inference_mode()
    def analyses(
        self, images: Sequence[np.ndarray], width: float, task: str
    ) -> list[Tensor | HostLatents]:
        chains = self._chains(width, task)
        if chains is not None:
            return [*chains.g_a([_contiguous(image) for image in images])]
        if self.graphs is None and self._dtype == torch.float32:
            # Stage by stage, so that each has its time.
            with self._adapted(self._model, task):
                return [self._g_a(torch.from_numpy(i)[None], self._model, width) for i in images]
        return [self._both_latents(image, width, task) for image in images]

    def _both_latents(self, image: np.ndarray, width: float, task: str) -> HostLatents:
        latents = self._analyse(image, width, task, self._model)
        if latents is None:
            latents = self._analyse(image, width, task, self._in_float32())
        return cast(HostLatents, latents)  # in float32 it is not None

    @torch.inference_mode()
    def latent_to_host(self, y: Tensor | HostLatents) -> np.ndarray:
        return y.y if isinstance(y, HostLatents) else _to_tokens(y).float().numpy()

    def hyper_analysis(self, y: Tensor | HostLatents, width: float, task: str) -> np.ndarray:
        return self.hyper_analyses([y], width, task)[0]

    @torch.inference_mode()
    def hyper_analyses(
        self, ys: Sequence[Tensor | HostLatents], width: float, task: str
    ) -> list[np.ndarray]:
        tensors = [y for y in ys if not isinstance(y, HostLatents)]
        chains = self._chains(width, task)
        if chains is None:
            zs = iter([self._h_a(y, self._model, width) for y in tensors])
        else:
            zs = iter(chains.h_a(tensors))
        return [
            y.z if isinstance(y, HostLatents) else _to_tokens(next(zs)).float().numpy() for y in ys
        ]

    def pixels_together(self, width: float, task: str) -> int:
        return 0 if self._chains(width, task) is None else _PIXELS_TOGETHER

    def _chains(self, width: float, task: str) -> ChainedTransforms | None:
        """The transforms in a few native calls where that is to be had: on a CPU, in float32, where
        no `use_task` block chooses adapters that only the model's hooks know.
        """
        if ACTIVE.get() or not self._chained():
            return None
        key = self._config.width_index(width), task if task in self.bundle.adapters else BASE_TASK
        if key not in self._kept_chains:
            adapters = {} if key[1] == BASE_TASK else adapters_by_place(self._model, task)
            self._kept_chains[key] = chained(self._model, key[0], _MEAN, adapters)
        return self._kept_chains[key]

    def _chained(self) -> bool:
        return self.graphs is None and self._dtype == torch.float32 and chains_wanted()

    def _analyse(
        self, image: np.ndarray, width: float, task: str, model: SlimmableHyperprior
    ) -> HostLatents | None:
        """g_a and h_a in one pass; None if a value is not finite and float32 may help."""
        index = self._config.width_index(width)
        shape_y, shape_z = self._latent_shapes(size_of(image), index)
        size_y, size_z = (h * w * c for h, w, c in (shape_y, shape_z))
        mark = lap if self.graphs is None else device_lap

        def body(pixels: Tensor) -> Tensor:
            with self._adapted(model, task):
                y = self._g_a(pixels[None], model, width)
            mark("g_a")
            z = self._h_a(y, model, width)
            mark("h_a")
            # Both and the largest magnitude, in one piece of memory for one copy.
            both = torch.empty(size_y + size_z + 1, device=y.device)
            both[:size_y].view(shape_y).copy_(_to_tokens(y))
            both[size_y:-1].view(shape_z).copy_(_to_tokens(z))
            torch.linalg.vector_norm(both[:-1], float("inf"), dtype=both.dtype, out=both[-1])
            return both

        key = (image.shape[:2], index, task) if model is self._model else None
        both = self._run("encode", image, key, body)
        lap("download")
        if not np.isfinite(both[-1]) and model is not self._wide_model:
            return None
        return HostLatents(both[:size_y].reshape(shape_y), both[size_y:-1].reshape(shape_z))

    def _latent_shapes(
        self, image_size: tuple[int, int], index: int
    ) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Of y and of z."""
        height, columns = (-(-side // DEFAULT_LATENT_STRIDE) for side in image_size)
        rows, places = (-(-side // DEFAULT_HYPER_STRIDE) for side in (height, columns))
        channels = self._config.latent_channels[index], self._config.hyper_latent_channels[index]
        return (height, columns, channels[0]), (rows, places, channels[1])

    def _g_a(self, image: Tensor, model: SlimmableHyperprior, width: float) -> Tensor:
        """uint8 ``(1, H, W, 3)`` -> y; beyond the image's border, what lies on it."""
        size = [
            -(-side // DEFAULT_LATENT_STRIDE) * DEFAULT_LATENT_STRIDE for side in image.shape[1:3]
        ]
        dtype = model.g_a.stem.weight.dtype
        patches = image_in(image, 0, 0, *size, True, PATCH, _MEAN, dtype, True)
        return model.g_a.from_patches(patches, self._config.width_index(width))

    def _h_a(self, y: Tensor, model: SlimmableHyperprior, width: float) -> Tensor:
        pad = (0, -y.shape[3] % DEFAULT_HYPER_STRIDE, 0, -y.shape[2] % DEFAULT_HYPER_STRIDE)
        y = F.pad(y, pad, mode="replicate") if any(pad) else y
        return model.h_a(y, self._config.width_index(width))

    # -- decoding ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def synthesis(
        self, y_hat: np.ndarray, width: float, task: str, image_size: tuple[int, int]
    ) -> np.ndarray:
        chains = self._chains(width, task)
        if chains is not None:
            return chains.g_s.pictures([_to_map(y_hat)], [image_size])[0].numpy()
        image = self._synthesise(y_hat, width, task, image_size, self._model)
        if image is None:
            image = self._synthesise(y_hat, width, task, image_size, self._in_float32())
        return cast(np.ndarray, image)  # in float32 it is not None

    def _synthesise(
        self,
        y_hat: np.ndarray,
        width: float,
        task: str,
        image_size: tuple[int, int],
        model: SlimmableHyperprior,
    ) -> np.ndarray | None:
        """g_s; None if a value is not finite and float32 may help."""
        index = self._config.width_index(width)
        height, columns = image_size
        size = height * columns * 3
        checked = model is not self._wide_model
        dtype = model.g_s.head.weight.dtype

        def body(latent: Tensor) -> Tensor:
            with self._adapted(model, task):
                x = model.g_s.to_patches(latent.permute(2, 0, 1)[None].to(dtype), index)
            pixels = image_out(x, 0, 0, height, columns, PATCH, _MEAN).view(-1)
            if not checked:
                return pixels
            # The picture and whether it is one, in one piece of memory for one copy.
            finite = torch.isfinite(torch.linalg.vector_norm(x, float("inf")))
            return torch.cat((pixels, finite.view(1).to(torch.uint8)))

        key = (y_hat.shape, image_size, index, task) if model is self._model else None
        whole = self._run("decode", y_hat, key, body)
        if checked and not whole[size]:
            return None
        return whole[:size].reshape(height, columns, 3)

    @torch.inference_mode()
    def features(
        self, y_hat: np.ndarray, width: float, task: str, image_size: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        head = self.bundle.feature_head(width, task)
        chain = self._head_chain(task)
        if chain is not None:
            return head.split(chain([_to_map(y_hat)])[0][0].contiguous().numpy())
        found = self._features(y_hat, task, self._heads[task])
        if self._dtype != torch.float32 and not np.isfinite(found).all():
            found = self._features(y_hat, task, module_of(head).to(self._device))
        return head.split(found)

    def _features(self, y_hat: np.ndarray, task: str, head: FeatureHead) -> np.ndarray:
        """``(C, h, w)`` of all features."""
        dtype = head.stem.weight.dtype

        def body(latent: Tensor) -> Tensor:
            return head(latent.permute(2, 0, 1)[None].to(dtype))[0].float().contiguous()

        key = (y_hat.shape, task) if head is self._heads[task] else None
        return self._run("features", y_hat, key, body)

    def _head_chain(self, task: str) -> LayerChain | None:
        """The task's feature head in one call, as `_chains`."""
        if not self._chained() or task not in self._heads:
            return None
        if task not in self._kept_heads:
            self._kept_heads[task] = self._heads[task].chain()
        return self._kept_heads[task]

    # -- both --------------------------------------------------------------------------------------

    def _run(
        self,
        role: str,
        array: np.ndarray,
        key: tuple | None,
        body: Callable[[Tensor], Tensor],
    ) -> np.ndarray:
        """``body(array)``; on a GPU as a graph if ``key`` comes often. None for what comes rarely
        and whose graph would be used once: what float32 is needed for.
        """
        if self.graphs is None:
            return body(torch.from_numpy(array)).numpy()
        # Graphs hold kernels: those that were asked for when they were recorded.
        kernels = os.environ.get("ICMH_KERNELS")
        return self.graphs(None if key is None else (role, *key, kernels), body, array)

    def _adapted(self, model: SlimmableHyperprior, task: str) -> AbstractContextManager[None]:
        """With the adapters of a task that has some."""
        return use_task(model, task) if task in self.bundle.adapters else nullcontext()

    def _in_float32(self) -> SlimmableHyperprior:
        with self._wide_lock:
            if self._wide_model is None:
                self._wide_model, _ = self._load(torch.float32)
            return self._wide_model

    def __repr__(self) -> str:
        return f"TorchBackend(device={self.device!r}, dtype={self._dtype})"


def _contiguous(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _to_map(y: np.ndarray) -> Tensor:
    """``(h, w, C)`` -> ``(1, C, h, w)``, channels-last."""
    return _contiguous(y).permute(2, 0, 1)[None]


def _to_tokens(x: Tensor) -> Tensor:
    """``(1, C, h, w)`` -> ``(h, w, C)``."""
    return x[0].permute(1, 2, 0)
