"""The ops in CUDA (csrc/kernels/*.cu): a plain shared library, called with addresses and sizes.

Outputs are allocated by torch and the work is queued on its current stream, so that allocation,
streams and CUDA graphs behave as with torch's own kernels.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icmh_rt.errors import BackendUnavailableError, IcmhError
from icmh_rt.kernels._layout import empty_maps, memory_format

LIBRARY = Path(__file__).resolve().parents[1] / "_cuda_kernels.so"
_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_OTHER_DTYPES = (torch.complex64, torch.uint8)
_LEAST_CAPABILITY = (8, 0)

_P, _N, _I, _F = c_void_p, c_int64, c_int, c_float
SIGNATURES: dict[str, tuple[type, ...]] = {
    "project_down": (_P, _P, _N, _P, _P, *(_N,) * 5, _I, _I, _P),
    "project_up": (_P, _P, _P, _N, _P, _P, _F, _P, *(_N,) * 5, *(_I,) * 4, _P),
    "gdn": (_P, _P, _P, _N, _I, _P, *(_N,) * 4, _I, _I, _P),
    "depth_conv_block": (
        *(_P, _P, _N, _P, _P, _P, _P, _N, _P, _P, _N, _P, _P, _N, _P, _P, _N, _P, _P, _P),
        *(_N,) * 4,
        *(_I, _I, _P),
    ),
    "spatial_modulation": (*(_P,) * 5, *(_N,) * 4, _I, _I, _P),
    "frequency_gate": (*(_P,) * 6, *(_N,) * 4, _I, _I, _P),
    "quantize_index": (*(_P,) * 5, _N, *(_P,) * 3, *(_N,) * 4, _I, _P),
    "image_in": (_P, *(_N,) * 7, _I, _N, _F, _P, _I, _I, _P),
    "image_out": (_P, *(_N,) * 8, _F, _P, _I, _I, _P),
}
"""Argument types of ``icmh_cuda_<op>``, as csrc/kernels/cuda/<op>.h declares them."""

_library: ctypes.CDLL | None = None
_failure: str | None = None
_ready: dict[int, str | None] = {}  # by device: why the library cannot be used there


def load(path: Path) -> ctypes.CDLL:
    """The library with its functions' types; OSError if it does not load."""
    found = ctypes.CDLL(str(path))
    for name, types in SIGNATURES.items():
        function = getattr(found, f"icmh_cuda_{name}")
        function.argtypes, function.restype = types, c_int
    found.icmh_cuda_ready.argtypes, found.icmh_cuda_ready.restype = (), c_int
    found.icmh_cuda_error_text.argtypes = (c_int,)
    found.icmh_cuda_error_text.restype = c_char_p
    return found


def library() -> ctypes.CDLL:
    """The library, loaded on the first call.

    Raises:
        BackendUnavailableError: it is missing or does not load; remembered.
    """
    global _library, _failure
    if _library is None and _failure is None:
        if LIBRARY.exists():
            try:
                _library = load(LIBRARY)
            except (OSError, AttributeError) as error:
                _failure = f"{LIBRARY} does not load ({error}); reinstall icmh-rt"
        else:
            _failure = (
                f"{LIBRARY} is missing: this icmh-rt was built without CUDA; install nvcc 11.8 or "
                "newer and reinstall from source with ICMH_CMAKE_ARGS=-DICMH_CUDA=ON"
            )
    if _library is None:
        raise BackendUnavailableError(_failure)
    return _library


def obstacle(*arguments: Any) -> str | None:
    """Why the CUDA kernel of an op with these arguments cannot run here, or None."""
    device = None
    for argument in arguments:
        if isinstance(argument, torch.dtype) and argument not in _DTYPES:
            return f"its result would be {argument}, and it makes float32, float16 and bfloat16"
        if not isinstance(argument, Tensor):
            continue
        if argument.device.type != "cuda":
            return f"a tensor is on {argument.device}, and it is for GPUs"
        if argument.dtype not in _DTYPES and argument.dtype not in _OTHER_DTYPES:
            return f"a tensor is {argument.dtype}, and it takes float32, float16 and bfloat16"
        if device is not None and argument.device != device:
            return f"tensors are on {device} and {argument.device}"
        device = argument.device
    if device is None:
        return "there is no tensor among the arguments"
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _ready:
        _ready[index] = _device_obstacle(index)
    return _ready[index]


