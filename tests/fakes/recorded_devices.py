"""Whole machines made of recorded files, tools and readings."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
from recorded_outputs import NVPMODEL, RELEASE_R36, RELEASE_R39

from ifmmin.benchmarks.device.gpu import Nvml
from ifmmin.benchmarks.device.machine import Followed, Machine, ProbeUnavailable

Files = Mapping[str, str]
_CPU = "/sys/devices/system/cpu"


class RecordedMachine(Machine):
    """A machine whose files lie under a folder and whose tools print recorded texts.

    tools: what a tool prints, by its name. followed: the lines of tools that go on printing.
    """

    def __init__(
        self, root: Path, files: Files, tools: Mapping[str, str] = {},
        followed: Mapping[str, str] = {}, packages: Mapping[str, str] = {},
        environ: Mapping[str, str] = {},
    ) -> None:  # fmt: skip
        super().__init__(str(root))
        write_files(root, files)
        self.tools, self.followed = dict(tools), dict(followed)
        self.packages, self.variables = dict(packages), dict(environ)
        self.environ = self.variables

    def run(self, *command: str) -> str:
        return self.tools.get(command[0], "")

    def follow(self, *command: str) -> Followed | None:
        lines = self.followed.get(command[0])
        script = "import sys, time; print(sys.argv[1], flush=True); time.sleep(60)"
        return None if lines is None else super().follow(sys.executable, "-c", script, lines)

    def package(self, name: str) -> tuple[str, tuple[str, ...]] | None:
        version = self.packages.get(name)
        return None if version is None else (version, ())

    def site_folders(self) -> list[str]:
        return []


def write_files(root: Path, files: Files) -> None:
    """Lay the files out; a path that ends with `/` is there and cannot be read, like root's."""
    for path, text in files.items():
        place = root / path.strip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            place.mkdir(exist_ok=True)
        else:
            place.write_text(text)


def _cache(cpu: int, index: int, level: int, kind: str, size: str, cpus: str) -> Files:
    folder = f"{_CPU}/cpu{cpu}/cache/index{index}"
    return {
        f"{folder}/level": f"{level}\n", f"{folder}/type": f"{kind}\n",
        f"{folder}/size": f"{size}\n", f"{folder}/shared_cpu_list": f"{cpus}\n",
    }  # fmt: skip


def policy(number: int, cpus: str, driver: str, low: int, high: int, now: int) -> Files:
    """Frequencies in kHz."""
    folder = f"{_CPU}/cpufreq/policy{number}"
    return {
        f"{folder}/affected_cpus": f"{cpus}\n", f"{folder}/scaling_governor": "schedutil\n",
        f"{folder}/scaling_driver": f"{driver}\n", f"{folder}/scaling_min_freq": f"{low}\n",
        f"{folder}/scaling_max_freq": f"{high}\n", f"{folder}/scaling_cur_freq": f"{now}\n",
        f"{folder}/cpuinfo_max_freq": "5200000\n",
    }  # fmt: skip


def zone(number: int, name: str, millis: int) -> Files:
    """A thermal zone."""
    folder = f"/sys/class/thermal/thermal_zone{number}"
    return {f"{folder}/type": f"{name}\n", f"{folder}/temp": f"{millis}\n"}


def cooling(number: int, name: str, state: int, most: int) -> Files:
    """A cooling device."""
    folder = f"/sys/class/thermal/cooling_device{number}"
    values = {"type": name, "cur_state": state, "max_state": most}
    return {f"{folder}/{key}": f"{value}\n" for key, value in values.items()}


def rapl(zone: str, name: str, micro: int | None, span: int = 262_143_328_850) -> Files:
    """A powercap zone; a counter of None is there and only root may read it."""
    folder = f"/sys/class/powercap/intel-rapl:{zone}"
    counter = (
        {f"{folder}/energy_uj/": ""} if micro is None else {f"{folder}/energy_uj": f"{micro}\n"}
    )
    return {f"{folder}/name": f"{name}\n", f"{folder}/max_energy_range_uj": f"{span}\n", **counter}


def ina3221(number: int, rails: Mapping[str, tuple[int, int]]) -> Files:
    """Up to three rails in mV and mA, and the sum of shunt voltages, which is no rail."""
    folder = f"/sys/class/hwmon/hwmon{number}"
    files = {f"{folder}/name": "ina3221\n", f"{folder}/in7_label": "sum of shunt voltages\n"}
    for channel, (label, (millivolts, milliamperes)) in enumerate(rails.items(), start=1):
        files[f"{folder}/in{channel}_label"] = f"{label}\n"
        files[f"{folder}/in{channel}_input"] = f"{millivolts}\n"
        files[f"{folder}/curr{channel}_input"] = f"{milliamperes}\n"
    return files


