"""The C++ kernels: the module, its threads, and whether it can work on given tensors."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from icmh_rt import _native
from icmh_rt.errors import BackendUnavailableError

_OPENMP = ("libgomp.so.1", "libomp.so.5", "libomp.so", "libiomp5.so", "libomp.dylib")


@cache
def native() -> ModuleType:
    """The native module, its kernels' loops on PyTorch's own threads where those are OpenMP's."""
    module = _native.module()
    shipped = sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*"))
    for library in (*map(str, shipped), *_OPENMP):
        if module.use_openmp(library):
            break
    return module


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
        native()
    except BackendUnavailableError as error:
        return str(error)
    return None


def scalar_obstacle() -> str | None:
    """Why a kernel that is made of matrix products should not run here, or None."""
    if native().simd_level() == "scalar":
        return "without AVX2, AVX-512 or NEON it is slower than PyTorch"
    return None


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def ranges(length: int, step: int) -> list[tuple[int, int]]:
    """``length`` in parts of ``step``, each as its begin and end."""
    return [(start, min(start + step, length)) for start in range(0, length, step)]
