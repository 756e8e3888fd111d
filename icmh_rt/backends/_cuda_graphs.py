"""Transforms as CUDA graphs: what a GPU runs again and again is launched once a picture.

A transform of a small picture is some hundred kernels of microseconds each, and launching them one
by one takes the host longer than running them takes the GPU. A graph is the recording of all of
them, on fixed addresses: the input is copied to where the recording reads, the graph is replayed,
and the output is copied from where it writes. One copy each way, through pinned memory.

`GraphRunner` decides what is recorded and keeps it; it knows no CUDA. `CudaMachine` does the rest.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from icmh_rt.backends.base import device_lap, lap
from icmh_rt.errors import OptionError

ENVIRONMENT = "ICMH_CUDA_GRAPHS"
CAPACITY = 16
"""Graphs that a runner keeps; the one that was used longest ago makes room."""

WARMUP_CALLS = 2
"""Calls of one kind that run eagerly before it is recorded. In them libraries and kernels choose
their algorithms, which they cannot during a recording; and recording takes as long as many eager
calls, which a folder of pictures of all sizes would never win back."""

_REMEMBERED = 1024  # kinds of calls whose number is known
_FAILURES = 3  # recordings that may fail before no more are tried
# Larger inputs are never recorded: their kernels take far longer than to launch them, and a
# recording keeps its input and its output on the device.
_LARGEST_INPUT_BYTES = 64 << 20

Body = Callable[[Tensor], Tensor]
_one_recording = threading.Lock()  # torch knows one at a time in a process


@dataclass(frozen=True, eq=False)
class Recording:
    """A graph and its fixed addresses: ``graph.replay()`` reads ``source``, writes ``result``."""

    graph: Any
    source: Tensor
    result: Tensor


class Machine(Protocol):
    """What a `GraphRunner` needs of a device. Everything but `stage` and `wait` is called with the
    runner's lock held.
    """

    def section(self) -> AbstractContextManager[None]:
        """In which all other calls are made: the device, its stream, no gradients."""

    def stage(self, array: np.ndarray) -> Tensor:
        """A copy of it on the host that the device can fetch while the host goes on."""

    def upload(self, staged: Tensor, target: Tensor | None = None) -> Tensor:
        """It on the device, in ``target`` if that is given."""

    def record(self, body: Body, staged: Tensor) -> Recording:
        """Record ``body`` on an input like ``staged``; runs nothing. Raises if it cannot."""

    def download(self, result: Tensor) -> tuple[Tensor, Any]:
        """A new tensor on the host that will hold ``result``, and what `wait` takes."""

    def wait(self, ticket: Any) -> None:
        """Return when that download has come."""

    def synchronize(self) -> None:
        """Return when the device has done everything so far."""


class GraphRunner:
    """Runs functions of one tensor on a device, the frequent ones as graphs. Thread-safe.

    Args:
        machine: the device.
        capacity: how many graphs are kept.
        warmup_calls: how many calls of a kind are eager before it is recorded.
    """

    def __init__(
        self, machine: Machine, capacity: int = CAPACITY, warmup_calls: int = WARMUP_CALLS
    ) -> None:
        self._machine = machine
        self._capacity, self._warmup_calls = capacity, warmup_calls
        # One for everything that is launched: graphs share the memory of their intermediates, so
        # they must follow each other on one stream, and a stream that records must see no others.
        self._lock = threading.Lock()
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._calls: OrderedDict[Hashable, int] = OrderedDict()
        self._reasons: dict[Hashable, str] = {}
        self._failures = 0
        self._counts = {"eager": 0, "recorded": 0, "replayed": 0, "evicted": 0}

    def __call__(self, key: Hashable | None, body: Body, array: np.ndarray) -> np.ndarray:
        """``body(array)``.

        Args:
            key: names the kind of call: equal keys mean a ``body`` that launches the same kernels
                on an input of the same shape and dtype. None is never recorded.
            body: device tensor in, device tensor out; reads nothing back from the device.
            array: the input, of any strides; it is not kept.

        Returns:
            The output, in memory of its own.
        """
        wanted = key is not None and array.nbytes <= _LARGEST_INPUT_BYTES and is_enabled()
        with self._machine.section():
            staged = self._machine.stage(array)
            lap("upload")
            with self._lock:
                recording = self._recording(key, body, staged) if wanted else None
                device_lap("")
                if recording is None:
                    self._counts["eager"] += 1
                    source = self._machine.upload(staged)
                    device_lap("upload")
                    result = body(source)
                else:
                    self._counts["replayed"] += 1
                    self._machine.upload(staged, recording.source)
                    device_lap("upload")
                    recording.graph.replay()
                    result = recording.result
                device_lap("transforms")
                host, ticket = self._machine.download(result)
                device_lap("download")
            # Others may launch meanwhile, on the same addresses: it all goes through one stream.
            self._machine.wait(ticket)
            lap("device")
        return host.numpy()

    @property
    def counts(self) -> dict[str, int]:
        """How many calls were eager and replayed, and how many graphs were recorded, are kept and
        made room.
        """
        with self._lock:
            return {**self._counts, "kept": len(self._recordings)}

    @property
    def reasons(self) -> dict[Hashable, str]:
        """Why kinds of calls stay eager whose recording failed."""
        with self._lock:
            return dict(self._reasons)

    def clear(self) -> None:
        """Forget all graphs and give their memory back."""
        with self._machine.section(), self._lock:
            self._machine.synchronize()
            self._recordings.clear()
            self._calls.clear()

    def _recording(self, key: Hashable, body: Body, staged: Tensor) -> Recording | None:
        """The graph of ``key``, made now if it is time; None: run it eagerly."""
        if key in self._recordings:
            self._recordings.move_to_end(key)
            return self._recordings[key]
        if key in self._reasons or self._failures >= _FAILURES:
            return None
        calls = self._calls.pop(key, 0)
        if calls < self._warmup_calls:
            self._calls[key] = calls + 1
            if len(self._calls) > _REMEMBERED:
                self._calls.popitem(last=False)
            return None
        while len(self._recordings) >= self._capacity:
            self._machine.synchronize()  # nothing that is still running may lose its memory
            self._recordings.popitem(last=False)
            self._counts["evicted"] += 1
        try:
            self._recordings[key] = self._machine.record(body, staged)
        except Exception as error:  # whatever libraries raise when they are recorded
            self._failed(key, error)
            return None
        self._counts["recorded"] += 1
        return self._recordings[key]

    def _failed(self, key: Hashable, error: Exception) -> None:
        self._failures += 1
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        self._reasons[key] = reason
        if self._failures == 1:
            warnings.warn(
                f"no CUDA graph could be recorded, the transforms run eagerly: {reason[:300]}; "
                f"{ENVIRONMENT}=0 tries none",
                RuntimeWarning,
                stacklevel=5,
            )


class CudaMachine:
    """A CUDA device, with a stream of its own and one pool of memory for all graphs.

    What functions read besides their input must lie on the device before they are called: this
    stream waits for no other.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        # Recordings have a stream that nothing else uses. Libraries keep scratch memory for each
        # stream from its first use on: here that is in the graphs' pool, for as long as it lives.
        self._recorder = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def section(self) -> Iterator[None]:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            with torch.inference_mode():
                yield

    def stage(self, array: np.ndarray) -> Tensor:
        # Pinned memory is slow to get and cached by torch; a block returns when its copy is done.
        pinned = torch.empty(array.shape, dtype=_dtype_of(array), pin_memory=True)
        np.copyto(pinned.numpy(), array)
        return pinned

    def upload(self, staged: Tensor, target: Tensor | None = None) -> Tensor:
        if target is None:
            return staged.to(self._device, non_blocking=True)
        return target.copy_(staged, non_blocking=True)

    def record(self, body: Body, staged: Tensor) -> Recording:
        # The input lies outside of the pool, where no other graph's intermediates can come.
        source = torch.empty(staged.shape, dtype=staged.dtype, device=self._device)
        graph = torch.cuda.CUDAGraph()
        try:
            # "thread_local": what other threads do meanwhile does not end the recording.
            with (
                _one_recording,
                torch.cuda.graph(
                    graph,
                    pool=self._pool,
                    stream=self._recorder,
                    capture_error_mode="thread_local",
                ),
            ):
                result = body(source)
        except Exception:
            # A recording that failed may leave its mark on the pool, and older versions of torch
            # its stream as the current one.
            self._pool = torch.cuda.graph_pool_handle()
            torch.cuda.set_stream(self._stream)
            raise
        return Recording(graph, source, result)

    def download(self, result: Tensor) -> tuple[Tensor, Any]:
        host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        host.copy_(result, non_blocking=True)
        return host, self._stream.record_event()

    def wait(self, ticket: Any) -> None:
        ticket.synchronize()

    def synchronize(self) -> None:
        self._stream.synchronize()


def is_enabled() -> bool:
    """Whether ICMH_CUDA_GRAPHS, read at every call, lets graphs be used: 1 (the default) or 0.

    Raises:
        OptionError: it is neither.
    """
    value = os.environ.get(ENVIRONMENT) or "1"
    if value not in ("0", "1"):
        raise OptionError(f"{ENVIRONMENT} is {value!r}: use 1, or 0 for no CUDA graphs")
    return value == "1"


def _dtype_of(array: np.ndarray) -> torch.dtype:
    return {"uint8": torch.uint8, "float32": torch.float32}[array.dtype.name]