def devfreq(name: str, low: int, high: int, now: int) -> Files:
    """A device's clock, in Hz."""
    values = {"min_freq": low, "max_freq": high, "cur_freq": now, "governor": "nvhost_podgov"}
    return {f"/sys/class/devfreq/{name}/{key}": f"{value}\n" for key, value in values.items()}


class NVMLError(Exception):
    """As the library names it."""


def nvml(**answers: Any) -> SimpleNamespace:
    """The library of GPUs, started, with one; what is not in `answers` that GPU does not tell."""

    def refuse(*_: Any) -> Any:
        raise NVMLError

    class Module(SimpleNamespace):
        def __getattr__(self, name: str) -> Any:
            assert callable(getattr(pynvml, name, None)), f"the library has no {name}"
            answer = answers.get(name.removeprefix("nvmlDeviceGet"), refuse)
            return answer if callable(answer) else lambda *_: answer

    return Module(
        NVMLError=NVMLError, NVML_TEMPERATURE_GPU=0, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2,
        nvmlDeviceGetCount=lambda: 1, nvmlDeviceGetHandleByIndex=lambda index: f"handle {index}",
        nvmlSystemGetDriverVersion=lambda: "570.133.20",
    )  # fmt: skip


def rtx() -> Nvml:
    """A desktop's card, which counts its energy."""
    told = nvml(
        Name="NVIDIA GeForce RTX 4090", CudaComputeCapability=(8, 9), Temperature=41,
        MemoryInfo=SimpleNamespace(total=24564 << 20, used=1093 << 20),
        ClockInfo=lambda gpu, kind: {1: 210, 2: 405}[kind], PowerUsage=21_370,
        MaxClockInfo=lambda gpu, kind: {1: 3105, 2: 10501}[kind], PowerManagementLimit=450_000,
        PowerManagementDefaultLimit=450_000, PerformanceState=8, PersistenceMode=0,
        CurrPcieLinkGeneration=4, CurrPcieLinkWidth=16, TotalEnergyConsumption=5_000_000,
        CurrentClocksThrottleReasons=0x1,  # idle
    )  # fmt: skip
    return Nvml(told)


def no_gpus() -> Nvml:
    """Where this very machine has a GPU, none of a recorded one's."""
    raise ProbeUnavailable("GPU: none")


def desktop(root: Path) -> RecordedMachine:
    """Two cores of two threads each, energy counters that everybody may read."""
    files: dict[str, str] = {
        "/proc/cpuinfo": "\n".join(core_of_x86(cpu) for cpu in range(4)),
        "/proc/meminfo": "MemTotal: 32768000 kB\nMemAvailable: 30000000 kB\nSwapTotal: 0 kB\n",
        "/proc/self/cgroup": "0::/user.slice\n",
        "/sys/fs/cgroup/user.slice/cpu.max": "max 100000\n",
        "/sys/fs/cgroup/user.slice/cpu.stat": "usage_usec 1\nnr_periods 0\nnr_throttled 0\n",
        "/sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
        f"{_CPU}/intel_pstate/no_turbo": "0\n", **zone(0, "acpitz", 27800),
        **zone(1, "x86_pkg_temp", 48000), **cooling(0, "Processor", 0, 10),
        **cooling(1, "LCD", 40, 100), **rapl("0", "package-0", 120_000_000),
        **rapl("0:0", "core", 80_000_000), **rapl("0:1", "dram", 9_000_000),
    }  # fmt: skip
    for cpu in range(4):
        core = cpu // 2
        pair = f"{2 * core}-{2 * core + 1}"
        files |= _cache(cpu, 0, 1, "Data", "48K", pair)
        files |= _cache(cpu, 1, 1, "Instruction", "32K", pair)
        files |= _cache(cpu, 2, 2, "Unified", "1280K", pair)
        files |= _cache(cpu, 3, 3, "Unified", "24576K", "0-3")
        files |= policy(cpu, str(cpu), "intel_pstate", 800_000, 4_700_000, 1_200_000 + cpu)
        files[f"{_CPU}/cpu{cpu}/thermal_throttle/core_throttle_count"] = f"{cpu}\n"
        files[f"{_CPU}/cpu{cpu}/thermal_throttle/package_throttle_count"] = "7\n"
    return RecordedMachine(
        root, files, packages={"numpy": "2.2.6", "onnxruntime-gpu": "1.31.1"},
        environ={"OMP_NUM_THREADS": "1", "HOME": "/somewhere"},
    )  # fmt: skip


