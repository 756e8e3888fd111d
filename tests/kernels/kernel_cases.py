"""The ugly inputs that every implementation of every op is held to, and the comparison.

A case is named by op, shape, layout, values and dtype; `check` makes its arguments, runs one
implementation and compares with the reference in float64 (ops of integers: with the reference, bit
by bit). Nothing here needs pytest: cases also run in the processes that hold Triton's interpreter.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icmh_rt.kernels import _triton
from icmh_rt.kernels._op import OPS as REGISTERED

for _module in (
    "spatial_modulation",
    "frequency_gate",
    "projections",
    "depth_conv_block",
    "gdn",
    "quantize_index",
    "images",
):
    importlib.import_module(f"icmh_rt.kernels.{_module}")

SHAPES = {  # (N, H, W)
    "tiny": (1, 1, 1),
    "odd": (2, 7, 9),
    "even": (1, 8, 16),
    "wide": (1, 1, 67),
    "tall": (1, 19, 2),
    "empty": (0, 5, 4),
}
# Several tiles of a GPU kernel, with and without sides that allow packs of 16 bytes; too slow for
# the interpreter.
LARGE_SHAPES = {
    "tiles": (1, 34, 72),
    "ragged": (2, 3, 67),
}
LAYOUTS = ("nchw", "channels_last", "sliced")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOLERANCES = {  # relative L2 error, with float32 sums; bfloat16 has three bits less than float16
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 4e-2,
}
EXACT = ("quantize_index", "image_in", "image_out")


@dataclass(frozen=True)
class Case:
    op: str
    shape: str = "odd"
    layout: str = "nchw"
    values: str = "normal"
    dtype: str = "fp32"
    channels: int = 20

    def __str__(self) -> str:
        parts = (self.op, self.shape, self.layout, self.values, self.dtype, f"C{self.channels}")
        return "-".join(parts)


def cases(op: str) -> list[Case]:
    """All of one op: shapes by layouts in float32, then the rest one at a time."""
    found = [Case(op, shape, layout) for shape in SHAPES for layout in LAYOUTS]
    found += [Case(op, channels=count) for count in (1, 5)] + [Case(op, "wide", channels=64)]
    found += [Case(op, layout="channels_last", channels=count) for count in (1, 37)]
    found += [Case(op, values=values) for values in ("zero", "small", "large", "mixed")]
    if op == "frequency_gate":  # its maps are complex64; the weights may be halves
        return found + [Case(op, dtype=dtype) for dtype in ("fp16", "bf16")]
    for dtype in ("fp16", "bf16"):
        found += [Case(op, "odd", layout, dtype=dtype) for layout in LAYOUTS]
        found += [Case(op, "tiny", dtype=dtype), Case(op, values="mixed", dtype=dtype)]
    return found


class Maker:
    """Makes the arguments of a case, the same on every run."""

    def __init__(self, case: Case, device: str = "cpu") -> None:
        self.case, self.device = case, device
        self.dtype = DTYPES[case.dtype]
        self.batch, self.height, self.width = (SHAPES | LARGE_SHAPES)[case.shape]
        self._random = torch.Generator().manual_seed(len(str(case)) * 7919 + case.channels)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._random, dtype=torch.float64)

    def values(self, *shape: int) -> Tensor:
        """Of the magnitudes that the case wants; halves have less room."""
        kind, wide = self.case.values, self.case.dtype == "fp32"
        if kind == "zero":
            return torch.zeros(shape, dtype=torch.float64)
        values = self.normal(*shape)
        if kind == "small":
            return values * (1e-15 if wide else 1e-6)
        if kind == "large":
            return values * (1e14 if wide else 1e1)
        if kind == "mixed":
            low, high = (-15, 14) if wide else (-6, 1)
            exponents = torch.rand(shape, generator=self._random, dtype=torch.float64)
            return values * 10.0 ** (low + (high - low) * exponents)
        return values

    def map(self, channels: int | None = None, values: Tensor | None = None) -> Tensor:
        """(N, channels, H, W) in the case's layout and dtype."""
        shape = (self.batch, channels or self.case.channels, self.height, self.width)
        values = self.values(*shape) if values is None else values
        dtype = torch.complex64 if values.is_complex() else self.dtype
        return laid_out(values.to(dtype).to(self.device), self.case.layout)

    def weight(self, *shape: int) -> Tensor:
        scale = 1.0 / math.sqrt(max(1, math.prod(shape[1:]))) if len(shape) > 1 else 0.5
        return (self.normal(*shape) * scale).to(self.dtype).to(self.device)

    def matrix(self, rows: int, columns: int) -> Tensor:
        """A slice of a larger one, as slimmable layers give."""
        return self.weight(rows + 3, columns + 5)[:rows, :columns]


