"""SFMA's frequency gate as one node of a TensorRT network, in two ways beside the graph's own.

- "triton": the Triton kernel, compiled ahead of time to PTX, which ``tensorrt.plugin`` puts into
  the plan. Running the plan takes neither Python nor Triton nor a plugin library.
- "cuda": the plugin of csrc/trt over the CUDA kernel. Building and running a plan takes
  ``icmh_rt/_tensorrt_plugins.so``, which is built where TensorRT's headers are found.

Both take the spectrum as one tensor (N, C, H, W, 2) of real and imaginary parts.
"""

# No `from __future__ import annotations`: tensorrt.plugin reads the annotations as types.

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Tuple, Union  # noqa: UP035  tensorrt.plugin looks for these

import numpy as np

import icmh_rt
from icmh_rt.backends._tensorrt_library import Library
from icmh_rt.errors import BackendUnavailableError, BundleError, OptionError

GATES = ("native", "triton", "cuda")
"""The graph's own nodes, and the two plugins."""

NAMESPACE = "icmh"
VERSION = "1"
OPERATORS = {"triton": "frequency_gate", "cuda": "IcmhFrequencyGate"}
PLUGIN_LIBRARY = Path(icmh_rt.__file__).resolve().parent / "_tensorrt_plugins.so"

OLDEST_GPU = 80
"""PTX is made for compute capability 8.0; drivers translate it for every later one."""

PTX_VERSION = 80
"""Of the PTX language: drivers since CUDA 12.0 know it."""

_SCRATCH = 2  # parameters that Triton appends: scratch memory for the kernel and for its profiler


# -- the graph -------------------------------------------------------------------------------------


def with_gates(model: Any, gate: str) -> Any:
    """``model`` with every gate of an adapter as one node of the plugin.

    Args:
        model: an ONNX model of ``icmh_rt.graphs``; it stays as it is.
        gate: "triton" or "cuda".

    Raises:
        OptionError: it has no gates.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = _Graph(onnx, copy.graph)
    gates = [n for n in copy.graph.node if n.op_type == "Sigmoid" and n.name.endswith("/gate")]
    if not gates:
        raise OptionError(f"the graph has no adapters, so there is no gate to run in {gate!r}")
    for node in gates:
        graph.replace(node, OPERATORS[gate])
    graph.drop_unused()
    copy.opset_import.append(onnx.helper.make_opsetid(NAMESPACE, 1))
    return copy


class _Graph:
    """A graph that is being changed."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self._onnx, self._graph = onnx, graph
        self._makers = {name: node for node in graph.node for name in node.output}
        self._arrays = {array.name: array for array in graph.initializer}

    def replace(self, gate: Any, operator: str) -> None:
        """The convolutions before ``gate``, it, and the products after it, by one node."""
        mix = self._maker(gate.input[0], "Conv")
        depthwise = self._maker(self._maker(mix.input[0], "Relu").input[0], "Conv")
        products = [node for node in self._graph.node if gate.output[0] in node.input]
        if len(products) != 2 or {node.op_type for node in products} != {"Mul"}:
            raise BundleError(f"gate {gate.name!r} does not multiply two parts of a spectrum")
        parts = [next(n for n in node.input if n != gate.output[0]) for node in products]
        scope = gate.name.removesuffix("gate") + "plugin/"
        weights = [
            self._constant(scope + "dw_weight", depthwise.input[1]),
            self._constant(scope + "dw_bias", depthwise.input[2]),
            self._constant(scope + "mix_weight", mix.input[1], square=True),
            self._constant(scope + "mix_bias", mix.input[2]),
        ]
        last = scope + "last"
        self._add(last, np.array([-1], np.int64))
        make = self._onnx.helper.make_node
        pair = [f"{scope}{part}" for part in ("real", "imaginary")]
        nodes = [
            make("Unsqueeze", [part, last], [name], name=name)
            for part, name in zip(parts, pair, strict=True)
        ]
        spectrum, gated = scope + "spectrum", scope + "gated"
        nodes.append(make("Concat", pair, [spectrum], name=spectrum, axis=-1))
        nodes.append(
            make(
                operator,
                [spectrum, *weights],
                [gated],
                name=scope + operator,
                domain=NAMESPACE,
                plugin_namespace=NAMESPACE,
                plugin_version=VERSION,
            )
        )
        halves = [f"{name}_gated" for name in pair]
        nodes.append(make("Split", [gated], halves, name=scope + "split", axis=-1, num_outputs=2))
        for half, product in zip(halves, products, strict=True):
            nodes.append(make("Squeeze", [half, last], [product.output[0]], name=half))
        place = max(list(self._graph.node).index(node) for node in products)
        for node in products:
            self._graph.node.remove(node)
        for offset, node in enumerate(nodes):
            self._graph.node.insert(place - 1 + offset, node)

    def drop_unused(self) -> None:
        """Nodes and constants that nothing reads any more."""
        while True:
            read = {name for node in self._graph.node for name in node.input}
            read |= {value.name for value in self._graph.output}
            unused = [n for n in self._graph.node if not read & set(n.output)]
            if not unused:
                break
            for node in unused:
                self._graph.node.remove(node)
        for array in [a for a in self._graph.initializer if a.name not in read]:
            self._graph.initializer.remove(array)

    def _maker(self, value: str, kind: str) -> Any:
        node = self._makers.get(value)
        if node is None or node.op_type != kind:
            raise BundleError(f"before a gate there is no {kind} that gives {value!r}")
        return node

    def _constant(self, name: str, source: str, square: bool = False) -> str:
        array = self._onnx.numpy_helper.to_array(self._arrays[source]).astype(np.float32)
        return self._add(name, array[:, :, 0, 0] if square else array)

    def _add(self, name: str, array: np.ndarray) -> str:
        array = np.ascontiguousarray(array)
        self._graph.initializer.append(self._onnx.numpy_helper.from_array(array, name))
        return name


