"""Compiles csrc/kernels/*.cu: for GPUs with nvcc, and for this CPU over cuda_on_host."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "kernels").glob("*.cu"))
HEADERS = ROOT / "csrc" / "kernels" / "cuda"
ON_HOST = Path(__file__).resolve().parent / "cuda_on_host"
NVCC = shutil.which("nvcc")
COMPILER = os.environ.get("CXX") or shutil.which("c++")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
_FLAGS = ("-std=c++17", "-fPIC", "-g", "-ffp-contract=off", "-w")  # nvcc has the warnings


def build_on_host(folder: Path, *flags: str) -> Path:
    """All kernels as a library that runs them on this CPU."""
    sources = [path for path in SOURCES if path.name != "runtime.cu"]
    sources.append(ON_HOST / "cuda_on_host.cpp")
    command = [COMPILER, *_FLAGS, *flags, "-I", ROOT / "csrc"]
    command += ["-I", ON_HOST, "-x", "c++", "-c"]
    objects = [folder / f"{path.name}.o" for path in sources]
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                lambda pair: _run(*command, pair[0], "-o", pair[1]),
                zip(sources, objects, strict=True),
            )
        )
    library = folder / "cuda_on_host.so"
    _run(COMPILER, "-shared", *flags, *objects, "-o", library)
    return library


def sanitizer_libraries() -> str:
    """For LD_PRELOAD in a process that was built without them."""
    names = ("libasan.so", "libubsan.so")
    return ":".join(_run(COMPILER, f"-print-file-name={name}").stdout.strip() for name in names)


def _run(*command: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done
