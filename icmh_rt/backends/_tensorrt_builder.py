"""From an ONNX graph to a TensorRT plan.

Networks are strongly typed: every tensor has the type that the graph gives it, and TensorRT chooses
kernels, never precisions. TF32 is off for all of them. Together with the graphs' own casts this
keeps the integer network exact, whose nodes are named ``exact/...``; that the parser has left them
in single precision is checked before anything is built.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icmh_rt._files import replace_file
from icmh_rt.backends._tensorrt_library import Library
from icmh_rt.coding import DEFAULT_HYPER_STRIDE, DEFAULT_LATENT_STRIDE
from icmh_rt.errors import BackendUnavailableError, BundleError, OptionError

EXACT = "exact/"
"""What the names of nodes start with that must compute in fp32 or whole numbers; `graphs` gives
these names, and cannot be imported here: it needs onnx, which running a plan does not.
"""

MAGNITUDE = "magnitude"
"""An output that synthesis engines have besides: finite if all values of the picture are."""

MOST_OPTIMIZED = 5  # TensorRT's highest optimization level
_INEXACT = ("HALF", "BF16", "FP8", "FP4", "INT4")
_MIB = 1 << 20


@dataclass(frozen=True)
class ImageSizes:
    """What an engine takes, (height, width): the smallest, what it is tuned for, the largest.

    batch: images at once, of one size each; the smallest batch is always 1.
    """

    least: tuple[int, int] = (1, 1)
    best: tuple[int, int] = (512, 768)
    most: tuple[int, int] = (4096, 4096)
    batch: int = 1

    def __post_init__(self) -> None:
        for axis, name in enumerate(("height", "width")):
            sizes = self.least[axis], self.best[axis], self.most[axis]
            if not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
                raise OptionError(
                    f"an engine's smallest, best and largest {name} are {sizes}: they must ascend "
                    "from at least 1"
                )
        if self.batch < 1:
            raise OptionError(f"batch is {self.batch}: it must be at least 1")

    @property
    def label(self) -> str:
        """For file names."""
        if self.least == self.most:
            sizes = _label(self.most)
        else:
            sizes = "-".join(map(_label, (self.least, self.best, self.most)))
        return sizes if self.batch == 1 else f"{sizes}x{self.batch}"

    def holds(self, size: tuple[int, int]) -> bool:
        return all(a <= b <= c for a, b, c in zip(self.least, size, self.most, strict=True))


def _label(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built.

    Args:
        sizes: of images.
        compute_capability: of the GPU, "8.6"; empty for the one that is here. Only TensorRT-RTX
            builds for others.
        workspace_mib: most memory that kernels may ask for beside the tensors; 0 for all there is.
        optimization_level: 0 (builds fastest) to 5 (runs fastest); -1 for TensorRT's own.
        aux_streams: most streams beside the main one; -1 for TensorRT's own choice.
        version_compatible: let later versions of TensorRT run the plan.
        any_ampere: let every GPU of compute capability 8.0 and above run the plan.
        pin_tactics: take only tactics that the timing cache knows, and fail if it lacks one.
        detailed: keep in the plan what the engine inspector tells of each layer.
    """

    sizes: ImageSizes = field(default_factory=ImageSizes)
    compute_capability: str = ""
    workspace_mib: int = 0
    optimization_level: int = -1
    aux_streams: int = -1
    version_compatible: bool = False
    any_ampere: bool = False
    pin_tactics: bool = False
    detailed: bool = True

    def __post_init__(self) -> None:
        if not -1 <= self.optimization_level <= MOST_OPTIMIZED:
            raise OptionError(
                f"optimization level is {self.optimization_level}: use 0 to {MOST_OPTIMIZED}"
            )
        if self.workspace_mib < 0:
            raise OptionError(f"workspace is {self.workspace_mib} MiB: use 0 (no limit) or more")