# -- the kernel ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel. name: its entry · ptx · threads: of a block · shared_bytes: of a block ·
    positions: frequencies that a block computes.

    Its parameters: spectrum, dw_weight, dw_bias, mix_weight, mix_bias, height and width as int32,
    and the result, in this order.
    """

    name: str
    ptx: str
    threads: int
    shared_bytes: int
    positions: int


def tactics() -> int:
    """How many ways there are to run the kernel; they are numbered from 1."""
    from icmh_rt.kernels import frequency_gate as gate_module

    return len(gate_module._kernel.configs)


@cache
def compile_kernel(channels: int, tactic: int, capability: int = OLDEST_GPU) -> Kernel:
    """The gate of NCHW spectra of so many channels, in one of its ways. Needs no GPU.

    Raises:
        BackendUnavailableError: Triton is not installed, or its kernels take what TensorRT does not
            give them.
    """
    from icmh_rt.kernels import _triton

    if _triton.triton is None:
        raise BackendUnavailableError(
            "compiling the frequency gate needs Triton: pip install 'icmh-rt[torch]', or use the "
            "native gate"
        )
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from icmh_rt.export._gate_kernel import icmh_frequency_gate
    from icmh_rt.kernels import frequency_gate as gate_module

    constants, warps, stages = gate_module._kernel.configs[tactic - 1]
    constants = {
        "CHANNELS": channels,
        "BLOCK_M": _triton.power_of_two(channels, 16, 128),
        **constants,
    }
    signature = {
        "spectrum": "*i64",  # a real and an imaginary part at once
        **dict.fromkeys(("dw_weight", "dw_bias", "mix_weight", "mix_bias"), "*fp32"),
        **dict.fromkeys(("height", "width"), "i32"),
        "out": "*i64",
        **dict.fromkeys(constants, "constexpr"),
    }
    # TensorRT aligns what it allocates to 256 bytes.
    pointers = [place for place, kind in enumerate(signature.values()) if kind.startswith("*")]
    aligned = {(place,): [["tt.divisibility", 16]] for place in pointers}
    built = _triton.triton.compile(
        ASTSource(icmh_frequency_gate, signature, constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={
            "num_warps": warps,
            "num_stages": stages,
            "enable_fp_fusion": True,
            "ptx_version": PTX_VERSION,
        },
    )
    if getattr(built.metadata, "global_scratch_size", 0):
        raise BackendUnavailableError("this Triton's kernel needs scratch memory: use another")
    ptx = without_scratch(built.asm["ptx"], built.metadata.name, parameters=8)
    return Kernel(built.metadata.name, ptx, warps * 32, built.metadata.shared, constants["BLOCK_P"])


def without_scratch(ptx: str, name: str, parameters: int) -> str:
    """``ptx`` with the parameters of its entry cut off that Triton's own launcher passes and
    TensorRT's does not; a launch that passes too few reads what is not there.

    Raises:
        BackendUnavailableError: the entry uses them, or is not as it was known.
    """
    match = re.search(rf"\.entry {re.escape(name)}\((.*?)\)", ptx, re.DOTALL)
    entries = [part.strip() for part in match.group(1).split(",")] if match else []
    kept, cut = entries[:parameters], entries[parameters:]
    names = [part.split()[-1] for part in cut]
    rest = ptx[match.end() :] if match else ""
    unknown = len(kept) != parameters or len(cut) > _SCRATCH or any(n in rest for n in names)
    if match is None or unknown:
        raise BackendUnavailableError(
            f"this Triton's kernel has other parameters than TensorRT can pass: {entries}"
        )
    listed = ",\n".join(f"\t{part}" for part in kept)
    return f"{ptx[: match.start(1)]}\n{listed}\n{ptx[match.end(1) :]}"


# -- TensorRT --------------------------------------------------------------------------------------


def prepare(library: Library, gate: str) -> None:
    """Make a plugin known to TensorRT in this process.

    Raises:
        OptionError: this TensorRT cannot have it.
        BackendUnavailableError: the plugin library is not built or cannot be loaded.
    """
    if gate == "triton":
        _register(library.name, _plugin_module(library))
    elif gate == "cuda":
        load_plugins(library)


def load_plugins(library: Library) -> None:
    """Load the plugin of csrc/trt into TensorRT's registry."""
    if not PLUGIN_LIBRARY.exists():
        raise BackendUnavailableError(
            f"{PLUGIN_LIBRARY.name} is not built: build icmh_rt with nvcc and TENSORRT_ROOT set to "
            "TensorRT's folder, or use another gate"
        )
    if library.api.get_plugin_registry().load_library(str(PLUGIN_LIBRARY)) is None:
        raise BackendUnavailableError(f"{library.name} could not load {PLUGIN_LIBRARY}")


