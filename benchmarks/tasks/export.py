"""Write a trained network of these benchmarks as an ONNX file, which `icmh eval task` takes.

    python benchmarks/tasks/export.py classifier --weights FILE --classes 30 --output FILE.onnx
    python benchmarks/tasks/export.py segmenter --weights FILE --classes 11 --output FILE.onnx

Weights are kept in half precision, as they were saved; all is computed in single precision.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import onnx
import torch
from networks import Classifier, Segmenter, load
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
SIDE = 160  # of the classifier's input


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("classifier", "segmenter"))
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--output", required=True, metavar="FILE")
    options = parser.parse_args(arguments)
    kind = Classifier if options.what == "classifier" else Segmenter
    model = load(kind(options.classes), options.weights)
    axes = {0: "N"} if kind is Classifier else {0: "N", 2: "H", 3: "W"}
    torch.onnx.export(
        model,
        (torch.zeros(1, 3, SIDE, SIDE),),
        options.output,
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes={"image": axes, "scores": axes if kind is Segmenter else {0: "N"}},
        opset_version=OPSET,
        dynamo=False,
    )
    graph = onnx.load(options.output)
    _halve(graph)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, options.output)
    return 0


def _halve(model: onnx.ModelProto) -> None:
    """Keep large float32 constants as float16, made float32 again where they are used."""
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < 64:
            continue
        name, half = tensor.name, f"{tensor.name}.half"
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(
            helper.make_node("Cast", [half], [name], name=f"{name}.cast", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


if __name__ == "__main__":
    sys.exit(main())
