"""Claim: without torch icmh_rt is small and starts fast: 400 MB, and 5 s to the first stream.

    python benchmarks/onnx_install.py [--source PATH] [--image FILE] [--runs N] [--keep DIR]
        [--json F]

Makes a new virtual environment, installs `icmh-rt[onnx]` from this checkout (or another, or a
wheel: --source) with what the registry has, and measures it:

    size          all files of the environment on disk, pip and setuptools included
    first encode  a new process, from its start to the stream of a 512x768 photograph at width 1.0:
                  the first after the installation, with none of its files in the system's cache,
                  and the median of N later ones
    first decode  the same for its stream, without emptying the cache

and that no torch came along, that "auto" is onnxruntime, and that `icmh doctor` finds nothing to
mend. Exit code 1 if a bar is missed. Needs the network and what building the package needs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

SIZE_BAR_MB, ENCODE_BAR_S = 400, 5.0
ROOT = Path(__file__).resolve().parent.parent
SCHEMA, SCHEMA_VERSION = "icmh_rt.onnx_install", 1

_ENCODE = """
import sys, icmh_rt
encoder = icmh_rt.Encoder()
open(sys.argv[2], "wb").write(encoder.encode(sys.argv[1]))
assert encoder.backend.name == "onnxruntime", encoder.backend_reason
assert "torch" not in sys.modules
"""
_DECODE = """
import sys, icmh_rt
assert icmh_rt.Decoder().decode(open(sys.argv[1], "rb").read()).shape == (512, 768, 3)
"""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return _run(options, Path(options.keep or scratch) / "venv", Path(scratch))
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines() or ["no message"]
        print(f"onnx_install: error: {error.cmd[0]} failed: {said[-1]}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", default=str(ROOT), help="checkout or wheel (default: this one)")
    parser.add_argument(
        "--image", default=str(ROOT / "examples" / "kodim23.png"), help="photograph, 512x768"
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--keep", metavar="DIR", help="leave the environment in DIR/venv")
    parser.add_argument("--json", help="write the figures as well")
    return parser


def _run(options: argparse.Namespace, folder: Path, scratch: Path) -> int:
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    # What is measured is what was installed, not a checkout that a variable points to.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}

    def run(*command: str) -> tuple[float, str]:
        started = time.perf_counter()
        done = subprocess.run(
            [str(python), *command],
            cwd=scratch,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return time.perf_counter() - started, done.stdout

    install_s, _ = run("-m", "pip", "install", "--quiet", f"{Path(options.source).resolve()}[onnx]")
    size_mb = _size_bytes(folder) / 1e6
    stream = str(scratch / "stream.icmh")
    image = str(Path(options.image).resolve())
    _forget(folder)
    encodes = [run("-c", _ENCODE, image, stream)[0] for _ in range(1 + options.runs)]
    decodes = [run("-c", _DECODE, stream)[0] for _ in range(1 + options.runs)]
    packages = json.loads(run("-m", "pip", "list", "--format", "json")[1])
    versions = {package["name"]: package["version"] for package in packages}
    doctor = json.loads(run("-m", "icmh_rt", "doctor", "--json")[1])

    figures: dict[str, Any] = {
        "size_mb": round(size_mb, 1),
        "install_s": round(install_s, 1),
        "first_encode_s": round(encodes[0], 3),
        "encode_s": round(statistics.median(encodes[1:]), 3),
        "first_decode_s": round(decodes[0], 3),
        "decode_s": round(statistics.median(decodes[1:]), 3),
    }
    largest = sorted(_folders(folder).items(), key=lambda item: -item[1])[:6]
    print(f"size          {size_mb:7.1f} MB   (bar {SIZE_BAR_MB})")
    print("              " + ", ".join(f"{name} {mb:.0f}" for name, mb in largest))
    print(
        f"first encode  {encodes[0]:7.2f} s    (bar {ENCODE_BAR_S:g}), later {figures['encode_s']}"
    )
    print(f"first decode  {decodes[0]:7.2f} s    later {figures['decode_s']}")
    print(f"installing    {install_s:7.1f} s")
    print(f"auto takes {doctor['choice']['reason']}")
    problems = [
        problem
        for problem, there in (
            (f"it is {size_mb:.0f} MB", size_mb > SIZE_BAR_MB),
            (f"the first stream took {encodes[0]:.1f} s", encodes[0] > ENCODE_BAR_S),
            ("torch came along", "torch" in versions),
            (f"icmh doctor: {doctor['problems']}", not doctor["ok"]),
        )
        if there
    ]
    print("MISSES: " + "; ".join(problems) if problems else "meets the bars")
    if options.json:
        document = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "command": "python benchmarks/onnx_install.py",
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": {"architecture": platform.machine(), "cores": os.cpu_count()},
            "python": platform.python_version(),
            "versions": versions,
            "figures": figures,
            "folders_mb": {name: round(mb, 1) for name, mb in largest},
        }
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    return 1 if problems else 0


def _size_bytes(folder: Path) -> int:
    """Of its files as they lie on disk, in whole blocks; links count as nothing."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_blocks * 512 for path in files)


def _forget(folder: Path) -> None:
    """Let the system drop what it keeps of these files in memory."""
    if not hasattr(os, "posix_fadvise"):
        return
    os.sync()  # only what is on disk can be dropped
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _folders(folder: Path) -> dict[str, float]:
    """MB of each folder with packages."""
    (packages,) = folder.glob("lib/python*/site-packages")
    return {path.name: _size_bytes(path) / 1e6 for path in packages.iterdir() if path.is_dir()}


if __name__ == "__main__":
    sys.exit(main())
