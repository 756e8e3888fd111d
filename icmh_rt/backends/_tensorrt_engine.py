"""Running a TensorRT plan: numpy in, numpy out, and nothing allocated on the way once a shape is
known.

All calls of one shape share an execution context, buffers on the device, pinned memory on the host
and, from the second call on, a CUDA graph: the copies in, the engine and the copies out in one
launch. The contexts take turns with one piece of scratch memory, as large as the largest shape so
far needs and not as the profile allows.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icmh_rt._files import replace_file
from icmh_rt.backends._cuda_runtime import CudaError, CudaRuntime
from icmh_rt.backends._tensorrt_library import Library
from icmh_rt.errors import BackendUnavailableError, OptionError

GRAPHS = "ICMH_CUDA_GRAPHS"
"""Environment variable: "0" launches every kernel by itself. The torch backend reads it too."""

CAPACITY = 16
"""Shapes that a runner is ready for; the one that was used longest ago makes room."""

_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


class Buffer:
    """Memory for one tensor: pinned on the host, and on the device unless the engine reads the
    host's.
    """

    def __init__(
        self, cuda: CudaRuntime, shape: tuple[int, ...], dtype: Any, on_device: bool
    ) -> None:
        self._cuda = cuda
        self.size_bytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        self.pinned = cuda.allocate_pinned(self.size_bytes)
        self.device = 0
        if on_device:
            try:
                self.device = cuda.allocate(self.size_bytes)
            except CudaError:
                cuda.free_pinned(self.pinned)
                raise
        memory: Any = (ctypes.c_uint8 * self.size_bytes).from_address(self.pinned)
        count = math.prod(shape)
        self.host = np.frombuffer(memory, dtype, count).reshape(shape)

    @property
    def address(self) -> int:
        """What the engine is told."""
        return self.device or self.pinned

    def upload(self, stream: int) -> None:
        if self.device:
            self._cuda.upload(self.device, self.pinned, self.size_bytes, stream)

    def download(self, stream: int) -> None:
        if self.device:
            self._cuda.download(self.pinned, self.device, self.size_bytes, stream)

    def free(self) -> None:
        self._cuda.free_pinned(self.pinned)
        if self.device:
            self._cuda.free(self.device)


class Scratch:
    """Memory of a device for everything that runs on one stream, one after the other; it grows."""

    def __init__(self, cuda: CudaRuntime, stream: int) -> None:
        self._cuda, self._stream = cuda, stream
        self.address = self.size_bytes = 0
        self.generation = 0
        """Counts the addresses it has had."""

    def reserve(self, size_bytes: int) -> None:
        if size_bytes <= self.size_bytes:
            return
        self.free()
        self.address = self._cuda.allocate(size_bytes)
        self.size_bytes = size_bytes

    def free(self) -> None:
        self.generation += 1
        address, self.address, self.size_bytes = self.address, 0, 0
        if address:
            self._cuda.synchronize(self._stream)
            self._cuda.free(address)


class Device:
    """One GPU with a stream and scratch memory, which all runners of a backend share.

    Whoever uses it holds its lock: everything goes through one stream, in order.
    """

    def __init__(self, cuda: CudaRuntime, index: int) -> None:
        self.cuda, self.index = cuda, index
        self.lock = threading.RLock()
        with self.current():
            self.stream = cuda.make_stream()
        self.scratch = Scratch(cuda, self.stream)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """In which the device is the thread's and nobody else's."""
        with self.lock:
            self.cuda.set_device(self.index)
            yield

    def __del__(self) -> None:
        # Runners hold their device, so none is left; at the end of the process CUDA may be gone.
        with contextlib.suppress(Exception), self.current():
            self.scratch.free()
            self.cuda.destroy_stream(self.stream)


class PlanRunner:
    """A plan on a device. Thread-safe.

    Args:
        library: what built it.
        device: what runs it.
        plan: its bytes.
        kernels: file for the kernels that TensorRT-RTX compiles when it first runs a plan.
        capacity: shapes that it stays ready for.

    Attributes:
        inputs, outputs: dtype and shape by name, -1 where a side is open.

    Raises:
        BackendUnavailableError: the plan does not run here; the message has TensorRT's words.
    """

    def __init__(
        self,
        library: Library,
        device: Device,
        plan: bytes,
        kernels: Path | None = None,
        capacity: int = CAPACITY,
    ) -> None:
        self._api, self._library, self._device = library.api, library, device
        self._capacity = capacity
        with device.current(), library.collected() as messages:
            self._runtime = library.start("Runtime")
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise BackendUnavailableError(
                    f"{library.name} {library.version} cannot load a plan on this GPU: "
                    f"{'; '.join(messages)[:600] or 'it gives no reason'}"
                )
        self._names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self.inputs = self._described(self._api.TensorIOMode.INPUT)
        self.outputs = self._described(self._api.TensorIOMode.OUTPUT)
        self._on_host = {name for name in self._names if self._is_on_host(name)}
        self._kernels = _KernelCache(self._engine, kernels)
        self._calls: OrderedDict[tuple, _Call] = OrderedDict()
        self._warned = False
        self.counts = {"eager": 0, "replayed": 0, "recorded": 0, "evicted": 0}
        """Calls that were launched kernel by kernel and as graphs; graphs; shapes forgotten."""
        self.reasons: dict[tuple, str] = {}
        """Why calls of some shapes stay eager whose recording failed."""

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run it once.

        Args:
            inputs: by name, of the plan's dtypes and of shapes that its profile holds.

        Returns:
            The outputs by name, in memory of their own.

        Raises:
            OptionError: an input is missing or does not fit the plan.
            BackendUnavailableError: CUDA or TensorRT fails; says what they say.
        """
        arrays = self._checked(inputs)
        key = tuple(
            tuple(arrays[name].reshape(-1).tolist()) if name in self._on_host else array.shape
            for name, array in arrays.items()
        )
        try:
            with self._device.current():
                call = self._call_of(key, arrays)
                for name, array in arrays.items():
                    np.copyto(call.buffers[name].host, array)
                self._run(key, call)
                return {name: np.array(call.buffers[name].host) for name in self.outputs}
        except CudaError as error:
            raise BackendUnavailableError(f"the GPU cannot run the engine: {error}") from None

    def close(self) -> None:
        """Give everything back; the runner cannot be used afterwards."""
        with self._device.current():
            self._device.cuda.synchronize(self._device.stream)
            while self._calls:
                self._calls.popitem()[1].free()
            self._engine = self._runtime = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # half made, or at the end of the process
            self.close()

    # -- calls -------------------------------------------------------------------------------------

    def _call_of(self, key: tuple, arrays: Mapping[str, np.ndarray]) -> _Call:
        if key in self._calls:
            self._calls.move_to_end(key)
            return self._calls[key]
        while len(self._calls) >= self._capacity:
            self._device.cuda.synchronize(self._device.stream)
            self._calls.popitem(last=False)[1].free()
            self.counts["evicted"] += 1
        with self._library.collected() as messages:
            call = _Call(self, arrays, messages)
        self._calls[key] = call
        return call

    def _run(self, key: tuple, call: _Call) -> None:
        device = self._device
        cuda, stream = device.cuda, device.stream
        call.bind(device.scratch)
        # The first call of a shape is eager: in it TensorRT does what cannot be recorded.
        if call.graph is None and call.calls and key not in self.reasons and _graphs_wanted():
            self._record(key, call)
        call.calls += 1
        if call.graph is None:
            self.counts["eager"] += 1
            call.enqueue(stream)
        else:
            self.counts["replayed"] += 1
            cuda.launch(call.graph, stream)
        cuda.synchronize(stream)
        if call.calls == 1:
            self._kernels.save()

    def _record(self, key: tuple, call: _Call) -> None:
        cuda, stream = self._device.cuda, self._device.stream
        try:
            if hasattr(call.context, "is_stream_capturable"):  # TensorRT-RTX
                if not call.context.is_stream_capturable(stream):
                    raise BackendUnavailableError("TensorRT still compiles kernels")
            cuda.begin_capture(stream)
            try:
                call.enqueue(stream)
            except BaseException:
                cuda.abandon_capture(stream)
                raise
            call.graph = cuda.end_capture(stream)
            self.counts["recorded"] += 1
        except (CudaError, BackendUnavailableError) as error:
            self.reasons[key] = " ".join(str(error).split())
            if not self._warned:
                self._warned = True
                warnings.warn(
                    "no CUDA graph could be recorded, the engine's kernels are launched one by "
                    f"one: {self.reasons[key][:300]}; {GRAPHS}=0 tries none",
                    RuntimeWarning,
                    stacklevel=5,
                )

    # -- the plan's inputs and outputs -------------------------------------------------------------

    def _described(self, mode: Any) -> dict[str, tuple[Any, tuple[int, ...]]]:
        found = {}
        for name in self._names:
            if self._engine.get_tensor_mode(name) == mode:
                kind = str(self._engine.get_tensor_dtype(name)).rsplit(".", 1)[-1]
                if kind not in _DTYPES:
                    raise BackendUnavailableError(f"tensor {name!r} of the plan is {kind}")
                found[name] = np.dtype(_DTYPES[kind]), tuple(self._engine.get_tensor_shape(name))
        return found

    def _is_on_host(self, name: str) -> bool:
        return self._engine.get_tensor_location(name) == self._api.TensorLocation.HOST

    def _checked(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = {}
        for name, (dtype, shape) in self.inputs.items():
            if name not in inputs:
                raise OptionError(f"the engine needs an input {name!r}: {', '.join(self.inputs)}")
            array = np.asarray(inputs[name])
            fits = array.ndim == len(shape) and all(
                side in (-1, given) for side, given in zip(shape, array.shape, strict=True)
            )
            if array.dtype != dtype or not fits:
                raise OptionError(
                    f"input {name!r} is {array.dtype} {array.shape}: the engine takes {dtype} "
                    f"{shape}, -1 for any"
                )
            arrays[name] = array
        return arrays

    # -- contexts ----------------------------------------------------------------------------------

    def new_context(self) -> Any:
        """One whose scratch memory it is told."""
        strategy = self._api.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._kernels.config:
            return self._engine.create_execution_context(strategy)
        self._kernels.config.set_execution_context_allocation_strategy(strategy)
        return self._engine.create_execution_context(self._kernels.config)

    @property
    def engine(self) -> Any:
        return self._engine

    @property
    def device(self) -> Device:
        return self._device

    @property
    def on_host(self) -> set[str]:
        return self._on_host


class _Call:
    """Everything that one shape needs, made once."""

    def __init__(
        self, runner: PlanRunner, arrays: Mapping[str, np.ndarray], messages: list[str]
    ) -> None:
        self.calls = 0
        self.graph: int | None = None
        self.buffers: dict[str, Buffer] = {}
        self._inputs = list(runner.inputs)
        self._outputs = list(runner.outputs)
        self._generation = -1
        self._messages = messages
        self._cuda = cuda = runner.device.cuda
        self.context = runner.new_context()
        if self.context is None:
            raise _refused("make an execution context", messages)
        try:
            for name, array in arrays.items():
                on_device = name not in runner.on_host
                self._add(cuda, name, array.shape, array.dtype, on_device)
                np.copyto(self.buffers[name].host, array)
                if on_device and not self.context.set_input_shape(name, array.shape):
                    raise _refused(f"take {name!r} of shape {array.shape}", messages)
            missing = self.context.infer_shapes()
            if missing:
                raise _refused(f"tell its outputs' shapes: {', '.join(missing)} missing", messages)
            for name, (dtype, _) in runner.outputs.items():
                shape = tuple(self.context.get_tensor_shape(name))
                if min(shape, default=0) < 0:
                    raise _refused(f"tell the shape of {name!r}: it is {shape}", messages)
                self._add(cuda, name, shape, dtype, name not in runner.on_host)
            self.scratch_bytes = max(0, int(self.context.update_device_memory_size_for_shapes()))
        except BaseException:
            self.free()
            raise

    def _add(self, cuda: CudaRuntime, name: str, shape: Any, dtype: Any, on_device: bool) -> None:
        buffer = Buffer(cuda, tuple(shape), dtype, on_device)
        self.buffers[name] = buffer
        if not self.context.set_tensor_address(name, buffer.address):
            raise _refused(f"take an address for {name!r}", self._messages)

    def bind(self, scratch: Scratch) -> None:
        """Make sure that the scratch memory is there, and that the context knows where."""
        scratch.reserve(self.scratch_bytes)
        if self._generation == scratch.generation:
            return
        self._drop_graph()  # it has the old address
        if self.scratch_bytes:
            self.context.set_device_memory(scratch.address, self.scratch_bytes)
        self._generation = scratch.generation

    def enqueue(self, stream: int) -> None:
        for name in self._inputs:
            self.buffers[name].upload(stream)
        if not self.context.execute_async_v3(stream):
            raise BackendUnavailableError("TensorRT could not run the engine")
        for name in self._outputs:
            self.buffers[name].download(stream)

    def free(self) -> None:
        self._drop_graph()
        self.context = None
        while self.buffers:
            self.buffers.popitem()[1].free()

    def _drop_graph(self) -> None:
        graph, self.graph = self.graph, None
        if graph is not None:
            self._cuda.destroy_graph(graph)


class _KernelCache:
    """What TensorRT-RTX compiles at run time, kept in a file. Other libraries have none.

    Attributes:
        config: of the contexts, None where there is no such thing.
    """

    def __init__(self, engine: Any, path: Path | None) -> None:
        self._path, self._size_bytes = path, 0
        self._cache = self.config = None
        if not hasattr(engine, "create_runtime_config"):
            return
        config = engine.create_runtime_config()
        if not hasattr(config, "create_runtime_cache"):  # TensorRT 11 has one without these
            return
        self.config = config
        self._cache = config.create_runtime_cache()
        if path is not None and path.exists():
            saved = path.read_bytes()
            if self._cache.deserialize(saved):
                self._size_bytes = len(saved)
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write the file if there is more to write than it holds."""
        if self._cache is None or self._path is None:
            return
        memory = self._cache.serialize()
        data = b"" if memory is None else bytes(memory)
        if len(data) > self._size_bytes:
            with replace_file(self._path) as file:
                file.write(data)
            self._size_bytes = len(data)


def _refused(what: str, messages: list[str]) -> BackendUnavailableError:
    text = "; ".join(messages)[:600] or "it gives no reason"
    return BackendUnavailableError(f"TensorRT could not {what}: {text}")


def _graphs_wanted() -> bool:
    value = os.environ.get(GRAPHS) or "1"
    if value not in ("0", "1"):
        raise OptionError(f"{GRAPHS} is {value!r}: use 1, or 0 for no CUDA graphs")
    return value == "1"
