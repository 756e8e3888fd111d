"""Work for the native loops in processes of their own: what test_threads and test_simd run there.

Imports neither pytest nor torch, so that a child starts quickly and forks cleanly.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
import time
from functools import cache
from pathlib import Path

import numpy as np

from icmh_rt import rans
from icmh_rt.models.integer_network import IntegerHyperSynthesis, IntegerLayer

TESTS = Path(__file__).resolve().parent


def run_python(
    code: str, *, timeout: float = 120, **environment: str | None
) -> subprocess.CompletedProcess:
    """Run ``code`` (these names are imported) in a new Python; None removes a variable."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("ICMH_")}
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    variables |= {"PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}
    variables |= {key: value for key, value in environment.items() if value is not None}
    return subprocess.run(
        [sys.executable, "-c", "from native_cases import *\n" + textwrap.dedent(code)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def succeeds(code: str, **environment: str | None) -> None:
    """`run_python`, and fail with what it printed unless it ends with exit code 0."""
    result = run_python(code, **environment)
    assert result.returncode == 0, result.stdout + result.stderr


@cache
def network() -> IntegerHyperSynthesis:
    """An integer network with work for several threads in every layer of `latent`'s."""
    random = np.random.default_rng(5)

    def layer(name: str, kind: str, rows: int, channels: int, shuffle: bool = False):
        shape = (rows, 3, 3, channels) if kind == "conv3x3" else (rows, channels)
        return IntegerLayer(
            name=name,
            kind=kind,
            weight=random.integers(-5, 6, shape).astype(np.int16),
            bias=random.integers(-(2**10), 2**10, rows).astype(np.int32),
            shift=np.full(rows, 6, np.uint8),
            low=np.full(rows, -1000, np.int32),
            high=np.full(rows, 1000, np.int32),
            shuffle=shuffle,
        )

    hidden, shape = 64, (2, 48)
    return IntegerHyperSynthesis(
        trunk=(
            layer("context", "conv3x3", hidden, 32),
            layer("up", "conv1x1", 4 * hidden, hidden, shuffle=True),
            layer("context_up", "conv3x3", hidden, hidden),
        ),
        mean_head=layer("mean", "conv1x1", 48, hidden),
        scale_head=layer("scale", "conv1x1", 48, hidden),
        z_multiplier=np.full((2, 32), 4096, np.int32),
        mean_multiplier=np.full(shape, 64, np.int32),
        mean_shift=np.full(shape, 4, np.uint8),
        index_offset=np.full(shape, 500, np.int32),
        z_shift=12,
        input_limit=1000,
        mean_bits=6,
        mean_limit=2**21 - 1,
        index_bits=4,
        scales=64,
    )


@cache
def hyper_latent() -> np.ndarray:
    return np.random.default_rng(6).integers(-300, 301, (23, 31, 32)).astype(np.int32)


@cache
def plane() -> tuple[np.ndarray, np.ndarray, rans.Tables]:
    """Symbols, indexes and tables, enough of them for several chunks."""
    random = np.random.default_rng(7)
    positions = np.arange(-40, 41)
    pmfs = np.stack([np.exp(-np.abs(positions) / scale) for scale in (0.4, 1.0, 3.0, 9.0)])
    tables = rans.Tables.from_pmfs(pmfs / pmfs.sum(1, keepdims=True), offsets=np.full(4, -40))
    indexes = random.integers(0, 4, 400_000).astype(np.uint8)
    scales = np.array([0.4, 1.0, 3.0, 9.0])[indexes]
    return np.rint(random.laplace(0, scales)).astype(np.int32), indexes, tables


def network_digest(**options: object) -> str:
    mean, index = network().run(hyper_latent(), 2, **options)
    return hashlib.sha256(mean.tobytes() + index.tobytes()).hexdigest()


def stream_digest() -> str:
    """Of an encoded plane that decodes to itself."""
    symbols, indexes, tables = plane()
    data = rans.encode(symbols, indexes, tables)
    assert np.array_equal(rans.decode(data, indexes, tables), symbols)
    return hashlib.sha256(data).hexdigest()


def pool_threads(expected: int) -> int:
    """Threads of the pool in this process; Linux only. Waits a while for ``expected``: a new
    thread is told by its name, which it gives itself when it first runs.
    """
    deadline = time.monotonic() + 20
    while True:
        tasks = Path("/proc/self/task").iterdir()
        found = sum((task / "comm").read_text().strip() == "icmh" for task in tasks)
        if found == expected or time.monotonic() > deadline:
            return found
        time.sleep(0.01)
