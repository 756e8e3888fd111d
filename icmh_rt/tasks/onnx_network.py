"""Any ONNX file as a task network, through onnx2torch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from icmh_rt.errors import BackendUnavailableError, OptionError
from icmh_rt.tasks.network import ModuleNetwork
from icmh_rt.tasks.onnx_files import read
from icmh_rt.tasks.remainder import OnnxRemainder


class OnnxNetwork(ModuleNetwork):
    """An ONNX graph of one image input, made into a differentiable torch module.

    Where the file fixes the input's size or batch, pictures are resized to that size and run in
    batches of that many.

    Args:
        path: the file.
        layers: names of nodes of the graph, or of their outputs; ``netron`` and
            ``[n.name for n in onnx.load(path).graph.node]`` show them.
        options: of `ModuleNetwork`: mean, std, bgr, peak, filter; and size if the file leaves it
            open.

    Raises:
        OptionError: the file cannot be read or has an operator that onnx2torch does not know, there
            is no such layer, or the input is not an image.
        BackendUnavailableError: onnx2torch is not installed.
    """

    def __init__(self, path: str | Path, layers: Sequence[str], **options: Any) -> None:
        graph, body = _read(Path(path))
        size, batch = _input_of(graph, path)
        if size is not None and options.get("size") not in (None, size):
            raise OptionError(
                f"size is {tuple(options['size'])}, {str(path)!r} takes {size}: leave size out"
            )
        options = {**options, "size": size or options.get("size")}
        super().__init__(body, _modules(graph, layers, body), batch=batch, **options)
        self.path, self.nodes = Path(path), tuple(layers)

    def remainder(self) -> nn.Module:
        return OnnxRemainder(self.path, dict(zip(self.nodes, self.layers, strict=True)), self.batch)


def _read(path: Path) -> tuple[Any, nn.Module]:
    model = read(path)
    try:
        import onnx2torch
    except ImportError as error:
        raise BackendUnavailableError(
            f"ONNX task networks need {error.name}: pip install 'icmh-rt[train]'"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about how onnx2torch registers its modules
            return model.graph, onnx2torch.convert(model)
    except Exception as error:  # protobuf, onnx and onnx2torch share no exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OptionError(f"{str(path)!r} cannot be made a torch module: {reason[:300]}") from None


def _input_of(graph: Any, path: str | Path) -> tuple[tuple[int, int] | None, int | None]:
    """(size, batch) of the input where they are fixed."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in inputs]
    if len(inputs) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (0, 3):
        raise OptionError(
            f"{str(path)!r} takes {[(v.name, s) for v, s in zip(inputs, shapes, strict=True)]}, "
            "not one input (N, 3, H, W)"
        )
    batch, _, height, width = shapes[0]
    return ((height, width) if height and width else None), batch or None


def _modules(graph: Any, layers: Sequence[str], body: nn.Module) -> list[str]:
    """The modules' names of nodes or of their outputs."""
    modules = dict(body.named_modules())
    makers = {output: node.name for node in graph.node for output in node.output}
    found = []
    for layer in layers:
        name = makers.get(layer, layer)
        # Where node names are paths, onnx2torch has them with slashes for module names.
        candidates = (name, name.strip("/"), name.replace("/", "_"), name.replace(".", "/"))
        found.append(next((c for c in candidates if c in modules), layer))
    return found
