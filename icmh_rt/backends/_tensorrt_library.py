"""Finding TensorRT: `tensorrt` for datacenter GPUs and Jetson, or `tensorrt_rtx`, whose Python
interface is nearly the same and which builds engines on machines without a GPU.

What differs is asked of the module itself, never of a version number.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib
import importlib.util
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

from icmh_rt.errors import BackendUnavailableError, OptionError

LIBRARIES = ("tensorrt", "tensorrt_rtx")
"""In the order in which "auto" tries them."""

RTX_FOLDER = "ICMH_TENSORRT_RTX_LIBS"
"""Environment variable: the folder of libtensorrt_rtx.so, if the loader does not find it."""

_MODULES = {
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx-cu13-bindings"}
# The registry's wheel of ONNX Runtime's provider carries the libraries that the bindings lack.
_RTX_WHEEL = "onnxruntime_ep_nv_tensorrt_rtx"
_RTX_FILES = ("libcudart.so*", "libtensorrt_rtx.so*", "libtensorrt_onnxparser_rtx.so*")


@dataclass(frozen=True, eq=False)
class Library:
    """One of `LIBRARIES`, imported.

    name: which · api: its module · version: "10.3.0".
    """

    name: str
    api: ModuleType
    version: str
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def label(self) -> str:
        """For file names: ``trt10.3.0``, ``rtx1.7.1.116``."""
        return f"{'rtx' if self.name == 'tensorrt_rtx' else 'trt'}{self.version}"

    @property
    def builds_for_others(self) -> bool:
        """Whether it builds engines for GPUs that are not here."""
        return hasattr(self.api, "ComputeCapability")

    @cached_property
    def log(self) -> Any:
        """The one logger of the process: TensorRT keeps the first that it is given."""
        return _make_log(self.api)

    def start(self, name: str) -> Any:
        """A new "Builder" or "Runtime", inside of `collected`.

        Raises:
            BackendUnavailableError: there is none without a GPU, or with this driver.
        """
        try:
            return getattr(self.api, name)(self.log)
        except TypeError as error:  # what the bindings make of a null pointer
            reason = "; ".join(self.log.messages) or f"{error}; is there a GPU, and its driver?"
            raise BackendUnavailableError(
                f"{self.name} {self.version} could not start its {name.lower()}: {reason[:600]}"
            ) from None

    @contextlib.contextmanager
    def collected(self) -> Iterator[list[str]]:
        """Warnings and errors that TensorRT gives meanwhile, of one thread at a time."""
        with self._lock:
            messages: list[str] = []
            self.log.messages = messages
            yield messages


def _make_log(api: ModuleType) -> Any:
    class Log(api.ILogger):  # type: ignore[name-defined]
        """Keeps what matters and prints nothing."""

        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(api.ILogger.Severity.WARNING):
                level = str(severity).rsplit(".", 1)[-1].lower().replace("_", " ")
                self.messages.append(f"{level}: {' '.join(message.split())}")

    return Log()


_loaded: dict[str, Library] = {}
_failures: dict[str, str] = {}
_loading = threading.Lock()


def load(name: str = "auto") -> Library:
    """Import TensorRT.

    Args:
        name: one of `LIBRARIES`, or "auto": the first that can be imported.

    Raises:
        OptionError: an unknown name.
        BackendUnavailableError: it cannot be imported; says why and what to do.
    """
    if name != "auto" and name not in LIBRARIES:
        raise OptionError(f"TensorRT library {name!r} is unknown: use auto, {', '.join(LIBRARIES)}")
    reasons = []
    with _loading:
        for wanted in LIBRARIES if name == "auto" else (name,):
            if wanted not in _loaded and wanted not in _failures:
                try:
                    _loaded[wanted] = _import(wanted)
                except BackendUnavailableError as error:
                    _failures[wanted] = str(error)
            if wanted in _loaded:
                return _loaded[wanted]
            reasons.append(_failures[wanted])
    raise BackendUnavailableError("; ".join(reasons))


def missing(name: str = "auto") -> str | None:
    """Why `load` cannot succeed, as far as can be told without importing anything; None: it may."""
    names = LIBRARIES if name == "auto" else (name,)
    if any(_spec(module) for wanted in names for module in _MODULES[wanted]):
        return None
    return f"{' and '.join(names)} not installed: pip install {_PACKAGES[names[0]]}"


def _import(name: str) -> Library:
    installed = [module for module in _MODULES[name] if _spec(module)]
    if not installed:
        raise BackendUnavailableError(f"{name} is not installed: pip install {_PACKAGES[name]}")
    problem = ""
    for preload in (False, True) if name == "tensorrt_rtx" else (False,):
        try:
            if preload and not _preload_rtx():
                break
            for module in installed:
                api = importlib.import_module(module)
                if hasattr(api, "Builder") or hasattr(api, "Runtime"):
                    return Library(name, api, str(getattr(api, "__version__", "?")))
            problem = f"{installed[0]} has neither Builder nor Runtime"
        except (ImportError, OSError, RuntimeError) as error:
            problem = " ".join(str(error).split())
    hint = (
        f"; pip install onnxruntime-ep-nv-tensorrt-rtx-cu13, or name their folder in {RTX_FOLDER}"
        if name == "tensorrt_rtx"
        else "; its libraries come with the wheel tensorrt-cu12-libs, JetPack or NVIDIA's packages"
    )
    raise BackendUnavailableError(f"{name} is installed but cannot be imported: {problem}{hint}")


def _preload_rtx() -> bool:
    """Load the libraries that the bindings need, so that the loader need not find them."""
    folder = os.environ.get(RTX_FOLDER)
    if not folder:
        spec = _spec(_RTX_WHEEL)
        places = list(spec.submodule_search_locations or ()) if spec else []
        if not places:
            return False
        folder = places[0]
    for pattern in _RTX_FILES:
        for path in sorted(glob.glob(os.path.join(folder, pattern)))[:1]:
            ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
    return True


def _spec(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