def orin_nano(root: Path) -> RecordedMachine:
    """JetPack 6: one sensor with the module's input, clocks pinned by jetson_clocks."""
    files = {
        "/proc/cpuinfo": cores_of_arm(6, "0x41", "0xd42"),
        "/etc/nv_tegra_release": RELEASE_R36,
        "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
        **policy(0, "0 1 2 3", "tegra194", 1_728_000, 1_728_000, 1_728_000),
        **policy(4, "4 5", "tegra194", 1_728_000, 1_728_000, 1_728_000),
        **devfreq("17000000.gpu", 1_020_000_000, 1_020_000_000, 1_020_000_000),
        **devfreq("15340000.vic", 115_200_000, 729_600_000, 115_200_000),
        **zone(0, "cpu-thermal", 50_812),
        **zone(8, "tj-thermal", 51_343),
        "/sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
        "/sys/class/thermal/thermal_zone1/temp/": "",
        **cooling(0, "pwm-fan", 2, 3),
        **cooling(9, "gpu-throttle-alert", 1, 2),
        **ina3221(
            1, {"VDD_IN": (5008, 1200), "VDD_CPU_GPU_CV": (5008, 360), "VDD_SOC": (5008, 300)}
        ),
        "/sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
        "/sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
        "/sys/class/hwmon/hwmon3/oc3_event_cnt": "41\n",
        "/usr/bin/tegrastats": "",
    }
    tools = {"nvpmodel": NVPMODEL, "dpkg-query": "6.2.1+b38"}
    followed = {"/usr/bin/tegrastats": TEGRASTATS_ORIN_NANO}
    return RecordedMachine(root, files, tools, followed, packages={"numpy": "1.26.4"})


def agx_orin(root: Path) -> RecordedMachine:
    """Two sensors, no rail that feeds all; memory's rail hangs on the system's."""
    system = {"VDD_GPU_SOC": (19_000, 200), "VDD_CPU_CV": (19_000, 100), "VIN_SYS_5V0": (5000, 900)}
    return RecordedMachine(
        root,
        {
            "/proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0",
            **ina3221(3, system),
            **ina3221(4, {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (5000, 80)}),
        },
    )


def thor(root: Path) -> RecordedMachine:
    """JetPack 7: the carrier's input has a sensor of its own kind, which tells microwatts."""
    modules = {"VDD_GPU": (12_040, 0), "VDD_CPU_SOC_MSS": (12_040, 400), "VIN_SYS_5V0": (5088, 900)}
    return RecordedMachine(
        root,
        {
            "/proc/cpuinfo": cores_of_arm(14, "0x41", "0xd83"),
            "/etc/nv_tegra_release": RELEASE_R39,
            "/proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
            "/proc/device-tree/compatible": "nvidia,p4071-0000+p3834-0008\0nvidia,tegra264\0",
            **devfreq("gpu-gpc-0", 315_000_000, 1_575_000_000, 1_575_000_000),
            **devfreq("gpu-nvd-0", 315_000_000, 1_692_000_000, 315_000_000),
            **devfreq("bwmgr", 665_600_000, 4_266_000_000, 4_266_000_000),
            **ina3221(5, modules),
            "/sys/class/hwmon/hwmon6/name": "ina238\n",
            "/sys/class/hwmon/hwmon6/power1_input": "21750000\n",
        },
    )


def container(root: Path) -> RecordedMachine:
    """A virtual machine without sensors, cut to one and a half CPUs."""
    return RecordedMachine(
        root,
        {
            "/proc/cpuinfo": core_of_x86(0, "hypervisor"),
            "/proc/self/cgroup": "0::/\n",
            "/sys/fs/cgroup/cpu.max": "150000 100000\n",
            "/sys/fs/cgroup/cpu.stat": "usage_usec 1\nnr_periods 90\nnr_throttled 12\n",
            **rapl("0", "package-0", None),
        },
        tools={"systemd-detect-virt": "", "lscpu": "Vendor ID: x\nHypervisor vendor:  KVM\n"},
    )


