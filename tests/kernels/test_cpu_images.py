"""Images in and out in C++: the same bits as the reference."""

from __future__ import annotations

import math

import pytest
import torch
from cpu_cases import LEVELS, check_call, check_cases, threads  # noqa: F401

from icmh_rt.kernels import _cpu_codec

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def test_cases_in() -> None:
    check_cases(_cpu_codec, "image_in", None)


@pytest.mark.parametrize("level", LEVELS)
def test_cases_out(level: str) -> None:
    check_cases(_cpu_codec, "image_out", level)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("patch", [1, 2, 8])
def test_large_in(threads: int, patch: int, channels_last: bool, dtype: torch.dtype) -> None:  # noqa: F811
    image = torch.randint(0, 256, (2, 201, 187, 3), dtype=torch.uint8)
    for top, left, height, width in ((0, 0, 208, 192), (5, 3, 208, 200), (40, 0, 256, 192)):
        for edge in (False, True):
            given = (image, top, left, height, width, edge, patch, 0.5, dtype, channels_last)
            name = f"{patch} {top} {left} {edge}"
            check_call("image_in", _cpu_codec.image_in, given, None, name)


def test_every_byte() -> None:
    image = torch.arange(256, dtype=torch.uint8).repeat_interleave(3).view(1, 16, 16, 3)
    for offset in (0.0, 0.5, 0.123):
        for dtype in DTYPES:
            given = (image, 0, 0, 16, 16, False, 8, offset, dtype, True)
            check_call("image_in", _cpu_codec.image_in, given, None, f"{offset} {dtype}")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("patch", [1, 2, 3, 8])
def test_large_out(threads: int, patch: int, channels_last: bool, level: str) -> None:  # noqa: F811
    planes = torch.rand(2, 3 * patch * patch, 29, 131) * 1.4 - 0.7
    if channels_last:
        planes = planes.contiguous(memory_format=torch.channels_last)
    for top, left, cut in ((0, 0, 0), (patch // 2, patch - 1, 0), (29 * patch - 1, patch, 5)):
        height, width = 29 * patch - top, 131 * patch - left - cut
        given = (planes, top, left, height, width, patch, 0.5)
        check_call("image_out", _cpu_codec.image_out, given, level, f"{patch} {top} {left}")


@pytest.mark.parametrize("level", LEVELS)
def test_ties_and_what_is_no_colour(level: str) -> None:
    special = [math.nan, math.inf, -math.inf, -0.0, 0.0, 1e-45, -1e-45, 1.0, 1e30, -1e30]
    near = (torch.arange(-2, 258) + 0.5) / 255
    values = torch.cat((torch.tensor(special), near))
    values = torch.cat((values, torch.nextafter(values, torch.tensor(9.0)), -values))
    planes = values.repeat(3).view(1, 3, 1, -1)
    for offset in (0.0, 0.5):
        given = (planes, 0, 0, 1, planes.shape[3], 1, offset)
        check_call("image_out", _cpu_codec.image_out, given, level, str(offset))


def test_halves_of_planes_are_refused() -> None:
    reason = _cpu_codec.image_out_obstacle(torch.zeros(1, 3, 1, 1).half(), 0, 0, 1, 1, 1, 0.5)
    assert reason is not None and "float16" in reason


def test_no_images() -> None:
    image = torch.zeros(0, 5, 4, 3, dtype=torch.uint8)
    planes = _cpu_codec.image_in(image, 3, 5, 8, 16, True, 8, 0.5, torch.float32, True)
    assert planes.shape == (0, 192, 1, 2)
    assert _cpu_codec.image_out(planes, 3, 5, 4, 7, 8, 0.5).shape == (0, 4, 7, 3)
