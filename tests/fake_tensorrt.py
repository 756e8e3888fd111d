"""A TensorRT for tests, held to the names and parameters of a real version's bindings.

What a version has is in ``tensorrt_api/*.json``, written from the real bindings by
``scripts/list_tensorrt_api.py``. The fake has nothing that the version lacks, calls must fit the
version's parameters, and only attributes that it lets be written can be written. Behind the
interface engines are ONNX graphs that onnxruntime runs, on the memory of the fake CUDA runtime
(``fake_cudart.c``), when the fake stream reaches them.

It cannot tell whether TensorRT computes well, only whether it is used as its interface demands.
"""

from __future__ import annotations

import base64
import ctypes
import enum
import functools
import itertools
import json
import subprocess
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

HERE = Path(__file__).resolve().parent
VERSIONS = ("10.3", "10.13", "11.4", "rtx1.7")
"""Of TensorRT: JetPack 6's, JetPack 7's, today's; and TensorRT-RTX."""

_MAGIC = b"fake plan\n"
_TYPES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.FLOAT8E4M3FN: "FP8",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.BOOL: "BOOL",
}
_NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
}
COUNTERS = (
    "live",
    "allocated",
    "launches",
    "copies",
    "graph_launches",
    "live_graphs",
    "live_streams",
    "kernels",
)


# -- CUDA ------------------------------------------------------------------------------------------


def compile_cudart(folder: Path) -> Path:
    """The fake CUDA runtime as a shared library."""
    built = folder / "libfakecudart.so"
    source = HERE / "fake_cudart.c"
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, "-o", built, source], check=True)
    return built


