"""Lines of tegrastats as boards have printed them.

Format: NVIDIA, Jetson Linux Developer Guide, "Tegrastats Utility"
(docs.nvidia.com/jetson/archives/r35.4.1/DeveloperGuide, and AppendixTegraStats in release 32.5).
The lines are recordings that were published; where from stands beside each.
"""

from __future__ import annotations

import pytest

from icmh_rt.profiling import tegrastats

# AGX Xavier, JetPack 4.2: github.com/martinkersner/gtop, pull request 7.
AGX_XAVIER = (
    "RAM 14700/15692MB (lfb 3x2MB) SWAP 898/8192MB (cached 23MB) CPU [0%@1190,0%@1190,0%@1190,"
    "0%@1190,0%@1190,0%@1190,0%@1190,0%@1190] EMC_FREQ 0% GR3D_FREQ 0% AO@30C GPU@30.5C Tboard@31C "
    "Tdiode@32C AUX@30.5C CPU@31.5C thermal@30.8C PMIC@100C GPU 463/463 CPU 618/618 SOC 2936/2936 "
    "CV 0/0 VDDRQ 309/309 SYS5V 3306/3306"
)
# Xavier NX, JetPack 4: as root.
XAVIER_NX_4 = (
    "RAM 2387/7774MB (lfb 961x4MB) SWAP 0/3887MB (cached 0MB) CPU [14%@1190,9%@1190,2%@1190,"
    "4%@1190,0%@1190,1%@1344] EMC_FREQ 1%@1600 GR3D_FREQ 0%@114 VIC_FREQ 0%@115 APE 150 "
    "MTS fg 0% bg 3% AO@31C GPU@31.5C PMIC@100C AUX@31.5C CPU@33C thermal@31.95C "
    "VDD_IN 3528/3569 VDD_CPU_GPU_CV 410/426 VDD_SOC 1107/1115"
)
# Xavier NX, JetPack 5: two of six cores are off.
XAVIER_NX_5 = (
    "RAM 2690/6854MB (lfb 6x1MB) SWAP 479/3427MB (cached 3MB) CPU [3%@1904,7%@1906,1%@1905,0%@1907,"
    "off,off] EMC_FREQ 0%@1600 GR3D_FREQ 0%@[510] VIC_FREQ 601 APE 150 AUX@39C CPU@39.5C AO@37.5C "
    "GPU@37.5C PMIC@50C VDD_IN 5079mW/5079mW VDD_CPU_GPU_CV 696mW/696mW VDD_SOC 1104mW/1104mW"
)
# AGX Orin, JetPack 5: github.com/DataDog/datadog-agent, its check of Jetsons.
AGX_ORIN = (
    "RAM 2448/62840MB (lfb 2x4MB) SWAP 0/31420MB (cached 0MB) CPU [0%@2201,0%@2201,0%@2201,0%@2201,"
    "0%@2201,0%@2201,0%@2201,0%@2201,0%@2201,0%@2201,0%@2201,0%@2201] GR3D_FREQ 0% cpu@42C "
    "soc2@37.843C soc0@39.187C gpu@37.75C tj@42C soc1@37.937C VDD_GPU_SOC 4940mW/4940mW "
    "VDD_CPU_CV 988mW/988mW VIN_SYS_5V0 4442mW/4442mW"
)
# AGX Orin as root: with engines, two GPU clusters, and memory's rail, which hangs behind the 5 V.
AGX_ORIN_ROOT = (
    "RAM 2448/30536MB (lfb 6729x4MB) SWAP 0/15268MB (cached 0MB) CPU [1%@729,0%@729,off,off] "
    "EMC_FREQ 1%@2133 GR3D_FREQ 12%@[305,305] NVENC off NVDEC off NVJPG off VIC off OFA off "
    "PVA0_FREQ off APE 174 cpu@53.062C tj@53.062C cv0@-256C VDD_GPU_SOC 3205mW/3205mW "
    "VDD_CPU_CV 4405mW/4405mW VIN_SYS_5V0 4767mW/4767mW VDDQ_VDD2_1V8AO 504mW/504mW"
)
# Orin Nano, JetPack 6: github.com/henrygd/beszel, its tests.
ORIN_NANO = (
    "11-15-2024 08:38:09 RAM 6185/7620MB (lfb 8x2MB) SWAP 851/3810MB (cached 1MB) CPU [15%@729,"
    "11%@729,14%@729,13%@729,11%@729,8%@729] EMC_FREQ 43%@2133 GR3D_FREQ 63%@[621] NVDEC off "
    "NVJPG off NVJPG1 off VIC off OFA off APE 200 cpu@53.968C soc2@52.437C soc0@50.75C gpu@53.343C "
    "tj@53.968C soc1@51.656C VDD_IN 12479mW/12479mW VDD_CPU_GPU_CV 4667mW/4667mW "
    "VDD_SOC 2817mW/2817mW"
)
# Orin Nano, a newer release: temperatures and rails with more numbers.
ORIN_NANO_NEWER = (
    "10-01-2026 20:36:32 RAM 974/7546MB (lfb 6x4MB) SWAP 0/5821MB (cached 0MB) CPU [0%@729,0%@729,"
    "0%@883,0%@883,0%@729,0%@729] GR3D_FREQ 12% cpu@49.843C/49.843C gpu@50.875C/50.875C "
    "tj@50.875C/50.875C VDD_IN 4548mW/4550mW/4600mW VDD_CPU_GPU_CV 483mW/483mW/483mW "
    "VDD_SOC 1489mW/1489mW/1489mW"
)
# Jetson Nano: POM_5V_IN is the board's input.
NANO = (
    "RAM 2145/3964MB (lfb 118x4MB) SWAP 0/1982MB (cached 0MB) CPU [25%@1479,35%@1479,15%@1479,"
    "25%@1479] EMC_FREQ 10%@1600 GR3D_FREQ 0%@921 NVENC 115 NVDEC 115 AO@45C GPU@43C PMIC@48C "
    "CPU@46.5C thermal@46.2C POM_5V_IN 4250/4250 POM_5V_CPU 1520/1520 POM_5V_GPU 480/480"
)
# Thor: one number a rail, and VIN feeds them all.
THOR = (
    "RAM 117456/125772MB (lfb 9x4MB) CPU [0%@1890,5%@1890,2%@972] cpu@43.812C tj@44.218C "
    "gpu@43.968C VDD_GPU 5517mW VDD_CPU_SOC_MSS 7484mW VIN_SYS_5V0 6309mW VIN 28548mW"
)
# Not as root, some releases show no rails.
NO_RAILS = (
    "RAM 2130/7774MB (lfb 1004x4MB) SWAP 0/3887MB (cached 0MB) CPU [11%@1190,2%@1190] EMC_FREQ 0% "
    "GR3D_FREQ 0% AO@31C GPU@31.5C PMIC@100C AUX@31.5C CPU@33C thermal@31.95C"
)


