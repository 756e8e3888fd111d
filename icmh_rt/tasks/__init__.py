"""Task networks: what looks at decoded pictures, frozen, with named intermediate features.

    network = icmh_rt.tasks.create(NetworkConfig(kind="fastestdet", weights="FastestDet.onnx"))
    features = network.features(images)      # {"Relu_232": (N, 96, 22, 22), ...}

Any torch module (`ModuleNetwork`) and any ONNX file that onnx2torch reads (`OnnxNetwork`) is one.
Names are loaded when they are first used: importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