@dataclass(frozen=True, eq=False)
class Built:
    """plan: its bytes · seconds: that building took · layers: of the network, name, type, output
    types and shapes · warnings: that TensorRT gave.
    """

    plan: bytes = field(repr=False)
    seconds: float
    layers: list[dict[str, Any]] = field(repr=False)
    warnings: list[str] = field(repr=False)


def build(
    library: Library, graph: bytes, options: BuildOptions, timing_cache: Path | None = None
) -> Built:
    """Build one engine.

    Args:
        library: which TensorRT.
        graph: a serialized ONNX model with the inputs of `profile`.
        timing_cache: file to read measured tactics from and to add new ones to.

    Raises:
        BackendUnavailableError: TensorRT refuses the graph or cannot build it; the message has its
            own words.
        OptionError: an option that this TensorRT does not know.
    """
    api = library.api
    with library.collected() as messages:
        builder = library.start("Builder")
        network = builder.create_network(_strongly_typed(api))
        parser = api.OnnxParser(network, library.log)
        if not parser.parse(graph):
            reasons = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
            raise _failed("parse the graph", reasons or messages)
        layers = describe(network)
        check_exact(layers)
        config = builder.create_builder_config()
        _configure(library, config, options)
        profile = builder.create_optimization_profile()
        if _fill_profile(network, profile, options.sizes):
            config.add_optimization_profile(profile)
        cache = _load_timing_cache(config, timing_cache)
        start = time.perf_counter()
        memory = builder.build_serialized_network(network, config)
        seconds = time.perf_counter() - start
        if memory is None:
            raise _failed("build the engine", [m for m in messages if "error" in m] or messages)
        if cache is not None and timing_cache is not None:
            _save_timing_cache(config, timing_cache)
        return Built(bytes(memory), seconds, layers, list(dict.fromkeys(messages)))


def _strongly_typed(api: Any) -> int:
    """Creation flags; versions that know no other kind of network may have dropped the flag."""
    flag = getattr(api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _failed(what: str, reasons: list[str]) -> BackendUnavailableError:
    text = "; ".join(reasons) or "it gives no reason"
    return BackendUnavailableError(f"TensorRT could not {what}: {text[:800]}")


def _parser_error(error: Any) -> str:
    node = error.node_name() if hasattr(error, "node_name") else ""
    kind = error.node_operator() if hasattr(error, "node_operator") else ""
    return " ".join(f"{kind} {node!r}: {error.desc()}".split())


# -- configuration ---------------------------------------------------------------------------------


def _configure(library: Library, config: Any, options: BuildOptions) -> None:
    api = library.api
    flags = api.BuilderFlag
    config.clear_flag(flags.TF32)
    if options.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if options.pin_tactics:
        config.set_flag(flags.ERROR_ON_TIMING_CACHE_MISS)
    if options.any_ampere:
        config.hardware_compatibility_level = api.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.workspace_mib:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)
    if options.optimization_level >= 0:
        config.builder_optimization_level = options.optimization_level
    if options.aux_streams >= 0:
        config.max_aux_streams = options.aux_streams
    kinds = api.ProfilingVerbosity
    config.profiling_verbosity = kinds.DETAILED if options.detailed else kinds.LAYER_NAMES_ONLY
    if options.compute_capability:
        _set_compute_capability(library, config, options.compute_capability)


def _set_compute_capability(library: Library, config: Any, capability: str) -> None:
    if not library.builds_for_others:
        raise OptionError(
            f"{library.name} builds for the GPU that is here, not for compute capability "
            f"{capability}: use tensorrt_rtx, or build on that GPU"
        )
    known = library.api.ComputeCapability.__members__
    name = "SM" + capability.replace(".", "")
    if name not in known:
        able = ", ".join(_dotted(n) for n in sorted(known) if n.startswith("SM"))
        raise OptionError(
            f"{library.name} {library.version} does not build for compute capability {capability}: "
            f"use one of {able}"
        )
    config.num_compute_capabilities = 1
    if config.set_compute_capability(known[name], 0) is False:
        raise OptionError(f"{library.name} refuses compute capability {capability}")


def _dotted(name: str) -> str:
    digits = name[2:]
    return f"{digits[:-1]}.{digits[-1]}"


