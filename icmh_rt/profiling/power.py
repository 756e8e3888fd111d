"""Power while something runs, and energy of an image: NVIDIA's management library, or tegrastats.

Of a GPU that counts its energy itself the count is used; else power is sampled and integrated. A
source that is not here (no GPU, no nvidia-ml-py, no Jetson) is None, and never a guess.
"""

from __future__ import annotations

import importlib
import itertools
import shutil
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from icmh_rt.profiling import tegrastats

INTERVAL_S = 0.1
IDLE_S = 1.0
LEAST_S = 2.0
"""Power is measured over at least so long: its sensors are slow, some tenths of a second."""


class Meter(ABC):
    """A source of power."""

    source: str

    @abstractmethod
    def start(self) -> None:
        """Begin to measure."""

    @abstractmethod
    def stop(self) -> float | None:
        """Joules since `start`; None if nothing was measured."""


def integrate(samples: Sequence[tuple[float, float]], start: float, end: float) -> float | None:
    """Joules from ``start`` to ``end`` of (seconds, watts), by the trapezoid rule; before the first
    and after the last sample power is theirs. None without samples.
    """
    if not samples:
        return None
    inside = [(start, samples[0][1]), *samples, (end, samples[-1][1])]
    inside = [(min(max(at, start), end), watts) for at, watts in inside]
    return sum(
        (later - earlier) * (a + b) / 2 for (earlier, a), (later, b) in itertools.pairwise(inside)
    )


class NvmlMeter(Meter):
    """One GPU. ``nvml``: the module pynvml of the package nvidia-ml-py, initialised."""

    source = "nvml"

    def __init__(
        self,
        nvml: Any,
        index: int = 0,
        clock: Callable[[], float] = time.monotonic,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._nvml, self._clock, self._interval_s = nvml, clock, interval_s
        self._gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        self._counts = True
        try:
            nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)
        except nvml.NVMLError:  # GPUs before Volta, and Jetsons
            self._counts = False
            nvml.nvmlDeviceGetPowerUsage(self._gpu)
        self._begun_mj = 0
        self._samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._begun_s = self._clock()
        if self._counts:
            self._begun_mj = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)
            return
        self._samples = []
        self._stop.clear()
        self._thread = threading.Thread(target=self._sample, name="icmh_rt-power", daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        if self._counts:
            ended_mj = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)
            return (ended_mj - self._begun_mj) / 1e3
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        return integrate(self._samples, self._begun_s, self._clock())

    def _sample(self) -> None:
        while True:
            try:
                watts = self._nvml.nvmlDeviceGetPowerUsage(self._gpu) / 1e3
            except self._nvml.NVMLError:
                return
            self._samples.append((self._clock(), watts))
            if self._stop.wait(self._interval_s):
                return


class TegrastatsMeter(Meter):
    """A Jetson's module. Some releases show power to root only: then `stop` gives None."""

    source = "tegrastats"

    def __init__(
        self,
        command: Sequence[str] = ("tegrastats", "--interval", str(int(1e3 * INTERVAL_S))),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command, self._clock = command, clock
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self.samples: list[tuple[float, tegrastats.Sample]] = []

    def start(self) -> None:
        self.samples = []
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._thread = threading.Thread(target=self._read, name="icmh_rt-power", daemon=True)
        self._thread.start()
        self._begun_s = self._clock()

    def stop(self) -> float | None:
        ended_s = self._clock()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        if self._thread is not None:
            self._thread.join()
        watts = [(at, s.total_mw / 1e3) for at, s in self.samples if s.total_mw is not None]
        return integrate(watts, self._begun_s, ended_s)

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            sample = tegrastats.parse(line)
            if sample is not None:
                self.samples.append((self._clock(), sample))


def nvml() -> Any:
    """The module pynvml, initialised; None where there is none or no driver."""
    try:
        module = importlib.import_module("pynvml")
        module.nvmlInit()
    except Exception:  # not installed, no driver, no permission: all the same here
        return None
    return module


def meter(device: str) -> Meter | None:
    """What measures the power of a device, "cpu" or "cuda:N"; None where nothing does."""
    if shutil.which("tegrastats"):
        return TegrastatsMeter()  # CPU and GPU share a module
    if not device.startswith("cuda"):
        return None
    library = nvml()
    if library is None:
        return None
    try:
        return NvmlMeter(library, int(device.partition(":")[2] or 0))
    except library.NVMLError:
        return None


def energy(
    source: Meter,
    operations: dict[str, Callable[[], Any]],
    least_s: float = LEAST_S,
    idle_s: float = IDLE_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any] | None:
    """Power at rest, and of each operation repeated for a while: watts, and millijoules a call.

    Energy is all that was drawn, that of resting included. None if the source gives nothing.
    """
    source.start()
    begun = clock()
    sleep(idle_s)
    joules = source.stop()
    if joules is None:
        return None
    found: dict[str, Any] = {"source": source.source, "idle_w": joules / (clock() - begun)}
    for name, call in operations.items():
        call()
        source.start()
        begun, calls = clock(), 0
        while clock() - begun < least_s or not calls:
            call()
            calls += 1
        seconds = clock() - begun
        joules = source.stop()
        found[f"{name}_w"] = None if joules is None else joules / seconds
        found[f"{name}_mj_per_image"] = None if joules is None else 1e3 * joules / calls
    return found
