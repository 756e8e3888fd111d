"""Whether a backend can run here, and if not, why: one cause, in the order in which to mend them.

Each function takes a place, "cpu" or "cuda", and returns None or the reason. They look for packages
without importing them, and import what they must (torch, to see whether it has CUDA) only where the
answer depends on it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

from icmh_rt.backends import _devices
from icmh_rt.bundle import CodecBundle
from icmh_rt.errors import IcmhError

PROVIDERS_VARIABLE = "ICMH_ONNXRUNTIME_PROVIDERS"

Presence = Callable[[str], "str | None"]


def lacks(packages: Sequence[str], extra: str) -> str | None:
    """Which of ``packages`` are not installed, and how to install them; None if all are."""
    absent = [name for name in packages if not installed(name)]
    if not absent:
        return None
    return f"{', '.join(absent)} not installed: pip install 'icmh-rt[{extra}]'"


def installed(package: str) -> bool:
    """Whether an import would find it; whether it loads is another question."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # blocked, or half there
        return False


def torch(place: str) -> str | None:
    """PyTorch, on a GPU if it is built for one and sees it."""
    reason = lacks(("torch", "safetensors"), "torch")
    if reason is not None or place == "cpu":
        return reason
    if not _devices.cuda_devices():
        return _no_gpu()
    module, reason = _import("torch")
    if reason is not None or module.cuda.is_available():
        return reason
    if module.version.cuda is None:
        return f"torch {module.__version__} is built without CUDA"
    return f"torch {module.__version__} (CUDA {module.version.cuda}) cannot use this GPU's driver"


def onnxruntime(place: str) -> str | None:
    """onnxruntime, on a GPU if it is built with a provider for one, whose libraries are there."""
    reason = lacks(("onnxruntime", "onnx", "safetensors"), "onnx")
    if reason is not None or place == "cpu":
        return reason
    if not _devices.cuda_devices():
        return _no_gpu()
    module, reason = _import("onnxruntime")
    if reason is not None:
        return reason
    if "CUDAExecutionProvider" in module.get_available_providers():
        from icmh_rt.backends._onnxruntime_providers import loading_problem

        return loading_problem("CUDAExecutionProvider")
    return (
        f"onnxruntime {module.__version__} has no CUDA provider: "
        "pip uninstall onnxruntime && pip install onnxruntime-gpu"
    )


def tensorrt(place: str) -> str | None:
    """TensorRT or TensorRT-RTX, on a GPU."""
    if place == "cpu":
        return "TensorRT runs on GPUs only"
    from icmh_rt.backends import _tensorrt_library as library

    asked_for = os.environ.get("ICMH_TENSORRT", "")
    reason = library.missing(asked_for if asked_for in library.LIBRARIES else "auto")
    return (
        reason
        or lacks(("safetensors",), "onnx")
        or (None if _devices.cuda_devices() else _no_gpu())
    )


def no_plans(bundle: CodecBundle) -> str | None:
    """Why "auto" leaves TensorRT although it could run: there is no plan of the bundle for this
    kind of GPU, and making one takes minutes.
    """
    from icmh_rt.backends import _cuda_runtime, _tensorrt_plans

    try:
        major, minor = _cuda_runtime.runtime().compute_capability(0)
        weights = _tensorrt_plans.weights_of(bundle)[:8]
        pattern = f"*-{weights}_*sm{major}{minor}_*{_tensorrt_plans.SUFFIX}"
        if any(True for folder in _tensorrt_plans.folders() for _ in folder.glob(pattern)):
            return None
    except IcmhError as error:
        return str(error)
    return (
        f"there are no plans of bundle {bundle.name!r} for compute capability {major}.{minor} yet: "
        "icmh export tensorrt, or backend='tensorrt', makes them"
    )


def requested_providers() -> list[str]:
    """The names in ICMH_ONNXRUNTIME_PROVIDERS, in order; none if it is not set."""
    value = os.environ.get(PROVIDERS_VARIABLE, "")
    return [name.strip() for name in value.split(",") if name.strip()]


def _no_gpu() -> str:
    problem = _devices.driver().problem
    return f"this machine has no CUDA device{f': {problem}' if problem else ''}"


def _import(package: str) -> tuple[Any, str | None]:
    try:
        return importlib.import_module(package), None
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        return None, f"{package} is installed and does not load: {reason} (see `icmh doctor`)"