TEGRASTATS_AGX_ORIN = (
    "11-30-2026 10:12:13 RAM 3201/30536MB (lfb 6170x4MB) SWAP 0/15268MB (cached 0MB) "
    "CPU [4%@1190,0%@1190,1%@729,off,off,off] EMC_FREQ 0%@2133 GR3D_FREQ 7%@[305,306] VIC_FREQ 729 "
    "APE 174 CV0@-256C CPU@49.531C Tboard@38C SOC2@45.5C Tdiode@39C SOC0@45.218C CV1@-256C "
    "GPU@-256C tj@49.531C SOC1@46.312C CV2@-256C VDD_GPU_SOC 2401mW/2390mW VDD_CPU_CV 800mW/790mW "
    "VIN_SYS_5V0 4032mW/4031mW NC 0mW/0mW VDDQ_VDD2_1V8AO 604mW/603mW NC 0mW/0mW"
)
"""JetPack 5."""
TEGRASTATS_ORIN_NANO = (
    "12-03-2026 06:21:16 RAM 2465/7620MB (lfb 2x1MB) SWAP 1/3810MB (cached 0MB) "
    "CPU [3%@729,0%@729,0%@729,12%@1510,0%@729,0%@729] EMC_FREQ 1%@2133 GR3D_FREQ 41%@[611] "
    "NVDEC off NVJPG off VIC off OFA off APE 200 cpu@48.125C soc2@47.5C soc0@47.625C gpu@49.187C "
    "tj@49.187C soc1@47.906C VDD_IN 4712mW/4636mW VDD_CPU_GPU_CV 523mW/483mW VDD_SOC 1411mW/1410mW"
)
"""JetPack 6, as root."""
TEGRASTATS_NO_ROOT = (
    "12-03-2026 06:21:17 RAM 2465/7620MB (lfb 2x1MB) SWAP 1/3810MB (cached 0MB) "
    "CPU [3%@729,0%@729,0%@729,12%@1510,0%@729,0%@729] GR3D_FREQ 0% cpu@48.125C tj@48.125C "
    "VDD_IN 4590mW/4590mW VDD_CPU_GPU_CV 480mW/480mW VDD_SOC 1400mW/1400mW"
)
"""JetPack 6, as anybody."""
TEGRASTATS_THOR = (
    "04-21-2026 15:50:52 RAM 10526/125772MB (lfb 34x4MB) CPU [0%@972,8%@2601,0%@972] "
    "EMC_FREQ 7%@4266 GR3D_FREQ @[1574,1575,1574] NVENC0_FREQ @314 NVDEC0_FREQ @314 VIC off "
    "OFA_FREQ @315 PVA0_FREQ off APE 300 cpu@37.343C/38C tj@38.875C/39.5C soc012@37.468C/37.5C "
    "gpu@38.875C/39C soc345@37.406C/37.5C VDD_GPU 1962mW/1960mW/2354mW "
    "VDD_CPU_SOC_MSS 5887mW/5800mW/6272mW VIN_SYS_5V0 5635mW/5600mW/5735mW "
    "VIN 19780mW/9890mW/20110mW"
)
"""JetPack 7: temperatures and rails have their highest too, and rails come with the input."""
TEGRASTATS_OLD = (
    "RAM 2020/7852MB (lfb 1164x4MB) CPU [0%,5%,off]@1420 EMC_FREQ 0% GR3D_FREQ 0% PLL@42.5C "
    "MCPU@42.5C PMIC@100C VDD_SYS_GPU 153/158 VDD_IN 3140/3208"
)
"""JetPack 4, whose numbers have no unit."""


def core_of_x86(cpu: int, *more: str) -> str:
    """One entry of /proc/cpuinfo."""
    flags = " ".join(("fpu", "sse2", "avx", "f16c", "fma", "avx2", "avx_vnni", *more))
    return (
        f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Core(TM) i5-14400\n"
        f"cpu MHz\t\t: 1200.000\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n"
    )


def cores_of_arm(count: int, implementer: str, part: str, first: int = 0) -> str:
    """Entries of /proc/cpuinfo of equal cores."""
    features = "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
    return "".join(
        f"processor\t: {first + core}\nBogoMIPS\t: 62.50\nFeatures\t: {features}\n"
        f"CPU implementer\t: {implementer}\nCPU architecture: 8\nCPU variant\t: 0x0\n"
        f"CPU part\t: {part}\nCPU revision\t: 1\n\n"
        for core in range(count)
    )
