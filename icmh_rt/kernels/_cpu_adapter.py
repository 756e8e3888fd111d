"""The adapter and its steps in C++ (csrc/kernels), shared among threads by parts of the map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from icmh_rt.kernels._cpu_native import native, native_obstacle, ranges
from icmh_rt.kernels._layout import is_channels_last, memory_format
from icmh_rt.kernels._memory import empty_result_maps, workspace

_PARTS = 4  # of the rows for each thread: enough that the last ones even out
_MIN_POSITIONS = 1024
_MIN_ROWS = 8  # a part computes four rows more of one projection than it writes


def float_obstacle(*tensors: Tensor) -> str | None:
    """Why the C++ for single precision cannot be run on these tensors, or None."""
    return native_obstacle((torch.float32, torch.complex64), *tensors)


def sfma_obstacle(x: Tensor, *arguments: Any) -> str | None:
    return float_obstacle(x, *arguments[:-1])


def sfma(x: Tensor, *arguments: Any, level: str = "auto") -> Tensor:
    """See `icmh_rt.kernels.sfma.reference`; ``level``: instructions, for tests."""
    *tensors, factor = arguments
    module = native()
    x = _dense(x)
    out = empty_result_maps(x, x.shape[1])
    _, channels, height, width = x.shape
    middle = len(tensors[1])
    sizes = (channels, middle, height, width, float(factor))
    if x.numel() == 0:
        return out
    tensors = [tensor.contiguous() for tensor in tensors]
    packed = torch.empty(module.sfma_packed_size(sizes, level))
    addresses = [tensor.data_ptr() for tensor in tensors]
    module.sfma_pack(sizes, addresses, packed.data_ptr(), level)
    weights = packed.data_ptr()
    strides = _strides(x)
    has_fft = module.sfma_has_fft(sizes)
    threads = torch.get_num_threads()
    rows = _rows(height)
    groups = ranges(middle, max(1, middle // (_PARTS * threads)))
    with (
        workspace(module.sfma_spectrum_size(sizes, level)) as spectrum,
        workspace(module.sfma_spectrum_size(sizes, level)) as other,
    ):
        # `other` is the planes before the transform, then what the gate lets through; `spectrum`
        # the planes after the inverse one.
        values, others = spectrum.data_ptr(), other.data_ptr()
        for image, result in zip(x, out, strict=True):
            source, target = image.data_ptr(), result.data_ptr()
            module.sfma_down(sizes, weights, source, strides, rows, threads, others, level)
            if has_fft:
                module.sfma_analyse(sizes, others, groups, threads, values, level)
            else:
                _analyse(other, sizes, spectrum)
            module.sfma_gate(sizes, weights, values, rows, threads, others, level)
            if has_fft:
                module.sfma_synthesise(sizes, others, groups, threads, values, level)
            else:
                _synthesise(other, sizes, spectrum)
            module.sfma_up(
                sizes,
                weights,
                source,
                strides,
                values,
                rows,
                threads,
                target,
                strides,
                level,
            )
    return out


def _analyse(planes: Tensor, sizes: tuple[Any, ...], spectrum: Tensor) -> None:
    """Of sizes that C++ has no transform for, those with a large prime factor."""
    _, middle, height, width, _ = sizes
    planes = planes[: middle * height * width].view(middle, height, width)
    spectrum = spectrum.view(middle, height, 2, -1)
    found = torch.fft.rfft2(planes)
    columns = found.shape[2]
    spectrum[:, :, 0, :columns] = found.real
    spectrum[:, :, 1, :columns] = found.imag
    spectrum[:, :, :, columns:] = 0.0


def _synthesise(spectrum: Tensor, sizes: tuple[Any, ...], planes: Tensor) -> None:
    _, middle, height, width, _ = sizes
    planes = planes[: middle * height * width].view(middle, height, width)
    parts = spectrum.view(middle, height, 2, -1)[..., : width // 2 + 1]
    found = torch.complex(parts[:, :, 0], parts[:, :, 1])
    planes[:] = torch.fft.irfft2(found, s=(height, width), norm="forward")


# -- the adapter's steps by themselves ------------------------------------------------------------


def project_down(x: Tensor, weight: Tensor, bias: Tensor, level: str = "auto") -> Tensor:
    """See `icmh_rt.kernels.projections.reference_down`."""
    x = _dense(x)
    return _project(x, None, weight, bias, None, 1.0, empty_result_maps(x, len(weight)), level)


def project_up(
    spatial: Tensor,
    planes: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor,
    factor: float,
    level: str = "auto",
) -> Tensor:
    """See `icmh_rt.kernels.projections.reference_up`."""
    spatial = _dense(spatial)
    out = empty_result_maps(spatial, len(weight))
    return _project(spatial, _dense(planes), weight, bias, _dense(residual), factor, out, level)


def _project(
    first: Tensor,
    second: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    factor: float,
    out: Tensor,
    level: str,
) -> Tensor:
    module = native()
    if out.numel() == 0:
        return out
    weight, bias = weight.contiguous(), bias.contiguous()
    inputs = (first.shape[1], 0 if second is None else second.shape[1])
    outputs = len(weight)

    def pack(address: int) -> int:
        pointers = (weight.data_ptr(), bias.data_ptr())
        return module.project_pack(*inputs, *pointers, outputs, float(factor), address, level)

    packed = torch.empty(pack(0))
    pack(packed.data_ptr())
    positions = first.shape[2] * first.shape[3]
    threads = torch.get_num_threads()
    parts = ranges(positions, max(_MIN_POSITIONS, -(-positions // (_PARTS * threads))))
    for image in range(len(first)):
        one, two, added, result = (_map(t, image) for t in (first, second, residual, out))
        module.project(
            one,
            inputs[0],
            two,
            inputs[1],
            added,
            packed.data_ptr(),
            outputs,
            result,
            parts,
            threads,
            level,
        )
    return out


def spatial_modulation(
    x: Tensor, other: Tensor, weight: Tensor, bias: Tensor, level: str = "auto"
) -> Tensor:
    """See `icmh_rt.kernels.spatial_modulation.reference`."""
    module = native()
    x, other = _dense(x), _dense(other)
    weight, bias = weight.contiguous(), bias.contiguous()
    out = empty_result_maps(x, x.shape[1])
    if out.numel() == 0:
        return out
    sizes = list(x.shape[1:])
    rows, threads = _rows(x.shape[2]), torch.get_num_threads()
    pointers = (weight.data_ptr(), bias.data_ptr())
    for image in range(len(x)):
        one, two, result = (_map(t, image) for t in (x, other, out))
        module.modulate(one, two, sizes, *pointers, result, rows, threads, level)
    return out


def frequency_gate(
    spectrum: Tensor,
    dw_weight: Tensor,
    dw_bias: Tensor,
    mix_weight: Tensor,
    mix_bias: Tensor,
    level: str = "auto",
) -> Tensor:
    """See `icmh_rt.kernels.frequency_gate.reference`."""
    module = native()
    format = memory_format(spectrum)
    spectrum = spectrum.resolve_conj().contiguous()
    weights = [t.float().contiguous() for t in (dw_weight, dw_bias, mix_weight, mix_bias)]
    out = empty_result_maps(spectrum, spectrum.shape[1])
    if out.numel() == 0:
        return out.contiguous(memory_format=format)
    sizes, addresses = list(spectrum.shape[1:]), [t.data_ptr() for t in weights]
    rows, threads = _rows(spectrum.shape[2]), torch.get_num_threads()
    for image, result in zip(spectrum, out, strict=True):
        source, target = image.data_ptr(), result.data_ptr()
        module.frequency_gate(source, sizes, addresses, target, rows, threads, level)
    return out.contiguous(memory_format=format)


def frequency_gate_obstacle(spectrum: Tensor, *weights: Tensor) -> str | None:
    """The weights may be of any floating dtype."""
    return float_obstacle(spectrum) or float_obstacle(*(w.float() for w in weights))


def project_up_obstacle(*arguments: Any) -> str | None:
    return float_obstacle(*arguments[:-1])


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=memory_format(x))


def _rows(height: int) -> list[tuple[int, int]]:
    return ranges(height, max(_MIN_ROWS, -(-height // (_PARTS * torch.get_num_threads()))))


def _map(x: Tensor | None, image: int) -> list[int]:
    """Address and strides of one image."""
    return [0, 0, 0, 0] if x is None else [x[image].data_ptr(), *_strides(x)]


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Of channels, rows and columns; the ones that matter where a side is 1."""
    _, channels, height, width = x.shape
    if is_channels_last(x):
        return 1, width * channels, channels
    return height * width, width, 1