def laid_out(values: Tensor, layout: str) -> Tensor:
    """``values (N, C, H, W)`` with other strides."""
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":  # every other channel and a window of larger maps
        n, c, h, w = values.shape
        larger = torch.full((n, 2 * c, h + 2, w + 3), 7.0, dtype=values.dtype, device=values.device)
        view = larger[:, ::2, 1 : h + 1, 2 : w + 2]
        view.copy_(values)
        return view
    return values.contiguous()


def arguments(case: Case, device: str = "cpu") -> tuple[Any, ...]:
    """The op's arguments."""
    return _MAKERS[case.op](Maker(case, device))


def _spatial_modulation(make: Maker) -> tuple[Any, ...]:
    c = make.case.channels
    return make.map(), make.map(), make.weight(c, 1, 5, 5), make.weight(c)


def _frequency_gate(make: Maker) -> tuple[Any, ...]:
    c = make.case.channels
    shape = (make.batch, c, make.height, make.width)
    if make.case.dtype != "fp32":
        spectrum = torch.complex(make.normal(*shape), make.normal(*shape))
    else:
        spectrum = torch.complex(make.values(*shape), make.values(*shape))
    spectrum = make.map(values=spectrum)
    return spectrum, make.weight(c, 1, 3, 3), make.weight(c), make.matrix(c, c), make.weight(c)


