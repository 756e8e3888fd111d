"""What a network does behind some of its layers: it goes on from their outputs.

So a machine that has features, from ``Decoder.features``, needs no picture::

    onnx.save(remainder("FastestDet.onnx", ["Relu_250"]), "rest.onnx")
    rest = onnxruntime.InferenceSession("rest.onnx")
    outputs = rest.run(None, {name: f[None] for name, f in decoder.features(stream).items()})
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icmh_rt.errors import OptionError
from icmh_rt.tasks.onnx_files import read


def remainder(path: str | Path, layers: Sequence[str]) -> Any:
    """The ONNX graph behind ``layers``, whose inputs have the layers' names.

    Args:
        path: the network's file.
        layers: names of its nodes, or of their outputs.

    Returns:
        An ``onnx.ModelProto`` with the network's outputs.

    Raises:
        OptionError: the file cannot be read, a layer is not there, or the outputs need more than
            these layers.
        BackendUnavailableError: the package onnx is not installed.
    """
    model = read(path)
    import onnx
    import onnx.utils

    model = onnx.shape_inference.infer_shapes(model)
    makers = {node.name: node.output[0] for node in model.graph.node}
    values = {output for node in model.graph.node for output in node.output}
    names = [makers.get(layer, layer) for layer in layers]
    for layer, name in zip(layers, names, strict=True):
        if name not in values:
            raise OptionError(f"no layer {layer!r} in {str(path)!r}")
    outputs = [value.name for value in model.graph.output]
    try:
        found = onnx.utils.Extractor(model).extract_model(names, outputs)
        found = _renamed(found, dict(zip(names, layers, strict=True)))
        onnx.checker.check_model(found)
    except (ValueError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(
            f"{str(path)!r} cannot go on from {', '.join(layers)} alone: {reason[:300]}"
        ) from None
    return found


def _renamed(model: Any, names: dict[str, str]) -> Any:
    """Inputs under other names."""
    for value in model.graph.input:
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        kept = [names.get(name, name) for name in node.input]
        del node.input[:]
        node.input.extend(kept)
    return model


class OnnxRemainder(nn.Module):
    """The same as a differentiable torch module: features by name -> what the network says.

    Args:
        path: the network's file.
        layers: names of its nodes, or of their outputs, with those that the features have.
        batch: how many the file says that it takes at once; None for any number. Where only the
            shapes written in the file stand against more, all are run at once.
    """

    def __init__(self, path: str | Path, layers: Mapping[str, str], batch: int | None) -> None:
        super().__init__()
        import onnx2torch

        model = remainder(path, tuple(layers))
        if batch is not None:
            _free_batch(model.graph)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about how onnx2torch registers its modules
            self.body = onnx2torch.convert(model).eval().requires_grad_(False)
        self.order = [layers[value.name] for value in model.graph.input]
        if batch is not None and _takes_more(self.body, model.graph):
            batch = None
        self.batch = batch

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        inputs = [features[name] for name in self.order]
        parts = [x.split(self.batch) if self.batch else (x,) for x in inputs]
        outputs = [self.body(*part) for part in zip(*parts, strict=True)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _free_batch(graph: Any) -> None:
    """Leaves the first side of all reshapes open, which changes nothing at the file's own batch and
    is what many of them, a channel shuffle's for one, need for another.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {n.input[1] for n in graph.node if n.op_type == "Reshape" and len(n.input) > 1}
    for name in shapes & constants.keys():
        sides = numpy_helper.to_array(constants[name]).copy()
        if len(sides) and (sides > 0).all():
            sides[0] = -1
            constants[name].CopyFrom(numpy_helper.from_array(sides, name))


@torch.no_grad()
def _takes_more(body: nn.Module, graph: Any) -> bool:
    """Whether ``body`` gives for two batches at once what it gives for one after the other."""
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input]
    if not all(side > 0 for shape in shapes for side in shape):
        return False
    generator = torch.Generator().manual_seed(0)
    pairs = [[torch.rand(s, generator=generator) for s in shapes] for _ in range(2)]
    alone = torch.cat([body(*inputs) for inputs in pairs])
    try:
        together = body(*map(torch.cat, zip(*pairs, strict=True)))
    except RuntimeError:
        return False
    return alone.shape == together.shape and torch.allclose(alone, together, 1e-3, 1e-4)
