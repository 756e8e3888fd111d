"""What TensorRT wants done to a graph before it parses it."""

from __future__ import annotations

from icmh_rt.backends._tensorrt_builder import MAGNITUDE
from icmh_rt.errors import BackendUnavailableError, BundleError

try:
    import onnx
    from onnx import TensorProto, helper
except ImportError as error:
    raise BackendUnavailableError(
        f"building TensorRT engines needs the package onnx ({error}): pip install onnx, or build "
        "them elsewhere (icmh export tensorrt) and copy them here"
    ) from None


def for_parser(model: onnx.ModelProto) -> bytes:
    """``model``, serialized, without the nodes that only rename an output: TensorRT has bytes at
    the borders of a network and nowhere inside.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    outputs = {value.name for value in graph.output}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for node in reversed(list(graph.node)):  # from the end, for chains of them
        if node.op_type != "Identity" or node.output[0] not in outputs:
            continue
        source = node.input[0]
        maker = makers.get(source)
        if maker is None or readers[source] > 1 or source in outputs:
            continue
        position = list(maker.output).index(source)
        maker.output[position] = node.output[0]
        graph.node.remove(node)
    return copy.SerializeToString(deterministic=True)


def with_magnitude(model: onnx.ModelProto) -> onnx.ModelProto:
    """A synthesis graph that also tells whether its picture can be trusted: a float32 output
    `MAGNITUDE`, the sum of what g_s gives, all positive; not finite where a value of it is not.

    Half-precision numbers end at 65504, and the picture's bytes do not tell that one was passed.

    Raises:
        BundleError: the graph has no node named ``g_s/head``.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    index = next((i for i, node in enumerate(graph.node) if node.name == "g_s/head"), None)
    if index is None:
        raise BundleError("the synthesis graph has no node 'g_s/head', whose values are to be seen")
    head = graph.node[index]
    scope = "magnitude/"
    wide, positive = scope + "wide", scope + "positive"
    added = [
        helper.make_node("Cast", [head.output[0]], [wide], name=wide, to=TensorProto.FLOAT),
        helper.make_node("Abs", [wide], [positive], name=positive),
        helper.make_node("ReduceSum", [positive], [MAGNITUDE], name=scope + "sum", keepdims=0),
    ]
    for place, node in enumerate(added):
        graph.node.insert(index + 1 + place, node)
    graph.output.append(helper.make_tensor_value_info(MAGNITUDE, TensorProto.FLOAT, []))
    return copy
