"""Images in and out: interleaved bytes to padded patches of a network's first layer, and back.

    image_in:   out[n, k, i, j] = pixel[n, i p + a - top, j p + b - left, c] / 255 - offset
    image_out:  out[n, i p + a - top, j p + b - left, c]
                    = clamp(rint((planes[n, k, i, j] + offset) * 255), 0, 255)
                with k = (c p + a) p + b

p is the patch, the factor of ``pixel_unshuffle``; 1 leaves pixels as they are. Both compute in
float32 with every operation rounded by itself: all implementations give the same bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from icmh_rt.kernels import _cpu_codec, _cuda, _triton
from icmh_rt.kernels._op import Op
from icmh_rt.kernels._triton import tl


def reference_in(
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
    """``pixel_unshuffle(pad(image) / 255 - offset, patch)``.

    Args:
        image: (N, H, W, 3) uint8, any strides.
        top, left: rows above and columns left of the image.
        height, width: with the padding; at least ``top + H`` and ``left + W``, multiples of patch.
        edge: repeat the image's border in the padding; else it is black, zero before the offset.
        dtype: of the result. channels_last: its memory format.

    Returns:
        (N, 3 patch², height / patch, width / patch).
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    planes = image.permute(0, 3, 1, 2).to(wide)
    pad = (left, width - left - image.shape[2], top, height - top - image.shape[1])
    planes = F.pad(planes, pad, mode="replicate") if edge else F.pad(planes, pad)
    # By a tensor: by a number, a GPU would multiply by the reciprocal, which is not the quotient.
    planes = planes.div(planes.new_full((), 255.0)).sub(offset).to(dtype)
    # Not by pixel_unshuffle: it gives another shape for a batch of none.
    rows, columns = height // patch, width // patch
    planes = planes.reshape(-1, 3, rows, patch, columns, patch).permute(0, 1, 3, 5, 2, 4)
    planes = planes.reshape(image.shape[0], 3 * patch * patch, rows, columns)
    return planes.contiguous(memory_format=_format(channels_last))