@pytest.mark.parametrize(
    ("line", "total_mw", "rails"),
    [
        (AGX_XAVIER, 463 + 618 + 2936 + 0 + 309 + 3306, 6),
        (XAVIER_NX_4, 3528, 3),
        (XAVIER_NX_5, 5079, 3),
        (AGX_ORIN, 4940 + 988 + 4442, 3),
        (AGX_ORIN_ROOT, 3205 + 4405 + 4767, 4),
        (ORIN_NANO, 12479, 3),
        (ORIN_NANO_NEWER, 4548, 3),
        (NANO, 4250, 3),
        (THOR, 28548, 4),
        (NO_RAILS, None, 0),
    ],
)
def test_power_is_that_of_the_module_now(line, total_mw, rails):
    sample = tegrastats.parse(line)
    assert sample.total_mw == total_mw
    assert len(sample.rails_mw) == rails


def test_everything_else_of_a_line():
    sample = tegrastats.parse(ORIN_NANO)
    assert sample.cpu_percent == (15.0, 11.0, 14.0, 13.0, 11.0, 8.0)
    assert sample.cpu_mhz == (729.0,) * 6
    assert (sample.gpu_percent, sample.gpu_mhz) == (63.0, 621.0)
    assert (sample.emc_percent, sample.ram_mb) == (43.0, 6185.0)
    assert sample.temperatures_c["gpu"] == 53.343


def test_what_is_off_or_absent_is_left_out():
    sample = tegrastats.parse(XAVIER_NX_5)
    assert len(sample.cpu_percent) == 4
    assert (sample.gpu_percent, sample.gpu_mhz) == (0.0, 510.0)
    assert "cv0" not in tegrastats.parse(AGX_ORIN_ROOT).temperatures_c
    sample = tegrastats.parse(THOR)
    assert (sample.gpu_percent, sample.gpu_mhz, sample.emc_percent) == (None, None, None)
    assert tegrastats.parse(AGX_ORIN).gpu_mhz is None
    assert tegrastats.parse(ORIN_NANO_NEWER).temperatures_c == {
        "cpu": 49.843,
        "gpu": 50.875,
        "tj": 50.875,
    }


def test_frequencies_and_sizes_are_no_rails():
    assert set(tegrastats.parse(XAVIER_NX_4).rails_mw) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert set(tegrastats.parse(NANO).rails_mw) == {"POM_5V_IN", "POM_5V_CPU", "POM_5V_GPU"}


@pytest.mark.parametrize("line", ["", "tegrastats: not found", "RAM 1/2MB", "CPU [1%@2]"])
def test_other_lines_are_none(line):
    assert tegrastats.parse(line) is None
