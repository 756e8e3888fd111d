"""A system on which nothing can be written but one folder, as containers are run with --read-only:
no folder for temporary files, no cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import icmh_rt
from icmh_rt.images import load_image, save_image

pytest.importorskip("torch", reason="the torch extra is not installed")
HERE = Path(__file__).resolve().parent

_REFUSED = 77
_PROGRAM = f"""
import sys
from pathlib import Path

sys.path.insert(0, {os.fspath(HERE)!r})
import mounts

image, model, out = map(Path, sys.argv[1:])
try:
    mounts.own_mounts()
    mounts.make_everything_read_only()
    mounts.make_empty(out)
except OSError as error:
    print(error, file=sys.stderr)
    raise SystemExit({_REFUSED}) from None

import tempfile
try:
    tempfile.gettempdir()
except FileNotFoundError:
    pass
else:
    raise SystemExit("there is a folder for temporary files")

from icmh_rt.cli import main
how = ["--model", str(model), "--backend", "torch", "--device", "cpu"]
code = main(["encode", str(image), "-o", str(out / "a.icmh"), *how])
code = code or main(["decode", str(out / "a.icmh"), "-o", str(out / "a.png"), *how])
# Nobody else sees that folder: what is in it goes to standard output.
sys.stdout.flush()
sys.stdout.buffer.write((out / "a.icmh").read_bytes())
# It takes a second to import, and wants a folder for its cache.
if "torch._dynamo" in sys.modules:
    raise SystemExit("torch's compiler was imported")
raise SystemExit(code)
"""


def test_encoding_and_decoding_need_nothing_else(small, tmp_path):
    random = np.random.default_rng(0)
    save_image(random.integers(0, 256, (40, 50, 3), np.uint8), tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    arguments = tmp_path / "a.png", small, tmp_path / "out"
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, arguments)], capture_output=True, timeout=300
    )
    if found.returncode == _REFUSED:
        pytest.skip(f"no mounts of its own for a process here: {found.stderr.decode().strip()}")
    assert found.returncode == 0, found.stderr.decode()
    encoder = icmh_rt.Encoder(model=small, backend="torch", device="cpu")
    assert found.stdout.endswith(encoder.encode(load_image(tmp_path / "a.png")))
    assert list((tmp_path / "out").iterdir()) == []  # it was another file system's
