"""The C++ kernels' loops on PyTorch's own threads."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from cpu_cases import threads  # noqa: F401

from icmh_rt.kernels import _cpu_layers
from icmh_rt.kernels._cpu_native import native
from icmh_rt.kernels._parallel import single_threaded_workers


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
    expected = _cpu_layers.depth_conv_block(*arguments)
    torch.set_num_threads(before)
    large = torch.randn(1 << 20)
    for count in (1, 2, 3, 2, 5, before):
        torch.set_num_threads(count)
        large.exp()
        assert torch.equal(_cpu_layers.depth_conv_block(*arguments), expected)
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 3])
def test_workers_compute_alone(count: int, threads: int) -> None:  # noqa: F811
    """Whatever PyTorch's number is, and also after its own loops; the caller's number stays."""

    def seen(_: int) -> tuple[int, int]:
        first = torch.get_num_threads()
        torch.randn(1 << 16).exp()
        return first, torch.get_num_threads()

    before = torch.get_num_threads()
    with single_threaded_workers(count, "test") as workers:
        assert set(workers.map(seen, range(4 * count))) == {(1, 1)}
        assert torch.get_num_threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_encodes_and_decodes() -> None:
    """The parent's OpenMP threads are not there, and nothing may wait for them."""
    program = """
        import os, signal, threading
        import numpy as np
        import icmh_rt
        encoder = icmh_rt.Encoder(0.25, backend="torch", device="cpu")
        decoder = icmh_rt.Decoder(backend="torch", device="cpu")
        image = np.random.default_rng(0).integers(0, 256, (120, 90, 3), np.uint8)
        data = encoder.encode(image)
        picture = decoder.decode(data)
        stop = threading.Event()
        def keep_busy():  # so that forks find the threads in any state
            while not stop.is_set():
                encoder.encode(image)
        busy = threading.Thread(target=keep_busy)
        for number in range(4):
            if number == 2:
                busy.start()
            child = os.fork()
            if child == 0:
                signal.alarm(100)  # ends it
                status = 1
                try:
                    assert encoder.encode(image) == data
                    assert (decoder.decode(data) == picture).all()
                    assert encoder.encode_batch([image] * 3) == [data] * 3
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        busy.join()
        assert encoder.encode(image) == data
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=500)