def _plugin_module(library: Library) -> Any:
    import importlib

    name = f"{library.name}.plugin"
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise OptionError(f"{name} cannot be imported ({error}): use gate native or cuda") from None
    if not hasattr(module, "aot_impl"):
        raise OptionError(
            f"{library.name} {library.version} has no {name}.aot_impl: use gate native or cuda"
        )
    return module


@cache
def _register(name: str, trtp: Any) -> None:
    """Tell ``tensorrt.plugin`` what the gate is. Once a process: it refuses a second time."""
    register(trtp)


def register(trtp: Any) -> None:
    """Register the gate with ``trtp``, the module ``tensorrt.plugin``."""
    plugin = f"{NAMESPACE}::{OPERATORS['triton']}"
    Desc: Any = trtp.TensorDesc

    @trtp.register(plugin)
    def describe(
        spectrum: Desc, dw_weight: Desc, dw_bias: Desc, mix_weight: Desc, mix_bias: Desc
    ) -> Desc:
        return spectrum.like()

    @trtp.autotune(plugin)
    def choices(
        spectrum: Desc,
        dw_weight: Desc,
        dw_bias: Desc,
        mix_weight: Desc,
        mix_bias: Desc,
        outputs: Tuple[Desc],  # noqa: UP006
    ) -> list[trtp.AutoTuneCombination]:
        types = ", ".join(["FP32"] * 6)
        return [trtp.AutoTuneCombination(types, "LINEAR", list(range(1, tactics() + 1)))]

    @trtp.aot_impl(plugin)
    def implement(
        spectrum: Desc,
        dw_weight: Desc,
        dw_bias: Desc,
        mix_weight: Desc,
        mix_bias: Desc,
        outputs: Tuple[Desc],  # noqa: UP006
        tactic: int,
    ) -> Tuple[Union[str, bytes], Union[str, bytes], trtp.KernelLaunchParams, trtp.SymExprs]:  # noqa: UP006, UP007
        images, channels, height, width, _ = (spectrum.shape_expr[i] for i in range(5))
        number = channels.constant_value  # documented as a property; in 11.4 it is a method
        kernel = compile_kernel(number() if callable(number) else number, tactic)
        launch = trtp.KernelLaunchParams()
        launch.grid_x = trtp.cdiv(height * width, kernel.positions)
        launch.grid_y = images
        launch.block_x = kernel.threads
        launch.shared_mem = kernel.shared_bytes
        sides = trtp.SymIntExprs(2)
        sides[0] = trtp.SymInt32(height)
        sides[1] = trtp.SymInt32(width)
        return kernel.name, kernel.ptx, launch, sides
