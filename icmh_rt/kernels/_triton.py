"""What the Triton kernels share: whether Triton can run here, how maps are addressed, small pieces.

Without Triton (on a Jetson, say) this module still imports: `jit` then gives the plain function
back, which nobody calls, because `obstacle` says why not.

Kernels see a map as (N, C, P) with P = H * W positions and any three strides, so both memory
formats, and slices of channels, run without a copy. A tile is positions by channels; Triton sees
which of the strides is 1 and loads along it. Offsets within an image are 32 bits.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except Exception as error:  # a broken installation raises more than ImportError
    triton = tl = None
    _MISSING: str | None = f"Triton cannot be imported ({' '.join(str(error).split())})"
else:
    _MISSING = None

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_IMAGES = 65535  # the grid's third axis
_WORTH_TUNING = 1 << 20  # values of a map; what takes less time than its launch tells nothing


def _probe() -> None: ...


INTERPRETED = triton is not None and not isinstance(triton.jit(_probe), triton.JITFunction)
"""Triton's interpreter runs the kernels on the CPU: TRITON_INTERPRET=1 was set at import."""


def obstacle(*tensors: Tensor | None, dtypes: tuple[torch.dtype, ...] = _DTYPES) -> str | None:
    """Why Triton cannot run a kernel on these tensors (N, C, H, W, or weights); None: it can."""
    if _MISSING is not None:
        return _MISSING
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.device.type != "cuda" and not INTERPRETED:
            return f"its tensors are on {tensor.device.type}, and Triton runs on CUDA GPUs"
        if tensor.dtype not in dtypes:
            return f"{tensor.dtype} is none of {', '.join(str(dtype) for dtype in dtypes)}"
        if tensor.dim() == 4 and tensor.shape[0] > _MOST_IMAGES:
            return f"{tensor.shape[0]} images are more than {_MOST_IMAGES}"
        sides = zip(tensor.shape[1:], tensor.stride()[1:], strict=True)
        if sum((side - 1) * stride for side, stride in sides) >= 2**31:
            return "an image takes 2**31 values or more"
    given = [tensor for tensor in tensors if tensor is not None]
    if not INTERPRETED and torch.cuda.get_device_capability(given[0].device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return None


def launch(kernel: Any, grid: Any, *arguments: Any, **options: Any) -> None:
    """Run ``kernel[grid](...)`` on the device of its first argument, a map, and its current stream.

    A `Tuned` kernel is tuned on the first large map.
    """
    options.setdefault("enable_fp_fusion", True)
    x = arguments[0]
    small = isinstance(kernel, Tuned) and (INTERPRETED or x.numel() < _WORTH_TUNING)
    run = kernel.untuned(grid) if small else kernel[grid]
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        run(*arguments, **options)


def flat(x: Tensor) -> Tensor:
    """``x (N, C, H, W)``, or a copy, in which H and W lie like one axis."""
    height, width = x.shape[2:]
    if height == 1 or width == 1 or x.stride(2) == width * x.stride(3):
        return x
    return x.contiguous()


def steps(x: Tensor) -> tuple[int, int, int]:
    """The strides of a `flat` map seen as (N, C, P)."""
    return x.stride(0), x.stride(1), x.stride(3) if x.shape[3] > 1 else x.stride(2)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(value: int, least: int, most: int) -> int:
    """The power of two that covers ``value``, between two others."""
    return min(most, max(least, 1 << (value - 1).bit_length()))


def _undecorated(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


jit = _undecorated if triton is None else triton.jit


class Tuned:
    """A kernel and a few ways to run it, the first of which is good, the best found by trying.

    Args:
        function: of `jit`.
        key: names of numbers of channels and of the memory format, never of the size of the
            image: a codec sees any size, and tuning takes a second. Results are kept on disk
            where Triton can do that.
        configs: (constants, warps, stages) of each.
    """

    def __init__(
        self, function: Any, key: list[str], configs: tuple[tuple[dict[str, int], int, int], ...]
    ) -> None:
        self.function, self.key, self.configs = function, key, configs
        self._tuner: Any = None

    def untuned(self, grid: Any) -> Callable[..., Any]:
        """What runs it the first way; in the interpreter, whose time is the number of programs,
        with the largest tile.
        """
        constants, warps, stages = self.configs[0]
        if INTERPRETED:
            constants = max((c for c, _, _ in self.configs), key=lambda c: math.prod(c.values()))
        run = self.function[grid]
        return functools.partial(run, **constants, num_warps=warps, num_stages=stages)

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        """What runs it in the best way."""
        if self._tuner is None:  # not before: some versions of Triton look for a GPU here
            configs = [
                triton.Config(constants, num_warps=warps, num_stages=stages)
                for constants, warps, stages in self.configs
            ]
            options = {}
            if "cache_results" in inspect.signature(triton.autotune).parameters:
                options["cache_results"] = True
            self._tuner = triton.autotune(configs, key=self.key, **options)(self.function)
        return self._tuner[grid]


def autotune(key: list[str], *configs: tuple[dict[str, int], int, int]) -> Callable[[Any], Tuned]:
    """Decorates a kernel: see `Tuned`."""
    return functools.partial(Tuned, key=key, configs=configs)


# -- pieces of kernels -----------------------------------------------------------------------------

if triton is not None:
    _WIDEN = tl.constexpr(INTERPRETED)  # the interpreter multiplies bfloat16 as if it were integers


@jit
def relu(x):
    """Keeps NaN."""
    return tl.where(x < 0, 0.0, x)


@jit
def silu(x):
    return x / (1.0 + tl.exp(-x))


@jit
def clamp(x, least, most):
    """Of numbers that are not NaN."""
    return tl.minimum(tl.maximum(x, least * 1.0), most * 1.0)


@jit
def rint(x):
    """The nearest integer below 2**22 in magnitude, ties to even, as int32: next to 3 * 2**22 the
    float32 are the integers.
    """
    return ((x + 12582912.0) - 12582912.0).to(tl.int32)


@jit
def dot(a, b, acc, PRECISION: tl.constexpr = "ieee"):
    """``acc + a @ b``, summed in float32; float32 operands are not rounded to TF32."""
    if _WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@jit
def load_matrix(weight, w_row, w_column, rows, columns, row_count, column_count):
    """``weight[rows, columns].T``, a tile (columns, rows), zero outside the matrix."""
    inside = (rows[None, :] < row_count) & (columns[:, None] < column_count)
    return tl.load(weight + rows[None, :] * w_row + columns[:, None] * w_column, inside, 0.0)


@jit
def load_tile(x, x_c, x_p, positions, channels, size, channel_count):
    """``x[positions, channels]``, zero outside the map."""
    inside = (positions[:, None] < size) & (channels[None, :] < channel_count)
    return tl.load(x + positions[:, None] * x_p + channels[None, :] * x_c, inside, 0.0)


@jit
def store_tile(out, out_c, out_p, positions, channels, size, channel_count, values):
    inside = (positions[:, None] < size) & (channels[None, :] < channel_count)
    offsets = positions[:, None] * out_p + channels[None, :] * out_c
    tl.store(out + offsets, values.to(out.dtype.element_ty), inside)


@jit
def load_vector(vector, indexes, count):
    """In float32, as a row."""
    return tl.load(vector + indexes, indexes < count, 0.0).to(tl.float32)[None, :]


@jit
def pointwise(
    acc,
    x,
    x_c,
    x_p,
    weight,
    w_row,
    w_column,
    positions,
    rows,
    size,
    inputs,
    outputs,
    RELU: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``acc (P, M) + x (P, K) @ weight (M, K).T`` over all K = inputs, or of ``relu(x)``."""
    for start in range(0, inputs, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        a = load_tile(x, x_c, x_p, positions, columns, size, inputs)
        if RELU:
            a = relu(a.to(tl.float32))
        b = load_matrix(weight, w_row, w_column, rows, columns, outputs, inputs)
        acc = dot(a.to(b.dtype), b, acc)
    return acc
