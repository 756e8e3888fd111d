"""The adapter and its steps in C++ (csrc/kernels), shared among threads by parts of the map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from icmh_rt import _native
from icmh_rt.kernels._cpu_obstacle import native_obstacle
from icmh_rt.kernels._layout import is_channels_last, memory_format
from icmh_rt.kernels._memory import empty_result_maps, workspace
from icmh_rt.kernels._parallel import for_each

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
    native = _native.module()
    x = _dense(x)
    out = empty_result_maps(x, x.shape[1])
    _, channels, height, width = x.shape
    middle = len(tensors[1])
    sizes = (channels, middle, height, width, float(factor))
    if x.numel() == 0:
        return out
    tensors = [tensor.contiguous() for tensor in tensors]
    packed = torch.empty(native.sfma_packed_size(sizes, level))
    addresses = [tensor.data_ptr() for tensor in tensors]
    native.sfma_pack(sizes, addresses, packed.data_ptr(), level)
    weights = packed.data_ptr()
    strides = _strides(x)
    has_fft = native.sfma_has_fft(sizes)
    threads = torch.get_num_threads()
    rows = _rows(height)
    groups = _ranges(middle, max(1, middle // (_PARTS * threads)))
    with (
        workspace(native.sfma_spectrum_size(sizes, level)) as spectrum,
        workspace(native.sfma_spectrum_size(sizes, level)) as other,
    ):
        # `other` is the planes before the transform, then what the gate lets through; `spectrum`
        # the planes after the inverse one.
        values, others = spectrum.data_ptr(), other.data_ptr()
        for image, result in zip(x, out, strict=True):
            source, target = image.data_ptr(), result.data_ptr()

            def down(part: tuple[int, int], source: int = source) -> None:
                native.sfma_down(sizes, weights, source, strides, *part, others, level)

            def analyse(part: tuple[int, int]) -> None:
                if has_fft:
                    native.sfma_analyse(sizes, others, *part, values, level)
                else:
                    _analyse(other, sizes, part, spectrum)

            def gate(part: tuple[int, int]) -> None:
                native.sfma_gate(sizes, weights, values, *part, others, level)

            def synthesise(part: tuple[int, int]) -> None:
                if has_fft:
                    native.sfma_synthesise(sizes, others, *part, values, level)
                else:
                    _synthesise(other, sizes, part, spectrum)

            def up(part: tuple[int, int], source: int = source, target: int = target) -> None:
                native.sfma_up(
                    sizes, weights, source, strides, values, *part, target, strides, level
                )

            for_each(down, rows)
            for_each(analyse, groups)
            for_each(gate, rows)
            for_each(synthesise, groups)
            for_each(up, rows)
    return out


def _analyse(
    planes: Tensor, sizes: tuple[Any, ...], part: tuple[int, int], spectrum: Tensor
) -> None:
    """Of sizes that C++ has no transform for, those with a large prime factor."""
    _, middle, height, width, _ = sizes
    planes = planes[: middle * height * width].view(middle, height, width)
    spectrum = spectrum.view(middle, height, 2, -1)
    found = torch.fft.rfft2(planes[slice(*part)])
    columns = found.shape[2]
    spectrum[slice(*part), :, 0, :columns] = found.real
    spectrum[slice(*part), :, 1, :columns] = found.imag
    spectrum[slice(*part), :, :, columns:] = 0.0


def _synthesise(
    spectrum: Tensor, sizes: tuple[Any, ...], part: tuple[int, int], planes: Tensor
) -> None:
    _, middle, height, width, _ = sizes
    planes = planes[: middle * height * width].view(middle, height, width)
    parts = spectrum.view(middle, height, 2, -1)[slice(*part), :, :, : width // 2 + 1]
    found = torch.complex(parts[:, :, 0], parts[:, :, 1])
    planes[slice(*part)] = torch.fft.irfft2(found, s=(height, width), norm="forward")


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
    native = _native.module()
    if out.numel() == 0:
        return out
    weight, bias = weight.contiguous(), bias.contiguous()
    inputs = (first.shape[1], 0 if second is None else second.shape[1])
    outputs = len(weight)

    def pack(address: int) -> int:
        pointers = (weight.data_ptr(), bias.data_ptr())
        return native.project_pack(*inputs, *pointers, outputs, float(factor), address, level)

    packed = torch.empty(pack(0))
    pack(packed.data_ptr())
    positions = first.shape[2] * first.shape[3]
    step = max(_MIN_POSITIONS, -(-positions // (_PARTS * torch.get_num_threads())))
    for image in range(len(first)):
        maps = [_map(t, image) for t in (first, second, residual, out)]

        def run(part: tuple[int, int], maps: list[list[int]] = maps) -> None:
            one, two, added, result = maps
            native.project(
                one,
                inputs[0],
                two,
                inputs[1],
                added,
                packed.data_ptr(),
                outputs,
                result,
                *part,
                level,
            )

        for_each(run, _ranges(positions, step))
    return out


def spatial_modulation(
    x: Tensor, other: Tensor, weight: Tensor, bias: Tensor, level: str = "auto"
) -> Tensor:
    """See `icmh_rt.kernels.spatial_modulation.reference`."""
    native = _native.module()
    x, other = _dense(x), _dense(other)
    weight, bias = weight.contiguous(), bias.contiguous()
    out = empty_result_maps(x, x.shape[1])
    if out.numel() == 0:
        return out
    sizes = list(x.shape[1:])
    for image in range(len(x)):
        maps = [_map(t, image) for t in (x, other, out)]

        def run(part: tuple[int, int], maps: list[list[int]] = maps) -> None:
            one, two, result = maps
            native.modulate(
                one, two, sizes, weight.data_ptr(), bias.data_ptr(), result, *part, level
            )

        for_each(run, _rows(x.shape[2]))
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
    native = _native.module()
    format = memory_format(spectrum)
    spectrum = spectrum.resolve_conj().contiguous()
    weights = [t.float().contiguous() for t in (dw_weight, dw_bias, mix_weight, mix_bias)]
    out = empty_result_maps(spectrum, spectrum.shape[1])
    if out.numel() == 0:
        return out.contiguous(memory_format=format)
    sizes, addresses = list(spectrum.shape[1:]), [t.data_ptr() for t in weights]
    for image, result in zip(spectrum, out, strict=True):
        source, target = image.data_ptr(), result.data_ptr()

        def run(part: tuple[int, int], source: int = source, target: int = target) -> None:
            native.frequency_gate(source, sizes, addresses, target, *part, level)

        for_each(run, _rows(spectrum.shape[2]))
    return out.contiguous(memory_format=format)


def frequency_gate_obstacle(spectrum: Tensor, *weights: Tensor) -> str | None:
    """The weights may be of any floating dtype."""
    return float_obstacle(spectrum) or float_obstacle(*(w.float() for w in weights))


def project_up_obstacle(*arguments: Any) -> str | None:
    return float_obstacle(*arguments[:-1])


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=memory_format(x))


def _rows(height: int) -> list[tuple[int, int]]:
    return _ranges(height, max(_MIN_ROWS, -(-height // (_PARTS * torch.get_num_threads()))))


def _map(x: Tensor | None, image: int) -> list[int]:
    """Address and strides of one image."""
    return [0, 0, 0, 0] if x is None else [x[image].data_ptr(), *_strides(x)]


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Of channels, rows and columns; the ones that matter where a side is 1."""
    _, channels, height, width = x.shape
    if is_channels_last(x):
        return 1, width * channels, channels
    return height * width, width, 1


def _ranges(length: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, length)) for start in range(0, length, step)]
