"""Task networks: what looks at decoded pictures, frozen, with named intermediate features.

    network = icmh_rt.tasks.create(NetworkConfig(kind="fastestdet", weights="FastestDet.onnx"))
    features = network.features(images)      # {"Relu_232": (N, 96, 22, 22), ...}

Any torch module (`ModuleNetwork`) and any ONNX file that onnx2torch reads (`OnnxNetwork`) is one.
Names are loaded when they are first used: importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a type checker takes the lazy names for
    from icmh_rt.tasks.fastestdet import FastestDet as FastestDet
    from icmh_rt.tasks.network import ModuleNetwork as ModuleNetwork
    from icmh_rt.tasks.network import TaskNetwork as TaskNetwork
    from icmh_rt.tasks.onnx_network import OnnxNetwork as OnnxNetwork
    from icmh_rt.tasks.registry import KINDS as KINDS
    from icmh_rt.tasks.registry import NetworkConfig as NetworkConfig
    from icmh_rt.tasks.registry import create as create
    from icmh_rt.tasks.torchvision_networks import TorchvisionNetwork as TorchvisionNetwork

_HOMES = {
    "TaskNetwork": "network",
    "ModuleNetwork": "network",
    "OnnxNetwork": "onnx_network",
    "FastestDet": "fastestdet",
    "TorchvisionNetwork": "torchvision_networks",
    "NetworkConfig": "registry",
    "KINDS": "registry",
    "create": "registry",
}

__all__ = sorted(_HOMES)


def _load(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of these
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