def fake_in(
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
    shape = (image.shape[0], 3 * patch * patch, height // patch, width // patch)
    return torch.empty(
        shape, dtype=dtype, device=image.device, memory_format=_format(channels_last)
    )


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def reference_out(
    planes: Tensor, top: int, left: int, height: int, width: int, patch: int, offset: float
) -> Tensor:
    """``clamp(rint((pixel_shuffle(planes) + offset) * 255), 0, 255)``, NaN as 0.

    Args:
        planes: (N, 3 patch², h, w), floating, any strides.
        top, left, height, width: the part of the ``(h patch, w patch)`` pixels that is wanted.

    Returns:
        (N, height, width, 3) uint8, contiguous.
    """
    images, _, rows, columns = planes.shape
    pixels = planes.reshape(images, 3, patch, patch, rows, columns).permute(0, 1, 4, 2, 5, 3)
    pixels = pixels.reshape(images, 3, rows * patch, columns * patch)
    pixels = pixels[:, :, top : top + height, left : left + width]
    pixels = pixels if pixels.dtype == torch.float64 else pixels.float()
    pixels = pixels.add(offset).mul(255.0).round().clamp(0.0, 255.0)
    pixels = torch.where(pixels.isnan(), 0.0, pixels)
    return pixels.permute(0, 2, 3, 1).to(torch.uint8).contiguous()


def fake_out(
    planes: Tensor, top: int, left: int, height: int, width: int, patch: int, offset: float
) -> Tensor:
    shape = (planes.shape[0], height, width, 3)
    return torch.empty(shape, dtype=torch.uint8, device=planes.device)


# -- Triton ----------------------------------------------------------------------------------------


@_triton.jit
def _in_kernel(
    image,
    out,
    image_height,
    image_width,
    top,
    left,
    rows,
    columns,
    offset,
    image_n,
    image_h,
    image_w,
    image_c,
    PATCH: tl.constexpr,
    EDGE: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK values in the order in which the result lies. Compiled without fused multiply-add."""
    channels: tl.constexpr = 3 * PATCH * PATCH
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    size = rows * columns
    inside = place < size * channels
    if TOKENS:
        k = place % channels
        p = place // channels
    else:
        k = place // size
        p = place % size
    y = p // columns * PATCH + k // PATCH % PATCH - top
    x = p % columns * PATCH + k % PATCH - left
    if EDGE:
        seen = inside
        y = tl.minimum(tl.maximum(y, 0), image_height - 1)
        x = tl.minimum(tl.maximum(x, 0), image_width - 1)
    else:
        seen = inside & (y >= 0) & (y < image_height) & (x >= 0) & (x < image_width)
    n = tl.program_id(1).to(tl.int64)
    source = image + n * image_n + y * image_h + x * image_w + k // (PATCH * PATCH) * image_c
    pixel = tl.load(source, seen, 0).to(tl.float32)
    value = tl.div_rn(pixel, tl.full((BLOCK,), 255.0, tl.float32)) - offset
    tl.store(out + n * size * channels + place, value.to(out.dtype.element_ty), inside)


@_triton.jit
def _out_kernel(
    planes,
    out,
    top,
    left,
    height,
    width,
    columns,
    offset,
    planes_n,
    planes_c,
    planes_p,
    PATCH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK bytes that follow each other. Compiled without fused multiply-add."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < height * width * 3
    y = place // 3 // width + top
    x = place // 3 % width + left
    k = (place % 3 * PATCH + y % PATCH) * PATCH + x % PATCH
    p = y // PATCH * columns + x // PATCH
    n = tl.program_id(1).to(tl.int64)
    value = tl.load(planes + n * planes_n + k * planes_c + p * planes_p, inside, 0.0)
    value = (value.to(tl.float32) + offset) * 255.0
    value = tl.where(value == value, value, 0.0)
    byte = _triton.rint(_triton.clamp(value, 0, 255)).to(tl.uint8)
    tl.store(out + n * height * width * 3 + place, byte, inside)


def run_triton_in(
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
    out = fake_in(image, top, left, height, width, edge, patch, offset, dtype, channels_last)
    if not out.numel():
        return out
    images, channels, rows, columns = out.shape
    _triton.launch(
        _in_kernel,
        (_triton.ceil_div(channels * rows * columns, _BLOCK), images),
        image,
        out,
        image.shape[1],
        image.shape[2],
        top,
        left,
        rows,
        columns,
        float(offset),
        *image.stride(),
        PATCH=patch,
        EDGE=edge,
        TOKENS=channels_last,
        BLOCK=_BLOCK,
        enable_fp_fusion=False,
    )
    return out


def run_triton_out(
    planes: Tensor, top: int, left: int, height: int, width: int, patch: int, offset: float
) -> Tensor:
    out = fake_out(planes, top, left, height, width, patch, offset)
    if not out.numel():
        return out
    planes = _triton.flat(planes)
    _triton.launch(
        _out_kernel,
        (_triton.ceil_div(height * width * 3, _BLOCK), out.shape[0]),
        planes,
        out,
        top,
        left,
        height,
        width,
        planes.shape[3],
        float(offset),
        *_triton.steps(planes),
        PATCH=patch,
        BLOCK=_BLOCK,
        enable_fp_fusion=False,
    )
    return out


_BLOCK = 1024


def triton_obstacle_in(image: Tensor, *others: object) -> str | None:
    dtype = others[-2]
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"it does not write {dtype}"
    return _triton.obstacle(image, dtypes=(torch.uint8,))


def triton_obstacle_out(planes: Tensor, *others: object) -> str | None:
    return _triton.obstacle(planes)


# -- registration ----------------------------------------------------------------------------------

image_in = Op(
    "image_in",
    "(Tensor image, SymInt top, SymInt left, SymInt height, SymInt width, bool edge, int patch, "
    "float offset, ScalarType dtype, bool channels_last) -> Tensor",
    reference_in,
    fake_in,
    differentiable=False,
)
image_out = Op(
    "image_out",
    "(Tensor planes, SymInt top, SymInt left, SymInt height, SymInt width, int patch, "
    "float offset) -> Tensor",
    reference_out,
    fake_out,
    differentiable=False,
)
image_in.add("triton", run_triton_in, triton_obstacle_in)
image_in.add("cuda", _cuda.image_in, _cuda.obstacle)
image_in.add("cpu", _cpu_codec.image_in, _cpu_codec.image_in_obstacle)
image_out.add("triton", run_triton_out, triton_obstacle_out)
image_out.add("cuda", _cuda.image_out, _cuda.obstacle)
image_out.add("cpu", _cpu_codec.image_out, _cpu_codec.image_out_obstacle)
