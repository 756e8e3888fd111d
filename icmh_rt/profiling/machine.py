"""The machine that figures are of: processor, GPUs with clocks and driver, board, threads."""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from icmh_rt.evaluation.results import provenance
from icmh_rt.profiling.throttling import allowed_cpus, cpu_quota, jetson_power_mode

_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "triton", "nvidia-ml-py")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KMP_AFFINITY")


def origin(command: str) -> dict[str, Any]:
    """`evaluation.results.provenance`, with the versions of what can run the transforms."""
    found: dict[str, Any] = provenance(command)
    for package in _PACKAGES:
        try:
            found["versions"][package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda:
        found["versions"]["cuda"] = torch.version.cuda
    return found


def facts(nvml: Any = None, root: Path = Path("/")) -> dict[str, Any]:
    """What the schema calls "machine". nvml: the module pynvml, initialised, or None."""
    from icmh_rt import get_num_threads

    torch = sys.modules.get("torch")
    return {
        "cpu": _cpu(root),
        "memory_bytes": _memory_bytes(root),
        "gpus": _gpus(nvml, torch),
        "jetson": _jetson(root),
        "threads": {
            "icmh": get_num_threads(),
            "torch": None if torch is None else torch.get_num_threads(),
        },
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith("ICMH_") or name in _THREADS
        },
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").replace("\0", "").strip()
    except OSError:
        return ""


def _cpu(root: Path) -> dict[str, Any]:
    folder = root / "sys/devices/system/cpu/cpu0/cpufreq"
    clock = re.search(r"^cpu MHz\s*: ([\d.]+)", _read(root / "proc/cpuinfo"), re.MULTILINE)
    most = _read(folder / "cpuinfo_max_freq")
    return {
        "cores": os.cpu_count(),
        "allowed": len(allowed_cpus()),
        "quota": cpu_quota(root),
        "governor": _read(folder / "scaling_governor") or None,
        "mhz": float(clock[1]) if clock else None,
        "max_mhz": int(most) / 1e3 if most.isdigit() else None,
    }


def _memory_bytes(root: Path) -> int | None:
    match = re.search(r"^MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return 1024 * int(match[1]) if match else None


def _jetson(root: Path) -> dict[str, Any] | None:
    release = _read(root / "etc/nv_tegra_release").split(", GCID")[0]
    if not release:
        return None
    return {
        "model": _read(root / "proc/device-tree/model") or None,
        "release": release.lstrip("# "),
        "power_mode": jetson_power_mode(),
    }


def _gpus(nvml: Any, torch: Any) -> list[dict[str, Any]]:
    if nvml is not None:
        return [_nvml_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    if torch is None or not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(index)
        found.append(_gpu(index, known.name, memory_bytes=known.total_memory))
    return found


def _gpu(index: int, name: str, **known: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("driver", "memory_bytes", "power_limit_w", "clock_mhz", "max_clock_mhz"))
    return {"index": index, "name": name, **empty, **known}


def _nvml_gpu(nvml: Any, index: int) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(function: str, *arguments: Any) -> Any:
        try:
            value = getattr(nvml, function)(*arguments)
        except (AttributeError, nvml.NVMLError):
            return None
        return value.decode() if isinstance(value, bytes) else value

    memory = ask("nvmlDeviceGetMemoryInfo", handle)
    limit = ask("nvmlDeviceGetPowerManagementLimit", handle)
    return _gpu(
        index,
        ask("nvmlDeviceGetName", handle) or "unknown",
        driver=ask("nvmlSystemGetDriverVersion"),
        memory_bytes=None if memory is None else int(memory.total),
        power_limit_w=None if limit is None else limit / 1e3,
        clock_mhz=ask("nvmlDeviceGetClockInfo", handle, 0),  # NVML_CLOCK_GRAPHICS
        max_clock_mhz=ask("nvmlDeviceGetMaxClockInfo", handle, 0),
    )
