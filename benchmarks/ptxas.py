"""Registers, spills and shared memory of every CUDA kernel, as nvcc's assembler reports them.

    python benchmarks/ptxas.py [--json docs/results/ptxas.json] [--markdown docs/results/ptxas.md]

Compiles csrc/kernels/*.cu for each architecture with warnings as errors; needs nvcc, and no GPU.
Exits with 1 if a kernel spills registers to memory, 2 if it could not run.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = tuple(sorted((ROOT / "csrc" / "kernels").glob("*.cu")))
ARCHITECTURES = ("sm_80", "sm_87", "sm_90")
FLAGS = ("-O3", "-std=c++17", "-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra")
REGISTERS_OF_A_MULTIPROCESSOR = 65536


@dataclass(frozen=True)
class Kernel:
    """What one kernel takes on one architecture; spills and shared memory in bytes."""

    file: str
    name: str
    arch: str
    registers: int
    spill_stores: int
    spill_loads: int
    shared: int


def nvcc_version(nvcc: str) -> str:
    """Such as "13.0.88"."""
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r", V([\d.]+)", text).group(1)


def compiled(source: Path, arch: str, nvcc: str = "nvcc") -> list[Kernel]:
    """The kernels of a source; RuntimeError with nvcc's words for an error or a warning."""
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, *FLAGS, f"-arch={arch}", "-Xptxas", "-v", "-I", str(ROOT / "csrc")]
        command += ["-cubin", "-o", str(Path(folder) / "out.cubin"), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
    text = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"{source.name} for {arch}: {text.strip()}")
    return _parsed(text, source.name, arch)


def _parsed(text: str, file: str, arch: str) -> list[Kernel]:
    entry = re.compile(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers(.*?)\n",
        re.DOTALL,
    )
    found = entry.findall(text)
    names = _demangled([match[0] for match in found])
    kernels = []
    for name, (_, stores, loads, registers, rest) in zip(names, found, strict=True):
        shared = re.search(r"(\d+) bytes smem", rest)
        kernels.append(
            Kernel(
                file=file,
                name=name,
                arch=arch,
                registers=int(registers),
                spill_stores=int(stores),
                spill_loads=int(loads),
                shared=int(shared.group(1)) if shared else 0,
            )
        )
    return sorted(kernels, key=lambda kernel: kernel.name)


def _demangled(names: list[str]) -> list[str]:
    """``kernel<template arguments>``, without namespaces and parameters."""
    program = shutil.which("cu++filt") or shutil.which("c++filt")
    if program is None:
        return names
    done = subprocess.run([program], input="\n".join(names), capture_output=True, text=True)
    short = []
    for line in done.stdout.splitlines():
        line = re.sub(r"\(anonymous namespace\)::|icmh::kernels::|^void ", "", line)
        line = re.sub(r"\((bool|int|Kind)\)", lambda match: "Kind " * (match[1] == "Kind"), line)
        short.append(line.partition("(")[0])
    return short


def spilled(kernels: list[Kernel]) -> list[Kernel]:
    return [kernel for kernel in kernels if kernel.spill_stores or kernel.spill_loads]


def report(version: str, kernels: list[Kernel]) -> str:
    """The page: one row a kernel, its architectures side by side."""
    lines = [
        "# Registers and shared memory of the CUDA kernels",
        "",
        f"By `python benchmarks/ptxas.py`, nvcc {version}; never edited by hand. Each cell:",
        "registers of a thread, and for how many blocks of 256 threads (8 at most) a",
        "multiprocessor has registers. No kernel may spill registers to memory. Template",
        "arguments of `pointwise_kernel`: stored type, type of the operands, whether NHWC, and",
        "0 plain, 1 with a second input, 2 gated, 3 after a depthwise convolution.",
        "",
        f"| file | kernel | shared memory, bytes | {' | '.join(ARCHITECTURES)} |",
        f"|---|---|---|{'---|' * len(ARCHITECTURES)}",
    ]
    rows: dict[tuple[str, str], dict[str, Kernel]] = {}
    for kernel in kernels:
        rows.setdefault((kernel.file, kernel.name), {})[kernel.arch] = kernel
    for (file, name), row in sorted(rows.items()):
        shared = max(kernel.shared for kernel in row.values())
        cells = (_cell(row[arch]) for arch in ARCHITECTURES)
        lines.append(f"| {file} | `{name}` | {shared} | {' | '.join(cells)} |")
    count = len(spilled(kernels))
    lines += ["", f"{len(rows)} kernels, {count or 'none'} of them spilled.", ""]
    return "\n".join(lines)


def _cell(kernel: Kernel) -> str:
    # Registers are given out to warps in units of 8 a thread.
    blocks = REGISTERS_OF_A_MULTIPROCESSOR // (256 * (-(-kernel.registers // 8) * 8))
    spill = f", spills {kernel.spill_stores} bytes" if kernel.spill_stores else ""
    return f"{kernel.registers} ({min(blocks, 8)}){spill}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("ptxas.py: there is no nvcc on the PATH", file=sys.stderr)
        return 2
    jobs = [(source, arch) for source in SOURCES for arch in ARCHITECTURES]
    with ThreadPoolExecutor(options.jobs) as pool:
        found = list(pool.map(lambda job: compiled(*job, nvcc), jobs))
    kernels = [kernel for part in found for kernel in part]
    version = nvcc_version(nvcc)
    page = report(version, kernels)
    print(page)
    if options.json:
        document = {"nvcc": version, "kernels": [asdict(kernel) for kernel in kernels]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(page)
    return int(bool(spilled(kernels)))


if __name__ == "__main__":
    sys.exit(main())
