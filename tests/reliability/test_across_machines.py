"""Streams made under settings that change what PyTorch's and NumPy's kernels compute decode to the
same latents without them, and the corpus under them.

Between processors: scripts/test_aarch64_streams.sh, which runs the same program on both. The slow
tests take two minutes: ``pytest tests/reliability/test_across_machines.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))

import across_machines  # noqa: E402
from native_cases import run_python  # noqa: E402

NO_ONEDNN = "torch.backends.mkldnn.set_flags(False)"
FLUSHED = "torch.set_flush_denormal(True)"


def record(file: Path, first: str, **environment: str) -> None:
    """What a process of its own makes, after ``first``."""
    code = (
        f"import sys, torch; {first}\nsys.path.insert(0, {str(GOLDEN)!r}); import across_machines\n"
        f"sys.exit(across_machines.main(['record', {str(file)!r}, '--backends', 'torch']))"
    )
    result = run_python(code, timeout=600, **environment)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "settings"),
    [
        ("", {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}),
        ("", {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}),
        ("", {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Prescott"}),
        (NO_ONEDNN, {"MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "3"}),
        (FLUSHED, {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}),
    ],
    ids=["sse4", "avx2", "plain-loops", "without-onednn", "bf16-and-no-denormals"],
)
def test_settings_of_libraries(
    first: str, settings: dict[str, str], tmp_path: Path, capsys
) -> None:
    file = tmp_path / "record.npz"
    # The package's own kernels would leave less to those libraries.
    record(file, first, ICMH_KERNELS="reference", **settings)
    assert across_machines.main(["compare", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["streams"] == 101
    # A level or two where a rounding went the other way; but some did, or nothing was changed.
    assert 0 < found["largest_difference"] <= 4


def test_other_latents_are_noticed(tmp_path: Path, capsys) -> None:
    """By the exit code, and the stream is named."""
    file = tmp_path / "record.npz"
    small = ["--backends", "torch", "--bundles", "small"]
    assert across_machines.main(["record", str(file), *small]) == 0
    with np.load(file) as archive:
        arrays = dict(archive)
    meta = json.loads(str(arrays.pop("meta")))
    for shown, stream in zip(("", "other latents: "), (None, meta["streams"][3]), strict=True):
        if stream is not None:
            stream["latents"] = stream["latents"][::-1]
            shown += f"torch/{stream['golden']}"
        np.savez(file, meta=np.array(json.dumps(meta)), **arrays)
        assert across_machines.main(["compare", str(file)]) == bool(shown)
        assert capsys.readouterr().err == (f"across_machines.py: {shown}\n" if shown else "")
