"""Whether tensors are such that C++ can work on them."""

from __future__ import annotations

import torch
from torch import Tensor

from icmh_rt import _native
from icmh_rt.errors import BackendUnavailableError


def native_obstacle(dtypes: tuple[torch.dtype, ...], *tensors: Tensor | None) -> str | None:
    """Why the C++ cannot be run on these tensors, or None."""
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.device.type != "cpu":
            return f"a tensor is on {tensor.device}, and this kernel is for CPUs"
        if tensor.dtype not in dtypes:
            return f"a tensor is {tensor.dtype}, and this kernel computes in {_names(dtypes)}"
    try:
        _native.module()
    except BackendUnavailableError as error:
        return str(error)
    return None


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
