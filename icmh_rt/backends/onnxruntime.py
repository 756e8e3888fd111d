"""The onnxruntime backend: the transforms as ONNX graphs. No torch.

The graphs are made from the bundle's arrays when they are first needed (`icmh_rt.graphs`). That
takes a few hundredths of a second, less than importing onnxruntime, so nothing is kept on disk.
Binding inputs and outputs to memory of our own, graphs of one size and spinning threads were tried
on a CPU: they gain a seventh at the narrowest width and next to nothing at the widest, and spinning
costs far more than that on a busy machine.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from icmh_rt import graphs
from icmh_rt._onnxruntime import ort
from icmh_rt._threads import get_num_threads
from icmh_rt.backends import _devices
from icmh_rt.backends._onnxruntime_providers import Provider, providers_for, session
from icmh_rt.backends._tensorrt_graph import MAGNITUDE, with_magnitude
from icmh_rt.backends.base import Backend, HostLatents
from icmh_rt.bundle import Bundle
from icmh_rt.errors import OptionError

CAPACITY = 16
"""Sessions that a backend keeps; the one that was used longest ago makes room."""

_PRECISIONS = {"auto": "fp32", "fp32": "fp32", "fp16": "fp16"}


def create(bundle: Bundle, device: str, dtype: str) -> OnnxruntimeBackend:
    """The entry point that the registry calls. dtype "auto" is fp32 everywhere."""
    if dtype not in _PRECISIONS:
        raise OptionError(f"backend 'onnxruntime' computes in fp32 or fp16, not in {dtype!r}")
    return OnnxruntimeBackend(bundle, *providers_for(_devices.parse(device)), _PRECISIONS[dtype])


class _Key(NamedTuple):
    """What tells sessions apart."""

    role: str
    width: float
    task: str
    precision: str
    threads: int


class OnnxruntimeBackend(Backend):
    """onnxruntime on a CPU or, with its providers for them, on a GPU.

    `analysis` runs g_a and h_a, so that its time is that of both.

    Args:
        bundle: of the default architecture.
        providers: the preferred one first.
        device: where they run.
        precision: "fp32" or "fp16", that of the transforms; the border is always float32. What is
            not finite in fp16 is computed again in fp32.
    """

    name = "onnxruntime"
    analysis_covers = ("g_a", "h_a")

    def __init__(
        self,
        bundle: Bundle,
        providers: list[Provider],
        device: _devices.Device,
        precision: str = "fp32",
    ) -> None:
        super().__init__(bundle)
        self.device = str(device)
        self.providers = [name for name, _ in providers]
        self._providers = providers
        self._precision = precision
        self._start()
        _backends.add(self)

    def _start(self) -> None:
        """Without any session."""
        self._lock = threading.Lock()
        self._sessions: OrderedDict[_Key, ort.InferenceSession] = OrderedDict()

    # -- transforms --------------------------------------------------------------------------------

    def analysis(self, image: np.ndarray, width: float, task: str) -> HostLatents:
        feed = {"image": np.ascontiguousarray(image)[None]}
        y, z = self._session("analysis", width, task, self._precision).run(["y", "z"], feed)
        if self._precision != "fp32" and not (np.isfinite(y).all() and np.isfinite(z).all()):
            y, z = self._session("analysis", width, task, "fp32").run(["y", "z"], feed)
        return HostLatents(y[0], z[0])

    def latent_alone(self, image: np.ndarray, width: float, task: str) -> None:
        feed = {"image": np.ascontiguousarray(image)[None]}
        options = ort.RunOptions()
        options.only_execute_path_to_fetches = True
        self._session("analysis", width, task, self._precision).run(["y"], feed, options)

    def synthesis(
        self, y_hat: np.ndarray, width: float, task: str, image_size: tuple[int, int]
    ) -> np.ndarray:
        height, columns = image_size
        feed = {
            "y_hat": np.ascontiguousarray(y_hat)[None],
            "height": np.array(height, np.int64),
            "width": np.array(columns, np.int64),
        }
        if self._precision != "fp32":
            session = self._session("synthesis", width, task, self._precision)
            image, magnitude = session.run(["image", MAGNITUDE], feed)
            if np.isfinite(magnitude):
                return image[0]
        return self._session("synthesis", width, task, "fp32").run(["image"], feed)[0][0]

    def features(
        self, y_hat: np.ndarray, width: float, task: str, image_size: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        head = self.bundle.feature_head(width, task)
        feed = {"y_hat": np.ascontiguousarray(y_hat)[None]}
        found = self._session("features", width, task, self._precision).run(None, feed)
        if self._precision != "fp32" and not all(np.isfinite(part).all() for part in found):
            found = self._session("features", width, task, "fp32").run(None, feed)
        return {name: part[0] for (name, _), part in zip(head.outputs, found, strict=True)}

    # -- sessions ----------------------------------------------------------------------------------

    def _session(self, role: str, width: float, task: str, precision: str) -> ort.InferenceSession:
        """The session for a transform, made if there is none yet."""
        key = _Key(role, width, task, precision, get_num_threads())
        with self._lock:
            if key not in self._sessions:
                model = graphs.build(self.bundle, role, width, task, precision=precision)
                if role == "synthesis" and precision != "fp32":
                    model = with_magnitude(model)
                made = session(model.SerializeToString(), self._providers, key.threads)
                while len(self._sessions) >= CAPACITY:
                    self._sessions.popitem(last=False)
                self._sessions[key] = made
            self._sessions.move_to_end(key)
            return self._sessions[key]

    def _after_fork(self) -> None:
        """In a new process sessions have lost their threads, which their ends would wait for: they
        never end, and others are made.
        """
        for lost in self._sessions.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(lost))
        self._start()

    def __repr__(self) -> str:
        return f"OnnxruntimeBackend(device={self.device!r}, precision={self._precision!r})"


_backends: weakref.WeakSet[OnnxruntimeBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for backend in tuple(_backends):
        backend._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