def _device_obstacle(index: int) -> str | None:
    capability = torch.cuda.get_device_capability(index)
    if capability < _LEAST_CAPABILITY:
        name = torch.cuda.get_device_name(index)
        return f"{name} has compute capability {capability[0]}.{capability[1]}, it needs 8.0"
    try:
        found = library()
    except BackendUnavailableError as error:
        return str(error)
    with torch.cuda.device(index):
        code = found.icmh_cuda_ready()
    return f"cuda:{index} cannot run it: {_text(found, code)}" if code else None


def _text(found: ctypes.CDLL, code: int) -> str:
    return f"{found.icmh_cuda_error_text(code).decode()} (CUDA error {code})"


def _call(op: str, tensor: Tensor, *arguments: Any) -> None:
    """Queue ``op`` on the current stream of ``tensor``'s device; tensors become addresses."""
    found = library()
    plain = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    function = getattr(found, f"icmh_cuda_{op}")
    if tensor.is_cuda:
        with torch.cuda.device(tensor.device):
            code = function(*plain, torch.cuda.current_stream().cuda_stream)
    else:  # the library of the tests, which imitates CUDA on a CPU
        code = function(*plain, None)
    if code:
        raise IcmhError(
            f"the CUDA kernel of {op} failed: {_text(found, code)}; use another implementation "
            "(ICMH_KERNELS=reference) and report it"
        )


def _layout(x: Tensor) -> int:
    return int(memory_format(x) == torch.channels_last)


def _as(x: Tensor, like: Tensor) -> Tensor:
    """``x`` with the dtype and the memory format of ``like``."""
    return x.to(like.dtype).contiguous(memory_format=memory_format(like))


def _rows(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, int]:
    """A matrix whose rows are contiguous, and its pitch."""
    weight = weight.to(dtype)
    if weight.stride(1) != 1 or weight.stride(0) < weight.shape[1]:
        weight = weight.contiguous()
    return weight, weight.stride(0)


def _plain(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).contiguous()


