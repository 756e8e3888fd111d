"""The package's face."""

from __future__ import annotations

import subprocess
import sys

import pytest

from icmh_rt import kernels
from icmh_rt.errors import OptionError
from icmh_rt.kernels._op import IMPLEMENTATIONS, OPS


def test_every_op_by_name() -> None:
    for name in kernels._HOMES:
        assert kernels.op(name) is OPS[name]
    assert set(kernels._HOMES) == set(OPS)
    with pytest.raises(OptionError, match="there is no op 'conv': use one of depth_conv_block"):
        kernels.op("conv")


def test_every_op_has_every_implementation() -> None:
    for name in kernels._HOMES:
        assert set(kernels.op(name)._twins) == set(IMPLEMENTATIONS) - {"reference"}, name


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, icmh_rt.kernels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_memory_is_released() -> None:
    import torch

    from icmh_rt.kernels import _memory

    with _memory.workspace(10) as buffer:
        assert buffer.dtype == torch.float32
    assert _memory._free
    kernels.release_memory()
    assert not _memory._free