def _load_timing_cache(config: Any, path: Path | None) -> Any:
    """None where there is no such thing: in TensorRT-RTX, which measures when it runs."""
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    # False also of a cache that another GPU or version has made: it would be of no use.
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _save_timing_cache(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    memory = None if cache is None else cache.serialize()
    if memory is not None:
        with replace_file(path) as file:
            file.write(bytes(memory))


# -- shapes ----------------------------------------------------------------------------------------


def _fill_profile(network: Any, profile: Any, sizes: ImageSizes) -> bool:
    """False if nothing about the network's inputs is open."""
    found = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        dims = tuple(tensor.shape)
        cases = [
            shape_of(tensor.name, dims, size, batch)
            for size, batch in (
                (sizes.least, 1),
                (sizes.best, sizes.batch),
                (sizes.most, sizes.batch),
            )
        ]
        if tensor.is_shape_tensor:
            axis = {"height": 0, "width": 1}.get(tensor.name)
            if axis is None:
                raise BundleError(f"the graph has a shape input {tensor.name!r} that is unknown")
            values = [[size[axis]] for size in (sizes.least, sizes.best, sizes.most)]
            done = profile.set_shape_input(tensor.name, *values)
        elif -1 in dims:
            done = profile.set_shape(tensor.name, *cases)
        else:
            continue
        found = True
        if done is False:  # None in most versions, which raise
            raise OptionError(f"TensorRT refuses the sizes {cases} of input {tensor.name!r}")
    return found


def shape_of(
    name: str, dims: tuple[int, ...], image_size: tuple[int, int], batch: int
) -> tuple[int, ...]:
    """The shape of a graph's input for images of one size; ``dims`` has -1 where it is open."""
    steps = {
        "image": 1,
        "y_hat": DEFAULT_LATENT_STRIDE,
        "symbols_z": DEFAULT_LATENT_STRIDE * DEFAULT_HYPER_STRIDE,
    }
    if name not in steps or len(dims) != 4:
        return dims
    height, width = (-(-side // steps[name]) for side in image_size)
    wanted = (batch, height, width, dims[3])
    return tuple(w if d == -1 else d for d, w in zip(dims, wanted, strict=True))


# -- what the network is ---------------------------------------------------------------------------


def describe(network: Any) -> list[dict[str, Any]]:
    """Every layer: name, type, types and shapes of its outputs, -1 where a side is open."""
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        layers.append(
            {
                "name": layer.name,
                "type": str(layer.type).rsplit(".", 1)[-1],
                "outputs": [
                    {"dtype": str(t.dtype).rsplit(".", 1)[-1], "shape": _dims(t)}
                    for t in outputs
                    if t is not None
                ],
            }
        )
    return layers


def _dims(tensor: Any) -> list[int] | None:
    try:
        return [int(side) for side in tensor.shape]
    except ValueError:  # of unknown rank
        return None


def check_exact(layers: Sequence[Mapping[str, Any]]) -> int:
    """How many layers are of the exact part.

    Raises:
        BundleError: one of them has a type that cannot hold its whole numbers.
    """
    exact = [layer for layer in layers if layer["name"].startswith(EXACT)]
    for layer in exact:
        for output in layer["outputs"]:
            if output["dtype"] in _INEXACT:
                raise BundleError(
                    f"layer {layer['name']!r} of the integer network computes in "
                    f"{output['dtype']}: the graph must keep it in fp32"
                )
    return len(exact)


def inspect(library: Library, plan: bytes) -> list[dict[str, Any]]:
    """What the engine inspector tells of each layer of a plan; needs the GPU it was built for.

    Raises:
        BackendUnavailableError: the plan cannot be loaded here.
    """
    api = library.api
    with library.collected() as messages:
        runtime = library.start("Runtime")
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise _failed("load the plan", messages)
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(api.LayerInformationFormat.JSON)
    layers = json.loads(text).get("Layers", [])
    return [layer if isinstance(layer, dict) else {"Name": layer} for layer in layers]
