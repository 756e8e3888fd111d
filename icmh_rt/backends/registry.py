"""Names of the backends, which of them "auto" takes and why; none is imported before it is used."""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import cast

from icmh_rt.backends import _devices, presence
from icmh_rt.backends.base import Backend
from icmh_rt.bundle import CodecBundle
from icmh_rt.errors import BackendUnavailableError, OptionError
from icmh_rt.published import PublishedBundle

DTYPES = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class _Entry:
    """A backend.

    module: has ``create(bundle, device, dtype)`` · presence: whether it can run at a place ·
    published: its module for converted checkpoints, None if it cannot run them · obstacle: why
    "auto" leaves it although it could run, or None.
    """

    module: str
    presence: presence.Presence
    published: str | None = None
    obstacle: Callable[[CodecBundle], str | None] | None = None


_BACKENDS = {
    "torch": _Entry("icmh_rt.backends.torch", presence.torch, "icmh_rt.backends.published"),
    "onnxruntime": _Entry("icmh_rt.backends.onnxruntime", presence.onnxruntime),
    "tensorrt": _Entry("icmh_rt.backends.tensorrt", presence.tensorrt, obstacle=presence.no_plans),
}

# The order in which "auto" tries them: the fastest first (benchmarks/onnxruntime_encode.py).
_FASTEST_FIRST = {
    "cuda": ("tensorrt", "torch", "onnxruntime"),
    "cpu": ("torch", "onnxruntime"),
}


@dataclass(frozen=True)
class Choice:
    """A backend and why it was taken.

    backend: its name · place: "cpu" or "cuda" · reason: in words · passed_over: what "auto" would
    have taken before it, each with what keeps it from running.
    """

    backend: str
    place: str
    reason: str
    passed_over: dict[str, str] = field(default_factory=dict)


_lock = threading.Lock()
_instances: dict[tuple[tuple[str, ...], str, str, str], Backend] = {}
_broken: dict[str, str] = {}  # backends that are installed and did not load, with the reason
_MAX_INSTANCES = 8


def available() -> dict[str, str | None]:
    """Every backend's name, with None where it can be used and the reason where it cannot."""
    return {name: _obstacle(name, _usual_place(name)) for name in _BACKENDS}


def choose(bundle: CodecBundle, backend: str = "auto", device: str = "auto") -> Choice:
    """Which backend `create` takes for these arguments, and why. Loads none of them.

    Raises:
        OptionError: an unknown name.
        BackendUnavailableError: none can be used here; says why.
    """
    wanted = _check(bundle, backend, device)
    passed_over: dict[str, str] = {}
    for name, place in _candidates(bundle, backend, wanted):
        obstacle = _obstacle(name, place, bundle if backend == "auto" else None)
        if obstacle is None:
            if backend != "auto" and device == "auto" and place == "cpu":
                passed_over = _gpu_passed_over(name)
            return Choice(name, place, _reason(backend, name, place, passed_over), passed_over)
        passed_over[f"{name} on {place}"] = obstacle
    if backend != "auto":
        raise BackendUnavailableError(f"backend {backend!r} cannot be used: {obstacle}")
    causes = "; ".join(f"{name}: {reason}" for name, reason in passed_over.items())
    raise BackendUnavailableError(f"no backend can be used here ({causes})")


def create(
    bundle: CodecBundle, backend: str = "auto", device: str = "auto", dtype: str = "auto"
) -> Backend:
    """The backend for ``bundle``; equal arguments share one object.

    Args:
        backend: a name of `available`, or "auto": the fastest that can be used (`choose`). One
            that is installed and does not load is passed over with a RuntimeWarning.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: what the transforms compute in: "fp32", "bf16", "fp16" or "auto", which the backend
            decides: torch fp16 on a GPU and fp32 elsewhere, and for converted checkpoints anywhere.
            It changes pictures in the last bits and never whether a stream decodes.

    Raises:
        OptionError: an unknown name.
        BackendUnavailableError: it cannot be used here; says why.
    """
    if dtype not in DTYPES:
        raise OptionError(f"dtype {dtype!r} is unknown: use one of {', '.join(DTYPES)}")
    while True:
        name = choose(bundle, backend, device).backend
        path = cast(str, _module(name, bundle))  # `choose` gives none that has no module
        module = _load(path, name, warn=backend == "auto")
        if module is not None:
            return _instance(module, bundle, name, device, dtype)


