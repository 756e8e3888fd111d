"""A task network by its configuration."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from icmh_rt.errors import OptionError
from icmh_rt.tasks.network import ModuleNetwork, TaskNetwork
from icmh_rt.tasks.weights import load_weights

KINDS = (
    "fastestdet",
    "onnx",
    "resnet50",
    "fasterrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "python",
)


@dataclass(frozen=True)
class NetworkConfig:
    """``kind``: one of `KINDS`. ``weights``: the network's file. ``layers``: names of feature
    layers, empty for the kind's own. ``size``: (height, width) of the input, to which pictures are
    resized; empty for their own, or the file's. ``mean``, ``std``, ``bgr``, ``peak``, ``filter``:
    of ONNX files and Python modules, see `ModuleNetwork`. ``factory``: of kind "python",
    ``"package.module:name"`` or ``"path/to/file.py:name"``: what is called, with ``classes`` if
    that is not 0, for a torch module or a `TaskNetwork`. ``classes``: of torchvision's networks, 0
    for their own."""

    kind: str = ""
    weights: str = ""
    layers: tuple[str, ...] = ()
    size: tuple[int, ...] = ()
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    bgr: bool = False
    peak: float = 1.0
    filter: str = "bilinear"
    factory: str = ""
    classes: int = 0


def create(config: NetworkConfig) -> TaskNetwork:
    """The network, frozen.

    Raises:
        OptionError: an unknown kind, a missing or unfit file, or a layer that is not there.
        BackendUnavailableError: a package is missing.
    """
    if config.size and len(config.size) != 2:
        raise OptionError(f"size is {list(config.size)}: give height and width")
    size: Any = tuple(config.size) or None
    if config.kind == "fastestdet":
        from icmh_rt.tasks.fastestdet import LAYERS, FastestDet

        return FastestDet(config.weights, config.layers or LAYERS)
    if config.kind in ("onnx", "python"):
        options: dict[str, Any] = {
            name: getattr(config, name) for name in ("mean", "std", "bgr", "peak", "filter")
        }
        if config.kind == "onnx":
            from icmh_rt.tasks.onnx_network import OnnxNetwork

            return OnnxNetwork(config.weights, config.layers, size=size, **options)
        made = _from_factory(config)
        if isinstance(made, TaskNetwork):
            return made
        return ModuleNetwork(made, config.layers, size, **options)
    if config.kind in KINDS:
        from icmh_rt.tasks.torchvision_networks import TorchvisionNetwork

        return TorchvisionNetwork(config.kind, config.weights, config.layers, config.classes, size)
    raise OptionError(f"network.kind is {config.kind!r}: use one of {', '.join(KINDS)}")


def _from_factory(config: NetworkConfig) -> nn.Module:
    build = _find(config.factory)
    made = build(config.classes) if config.classes else build()
    if not isinstance(made, nn.Module):
        raise OptionError(
            f"network.factory {config.factory!r} gave a {type(made).__name__}, not a torch module"
        )
    if config.weights:
        load_weights(made, config.weights)
    return made


def _find(factory: str) -> Callable[..., Any]:
    home, _, name = factory.rpartition(":")
    if not home or not name:
        raise OptionError(
            f"network.factory is {factory!r}: give 'package.module:name' or 'file.py:name'"
        )
    try:
        if home.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(home).stem, home)
            module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
            spec.loader.exec_module(module)  # type: ignore[union-attr]
        else:
            module = importlib.import_module(home)
        return getattr(module, name)
    except (ImportError, AttributeError, OSError) as error:
        raise OptionError(f"network.factory {factory!r} is not there: {error}") from None
