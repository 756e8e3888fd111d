"""Names of the backends and how to make them; nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from dataclasses import dataclass

from icmh_rt.backends.base import Backend
from icmh_rt.bundle import CodecBundle
from icmh_rt.errors import BackendUnavailableError, OptionError
from icmh_rt.published import PublishedBundle

DTYPES = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class _Entry:
    """A backend: its module (which has ``create(bundle, device, dtype)``), what it needs, its
    extra, and its module for converted checkpoints, None if it cannot run them.
    """

    module: str
    requires: tuple[str, ...]
    extra: str
    published: str | None = None

    def missing(self) -> list[str]:
        return [name for name in self.requires if importlib.util.find_spec(name) is None]


# In the order in which "auto" tries them: the fastest first.
_BACKENDS = {
    "torch": _Entry(
        "icmh_rt.backends.torch",
        ("torch", "safetensors"),
        "torch",
        published="icmh_rt.backends.published",
    ),
}

_lock = threading.Lock()
_instances: dict[tuple[str, str, str, str], Backend] = {}
_MAX_INSTANCES = 8


def available() -> dict[str, str | None]:
    """Every backend's name, with None where it can be used and the reason where it cannot."""
    reasons: dict[str, str | None] = {}
    for name, entry in _BACKENDS.items():
        missing = entry.missing()
        reasons[name] = (
            f"{', '.join(missing)} not installed: pip install 'icmh-rt[{entry.extra}]'"
            if missing
            else None
        )
    return reasons


def create(
    bundle: CodecBundle, backend: str = "auto", device: str = "auto", dtype: str = "auto"
) -> Backend:
    """The backend for ``bundle``; equal arguments share one object.

    Args:
        backend: a name of `available`, or "auto": the first that can be used.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: what the transforms compute in: "fp32", "bf16", "fp16" or "auto", which is fp16 on a
            GPU and else fp32, as it is for converted checkpoints anywhere. It changes pictures in
            the last bits and never whether a stream decodes.

    Raises:
        OptionError: an unknown name.
        BackendUnavailableError: it cannot be used here; says why.
    """
    if backend != "auto" and backend not in _BACKENDS:
        raise OptionError(f"backend {backend!r} is unknown: use auto or {', '.join(_BACKENDS)}")
    if dtype not in DTYPES:
        raise OptionError(f"dtype {dtype!r} is unknown: use one of {', '.join(DTYPES)}")
    modules = {name: _module(entry, bundle) for name, entry in _BACKENDS.items()}
    if backend != "auto" and modules[backend] is None:
        able = ", ".join(name for name, module in modules.items() if module is not None)
        raise BackendUnavailableError(
            f"backend {backend!r} does not run converted checkpoints, and bundle {bundle.name!r} "
            f"is one: use {able}"
        )
    reasons = {name: reason for name, reason in available().items() if modules[name] is not None}
    if backend == "auto":
        usable = [name for name, reason in reasons.items() if reason is None]
        if not usable:
            causes = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise BackendUnavailableError(f"no backend can be used here ({causes})")
        backend = usable[0]
    elif reasons[backend] is not None:
        raise BackendUnavailableError(f"backend {backend!r} cannot be used: {reasons[backend]}")
    key = (bundle.fingerprint or str(id(bundle)), backend, str(device), dtype)
    with _lock:
        if key not in _instances:
            module = importlib.import_module(modules[backend])
            while len(_instances) >= _MAX_INSTANCES:
                _instances.pop(next(iter(_instances)))
            _instances[key] = module.create(bundle, device, dtype)
        return _instances[key]


def _module(entry: _Entry, bundle: CodecBundle) -> str | None:
    return entry.published if isinstance(bundle, PublishedBundle) else entry.module
