"""What made the machine slower than it can be while it was measured: heat, power limits, quotas, a
power mode that saves, and other processes.

`Watch` reads counters before and after; what cannot be read on a machine is left out of the
findings, and absence of a finding there is no proof of rest.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUSY = 0.10
"""Others may use this share of the CPUs; above it a measurement counts as disturbed."""

LOOK_S = 0.5
"""Between two looks at clocks: on a machine of many CPUs one takes milliseconds."""

SLOWED = 0.95
"""A CPU below this share of its highest frequency under load is noted."""

# nvml.h: nvmlClocksEventReasons; what is not here (idle, what the user asked for) is no throttling.
GPU_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Findings:
    """Of one stretch of time.

    others_busy: share of the allowed CPUs' time that other processes took, None if unknown ·
    throttled: whether something slowed the machine on purpose · notes: one line each, for people.
    """

    others_busy: float | None = None
    throttled: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def quiet(self) -> bool:
        return not self.throttled and (self.others_busy is None or self.others_busy <= BUSY)


class Watch:
    """Counters of this machine.

    Args:
        root: where proc and sys are.
        cpus: the numbers of those that count; by default those that the process may run on.
        nvml, gpu: the module pynvml, initialised, and the GPU's number; None without.
        own_seconds: CPU time of this process and its children.
        clock: seconds.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        cpus: set[int] | None = None,
        nvml: Any = None,
        gpu: int = 0,
        own_seconds: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._cpus = allowed_cpus() if cpus is None else cpus
        self._nvml = nvml
        self._handle = None
        if nvml is not None:
            try:
                self._handle = nvml.nvmlDeviceGetHandleByIndex(gpu)
            except nvml.NVMLError:
                self._nvml = None
        self._own_seconds = own_seconds or _own_seconds
        self._clock, self._looked_s = clock, float("-inf")
        self._gpu_reasons = 0
        self._slowest: float | None = None
        self.start()

    def start(self) -> None:
        """Begin a stretch."""
        self._gpu_reasons, self._slowest = 0, None
        self._before = self._counters()

    def look(self) -> None:
        """Look at what has no counter: clocks' reasons and frequencies. Call it often, under load;
        it looks every `LOOK_S`.
        """
        now = self._clock()
        if now - self._looked_s < LOOK_S:
            return
        self._looked_s = now
        self._gpu_reasons |= self._reasons_now()
        ratio = self._frequency_ratio()
        if ratio is not None:
            self._slowest = ratio if self._slowest is None else min(ratio, self._slowest)

    def findings(self) -> Findings:
        """Since `start`."""
        after = self._counters()
        grown = {name: after[name] - value for name, value in self._before.items() if name in after}
        others = None
        capacity = grown.get("all", 0.0)
        if capacity > 0 and not self._quota_below_cpus():
            others = min(1.0, max(0.0, (grown["busy"] - grown["own"]) / capacity))
        throttled, notes = [], []
        if grown.get("throttled_periods", 0) > 0:
            throttled.append(
                f"the container's CPU quota stopped it in {grown['throttled_periods']:.0f} periods"
            )
        if grown.get("thermal_events", 0) > 0:
            throttled.append(f"CPUs were slowed for heat {grown['thermal_events']:.0f} times")
        reasons = [name for bit, name in GPU_REASONS.items() if self._gpu_reasons & bit]
        if reasons:
            throttled.append(f"the GPU's clocks were held back: {', '.join(reasons)}")
        if others is not None and others > BUSY:
            notes.append(f"other processes used {others:.0%} of the CPUs' time")
        if self._slowest is not None and self._slowest < SLOWED:
            notes.append(f"a CPU ran at {self._slowest:.0%} of its highest frequency")
        return Findings(others, bool(throttled), throttled + notes)

    # -- sources -----------------------------------------------------------------------------------

    def _text(self, path: str) -> str:
        try:
            return (self._root / path).read_text(errors="replace")
        except OSError:
            return ""

    def _counters(self) -> dict[str, float]:
        found: dict[str, float] = {}
        busy = everything = 0.0
        known = False
        for line in self._text("proc/stat").splitlines():
            match = re.match(r"cpu(\d+) (.*)", line)
            if match and int(match[1]) in self._cpus:
                ticks = [float(value) for value in match[2].split()[:8]]
                idle = ticks[3] + (ticks[4] if len(ticks) > 4 else 0.0)  # waiting for disks is rest
                known = True
                busy += sum(ticks) - idle
                everything += sum(ticks)
        if known:
            own = self._own_seconds()
            found |= {"busy": busy / _TICKS, "all": everything / _TICKS, "own": own}
        for path in ("sys/fs/cgroup/cpu.stat", "sys/fs/cgroup/cpu/cpu.stat"):
            match = re.search(r"^nr_throttled (\d+)", self._text(path), re.MULTILINE)
            if match:
                found["throttled_periods"] = float(match[1])
                break
        events = [
            int(text)
            for cpu in sorted(self._cpus)
            for name in ("core_throttle_count", "package_throttle_count")
            if (
                text := self._text(
                    f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/{name}"
                ).strip()
            )
        ]
        if events:
            found["thermal_events"] = float(sum(events))
        return found

    def _frequency_ratio(self) -> float | None:
        """The slowest of the CPUs now, of its highest frequency."""
        ratios = []
        for cpu in self._cpus:
            folder = f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
            now, most = (
                self._text(f"{folder}/{name}").strip()
                for name in ("scaling_cur_freq", "cpuinfo_max_freq")
            )
            if now.isdigit() and most.isdigit() and int(most):
                ratios.append(int(now) / int(most))
        # A process may use one of many CPUs, and the others rest: the fastest is under load.
        return max(ratios, default=None)

    def _reasons_now(self) -> int:
        if self._nvml is None:
            return 0
        ask = getattr(self._nvml, "nvmlDeviceGetCurrentClocksEventReasons", None) or getattr(
            self._nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", None
        )
        try:
            return int(ask(self._handle)) if ask is not None else 0
        except self._nvml.NVMLError:
            return 0

    def _quota_below_cpus(self) -> bool:
        quota = cpu_quota(self._root)
        return quota is not None and quota < len(self._cpus)


def allowed_cpus() -> set[int]:
    """Numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """How many CPUs' time the container may use, by its control group; None for all."""
    try:
        text = (root / "sys/fs/cgroup/cpu.max").read_text()
    except OSError:
        try:
            folder = root / "sys/fs/cgroup/cpu"
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        except OSError:
            return None
        text = f"{quota.strip()} {period.strip()}"
    parts = text.split()
    if len(parts) != 2 or not all(part.lstrip("-").isdigit() for part in parts):
        return None
    quota_us, period_us = map(int, parts)
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def parse_nvpmodel(text: str) -> str | None:
    """The power mode's name in what `nvpmodel -q` prints; None if there is none."""
    match = re.search(r"NV Power Mode:\s*(\S+)", text)
    return match[1] if match else None


def jetson_power_mode(
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run,
) -> str | None:
    """The mode that a Jetson is in; None elsewhere."""
    if shutil.which("nvpmodel") is None:
        return None
    try:
        done = run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_nvpmodel(done.stdout + done.stderr)


def power_mode_note(mode: str | None) -> str | None:
    """A line about a mode that holds the board back; None for the highest."""
    if mode is None or "MAXN" in mode.upper():
        return None
    return f"the board is in power mode {mode}, not MAXN: nvpmodel -m 0, and jetson_clocks"


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
