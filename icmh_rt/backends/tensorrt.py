"""The TensorRT backend: engines for g_a with h_a and for g_s, on a GPU, without torch.

Plans come from ``icmh export tensorrt``, or are built when they are first needed, announced, and
kept (`icmh_rt.backends._tensorrt_plans`). Nothing that a stream's decoding depends on is here: the
hyper-synthesis and the symbols are a `Coding`'s.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from typing import Any

import numpy as np

from icmh_rt.backends import (
    _cuda_runtime,
    _devices,
    _tensorrt_builder,
    _tensorrt_library,
    _tensorrt_plans,
)
from icmh_rt.backends._tensorrt_builder import MAGNITUDE, BuildOptions, ImageSizes
from icmh_rt.backends._tensorrt_engine import Device, PlanRunner
from icmh_rt.backends._tensorrt_library import Library
from icmh_rt.backends._tensorrt_plans import Identity, Plan
from icmh_rt.backends.base import Backend, HostLatents
from icmh_rt.bundle import Bundle, CodecBundle
from icmh_rt.errors import BackendUnavailableError, OptionError
from icmh_rt.images import size_of

LIBRARY = "ICMH_TENSORRT"
"""Environment variable: "tensorrt" or "tensorrt_rtx"; by default the first that is there."""

PRECISIONS = ("fp16", "fp32")
_SIZE_STEP = 1024  # the largest sides of engines for large images are multiples of it

_log = logging.getLogger(__name__)


def create(bundle: Bundle, device: str, dtype: str) -> TensorRTBackend:
    """The entry point that the registry calls. dtype "auto" is fp16."""
    precision = "fp16" if dtype == "auto" else dtype
    if precision not in PRECISIONS:
        raise OptionError(f"dtype {dtype!r} is not for backend tensorrt: use auto, fp16 or fp32")
    library = _tensorrt_library.load(os.environ.get(LIBRARY) or "auto")
    return TensorRTBackend(bundle, library, device_of(device), precision)


def device_of(name: str) -> Device:
    """The GPU of that name: "auto", "cuda" or "cuda:N".

    Raises:
        OptionError: the name is of no GPU.
        BackendUnavailableError: there is no such GPU, or no CUDA.
    """
    wanted = _devices.parse(name)
    if wanted.kind == "cpu":
        raise OptionError("backend tensorrt runs on GPUs only: use device auto, cuda or cuda:N")
    index, count = wanted.index or 0, _cuda_runtime.usable_devices()
    if index >= count:
        raise BackendUnavailableError(f"device {name!r} is not here: CUDA sees {count} device(s)")
    return Device(_cuda_runtime.runtime(), index)


class TensorRTBackend(Backend):
    """Engines on one GPU. `analysis` runs g_a and h_a, so that its time is all of them.

    Half-precision numbers end at 65504, and gates multiply what they see: noise and checkerboards
    at full contrast overflow in the default bundle. Such pictures are computed again in float32, by
    engines that are built when the first of them comes.

    Attributes:
        target: what plans are built for.
    """

    name = "tensorrt"
    # Copies and engine are one launch.
    analysis_covers = ("upload", "g_a", "h_a", "download")
    synthesis_covers = ("upload", "g_s", "download")

    def __init__(self, bundle: Bundle, library: Library, device: Device, precision: str) -> None:
        super().__init__(bundle)
        self.device = f"cuda:{device.index}"
        self._library, self._device, self._precision = library, device, precision
        self.target = _tensorrt_plans.target_here(library, device)
        self._runners: dict[tuple[str, float, str, str], list[tuple[ImageSizes, PlanRunner]]] = {}
        self._lock = threading.Lock()

    # -- encoding ----------------------------------------------------------------------------------

    def analysis(self, image: np.ndarray, width: float, task: str) -> HostLatents:
        latents = self._analyse(image, width, task, self._precision)
        if self._precision != "fp32" and not _finite(latents.y, latents.z):
            latents = self._analyse(image, width, task, "fp32")
        return latents

    def _analyse(self, image: np.ndarray, width: float, task: str, precision: str) -> HostLatents:
        size = size_of(image)
        runner = self._runner("analysis", width, task, precision, size)
        found = runner({"image": image[None]})
        return HostLatents(found["y"][0], found["z"][0])

    # -- decoding ----------------------------------------------------------------------------------

    def synthesis(
        self, y_hat: np.ndarray, width: float, task: str, image_size: tuple[int, int]
    ) -> np.ndarray:
        image, finite = self._synthesise(y_hat, width, task, image_size, self._precision)
        if self._precision != "fp32" and not finite:
            image, _ = self._synthesise(y_hat, width, task, image_size, "fp32")
        return image

    def _synthesise(
        self,
        y_hat: np.ndarray,
        width: float,
        task: str,
        image_size: tuple[int, int],
        precision: str,
    ) -> tuple[np.ndarray, bool]:
        runner = self._runner("synthesis", width, task, precision, image_size)
        inputs: dict[str, Any] = {"y_hat": y_hat[None]}
        for name, side in zip(("height", "width"), image_size, strict=True):
            if name in runner.inputs:  # engines of one size have none
                inputs[name] = np.array(side, np.int64)
        found = runner(inputs)
        return found["image"][0], _finite(found.get(MAGNITUDE, np.zeros(1)))

    def features(
        self, y_hat: np.ndarray, width: float, task: str, image_size: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        head = self.bundle.feature_head(width, task)
        names = [name for name, _ in head.outputs]
        found = self._features(y_hat, width, task, image_size, self._precision)
        if self._precision != "fp32" and not _finite(*found.values()):
            found = self._features(y_hat, width, task, image_size, "fp32")
        return {name: found[name][0] for name in names}

    def _features(
        self,
        y_hat: np.ndarray,
        width: float,
        task: str,
        image_size: tuple[int, int],
        precision: str,
    ) -> dict[str, np.ndarray]:
        runner = self._runner("features", width, task, precision, image_size)
        return runner({"y_hat": y_hat[None]})

    # -- engines -----------------------------------------------------------------------------------

    def _runner(
        self, role: str, width: float, task: str, precision: str, size: tuple[int, int]
    ) -> PlanRunner:
        """The engine for images of that size; found on disk or built."""
        with self._lock:
            runners = self._runners.setdefault((role, width, task, precision), [])
            for sizes, runner in runners:
                if sizes.holds(size):
                    return runner
            identity = self.identity(role, width, task, precision, sizes_for(size))
            plan = _tensorrt_plans.find(identity, [size]) or self._build(identity)
            runner = self._load(plan, identity)
            runners.append((plan.sizes, runner))
            return runner

    def _load(self, plan: Plan, identity: Identity) -> PlanRunner:
        kernels = _tensorrt_plans.kernels_path(_tensorrt_plans.cache_folder(), plan.path)
        return PlanRunner(self._library, self._device, plan.read(), kernels)

    def identity(
        self, role: str, width: float, task: str, precision: str, sizes: ImageSizes
    ) -> Identity:
        """What a plan for this backend is made of."""
        capability = self.target.compute_capability if self._library.builds_for_others else ""
        return Identity(
            bundle=self.bundle.name,
            weights=_tensorrt_plans.weights_of(self.bundle, task, role),
            role=role,
            width=width,
            task=task,
            precision=precision,
            target=self.target,
            options=BuildOptions(sizes=sizes, compute_capability=capability),
        )

    def _build(self, identity: Identity) -> Plan:
        folder = _tensorrt_plans.cache_folder()
        _log.warning(
            "building a TensorRT engine, which takes up to some minutes and is done once: %s; it "
            "is kept in %s (icmh export tensorrt does it beforehand)",
            identity.name,
            folder,
        )
        graph = graph_of(self.bundle, identity)
        with self._device.current():
            built = _tensorrt_builder.build(
                self._library,
                graph,
                identity.options,
                _tensorrt_plans.timing_cache_path(folder, identity.target),
            )
        return _tensorrt_plans.save(folder, identity, built, graph)

    def __repr__(self) -> str:
        return (
            f"TensorRTBackend(device={self.device!r}, dtype={self._precision!r}, "
            f"library='{self._library.name} {self._library.version}')"
        )


def sizes_for(size: tuple[int, int]) -> ImageSizes:
    """The default range of sizes, wider if the image is larger."""
    usual = ImageSizes()
    if usual.holds(size):
        return usual
    height, width = (
        max(limit, -(-side // _SIZE_STEP) * _SIZE_STEP)
        for limit, side in zip(usual.most, size, strict=True)
    )
    return replace(usual, most=(height, width))


def graph_of(bundle: CodecBundle, identity: Identity, **options: Any) -> bytes:
    """The ONNX graph that a plan of this identity is built from, as TensorRT's parser takes it.

    Args:
        options: for ``icmh_rt.graphs.build``.

    Raises:
        BackendUnavailableError: the package onnx is missing.
    """
    from icmh_rt import graphs
    from icmh_rt.backends import _tensorrt_graph

    sizes = identity.options.sizes
    fixed = sizes.most if sizes.least == sizes.most else None
    model = graphs.build(
        bundle,
        identity.role,
        identity.width,
        identity.task,
        size=fixed,
        precision=identity.precision,
        **options,
    )
    if identity.role == "synthesis":
        model = _tensorrt_graph.with_magnitude(model)
    return _tensorrt_graph.for_parser(model)


def _finite(*arrays: np.ndarray) -> bool:
    # A sum is finite only if all that is summed is; one pass and no temporary.
    return all(np.isfinite(array.sum(dtype=np.float64)) for array in arrays)