class FakeCuda:
    """The knobs and counters of a fake CUDA runtime."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.fake_counter.restype = ctypes.c_int64
        self._kernel = ctypes.CFUNCTYPE(None, ctypes.c_uint64)(self._run)
        self._work: dict[int, Callable[[], None]] = {}
        self._tokens = itertools.count(1)
        self.errors: list[BaseException] = []
        self.knobs: dict[str, int] = {}

    def counter(self, name: str) -> int:
        return self.library.fake_counter(COUNTERS.index(name))

    def set(self, name: str, value: int) -> None:
        """name: devices, fail_captures, memory_limit."""
        self.knobs[name] = value
        argument = ctypes.c_size_t(value) if name == "memory_limit" else ctypes.c_int(value)
        getattr(self.library, f"fake_set_{name}")(argument)

    def launch(self, work: Callable[[], None], stream: int) -> bool:
        token = next(self._tokens)
        self._work[token] = work
        launch = self.library.fake_launch
        return launch(self._kernel, ctypes.c_uint64(token), ctypes.c_void_p(stream)) == 0

    def _run(self, token: int) -> None:
        try:
            self._work[token]()
        except BaseException as error:  # it cannot pass through C
            self.errors.append(error)


# -- strictness ------------------------------------------------------------------------------------


class Strict:
    """Writes only what the version lets be written."""

    _api: Any = None
    _cuda: Any = None
    _listed: dict[str, Any] = {}  # noqa: RUF012  one a subclass

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and self._listed.get(name) != "write":
            raise AttributeError(f"{type(self).__name__}.{name} cannot be written")
        object.__setattr__(self, name, value)


def _checked(name: str, function: Callable[..., Any], overloads: list[list[str]]) -> Any:
    @functools.wraps(function)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        if not any(_fits(parameters, arguments, named) for parameters in overloads):
            raise TypeError(f"{name}{arguments}{named}: incompatible with {overloads}")
        return function(self, *arguments, **named)

    return call


def _fits(parameters: list[str], arguments: tuple, named: dict[str, Any]) -> bool:
    names = [parameter.removesuffix("?") for parameter in parameters]
    needed = {p for p in parameters if not p.endswith("?")}
    given = {*names[: len(arguments)], *named}
    return len(arguments) <= len(names) and given <= set(names) and needed <= given


def make(version: str, cuda: FakeCuda) -> types.ModuleType:
    """The fake module of one of `VERSIONS`."""
    listing = json.loads((HERE / "tensorrt_api" / f"{version}.json").read_text())
    api = types.ModuleType("tensorrt")
    api.__version__ = listing["version"]
    for name, members in listing["enums"].items():
        setattr(api, name, _enumeration(name, members))
    api.ILogger = _Logger
    for implementation in _IMPLEMENTATIONS:
        name = implementation.__name__
        listed = listing["classes"].get(name)
        if listed is None:
            continue
        body: dict[str, Any] = {"_api": api, "_cuda": cuda, "_listed": listed}
        for attribute in dir(implementation):
            if attribute.startswith("_"):
                continue
            kept = vars(implementation).get(attribute)
            if attribute not in listed:

                def gone(self: Any, name: str = f"{name}.{attribute}") -> Any:
                    raise AttributeError(f"{name} is not in TensorRT {version}")

                body[attribute] = property(gone)
            elif isinstance(kept, types.FunctionType):
                assert isinstance(listed[attribute], list), f"{name}.{attribute} is a property"
                title = f"{name}.{attribute}"
                body[attribute] = _checked(title, kept, listed[attribute] or [[]])
            else:
                assert isinstance(listed[attribute], str), f"{name}.{attribute} is a method"
        setattr(api, name, type(name, (implementation,), body))
    api.get_plugin_registry = api.IPluginRegistry
    return api


class _EnumBase(enum.Enum):
    def __int__(self) -> int:
        return self.value

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __repr__(self) -> str:
        return f"<{self}: {self.value}>"


def _enumeration(name: str, members: dict[str, int]) -> Any:
    return _EnumBase(name, members)


class _Logger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        def __int__(self) -> int:
            return self.value

    def __init__(self) -> None:
        pass

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


def _need_a_gpu(made: Strict) -> None:
    """What the bindings do where there is none; TensorRT-RTX starts all the same."""
    if made._cuda.knobs.get("devices") == 0 and not hasattr(made._api, "ComputeCapability"):
        raise TypeError("pybind11::init(): factory function returned nullptr")


# -- building --------------------------------------------------------------------------------------


class Builder(Strict):
    def __init__(self, logger: Any) -> None:
        assert isinstance(logger, _Logger)
        self._logger = logger
        _need_a_gpu(self)

    def create_network(self, flags: int = 0) -> Any:
        network = self._api.INetworkDefinition()
        network._flags = flags
        return network

    def create_builder_config(self) -> Any:
        return self._api.IBuilderConfig()

    def create_optimization_profile(self) -> Any:
        return self._api.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        strongly = self._api.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        known = {name: list(shapes) for p in config._profiles for name, shapes in p._shapes.items()}
        for tensor in network._inputs:
            if (-1 in tensor.shape or tensor.is_shape_tensor) and tensor.name not in known:
                self._logger.log(_Logger.Severity.ERROR, f"no profile for {tensor.name}")
                return None
        for name, value in known.items():
            if not all(a <= b <= c for a, b, c in zip(*value, strict=True)):
                self._logger.log(_Logger.Severity.ERROR, f"profile of {name} does not ascend")
                return None
        cache = config._timing_cache
        hits = cache is not None and b"tactics" in cache._data
        flags = sorted(config._flags)
        if "ERROR_ON_TIMING_CACHE_MISS" in flags and not hits:
            self._logger.log(_Logger.Severity.ERROR, "timing cache miss")
            return None
        if cache is not None:
            cache._data = b"tactics"
        header = {
            "strongly_typed": bool(network._flags & 1 << int(strongly)),
            "flags": flags,
            "profile": known,
            "workspace": config._workspace,
            "level": config.__dict__.get("builder_optimization_level"),
            "verbosity": str(config.__dict__.get("profiling_verbosity")),
            "hardware": str(config.__dict__.get("hardware_compatibility_level")),
            "capabilities": [str(c) for c in config._capabilities],
            "version": self._api.__version__,
            "graph": base64.b64encode(network._graph).decode(),
        }
        return _memory(self._api, _MAGIC + json.dumps(header).encode())


class IHostMemory(Strict):
    _data = b""

    @property
    def nbytes(self) -> int:
        return len(self._data)

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self._data)

    def __bytes__(self) -> bytes:
        return self._data


def _memory(api: Any, data: bytes) -> Any:
    memory = api.IHostMemory()
    memory._data = data
    return memory


class IBuilderConfig(Strict):
    def __init__(self) -> None:
        self._flags = {"TF32"}  # as TensorRT has it
        self._profiles: list[Any] = []
        self._workspace: int | None = None
        self._timing_cache: Any = None
        self._capabilities: list[Any] = []

    def set_flag(self, flag: Any) -> None:
        assert flag in self._api.BuilderFlag
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        assert flag in self._api.BuilderFlag
        self._flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        assert pool in self._api.MemoryPoolType
        self._workspace = pool_size

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        cache = self._api.ITimingCache()
        cache._data = bytes(serialized_timing_cache)
        return cache

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._data not in (b"", b"tactics") and not ignore_mismatch:
            return False
        self._timing_cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._timing_cache

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        assert compute_capability in self._api.ComputeCapability
        assert 0 <= index < self.num_compute_capabilities
        self._capabilities.append(compute_capability)
        return True


class ITimingCache(Strict):
    _data = b""

    def serialize(self) -> Any:
        return _memory(self._api, self._data)


class IOptimizationProfile(Strict):
    def __init__(self) -> None:
        self._shapes: dict[str, tuple] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = tuple(min), tuple(opt), tuple(max)

    def set_shape_input(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert all(isinstance(v, int) for values in (min, opt, max) for v in values)
        self._shapes[input] = tuple(min), tuple(opt), tuple(max)


class INetworkDefinition(Strict):
    def __init__(self) -> None:
        self._flags = 0
        self._inputs: list[Any] = []
        self._layers: list[Any] = []
        self._graph = b""

    num_inputs = property(lambda self: len(self._inputs))
    num_layers = property(lambda self: len(self._layers))

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_layer(self, index: int) -> Any:
        return self._layers[index]


class ITensor(Strict):
    def __init__(self, name: str, kind: int, shape: tuple[int, ...], shapes: bool = False) -> None:
        self._name, self._shape, self._shapes = name, shape, shapes
        self._dtype = self._api.DataType.__members__[_TYPES[kind]]

    name = property(lambda self: self._name)
    dtype = property(lambda self: self._dtype)
    shape = property(lambda self: self._shape)
    is_shape_tensor = property(lambda self: self._shapes)


class ILayer(Strict):
    def __init__(self, name: str, kind: str, outputs: list[Any]) -> None:
        self._name, self._type, self._outputs = name, f"LayerType.{kind.upper()}", outputs

    name = property(lambda self: self._name)
    type = property(lambda self: self._type)
    num_outputs = property(lambda self: len(self._outputs))

    def get_output(self, index: int) -> Any:
        return self._outputs[index]


class ParserError(Strict):
    def __init__(self, node: str, kind: str, text: str) -> None:
        self._node, self._kind, self._text = node, kind, text

    def desc(self) -> str:
        return self._text

    def node_name(self) -> str:
        return self._node

    def node_operator(self) -> str:
        return self._kind


class OnnxParser(Strict):
    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._errors = network, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        try:
            parsed = onnx.load_from_string(model)
            onnx.checker.check_model(parsed)
            inferred = onnx.shape_inference.infer_shapes(parsed, strict_mode=True)
        except Exception as error:
            self._errors.append(self._api.ParserError("", "", str(error)))
            return False
        graph = inferred.graph
        outputs = {value.name for value in graph.output}
        inputs = {value.name for value in graph.input}
        values = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}
        for node in graph.node:
            for name in node.output:
                kind = values[name].type.tensor_type.elem_type
                # Bytes come in and go out, and are computed with nowhere.
                inside = name not in outputs or node.op_type != "Cast"
                reads = any(n in inputs for n in node.input) and node.op_type == "Cast"
                if kind == onnx.TensorProto.UINT8 and inside and not reads:
                    text = "TensorRT does not support UINT8 types for intermediate tensors."
                    self._errors.append(self._api.ParserError(node.name, node.op_type, text))
                    return False
        for value in graph.input:
            shape = tuple(d.dim_value or -1 for d in value.type.tensor_type.shape.dim)
            kind = value.type.tensor_type.elem_type
            sides = value.name in ("height", "width") and not shape
            self._network._inputs.append(self._api.ITensor(value.name, kind, shape, sides))
        for node in graph.node:
            tensors = [self._tensor(values[name]) for name in node.output]
            self._network._layers.append(self._api.ILayer(node.name, node.op_type, tensors))
        self._network._graph = model
        return True

    def _tensor(self, value: Any) -> Any:
        kind = value.type.tensor_type
        shape = tuple(d.dim_value or -1 for d in kind.shape.dim)
        return self._api.ITensor(value.name, kind.elem_type, shape)


# -- running ---------------------------------------------------------------------------------------


class Runtime(Strict):
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        _need_a_gpu(self)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        data = bytes(serialized_engine)
        header = json.loads(data[len(_MAGIC) :]) if data.startswith(_MAGIC) else {}
        if header.get("version") != self._api.__version__:
            self._logger.log(_Logger.Severity.ERROR, "the plan is of another version")
            return None
        return self._api.ICudaEngine(header)


class ICudaEngine(Strict):
    def __init__(self, header: dict[str, Any]) -> None:
        self._header = header
        graph = base64.b64decode(header["graph"])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        parsed = onnx.load_from_string(graph).graph
        self._inputs = {value.name: value for value in parsed.input}
        self._values = {**self._inputs, **{value.name: value for value in parsed.output}}

    num_io_tensors = property(lambda self: len(self._values))

    def get_tensor_name(self, index: int) -> str:
        return list(self._values)[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._api.TensorIOMode
        return modes.INPUT if name in self._inputs else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kind = self._values[name].type.tensor_type.elem_type
        return self._api.DataType.__members__[_TYPES[kind]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        dims = self._values[name].type.tensor_type.shape.dim
        return tuple(d.dim_value or -1 for d in dims)

    def get_tensor_location(self, name: str) -> Any:
        places = self._api.TensorLocation
        return places.HOST if name in ("height", "width") else places.DEVICE

    def create_execution_context(self, strategy: Any = None, *, runtime_config: Any = None) -> Any:
        chosen = getattr(strategy, "_strategy", strategy)
        managed = self._api.ExecutionContextAllocationStrategy.USER_MANAGED
        return self._api.IExecutionContext(self, chosen == managed)

    def create_runtime_config(self) -> Any:
        return self._api.IRuntimeConfig()

    def create_engine_inspector(self) -> Any:
        inspector = self._api.EngineInspector()
        inspector._engine = self
        return inspector


class EngineInspector(Strict):
    def get_engine_information(self, format: Any) -> str:
        assert format is self._api.LayerInformationFormat.JSON
        nodes = onnx.load_from_string(base64.b64decode(self._engine._header["graph"])).graph.node
        return json.dumps({"Layers": [{"Name": node.name} for node in nodes], "Bindings": []})


class IRuntimeConfig(Strict):
    _strategy = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> Any:
        return self._api.IRuntimeCache()

    def set_runtime_cache(self, cache: Any) -> bool:
        self._cache = cache
        return True


class IRuntimeCache(Strict):
    _data = b"kernels"

    def deserialize(self, serialized_cache: bytes) -> bool:
        self._data = bytes(serialized_cache)
        return True

    def serialize(self) -> Any:
        return _memory(self._api, self._data)


class IExecutionContext(Strict):
    """Runs the graph when the stream gets there, with what the addresses hold then."""

    def __init__(self, engine: Any, user_managed: bool) -> None:
        self._engine = engine
        self._shapes = {
            name: engine.get_tensor_shape(name)
            for name in engine._inputs
            if -1 not in engine.get_tensor_shape(name)
        }
        self._addresses: dict[str, int] = {}
        self._outputs: dict[str, tuple[int, ...]] = {}
        self._user_managed, self._scratch = user_managed, (0, 0)

    def set_input_shape(self, name: str, shape: Any) -> bool:
        shape = tuple(shape)
        profile = self._engine._header["profile"].get(name)
        if profile is None:
            return shape == self._engine.get_tensor_shape(name)
        least, _, most = profile
        if len(shape) != len(least):
            return False
        if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            return False
        self._shapes[name] = shape
        self._outputs = {}
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert name in self._engine._values and memory
        self._addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        missing = [name for name in self._engine._inputs if name not in self._shapes]
        for name in ("height", "width"):
            if name in self._engine._inputs and name not in self._addresses:
                missing.append(name)
        if not missing:
            zeros = {name: self._read(name, zeros=True) for name in self._engine._inputs}
            self._outputs = {name: a.shape for name, a in self._computed(zeros).items()}
        return missing

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        return self._outputs.get(name, self._engine.get_tensor_shape(name))

    def update_device_memory_size_for_shapes(self) -> int:
        assert self._user_managed, "only where the user gives the memory"
        return max(256, 64 * sum(int(np.prod(shape)) for shape in self._shapes.values()))

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self._user_managed and memory % 256 == 0
        self._scratch = memory, size

    def execute_async_v3(self, stream_handle: int) -> bool:
        needed = self.update_device_memory_size_for_shapes()
        if self._user_managed and (not self._scratch[0] or self._scratch[1] < needed):
            return False
        if set(self._addresses) != set(self._engine._values) or not self._outputs:
            return False
        # A recording keeps what the context said when it was made.
        fixed = dict(self._shapes), dict(self._addresses), dict(self._outputs)
        sides = {n: self._read(n) for n in ("height", "width") if n in self._engine._inputs}

        def work() -> None:
            shapes, addresses, outputs = fixed
            inputs = {
                name: sides[name]
                if name in sides
                else _array(addresses[name], shapes[name], self._kind(name))
                for name in self._engine._inputs
            }
            for name, array in self._computed(inputs).items():
                assert array.shape == outputs[name]
                _array(addresses[name], array.shape, self._kind(name))[...] = array
            # What was in the scratch memory is lost: it is shared.
            ctypes.memset(self._scratch[0], 0x5A, needed)

        return self._cuda.launch(work, stream_handle)

    def is_stream_capturable(self, stream: int) -> bool:
        return True

    def _kind(self, name: str) -> Any:
        return _NUMPY[self._engine.get_tensor_dtype(name).name]

    def _read(self, name: str, zeros: bool = False) -> np.ndarray:
        if zeros and name not in ("height", "width"):
            return np.zeros(self._shapes[name], self._kind(name))
        return _array(self._addresses[name], self._shapes[name], self._kind(name)).copy()

    def _computed(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [output.name for output in self._engine._session.get_outputs()]
        return dict(zip(names, self._engine._session.run(names, inputs), strict=True))


def _array(address: int, shape: tuple[int, ...], kind: Any) -> np.ndarray:
    count = int(np.prod(shape))
    memory = (ctypes.c_uint8 * (count * np.dtype(kind).itemsize)).from_address(address)
    return np.frombuffer(memory, kind, count).reshape(shape)


class IPluginRegistry(Strict):
    def load_library(self, plugin_path: str) -> Any:
        return object() if Path(plugin_path).read_bytes() else None


_IMPLEMENTATIONS = (
    Builder,
    EngineInspector,
    IBuilderConfig,
    ICudaEngine,
    IExecutionContext,
    IHostMemory,
    ILayer,
    INetworkDefinition,
    IOptimizationProfile,
    IPluginRegistry,
    IRuntimeCache,
    IRuntimeConfig,
    ITensor,
    ITimingCache,
    OnnxParser,
    ParserError,
    Runtime,
)


def installed(monkeypatch: Any, version: str, cuda_path: Path) -> Iterator[tuple[Any, FakeCuda]]:
    """The fakes in the place of the real ones; for fixtures."""
    from icmh_rt.backends import _cuda_runtime, _tensorrt_library

    cuda = FakeCuda(cuda_path)
    api = make(version, cuda)
    name = "tensorrt_rtx" if version.startswith("rtx") else "tensorrt"
    library = _tensorrt_library.Library(name, api, api.__version__)
    monkeypatch.setenv(_cuda_runtime.ENVIRONMENT, str(cuda_path))
    monkeypatch.setattr(_tensorrt_library, "_loaded", {name: library})
    others = {n: "not here" for n in _tensorrt_library.LIBRARIES if n != name}
    monkeypatch.setattr(_tensorrt_library, "_failures", others)
    _cuda_runtime.runtime.cache_clear()
    for knob, value in (("devices", 1), ("fail_captures", 0), ("memory_limit", 2**63 - 1)):
        cuda.set(knob, value)
    yield library, cuda
    _cuda_runtime.runtime.cache_clear()
    assert not cuda.errors, cuda.errors