def _load(path: str, name: str, warn: bool) -> ModuleType | None:
    """A backend's module; None if it does not load, and from now on `choose` passes it over."""
    try:
        return importlib.import_module(path)
    except (ImportError, OSError) as error:
        cause = " ".join(str(error).split())[:200]
        _broken[name] = f"it is installed and does not load ({cause}): run `icmh doctor`"
        if warn:
            message = f"backend {name!r} is passed over: {_broken[name]}"
            warnings.warn(message, RuntimeWarning, stacklevel=4)
        return None


def _check(bundle: CodecBundle, backend: str, device: str) -> _devices.Device:
    """The device, if these arguments can mean anything here."""
    if backend != "auto" and backend not in _BACKENDS:
        raise OptionError(f"backend {backend!r} is unknown: use auto or {', '.join(_BACKENDS)}")
    wanted = _devices.parse(device)
    if backend != "auto" and _module(backend, bundle) is None:
        able = ", ".join(name for name in _BACKENDS if _module(name, bundle) is not None)
        raise BackendUnavailableError(
            f"backend {backend!r} does not run converted checkpoints, and bundle {bundle.name!r} "
            f"is one: use {able}"
        )
    missing = _devices.missing(wanted)
    # torch knows GPUs that NVIDIA's driver does not, and says itself if it has none.
    if missing is not None and backend != "torch":
        raise BackendUnavailableError(missing)
    return wanted


def _candidates(
    bundle: CodecBundle, backend: str, wanted: _devices.Device
) -> list[tuple[str, str]]:
    """(backend, place) in the order in which they are tried; at least one."""
    if backend != "auto":
        place = wanted.kind if wanted.kind != "auto" else _usual_place(backend)
        return [(backend, place)]
    places = [wanted.kind]
    if wanted.kind == "auto":
        places = ["cuda", "cpu"] if _devices.cuda_devices() else ["cpu"]
    return [
        (name, place)
        for place in places
        for name in _FASTEST_FIRST[place]
        if _module(name, bundle) is not None
    ]


def _usual_place(name: str) -> str:
    """Where a backend runs that was asked for by name, with device "auto"."""
    entry = _BACKENDS[name]
    on_gpu = name not in _FASTEST_FIRST["cpu"] or (
        name != "torch" and _devices.cuda_devices() and entry.presence("cuda") is None
    )
    return "cuda" if on_gpu else "cpu"


def _obstacle(name: str, place: str, bundle: CodecBundle | None = None) -> str | None:
    """Why a backend cannot be used at a place; with ``bundle``, why "auto" does not take it."""
    entry = _BACKENDS[name]
    # Of torch's devices torch.device_of speaks, unless "auto" has to know before it is loaded.
    place = "cpu" if name == "torch" and bundle is None else place
    reason = _broken.get(name) or entry.presence(place)
    if reason is None and bundle is not None and entry.obstacle is not None:
        reason = entry.obstacle(bundle)
    return reason


def _gpu_passed_over(name: str) -> dict[str, str]:
    """Why a backend that was asked for by name is not on the GPU that is here."""
    if name == "torch" or not _devices.cuda_devices():  # torch decides for itself
        return {}
    reason = _BACKENDS[name].presence("cuda")
    return {} if reason is None else {f"{name} on cuda": reason}


def _reason(backend: str, name: str, place: str, passed_over: dict[str, str]) -> str:
    if not passed_over:
        why = "the fastest there is here" if backend == "auto" else "asked for by name"
        return f"{name} on {place}: {why}"
    causes = "; ".join(f"{other} would come first, but {why}" for other, why in passed_over.items())
    return f"{name} on {place}: {causes}"


def _instance(
    module: ModuleType, bundle: CodecBundle, name: str, device: str, dtype: str
) -> Backend:
    key = (bundle.weights_identity or (str(id(bundle)),), name, device, dtype)
    with _lock:
        if key not in _instances:
            while len(_instances) >= _MAX_INSTANCES:
                _instances.pop(next(iter(_instances)))
            _instances[key] = module.create(bundle, device, dtype)
        return _instances[key]


def _module(name: str, bundle: CodecBundle) -> str | None:
    entry = _BACKENDS[name]
    return entry.published if isinstance(bundle, PublishedBundle) else entry.module
