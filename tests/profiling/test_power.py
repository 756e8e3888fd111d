"""Energy from counters and samples: a management library and a tegrastats that are not there."""

from __future__ import annotations

import sys
import threading
import types

import pytest

from icmh_rt.profiling import memory, power

_LINE = "RAM 974/7546MB (lfb 6x4MB) CPU [0%@729] GR3D_FREQ 12% VDD_IN 4000mW/9mW VDD_SOC 1mW/1mW"


class _Nvml(types.SimpleNamespace):
    """As much of pynvml as is used. ``counts``: whether the GPU counts its energy."""

    class NVMLError(Exception):
        pass

    def __init__(self, counts=True, watts=100.0):
        super().__init__()
        self.counts, self.watts, self.now = counts, watts, 0.0
        self.asked = threading.Event()

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByIndex(self, index):
        if index:
            raise self.NVMLError("no such device")
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if not self.counts:
            raise self.NVMLError("not supported")
        return int(1e3 * self.watts * self.now)

    def nvmlDeviceGetPowerUsage(self, handle):
        self.asked.set()
        return int(1e3 * self.watts)


def test_power_is_integrated_by_trapezoids():
    assert power.integrate([(0.0, 10.0), (1.0, 20.0), (3.0, 0.0)], 0.0, 3.0) == 15.0 + 20.0
    assert power.integrate([(0.5, 10.0)], 0.0, 2.0) == 20.0
    assert power.integrate([(0.0, 10.0), (4.0, 10.0)], 1.0, 3.0) == pytest.approx(20.0)
    assert power.integrate([], 0.0, 3.0) is None


def test_a_gpu_that_counts_is_asked_twice():
    nvml = _Nvml()
    meter = power.NvmlMeter(nvml)
    meter.start()
    nvml.now += 3.0
    assert meter.stop() == pytest.approx(300.0)


def test_a_gpu_that_does_not_count_is_sampled():
    nvml = _Nvml(counts=False, watts=50.0)
    meter = power.NvmlMeter(nvml, clock=lambda: nvml.now, interval_s=0.001)
    nvml.asked.clear()
    meter.start()
    assert nvml.asked.wait(10.0)
    nvml.now += 2.0
    assert meter.stop() == pytest.approx(100.0)


def test_energy_of_an_image_is_what_was_drawn_by_images():
    nvml = _Nvml(watts=20.0)

    def encode():
        nvml.now += 0.5

    found = power.energy(
        power.NvmlMeter(nvml),
        {"encode": encode},
        least_s=2.0,
        clock=lambda: nvml.now,
        sleep=lambda seconds: setattr(nvml, "now", nvml.now + seconds),
    )
    assert found == pytest.approx(
        {"source": "nvml", "idle_w": 20.0, "encode_w": 20.0, "encode_mj_per_image": 10_000.0}
    )


def test_tegrastats_is_started_read_and_ended():
    program = f"import time; print({_LINE!r}, flush=True); time.sleep(60)"
    times = iter([0.0, 1.0, 3.0])
    meter = power.TegrastatsMeter([sys.executable, "-c", program], clock=lambda: next(times))
    meter.start()
    for _ in range(1000):
        if meter.samples:
            break
        threading.Event().wait(0.01)
    assert meter.stop() == pytest.approx(12.0)
    assert meter._process.returncode is not None


def test_without_rails_there_is_no_energy():
    program = "import time; print('RAM 1/2MB CPU [0%@1]', flush=True); time.sleep(60)"
    meter = power.TegrastatsMeter([sys.executable, "-c", program])
    assert power.energy(meter, {}, idle_s=0.2) is None


def test_the_library_is_used_where_it_loads(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert power.nvml() is None
    broken = types.SimpleNamespace(nvmlInit=lambda: 1 / 0)
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    assert power.nvml() is None
    monkeypatch.setitem(sys.modules, "pynvml", _Nvml())
    monkeypatch.setattr(power.shutil, "which", lambda name: None)
    assert isinstance(power.meter("cuda:0"), power.NvmlMeter)
    assert power.meter("cuda:1") is None
    assert power.meter("cpu") is None


def test_a_jetson_is_asked_through_tegrastats(monkeypatch):
    monkeypatch.setattr(power.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert isinstance(power.meter("cpu"), power.TegrastatsMeter)


def test_memory_of_a_gpu_is_what_it_has_more_in_use_than_before():
    used = iter([100, 700])
    nvml = _Nvml()
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(used=next(used))
    device = memory._Device("cuda:0", nvml)
    device.forget_peak(types.SimpleNamespace(name="tensorrt", device="cuda:0"))
    assert device.peak_bytes() == 600
    assert memory._Device("cpu", nvml).peak_bytes() is None