def project_down(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `icmh_rt.kernels.projections.reference_down`."""
    x = _as(x, x)
    out = empty_maps(x, weight.shape[0])
    n, channels, height, width = x.shape
    sizes = (n, channels, weight.shape[0], height, width)
    matrix, bias = _rows(weight, x.dtype), _plain(bias, x.dtype)
    _call("project_down", x, x, *matrix, bias, out, *sizes, _DTYPES[x.dtype], _layout(x))
    return out


def project_up(
    spatial: Tensor, planes: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, factor: float
) -> Tensor:
    """See `icmh_rt.kernels.projections.reference_up`."""
    spatial = _as(spatial, spatial)
    residual = _as(residual, spatial)
    # An inverse FFT gives float32 planes: read as they are, a pass over memory less.
    if planes.dtype != torch.float32 or not planes.is_contiguous():
        planes = _as(planes, spatial)
    planes_layout = (
        0 if planes.is_contiguous() and planes.dtype == torch.float32 else _layout(spatial)
    )
    out = empty_maps(spatial, weight.shape[0])
    n, middle, height, width = spatial.shape
    sizes = (n, middle, weight.shape[0], height, width)
    kinds = (_DTYPES[planes.dtype], planes_layout, _DTYPES[spatial.dtype], _layout(spatial))
    matrix, bias = _rows(weight, spatial.dtype), _plain(bias, spatial.dtype)
    maps = (residual, float(factor), out)
    _call("project_up", spatial, spatial, planes, *matrix, bias, *maps, *sizes, *kinds)
    return out


def gdn(x: Tensor, beta: Tensor, gamma: Tensor, inverse: bool) -> Tensor:
    """See `icmh_rt.kernels.gdn.reference`."""
    x = _as(x, x)
    out = torch.empty_like(x)
    matrix, beta = _rows(gamma, x.dtype), _plain(beta, x.dtype)
    sizes = (*x.shape, _DTYPES[x.dtype], _layout(x))
    _call("gdn", x, x, beta, *matrix, int(inverse), out, *sizes)
    return out


def depth_conv_block(
    x: Tensor,
    mix_in_w: Tensor,
    mix_in_b: Tensor,
    mix_spatial_w: Tensor,
    mix_spatial_b: Tensor,
    mix_out_w: Tensor,
    mix_out_b: Tensor,
    gate_w: Tensor,
    gate_b: Tensor,
    value_w: Tensor,
    value_b: Tensor,
    out_w: Tensor,
    out_b: Tensor,
) -> Tensor:
    """See `icmh_rt.kernels.depth_conv_block.reference`."""
    x = _as(x, x)
    weights: list[Any] = [*_rows(mix_in_w, x.dtype), _plain(mix_in_b, x.dtype)]
    weights += [_plain(mix_spatial_w, x.dtype), _plain(mix_spatial_b, x.dtype)]
    rest = ((mix_out_w, mix_out_b), (gate_w, gate_b), (value_w, value_b), (out_w, out_b))
    for weight, bias in rest:
        weights += [*_rows(weight, x.dtype), _plain(bias, x.dtype)]
    workspace, out = torch.empty_like(x), torch.empty_like(x)
    sizes = (*x.shape, _DTYPES[x.dtype], _layout(x))
    _call("depth_conv_block", x, x, *weights, workspace, out, *sizes)
    return out


def spatial_modulation(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `icmh_rt.kernels.spatial_modulation.reference`."""
    x = _as(x, x)
    out = torch.empty_like(x)
    parts = (_as(other, x), _plain(weight, x.dtype), _plain(bias, x.dtype), out)
    _call("spatial_modulation", x, x, *parts, *x.shape, _DTYPES[x.dtype], _layout(x))
    return out


def frequency_gate(
    spectrum: Tensor, dw_weight: Tensor, dw_bias: Tensor, mix_weight: Tensor, mix_bias: Tensor
) -> Tensor:
    """See `icmh_rt.kernels.frequency_gate.reference`."""
    spectrum = _as(spectrum, spectrum)
    if spectrum.is_conj():
        spectrum = spectrum.resolve_conj()
    out = torch.empty_like(spectrum)
    dtype = mix_weight.dtype
    weights = (_plain(part, dtype) for part in (dw_weight, dw_bias, mix_weight, mix_bias))
    sizes = (*spectrum.shape, _DTYPES[dtype], _layout(spectrum))
    _call("frequency_gate", spectrum, spectrum, *weights, out, *sizes)
    return out


def quantize_index(
    latent: Tensor,
    mean: Tensor | None,
    gain: Tensor | None,
    scales: Tensor | None,
    thresholds: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `icmh_rt.kernels.quantize_index.reference`."""
    latent = latent.float().contiguous(memory_format=memory_format(latent))
    symbols = torch.empty_like(latent, dtype=torch.int32)
    if scales is None:
        indexes = torch.empty(0, dtype=torch.uint8, device=latent.device)
    else:
        indexes = torch.empty_like(symbols, dtype=torch.uint8)
    bad = torch.zeros(1, dtype=torch.int32, device=latent.device)
    mean, scales = (None if m is None else _as(m, latent) for m in (mean, scales))
    gain, thresholds = (None if v is None else _plain(v, latent.dtype) for v in (gain, thresholds))
    count = 0 if thresholds is None else len(thresholds)
    inputs = (latent, mean, gain, scales, thresholds, count)
    _call("quantize_index", latent, *inputs, symbols, indexes, bad, *latent.shape, _layout(latent))
    return symbols, indexes, bad


def image_in(
    image: Tensor,
    top: int,
    left: int,
    height: int,
    width: int,
    edge: bool,
    patch: int,
    offset: float,
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    """See `icmh_rt.kernels.images.reference_in`."""
    image = image.contiguous()
    shape = (image.shape[0], 3 * patch * patch, height // patch, width // patch)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty(shape, dtype=dtype, device=image.device, memory_format=layout)
    sizes = (*image.shape[:3], top, left, height, width, int(edge), patch, float(offset))
    _call("image_in", image, image, *sizes, out, _DTYPES[dtype], int(channels_last))
    return out


def image_out(
    planes: Tensor, top: int, left: int, height: int, width: int, patch: int, offset: float
) -> Tensor:
    """See `icmh_rt.kernels.images.reference_out`."""
    planes = _as(planes, planes)
    n, _, plane_height, plane_width = planes.shape
    out = torch.empty((n, height, width, 3), dtype=torch.uint8, device=planes.device)
    sizes = (n, plane_height, plane_width, top, left, height, width, patch, float(offset))
    _call("image_out", planes, planes, *sizes, out, _DTYPES[planes.dtype], _layout(planes))
    return out
