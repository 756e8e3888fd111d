"""What `tegrastats` says of a Jetson, parsed.

The format is NVIDIA's ("Tegrastats Utility" in the Jetson Linux Developer Guide) and has changed
with the releases: rails as ``VDD_IN 3528/3569`` (release 32, now and mean, mW), ``VDD_IN
4720mW/4720mW`` (35, 36) and with a third number since; frequencies as ``3%@611`` or ``3%@[611]``;
a date in front or not; Xavier's rails have bare names (``GPU 463/463``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_RAIL = re.compile(r"(?<![\w@%])([A-Z][A-Z0-9_]*) (\d+)(mW)?((?:/\d+(?:mW)?)+)?(?=\s|$)")
_TEMPERATURE = re.compile(r"(?<!\S)([A-Za-z][\w.]*)@(-?\d+(?:\.\d+)?)C")
_GPU = re.compile(r"\bGR3D_FREQ (\d+)%(?:@\[?(\d+)(?:,\d+)*\]?)?")
_CPU = re.compile(r"\bCPU \[([^\]]*)\]")
_EMC = re.compile(r"\bEMC_FREQ (\d+)%(?:@(\d+))?")
_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")

TOTALS = ("VDD_IN", "POM_5V_IN", "VIN")
"""Rails that feed the whole module or board; where there is one, it is the power."""

# Inside of what others measure: memory's own rail hangs behind VIN_SYS_5V0 on AGX Orin.
_INNER = ("VDDQ_VDD2_1V8AO",)
_ABSENT_C = -200.0  # what sensors say that are switched off


@dataclass(frozen=True)
class Sample:
    """One line.

    rails_mw: power now, by name · total_mw: of the module; None where no rail is shown, as without
    root · temperatures_c: by sensor · gpu_percent, gpu_mhz, cpu_mhz, cpu_percent, emc_percent,
    ram_mb: None or empty where not shown; of CPUs that are on.
    """

    rails_mw: dict[str, float]
    temperatures_c: dict[str, float]
    cpu_percent: tuple[float, ...]
    cpu_mhz: tuple[float, ...]
    gpu_percent: float | None
    gpu_mhz: float | None
    emc_percent: float | None
    ram_mb: float | None

    @property
    def total_mw(self) -> float | None:
        return total(self.rails_mw)


def parse(line: str) -> Sample | None:
    """A line of tegrastats; None if it is none."""
    ram, cpu = _RAM.search(line), _CPU.search(line)
    if ram is None or cpu is None:
        return None
    cores = [core.partition("%@") for core in cpu[1].split(",") if "%" in core]
    gpu, emc = _GPU.search(line), _EMC.search(line)
    return Sample(
        rails_mw={m[1]: float(m[2]) for m in _RAIL.finditer(line) if m[3] or m[4]},
        temperatures_c={
            m[1]: float(m[2]) for m in _TEMPERATURE.finditer(line) if float(m[2]) > _ABSENT_C
        },
        cpu_percent=tuple(float(percent) for percent, _, _ in cores),
        cpu_mhz=tuple(float(mhz) for _, _, mhz in cores if mhz),
        gpu_percent=None if gpu is None else float(gpu[1]),
        gpu_mhz=None if gpu is None or gpu[2] is None else float(gpu[2]),
        emc_percent=None if emc is None else float(emc[1]),
        ram_mb=float(ram[1]),
    )


def total(rails_mw: Mapping[str, float]) -> float | None:
    """Power of the module: the rail that feeds it, or the sum of those that lie side by side."""
    for name in TOTALS:
        if name in rails_mw:
            return rails_mw[name]
    parts = [value for name, value in rails_mw.items() if name not in _INNER]
    return sum(parts) if parts else None
