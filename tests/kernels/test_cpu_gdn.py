"""GDN and IGDN in C++ against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from cpu_cases import PRODUCT_LEVELS, check_call, check_cases, threads  # noqa: F401

from icmh_rt.kernels import _cpu_codec


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
def test_cases(level: str) -> None:
    check_cases(_cpu_codec, "gdn", level)


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(
    ("channels", "shape"), [(128, (1, 31, 33)), (33, (3, 9, 97)), (7, (2, 67, 150)), (1, (1, 1, 1))]
)
def test_sizes(
    threads: int,  # noqa: F811
    level: str,
    channels_last: bool,
    inverse: bool,
    channels: int,
    shape: tuple[int, int, int],
) -> None:
    torch.manual_seed(channels)
    x = torch.randn(shape[0], channels, *shape[1:]) * 3
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    gamma = torch.rand(channels + 2, channels + 3)[:channels, :channels]
    given = (x, torch.rand(channels) + 1e-6, gamma, inverse)
    check_call("gdn", _cpu_codec.gdn, given, level, f"{channels} {shape}")


@pytest.mark.parametrize("level", PRODUCT_LEVELS)
def test_nothing_but_beta(level: str) -> None:
    """The smallest beta that GDN keeps, and no energy."""
    x = torch.randn(1, 20, 5, 6)
    given = (x, torch.full((20,), 1e-6), torch.zeros(20, 20), False)
    check_call("gdn", _cpu_codec.gdn, given, level, "beta")


def test_nan_stays_where_it_belongs() -> None:
    x = torch.randn(1, 20, 9, 9)
    x[0, 3, 4, 5] = float("nan")
    out = _cpu_codec.gdn(x, torch.ones(20), torch.rand(20, 20), False)
    wrong = out.isnan().any(1)[0]
    assert wrong[4, 5] and wrong.sum() == 1
