"""Fused kernels: ops for adapters and codecs, in PyTorch, Triton, CUDA and C++ (docs/kernels.md).

Names are loaded when they are first used: importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from icmh_rt.errors import BackendUnavailableError, OptionError

_HOMES = {
    "depth_conv_block": "depth_conv_block",
    "frequency_gate": "frequency_gate",
    "gdn": "gdn",
    "image_in": "images",
    "image_out": "images",
    "project_down": "projections",
    "project_up": "projections",
    "quantize_index": "quantize_index",
    "sfma": "sfma",
    "spatial_modulation": "spatial_modulation",
}


def op(name: str) -> Any:
    """The op of that name, an `icmh_rt.kernels._op.Op`.

    Raises:
        OptionError: there is none.
        BackendUnavailableError: torch is not installed.
    """
    if name not in _HOMES:
        raise OptionError(f"there is no op {name!r}: use one of {', '.join(_HOMES)}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise BackendUnavailableError(
            f"the op {name} needs torch: pip install 'icmh-rt[torch]'"
        ) from None
    return getattr(module, name)


def release_memory() -> None:
    """Free what the kernels keep of a CPU's memory for their next call, 512 MiB at most."""
    from icmh_rt.kernels import _memory

    _memory.release()
