"""Peak memory of encoding and decoding, in processes of their own.

Each process measures one operation. On Linux the kernel forgets a process's peak when it is asked
to; elsewhere it never falls, but sizes come in rising order, so that the peak after a size is that
size's, if it is above what loading took. What was there before the first image (the interpreter,
libraries, weights) is reported beside it. The image, or the stream and the picture, count as well.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icmh_rt.profiling import children, power

_STATUS = Path("/proc/self/status")
_FORGET = Path("/proc/self/clear_refs")


def measure(
    settings: dict[str, Any],
    sizes: list[tuple[int, int]],
    streams: list[str] | None = None,
) -> dict[tuple[int, int], dict[str, int | None]]:
    """By size: "base_bytes", "host_peak_bytes" and "device_peak_bytes" of encoding, or with
    ``streams`` of decoding.

    Args:
        settings: backend, device, dtype, model, width, task, quality, image.
        sizes: (height, width) of images.
        streams: file of the stream of each size.

    Raises:
        IcmhError: the process failed; says how.
    """
    paths: Sequence[str | None] = streams or [None] * len(sizes)
    rising = sorted(zip(sizes, paths, strict=True), key=lambda pair: pair[0][0] * pair[0][1])
    found = children.run(
        "icmh_rt.profiling.memory",
        **settings,
        sizes=[size for size, _ in rising],
        streams=[path for _, path in rising] if streams else None,
    )
    return {
        size: {"base_bytes": found["base_bytes"], **peaks}
        for (size, _), peaks in zip(rising, found["peaks"], strict=True)
    }


def peak_bytes() -> int | None:
    """The most memory that this process has had at a time, or since `forget_peak`; None where the
    system does not say.
    """
    try:
        text = _STATUS.read_text()
        return 1024 * int(text.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def forget_peak() -> bool:
    """Begin a new peak at what is in use now; False where that cannot be done."""
    try:
        _FORGET.write_text("5")
    except OSError:
        return False
    return True


def child(
    began: float,
    sizes: list[list[int]],
    streams: list[str] | None,
    image: str | None,
    **settings: Any,
) -> dict[str, Any]:
    """What runs in the process."""
    from icmh_rt.profiling.workload import Setting, Workload, picture

    device = _Device(settings["device"])
    small = Workload(Setting(size=(64, 64), **settings), picture((64, 64), image))
    small.encode()
    if streams is not None:
        small.decode()  # libraries load parts of themselves when they are first used
    forget_peak()
    base = peak_bytes()
    peaks = []
    for place, (height, width) in enumerate(sizes):
        setting = Setting(size=(height, width), **settings)
        workload = Workload(setting, None if streams else picture((height, width), image))
        if streams is not None:
            workload.data = Path(streams[place]).read_bytes()
        device.forget_peak(workload.backend)
        forget_peak()
        for _ in range(2):
            workload.encode() if streams is None else workload.decode()
        peaks.append({"host_peak_bytes": peak_bytes(), "device_peak_bytes": device.peak_bytes()})
    return {"base_bytes": base, "peaks": peaks}


class _Device:
    """A GPU's memory: by torch what it has reserved at most; of other backends, which keep what
    they have once had, how much more the whole GPU has in use than before this was made. None
    without a GPU.
    """

    def __init__(self, device: str, nvml: Any = None) -> None:
        self._torch: Any = None
        self._nvml = None
        if device.startswith("cuda"):
            self._nvml = nvml or power.nvml()
        if self._nvml is not None:
            index = int(device.partition(":")[2] or 0)
            self._handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            self._before = self._used()

    def forget_peak(self, backend: Any) -> None:
        """Begin a new peak."""
        if backend.name == "torch" and backend.device.startswith("cuda"):
            import torch

            self._torch = backend.device
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._torch)

    def peak_bytes(self) -> int | None:
        """Since then."""
        if self._torch is not None:
            import torch

            return int(torch.cuda.max_memory_reserved(self._torch))
        return None if self._nvml is None else max(0, self._used() - self._before)

    def _used(self) -> int:
        nvml: Any = self._nvml
        return int(nvml.nvmlDeviceGetMemoryInfo(self._handle).used)
