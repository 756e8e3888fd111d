"""Writing an ONNX graph node by node, with names that tell what a node is for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from icmh_rt.errors import BackendUnavailableError

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise BackendUnavailableError(
        f"building graphs needs the package onnx ({error}): pip install 'icmh-rt[onnx]'"
    ) from None

OPSET = 18
"""Old enough for every runtime in use, new enough for all that the graphs need."""

IR_VERSION = 8
"""What came with this opset, and the next one with the next; runtimes read newer ones for years."""

Side = int | str
"""A dimension: its value where it is known when the graph is built, else the name of an int64
tensor (1,)."""

_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "fp8": TensorProto.FLOAT8E4M3FN,
}


class GraphBuilder:
    """Collects nodes and constants; values are names. Equal calls in equal order give equal graphs.

    Equal constants are stored once, under the name that came first.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._by_content: dict[tuple, str] = {}
        self._taken: set[str] = set()
        self._scope = ""
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    # -- names ---------------------------------------------------------------------------------

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Nodes and their values inside the block are called ``name/...``."""
        outer, self._scope = self._scope, f"{self._scope}{name}/"
        try:
            yield
        finally:
            self._scope = outer

    def _name(self, wanted: str) -> str:
        return self._unique(self._scope + wanted)

    def _unique(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

    # -- what a graph is made of ---------------------------------------------------------------

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """An input of the graph; words in ``shape`` are dimensions that callers choose."""
        self._inputs.append(helper.make_tensor_value_info(name, _TYPES[dtype], shape))
        self._taken.add(name)
        return name

    def output(self, value: str, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """``value`` as an output of the graph.

        Its node writes it under that name: TensorRT refuses bytes that pass one more node. Where
        others read it too, a copy of it is the output.
        """
        self._outputs.append(helper.make_tensor_value_info(name, _TYPES[dtype], shape))
        self._taken.add(name)
        makers = [node for node in self._nodes if value in node.output]
        read = any(value in node.input for node in self._nodes)
        if makers and not read:
            outputs = [name if output == value else output for output in makers[0].output]
            del makers[0].output[:]
            makers[0].output.extend(outputs)
        else:
            self._nodes.append(helper.make_node("Identity", [value], [name], name=f"output/{name}"))

    def constant(self, array: np.ndarray, name: str = "constant") -> str:
        """An initializer with the values of ``array``; scopes do not show in its name."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._by_content:
            found = self._unique(name)
            self._constants[found] = numpy_helper.from_array(array, found)
            self._by_content[key] = found
        return self._by_content[key]

    def zeros(self, shape: Sequence[int], dtype: str) -> str:
        """An initializer of zeros; ``dtype`` may be one that numpy has not."""
        key = ("zeros", dtype, tuple(shape))
        if key not in self._by_content:
            found = self._unique(f"zeros_{dtype}")
            tensor = TensorProto(name=found, data_type=_TYPES[dtype], dims=shape)
            tensor.raw_data = bytes(math.prod(shape))  # of one byte each
            self._constants[found] = tensor
            self._by_content[key] = found
        return self._by_content[key]

    def node(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """A node with one output, whose name it shares."""
        return self.nodes(op, *inputs, name=name, outputs=1, **attributes)[0]

    def nodes(
        self, op: str, *inputs: str, outputs: int, name: str | None = None, **attributes: Any
    ) -> list[str]:
        """A node with several outputs."""
        title = self._name(name or op.lower())
        results = [
            title if i == 0 else self._name(f"{name or op.lower()}.{i}") for i in range(outputs)
        ]
        self._nodes.append(helper.make_node(op, inputs, results, name=title, **attributes))
        return results

    # -- small expressions ---------------------------------------------------------------------

    def number(self, value: float, dtype: str = "float32") -> str:
        """A constant without dimensions."""
        return self.constant(np.array(value, dtype), f"number_{dtype}")

    def cast(self, x: str, dtype: str) -> str:
        return self.node("Cast", x, to=_TYPES[dtype], name=f"to_{dtype}")

    def transpose(self, x: str, *order: int) -> str:
        return self.node("Transpose", x, perm=list(order))

    def side(self, x: str, axis: int) -> str:
        """The size of ``x`` along ``axis``, int64 (1,)."""
        return self.node("Shape", x, start=axis, end=axis + 1, name="side")

    def whole(self, value: Side) -> str:
        """``value`` as int64 (1,)."""
        if isinstance(value, str):
            return value
        return self.constant(np.array([value], np.int64), "sides")

    def vector(self, values: Sequence[Side]) -> str:
        """int64 (len(values),)."""
        if all(isinstance(value, int) for value in values):
            return self.constant(np.array(values, np.int64), "sides")
        return self.node("Concat", *map(self.whole, values), axis=0, name="sides")

    def reshape(self, x: str, shape: Sequence[Side]) -> str:
        """Where ``shape`` is 0, the side of ``x`` stays."""
        return self.node("Reshape", x, self.vector(shape))

    def add(self, a: Side, b: Side) -> Side:
        return a + b if isinstance(a, int) and isinstance(b, int) else self._sides("Add", a, b)

    def subtract(self, a: Side, b: Side) -> Side:
        return a - b if isinstance(a, int) and isinstance(b, int) else self._sides("Sub", a, b)

    def times(self, a: Side, b: Side) -> Side:
        return a * b if isinstance(a, int) and isinstance(b, int) else self._sides("Mul", a, b)

    def divided(self, a: Side, b: int) -> Side:
        """``a // b`` of what is not negative."""
        return a // b if isinstance(a, int) else self._sides("Div", a, b)

    def divided_up(self, a: Side, b: int) -> Side:
        """``ceil(a / b)`` of what is not negative."""
        return self.divided(self.add(a, b - 1), b)

    def _sides(self, op: str, a: Side, b: Side) -> str:
        return self.node(op, self.whole(a), self.whole(b), name=f"side_{op.lower()}")

    # -- the whole -----------------------------------------------------------------------------

    def model(
        self, name: str, description: str, metadata: dict[str, str], opset: int = OPSET
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes,
            name,
            self._inputs,
            self._outputs,
            initializer=list(self._constants.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            producer_name="icmh_rt",
            doc_string=description,
            ir_version=IR_VERSION + max(0, opset - OPSET),
        )
        helper.set_model_props(model, dict(sorted(metadata.items())))
        return model