def _project_down(make: Maker) -> tuple[Any, ...]:
    c = make.case.channels
    return make.map(), make.matrix(3 * (c // 2 + 1), c), make.weight(3 * (c // 2 + 1))


def _project_up(make: Maker) -> tuple[Any, ...]:
    c = make.case.channels
    middle = c // 2 + 1
    planes = make.map(middle)
    if make.case.layout == "channels_last":  # as an inverse FFT gives them
        planes = planes.float().contiguous()
    weights = make.matrix(c, 2 * middle), make.weight(c)
    return make.map(middle), planes, *weights, make.map(c), 0.7


def _depth_conv_block(make: Maker) -> tuple[Any, ...]:
    c = make.case.channels
    mix_in = make.matrix(c, c), make.weight(c)
    mix_spatial = make.weight(c, 1, 3, 3), make.weight(c)
    rest = [part for _ in range(4) for part in (make.matrix(c, c), make.weight(c))]
    return make.map(), *mix_in, *mix_spatial, *rest


def _gdn(make: Maker) -> tuple[Any, ...]:
    c = make.case.channels
    inverse = make.case.shape in ("even", "tall") or make.case.channels == 5
    x = make.map()
    if make.case.values == "mixed" and make.case.dtype == "fp16":
        x = x * 1000  # squares overflow float16
    return x, make.weight(c).abs() + 0.1, make.matrix(c, c).abs(), inverse


def _quantize_index(make: Maker) -> tuple[Any, ...]:
    """Ties, infinities and NaN among the values; one of mean, gain and scales is sometimes None."""
    case, c = make.case, make.case.channels
    latent = make.map(values=make.values(make.batch, c, make.height, make.width) * 8)
    ties = make.normal(*latent.shape) > 1
    latent = torch.where(ties.to(latent.device), (latent * 2).round() / 2, latent)
    mean = make.map().float()
    gain = (make.weight(c).abs() + 0.5).float()
    scales = make.map().float().abs() * 4
    if case.values == "large":
        special = torch.tensor([math.nan, math.inf, -math.inf, 2.0**31, -(2.0**17) - 1])
        latent.view(-1)[: len(special)] = special.to(latent)
        mean.view(-1)[7] = math.inf
        scales.view(-1)[3:5] = torch.tensor([math.nan, math.inf]).to(scales)
    latent, mean, scales = (laid_out(part, case.layout) for part in (latent, mean, scales))
    thresholds = torch.logspace(-1, 1, 63, device=latent.device)
    if case.values == "normal" and scales.numel():
        scales[0, 0, 0, 0] = thresholds[5]  # counts the thresholds below it, not itself
    if case.shape == "even":
        return latent, None, gain, None, None
    if case.shape == "wide":
        return latent, make.weight(c).float()[:, None, None].expand(latent.shape), None, None, None
    if case.shape == "tall":
        return latent, mean, None, scales, thresholds
    return latent, mean, gain, scales, thresholds


def _image_in(make: Maker) -> tuple[Any, ...]:
    case = make.case
    image = _pixels(make)
    patch = {"even": 2, "wide": 1, "tall": 4}.get(case.shape, 8)
    top, left = (0, 0) if case.values == "zero" else (3, 5)
    height, width = (
        -(-(before + side) // patch) * patch + (patch if case.channels > 20 else 0)
        for before, side in ((top, make.height), (left, make.width))
    )
    edge = case.channels != 5 and case.shape != "tall"
    offset = 0.5 if case.values != "mixed" else 0.4321
    channels_last = case.layout == "channels_last"
    return image, top, left, height, width, edge, patch, offset, make.dtype, channels_last


def _pixels(make: Maker) -> Tensor:
    shape = (make.batch, make.height, make.width, 3)
    if make.case.values == "zero":
        pixels = torch.zeros(shape, dtype=torch.uint8)
    else:
        pixels = (torch.rand(shape, generator=make._random) * 256).to(torch.uint8)
    if make.case.layout == "sliced":
        return pixels.flip(3).repeat(1, 1, 2, 1)[:, :, : make.width].to(make.device)
    return pixels.to(make.device)


def _image_out(make: Maker) -> tuple[Any, ...]:
    case = make.case
    patch = {"even": 2, "wide": 1, "tall": 4}.get(case.shape, 8)
    planes = make.map(3 * patch * patch)
    if case.values == "large" and case.shape == "odd":
        planes = planes.clone()
        planes.view(-1)[:3] = torch.tensor([math.nan, math.inf, -math.inf]).to(planes)
    elif case.values == "normal":
        # Many exact ties: (k + 1/2) / 255 as near as the dtype gives it, less the offset.
        ties = (torch.randint(0, 255, planes.shape, generator=make._random) + 0.5) / 255 - 0.5
        planes = torch.where(planes < 0.5, ties.to(planes), planes)
        planes = laid_out(planes, case.layout)
    top, left = (0, 0) if case.values == "zero" else (min(1, patch - 1), min(3, patch - 1))
    height, width = make.height * patch - top, make.width * patch - left
    return planes, top, left, height, width, patch, 0.5


_MAKERS = {
    "spatial_modulation": _spatial_modulation,
    "frequency_gate": _frequency_gate,
    "project_down": _project_down,
    "project_up": _project_up,
    "depth_conv_block": _depth_conv_block,
    "gdn": _gdn,
    "quantize_index": _quantize_index,
    "image_in": _image_in,
    "image_out": _image_out,
}
OPS = tuple(_MAKERS)


def wide(value: Any) -> Any:
    """A tensor in double precision; anything else as it is."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return value.to(torch.complex128) if isinstance(value, Tensor) and value.is_complex() else value


def relative_error(found: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference by that of what is expected; 0 for two empty or zero tensors."""
    found, expected = wide(found), wide(expected)
    error = torch.linalg.vector_norm(found - expected).item()
    norm = torch.linalg.vector_norm(expected).item()
    return error / norm if norm else error


def check(case: Case, implementation: str, device: str = "cpu") -> None:
    """Raises AssertionError unless ``implementation`` gives what it should for ``case``."""
    op = REGISTERED[case.op]
    given = arguments(case, device)
    at_home = [value.cpu().clone() if isinstance(value, Tensor) else value for value in given]
    found = op(*given, implementation=implementation)
    for before, after in zip(at_home, given, strict=True):
        if isinstance(before, Tensor):
            assert torch.equal(_bits(before), _bits(after.cpu())), "an argument was changed"

    plain = op.reference(*arguments(case))
    exact = case.op in EXACT
    if _triton.INTERPRETED and implementation == "triton" and case.dtype == "bf16":
        exact = case.op != "image_in" and exact  # the interpreter cuts where a GPU rounds
    many = isinstance(plain, tuple)
    for a, b in zip(found if many else (found,), plain if many else (plain,), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), (a.shape, a.dtype, b.shape, b.dtype)
        assert _steps(a) == _steps(b), (a.stride(), b.stride())
        if exact:
            differ = int((_bits(a.cpu()) != _bits(b)).sum())
            assert differ == 0, f"{differ} of {a.numel()} differ"
    if not exact:
        expected = op.reference(*(wide(value) for value in at_home))
        limit = TOLERANCES[torch.float32 if found.is_complex() else found.dtype]
        error = relative_error(found.cpu(), expected)
        assert error <= limit, f"relative error {error:.2e}, allowed {limit:.0e}"


def _steps(value: Tensor) -> list[int]:
    """Strides that mean something: of axes of one value or none any will do."""
    if not value.numel():
        return []
    return [step for side, step in zip(value.shape, value.stride(), strict=True) if side > 1]


def _bits(value: Tensor) -> Tensor:
    """NaN equals NaN, and -0 is not 0."""
    value = torch.view_as_real(value) if value.is_complex() else value
    if not value.is_floating_point():
        return value
    sizes = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return value.contiguous().view(sizes[value.element_size()])
