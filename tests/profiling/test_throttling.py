"""What slows a machine down, read from files and a library of the tests' own."""

from __future__ import annotations

import subprocess
import types
from pathlib import Path

import pytest

from icmh_rt.profiling import throttling

_STAT = """cpu  1 1 1 1 1 1 1 1 0 0
cpu0 {busy} 0 0 {idle} 0 0 0 0 0 0
cpu1 {busy} 0 0 {idle} 0 0 0 0 0 0
cpu2 99999 0 0 0 0 0 0 0 0 0
"""


class _Machine:
    """Files as under / , and CPU time of this process."""

    def __init__(self, root: Path):
        self.root, self.own, self.now = root, 0.0, 0.0
        self.set_times(0, 0)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def set_times(self, busy_s: float, idle_s: float) -> None:
        """Of each of two CPUs, since the start."""
        ticks = throttling._TICKS
        self.write("proc/stat", _STAT.format(busy=int(busy_s * ticks), idle=int(idle_s * ticks)))

    def watch(self, **more):
        return throttling.Watch(
            self.root, cpus={0, 1}, own_seconds=lambda: self.own, **{"clock": self.tick, **more}
        )

    def tick(self) -> float:
        """A clock on which every look is due."""
        self.now += 1.0
        return self.now


@pytest.fixture
def machine(tmp_path):
    return _Machine(tmp_path)


def test_a_quiet_machine_gives_nothing_to_note(machine):
    watch = machine.watch()
    machine.set_times(5, 5)
    machine.own = 10.0  # both CPUs were busy with this process
    found = watch.findings()
    assert (found.others_busy, found.throttled, found.notes) == (0.0, False, [])
    assert found.quiet


def test_other_processes_are_noticed(machine):
    watch = machine.watch()
    machine.set_times(8, 2)
    machine.own = 10.0
    found = watch.findings()
    assert found.others_busy == pytest.approx(6 / 20)
    assert not found.quiet and not found.throttled
    assert found.notes == ["other processes used 30% of the CPUs' time"]


def test_each_stretch_is_judged_by_itself(machine):
    watch = machine.watch()
    machine.set_times(8, 2)
    watch.start()
    machine.set_times(9, 11)
    machine.own = 2.0
    assert watch.findings().quiet


@pytest.mark.parametrize("path", ["sys/fs/cgroup/cpu.stat", "sys/fs/cgroup/cpu/cpu.stat"])
def test_a_containers_quota_is_noticed(machine, path):
    machine.write(path, "usage_usec 5\nnr_periods 10\nnr_throttled 3\nthrottled_usec 7\n")
    watch = machine.watch()
    machine.write(path, "usage_usec 5\nnr_periods 20\nnr_throttled 8\nthrottled_usec 9\n")
    found = watch.findings()
    assert found.throttled
    assert found.notes == ["the container's CPU quota stopped it in 5 periods"]


def test_the_whole_host_is_not_judged_by_a_container_with_a_quota(machine):
    machine.write("sys/fs/cgroup/cpu.max", "100000 100000\n")
    watch = machine.watch()
    machine.set_times(10, 0)
    assert watch.findings().others_busy is None


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
    ],
)
def test_quotas(machine, files, quota):
    for path, text in files.items():
        machine.write(path, text)
    assert throttling.cpu_quota(machine.root) == quota


def test_heat_is_noticed(machine):
    path = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    machine.write(path, "10\n")
    watch = machine.watch()
    machine.write(path, "12\n")
    assert watch.findings().notes == ["CPUs were slowed for heat 2 times"]


def test_a_low_clock_under_load_is_noted_and_is_no_throttling(machine):
    for cpu, khz in ((0, 1500000), (1, 800000)):
        machine.write(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq", "3000000\n")
        machine.write(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", f"{khz}\n")
    watch = machine.watch()
    watch.look()
    found = watch.findings()
    assert not found.throttled
    assert found.notes == ["a CPU ran at 50% of its highest frequency"]


@pytest.mark.parametrize("name", ["ClocksEventReasons", "ClocksThrottleReasons"])
def test_reasons_of_a_gpus_clocks(machine, name):
    reasons = {"now": 0x1 | 0x2}  # idle, and clocks that the user set: nothing holds it back
    nvml = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        **{f"nvmlDeviceGetCurrent{name}": lambda handle: reasons["now"]},
    )
    watch = machine.watch(nvml=nvml)
    watch.look()
    assert not watch.findings().throttled
    reasons["now"] = 0x4 | 0x40
    watch.look()
    reasons["now"] = 0
    watch.look()  # it is over, and it was
    found = watch.findings()
    assert found.throttled and not found.quiet
    assert found.notes == ["the GPU's clocks were held back: power cap, hardware thermal slowdown"]


def test_looks_are_not_taken_more_often_than_every_half_second(machine):
    times, looks = iter([0.0, 0.1, 0.4, 0.6, 0.7, 1.2]), []
    nvml = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: looks.append(handle) or 0,
    )
    watch = machine.watch(nvml=nvml, clock=lambda: next(times))
    for _ in range(6):
        watch.look()
    assert len(looks) == 3


def test_a_machine_that_tells_nothing_is_not_judged(tmp_path):
    watch = throttling.Watch(tmp_path, cpus={0})
    watch.look()
    found = watch.findings()
    assert (found.others_busy, found.throttled, found.notes) == (None, False, [])


# `nvpmodel -q` of an Orin Nano, and with --verbose of a Xavier NX.
_MODES = {
    "NV Power Mode: MODE_15W\n0\n": "MODE_15W",
    "NVPM VERB: Config file: /etc/nvpmodel.conf\nNV Fan Mode:quiet\n"
    "NVPM VERB: Current mode: NV Power Mode: MODE_15W_6CORE\n2\n": "MODE_15W_6CORE",
    "NV Fan Mode:quiet\nNV Power Mode: MAXN\n0\n": "MAXN",
    "NVPM ERROR: cannot open the configuration\n": None,
}


@pytest.mark.parametrize("text", _MODES)
def test_power_modes(text, monkeypatch):
    mode = _MODES[text]
    assert throttling.parse_nvpmodel(text) == mode
    monkeypatch.setattr(throttling.shutil, "which", lambda name: f"/usr/sbin/{name}")

    def run(command, **_):
        assert command == ["nvpmodel", "-q"]
        return subprocess.CompletedProcess(command, 0, text, "")

    assert throttling.jetson_power_mode(run) == mode
    note = throttling.power_mode_note(mode)
    assert (note is not None) is (mode not in (None, "MAXN"))


def test_elsewhere_there_is_no_power_mode(monkeypatch):
    monkeypatch.setattr(throttling.shutil, "which", lambda name: None)
    assert throttling.jetson_power_mode() is None
