"""Networks for tests: what the real ones look like, in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from icmh_rt.tasks.fastestdet import LAYERS


class Tiny(nn.Module):
    """Two convolutions, a dictionary of maps, and class scores."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, 4, 1)
        self.second = nn.Conv2d(8, 8, 3, 2, 1)
        self.maps = _Maps()
        self.head = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        y = torch.relu(self.second(x))
        self.maps(x, y)
        return self.head(y.mean((2, 3)))


class _Maps(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"fine": x, "coarse": y}


OUTPUT = "Concat_264"
"""Node of the detector's output."""


def write_detector(path: Path, size: int = 64, batch: int | str = 1) -> Path:
    """An ONNX graph with the names of FastestDet's layers and its output, of random weights."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, last, channels = [], [], "input.1", 3
    for index, name in enumerate((*LAYERS, "before")):
        outputs = 85 if name == "before" else 6
        weight = rng.normal(0, 0.12, (outputs, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        stride = 2 if index < 4 else 1
        window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [stride, stride]}
        nodes.append(
            helper.make_node("Conv", [last, f"w{index}"], [f"t{index}"], name=name, **window)
        )
        last, channels = f"t{index}", outputs
    nodes.append(helper.make_node("Sigmoid", [last], ["758"], name=OUTPUT))
    value, side = helper.make_tensor_value_info, size // 16
    graph = helper.make_graph(
        nodes,
        "detector",
        [value("input.1", onnx.TensorProto.FLOAT, [batch, 3, size, size])],
        [value("758", onnx.TensorProto.FLOAT, [batch, 85, side, side])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 8  # older runtimes read it too
    onnx.save(model, str(path))
    return path
