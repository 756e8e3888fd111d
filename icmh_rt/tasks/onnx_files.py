"""ONNX files of task networks, as the rest of this room wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icmh_rt.errors import BackendUnavailableError, OptionError


def read(path: str | Path) -> Any:
    """The ``onnx.ModelProto`` of a file; weights that are stored in another type and cast when they
    are used have the type in which they are used.

    Raises:
        OptionError: there is no such file, or it is none.
        BackendUnavailableError: the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise BackendUnavailableError(
            f"ONNX task networks need {error.name}: pip install 'icmh-rt[train]'"
        ) from None
    if not Path(path).is_file():
        raise OptionError(f"no ONNX file {str(path)!r}")
    try:
        model = onnx.load(str(path))
        _fold_casts(model.graph)
    except Exception as error:  # protobuf and onnx share no exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OptionError(f"{str(path)!r} cannot be read: {reason[:300]}") from None
    return model


def _fold_casts(graph: Any) -> None:
    """Casts of constants, done once: onnx2torch takes weights from constants only."""
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "Cast" or node.input[0] not in constants:
            continue
        (to,) = (attribute.i for attribute in node.attribute if attribute.name == "to")
        values = numpy_helper.to_array(constants[node.input[0]])
        values = values.astype(helper.tensor_dtype_to_np_dtype(to))
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)
