"""The C++ kernels' loops on PyTorch's own threads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from cpu_cases import threads  # noqa: F401

from icmh_rt.kernels import _cpu_codec
from icmh_rt.kernels._cpu_native import native


def block(channels: int, height: int, width: int) -> list[torch.Tensor]:
    """Arguments of a depth-conv block."""
    torch.manual_seed(0)
    weights = []
    for _ in range(6):
        weights += [torch.randn(channels, channels) / channels**0.5, torch.randn(channels)]
    weights[2] = torch.randn(channels, 1, 3, 3)
    return [torch.randn(1, channels, height, width), *weights]


@pytest.mark.skipif(sys.platform != "linux", reason="torch's wheels bring GNU's OpenMP on Linux")
def test_where_torch_brings_openmp_its_threads_are_used() -> None:
    shipped = list((Path(torch.__file__).parent / "lib").glob("libgomp*"))
    assert native().openmp_in_use() or not shipped


def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:  # noqa: F811
    """Also right after PyTorch's own loops, with its threads in any state."""
    arguments = block(32, 40, 30)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = _cpu_codec.depth_conv_block(*arguments)
    torch.set_num_threads(before)
    large = torch.randn(1 << 20)
    for count in (1, 2, 3, 2, 5, before):
        torch.set_num_threads(count)
        large.exp()
        assert torch.equal(_cpu_codec.depth_conv_block(*arguments), expected)
    torch.set_num_threads(before)
