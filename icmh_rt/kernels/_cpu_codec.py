"""The codecs' small ops in C++ (csrc/kernels), shared among threads by parts of the map."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from icmh_rt.kernels._cpu_native import native, native_obstacle, ranges, scalar_obstacle
from icmh_rt.kernels._layout import is_channels_last, memory_format
from icmh_rt.kernels._memory import empty_result_maps

_PART_VALUES = 1 << 16  # fewer are not worth a thread of their own
_PARTS = 4  # for each thread: enough that the last ones even out
_MAX_PLANES = 128  # channels that are transposed there and back in less time than GDN saves
_MAX_THRESHOLDS = 255  # indexes are bytes


def _has_tiles() -> bool:
    """Whether matrix products are computed on AMX tiles."""
    return native().kernel_level() == "amx"


def _parts(length: int, values: int) -> list[tuple[int, int]]:
    """``length`` rows of ``values`` values each, in parts for the threads."""
    most = _PARTS * torch.get_num_threads()
    step = max(-(-length // most), -(-_PART_VALUES // max(1, values)))
    return ranges(length, step)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


# -- quantize_index --------------------------------------------------------------------------------


def quantize_index_obstacle(
    latent: Tensor,
    mean: Tensor | None,
    gain: Tensor | None,
    scales: Tensor | None,
    thresholds: Tensor | None,
) -> str | None:
    if thresholds is not None and len(thresholds) > _MAX_THRESHOLDS:
        return f"there are {len(thresholds)} thresholds, and indexes are bytes"
    return native_obstacle((torch.float32,), latent, mean, gain, scales, thresholds)


def quantize_index(
    latent: Tensor,
    mean: Tensor | None,
    gain: Tensor | None,
    scales: Tensor | None,
    thresholds: Tensor | None,
    level: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """See `icmh_rt.kernels.quantize_index.reference`; ``level``: instructions, for tests."""
    module = native()
    layout = memory_format(latent)

    def laid_out(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        return values.expand_as(latent).contiguous(memory_format=layout)

    latent, mean, scales = laid_out(latent), laid_out(mean), laid_out(scales)
    gain = None if gain is None else gain.contiguous()
    symbols = torch.empty(latent.shape, dtype=torch.int32, memory_format=layout)
    if scales is None:
        indexes, thresholds = torch.empty(0, dtype=torch.uint8), None
    else:
        indexes = torch.empty(latent.shape, dtype=torch.uint8, memory_format=layout)
        thresholds = cast(Tensor, thresholds).contiguous()
    _, channels, height, width = latent.shape
    if is_channels_last(latent):
        length, gain_period = channels, 0
    else:
        length, gain_period = height * width, channels
    rows = latent.numel() // length if length else 0
    bad = module.quantize_index(
        length,
        _address(latent),
        _address(mean),
        length,
        _address(gain),
        gain_period,
        _address(scales),
        _address(thresholds),
        0 if thresholds is None else len(thresholds),
        _address(symbols),
        _address(indexes) if scales is not None else 0,
        _parts(rows, length),
        torch.get_num_threads(),
        level,
    )
    total = torch.tensor([min(bad, 2**31 - 1)], dtype=torch.int32)
    return symbols, indexes, total


# -- images ----------------------------------------------------------------------------------------


def image_in_obstacle(
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
) -> str | None:
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"dtype is {dtype}, and this kernel writes float32, float16, bfloat16"
    return native_obstacle((torch.uint8,), image)


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
    module = native()
    image = image.contiguous()
    count, image_height, image_width, _ = image.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shape = (count, 3 * patch * patch, height // patch, width // patch)
    planes = torch.empty(shape, dtype=dtype, memory_format=layout)
    # What becomes of each byte, by the definition.
    table = torch.arange(256, dtype=torch.float32).div_(255.0).sub_(offset).to(dtype)

    rows = count * (height // patch)
    module.image_in(
        _address(image),
        image_height,
        image_width,
        top,
        left,
        height,
        width,
        edge,
        patch,
        _address(table),
        table.element_size(),
        _address(planes),
        channels_last,
        _parts(rows, planes.numel() // max(1, rows)),
        torch.get_num_threads(),
    )
    return planes


def image_out_obstacle(
    planes: Tensor, top: int, left: int, height: int, width: int, patch: int, offset: float
) -> str | None:
    return native_obstacle((torch.float32,), planes)


def image_out(
    planes: Tensor,
    top: int,
    left: int,
    height: int,
    width: int,
    patch: int,
    offset: float,
    level: str = "auto",
) -> Tensor:
    """See `icmh_rt.kernels.images.reference_out`; ``level``: instructions, for tests."""
    module = native()
    planes = planes.contiguous(memory_format=memory_format(planes))
    channels_last = is_channels_last(planes)
    count, _, rows, columns = planes.shape
    image = torch.empty((count, height, width, 3), dtype=torch.uint8)

    module.image_out(
        _address(planes),
        channels_last,
        rows,
        columns,
        top,
        left,
        height,
        width,
        patch,
        offset,
        _address(image),
        _parts(count * height, 3 * width),
        torch.get_num_threads(),
        level,
    )
    return image


# -- gdn -------------------------------------------------------------------------------------------


def gdn_obstacle(x: Tensor, beta: Tensor, gamma: Tensor, inverse: bool) -> str | None:
    found = native_obstacle((torch.float32,), x, beta, gamma) or scalar_obstacle()
    if found is None and x.shape[1] > _MAX_PLANES and not is_channels_last(x) and not _has_tiles():
        found = f"with vectors only, planes of {x.shape[1]} channels are faster in PyTorch"
    return found


def gdn(x: Tensor, beta: Tensor, gamma: Tensor, inverse: bool, level: str = "auto") -> Tensor:
    """See `icmh_rt.kernels.gdn.reference`; ``level``: instructions, for tests."""
    module = native()
    layout = memory_format(x)
    x = x.contiguous(memory_format=layout)
    out = empty_result_maps(x, x.shape[1])
    if x.numel() == 0:
        return out
    images, channels, height, width = x.shape
    positions = height * width
    gamma = gamma if gamma.stride(1) == 1 else gamma.contiguous()  # rows any distance apart
    beta = beta.contiguous()
    packed = torch.empty(module.gdn_packed_size(channels, level))
    module.gdn_pack(
        channels, _address(gamma), gamma.stride(0), _address(beta), _address(packed), level
    )
    strides = (1, channels) if is_channels_last(x) else (positions, 1)

    module.gdn(
        channels,
        positions,
        _address(x),
        strides,
        _address(out),
        strides,
        inverse,
        _address(packed),
        [(i, *part) for i in range(images) for part in _parts(positions, channels)],
        torch.get_num_threads(),
        level,
    )
    return out
