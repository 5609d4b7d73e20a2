"""Record of a device, taken by looks of their own, so that one that fails breaks no other.

psutil knows cores and sensors; sysfs knows what it does not: governors, caches, throttling, quotas.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from ifmmin.runtime.doctor import collect
from ifmmin.runtime.doctor.collect import integer
from ifmmin.runtime.doctor.facts import Memory, Temperature
from ifmmin.runtime.doctor.probes import Answers, Host, ask
from ifmmin.runtime.process import control_groups

from .gpu import Nvml, find_gpus
from .machine import (
    Board,
    Cache,
    Cooling,
    DeviceRecord,
    Frequency,
    Machine,
    Nvidia,
    PowerSource,
    ProbeUnavailable,
    Processor,
    Revision,
    Software,
    Throttling,
)
from .sensors import find_power

_PATIENCE = 20.0
"""Seconds for libraries that are loaded in a process of their own."""
FLAGS = (
    "avx", "f16c", "fma", "avx2", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512bw", "avx512vl",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
    "neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16",
    "sme", "sme2",
)  # fmt: skip
"""As the kernel names them: asimd is Neon of 64 bits, asimddp its dot products of bytes."""
_CPUS = "/sys/devices/system/cpu"
_KINDS = {"Data": "d", "Instruction": "i", "Unified": ""}
_ARM_CORES = {
    0x41: {
        0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57",
        0xD08: "Cortex-A72", 0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76",
        0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77", 0xD0E: "Cortex-A76AE", 0xD40: "Neoverse-V1",
        0xD41: "Cortex-A78", 0xD42: "Cortex-A78AE", 0xD44: "Cortex-X1", 0xD46: "Cortex-A510",
        0xD47: "Cortex-A710", 0xD49: "Neoverse-N2", 0xD4B: "Cortex-A78C", 0xD4D: "Cortex-A715",
        0xD4F: "Neoverse-V2", 0xD80: "Cortex-A520", 0xD81: "Cortex-A720", 0xD83: "Neoverse-V3AE",
        0xD84: "Neoverse-V3", 0xD85: "Cortex-X925", 0xD87: "Cortex-A725",
    },
    0x4E: {0x003: "Denver 2", 0x004: "Carmel"},
}  # fmt: skip
"""By the numbers of implementer and part in the core's identification register."""
_IDENTITY = r"^CPU (implementer|part)\s*:\s*(0x[0-9a-fA-F]{1,8})\s*$"
_DEVICES = "/sys/class/devfreq/*/cur_freq"
_GPU_CLOCK = re.compile(r"(?:.*\.)?(?:gpu|ga10b|gv11b|gp10b)|gpu-gpc-\d+")
"""JetPack 6, 5, Xavier and TX2; Thor has one for each part of its GPU."""
_MEMORY_CLOCK = re.compile(r"bwmgr|.*emc.*")
PACKAGES = (
    *collect.PACKAGE_NAMES, "onnxruntime-openvino", "safetensors", "msgspec", "onnx",
    "nvidia-ml-py", "psutil", "torch",
)  # fmt: skip
SETTINGS = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY", "KMP_BLOCKTIME", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES", "CUDA_MODULE_LOADING", "CUDA_LAUNCH_BLOCKING",
    "NVIDIA_TF32_OVERRIDE", "LD_PRELOAD", "MALLOC_ARENA_MAX",
)  # fmt: skip
"""Environment variables that are recorded where they are set; no other is."""
_HERE = Path(__file__).resolve()
_SENSORS = {"coretemp": "Package", "k10temp": "Tctl", "zenpower": "Tdie", "cpu_thermal": ""}
"""Drivers of processors' sensors, and how the label of the one that counts begins."""
_THROTTLE = "/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"
_SLOWS = re.compile(
    r"Processor|intel_powerclamp|(?:thermal-)?(?:cpufreq|devfreq)-.*|.*throttle-alert"
)
"""Cooling devices that take speed; the others are fans, screens and radios."""


@functools.cache
def ask_libraries() -> Answers:
    """What the CUDA driver and ONNX Runtime say when they are loaded; asked once per process."""
    return ask(["cuda", "onnxruntime"], patience=_PATIENCE)


def record_device(
    machine: Machine | None = None,
    answers: Callable[[], Answers] = ask_libraries,
    open_gpus: Callable[[], Nvml] = Nvml,
) -> DeviceRecord:
    """Everything that is known of this device at this moment. Needs no root and never raises.

    answers: asks libraries, see `ask_libraries`. open_gpus: opens NVIDIA's library.
    """
    door, look = machine or Machine(), collect.Looking()
    nothing: Answers = {}
    with ThreadPoolExecutor(1) as background:
        asked = background.submit(answers)
        processor = look("processor", lambda: find_processor(door), Processor())
        board = look("jetson", lambda: find_board(door), None)
        revision = look("revision", lambda: find_revision(door), None)
        told = look("libraries", asked.result, nothing)
    no_nvml: list[str] = []

    def opened() -> Nvml | None:
        try:
            return open_gpus()
        except ProbeUnavailable as reason:
            no_nvml.append(str(reason))
            return None

    nvml = look("nvml", opened, None)
    nothing_read: tuple[tuple[PowerSource, ...], tuple[str, ...]] = ((), ())
    cuda, runtime = told.get("cuda", {}), told.get("onnxruntime", {})
    gpus = look("nvidia", lambda: find_gpus(door, nvml, "".join(no_nvml), cuda), Nvidia())
    power, no_power = look("power", lambda: find_power(door, nvml, board is not None), nothing_read)
    if nvml is not None:
        nvml.close()
    return DeviceRecord(
        taken=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        processor=processor,
        memory=look("memory", lambda: collect.find_memory(door), Memory()),
        nvidia=gpus,
        jetson=board,
        temperatures=look("temperatures", lambda: temperatures(door), ()),
        throttling=look("throttling", lambda: find_throttling(door), Throttling()),
        power=power,
        no_power=(*no_power, *no_nvml),
        software=look("software", lambda: find_software(door, runtime), Software()),
        revision=revision,
        failed=tuple(look.failed),
    )


def find_processor(machine: Machine) -> Processor:
    """Look at /proc/cpuinfo and what sysfs has on cores, caches and clocks."""
    cpuinfo = machine.text("/proc/cpuinfo")
    known = collect.find_cpu(machine)
    source = f"{_CPUS.removesuffix('/cpu')}/clocksource/clocksource0/current_clocksource"
    return Processor(
        model=known.model,
        kinds=core_kinds(cpuinfo),
        flags=find_flags(cpuinfo),
        logical=known.cores,
        physical=psutil.cpu_count(logical=False),
        usable=known.usable,
        quota=known.quota,
        caches=find_caches(machine),
        frequencies=find_frequencies(machine),
        boost=_boost(machine),
        hypervisor=find_hypervisor(machine, cpuinfo),
        clock_source=machine.text(source).strip(),
        load=os.getloadavg()[0],
    )


def find_flags(cpuinfo: str) -> tuple[str, ...]:
    """Those of FLAGS that the first core has."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, flags=re.MULTILINE)
    have = set(found.group(1).split()) if found else set()
    return tuple(flag for flag in FLAGS if flag in have)


def find_caches(machine: Machine) -> tuple[Cache, ...]:
    """Levels and sizes; a cache that cores share counts once."""
    shared: dict[tuple[str, int], set[str]] = {}
    for path in machine.find(f"{_CPUS}/cpu[0-9]*/cache/index[0-9]*/level"):
        folder = path.removesuffix("/level")
        kind = _KINDS.get(machine.text(f"{folder}/type").strip())
        level, kib = integer(machine.text(path)), integer(machine.text(f"{folder}/size"))
        if kind is None or level is None or kib is None:
            continue
        cpus = machine.text(f"{folder}/shared_cpu_list").strip() or folder
        shared.setdefault((f"L{level}{kind}", kib << 10), set()).add(cpus)
    return tuple(
        Cache(name=name, size=size, instances=len(cpus))
        for (name, size), cpus in sorted(shared.items())
    )


def find_frequencies(machine: Machine) -> tuple[Frequency, ...]:
    """The clocks that cpufreq sets, each for the cores that share it."""
    found = []
    for path in machine.find(f"{_CPUS}/cpufreq/policy[0-9]*/scaling_governor"):
        folder = path.removesuffix("/scaling_governor")
        cores = ",".join(machine.text(f"{folder}/affected_cpus").split())
        clock = Frequency(
            name=cores or folder.rpartition("/")[2],
            governor=machine.text(path).strip(),
            driver=machine.text(f"{folder}/scaling_driver").strip(),
            minimum=_divided(machine, f"{folder}/scaling_min_freq", 1000),
            maximum=_divided(machine, f"{folder}/scaling_max_freq", 1000),
            hardware_maximum=_divided(machine, f"{folder}/cpuinfo_max_freq", 1000),
            current=_divided(machine, f"{folder}/scaling_cur_freq", 1000),
        )
        found.append(clock)
    return tuple(found)


def _divided(machine: Machine, path: str, by: int) -> int | None:
    """The number in a file, in a larger unit."""
    found = integer(machine.text(path))
    return None if found is None else found // by


def find_hypervisor(machine: Machine, cpuinfo: str) -> str:
    """The virtual machine's monitor; `unknown` where only the processor betrays that one is."""
    told = machine.run("systemd-detect-virt", "--vm").strip()
    if told and told != "none":
        return told
    vendor = re.search(r"^Hypervisor vendor:\s*(\S.*)$", machine.run("lscpu"), flags=re.MULTILINE)
    xen = machine.text("/sys/hypervisor/type").strip()
    name = vendor.group(1).strip().lower() if vendor else xen
    virtual = re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, flags=re.MULTILINE)
    return name or ("unknown" if virtual else "")


def _boost(machine: Machine) -> bool | None:
    files = ("intel_pstate/no_turbo", "cpufreq/boost")
    no_turbo, boost = (integer(machine.text(f"{_CPUS}/{file}")) for file in files)
    if no_turbo is not None:
        return no_turbo == 0
    return None if boost is None else boost == 1


def core_kinds(cpuinfo: str) -> dict[str, int]:
    """How many cores there are of each design; empty on other architectures."""
    kinds: Counter[str] = Counter()
    for core in re.split(r"^processor\s*:", cpuinfo, flags=re.MULTILINE)[1:]:
        found = re.findall(_IDENTITY, core, flags=re.MULTILINE)
        numbers = {name: int(number, 16) for name, number in found}
        if len(numbers) == 2:
            maker, part = numbers["implementer"], numbers["part"]
            unknown = f"part {part:#x} of implementer {maker:#x}"
            kinds[_ARM_CORES.get(maker, {}).get(part, unknown)] += 1
    return dict(kinds)


def find_board(machine: Machine) -> Board | None:
    """None where this is no Jetson."""
    module = collect.find_jetson(machine)
    if module is None:
        return None
    frequencies = device_frequencies(machine)
    limits = [(clock.minimum, clock.maximum) for clock in find_frequencies(machine) + frequencies]
    known = [low == high for low, high in limits if low is not None and high is not None]
    return Board(module=module, frequencies=frequencies, pinned=all(known) if known else None)


def device_frequencies(machine: Machine) -> tuple[Frequency, ...]:
    """Clocks of GPU and memory."""
    found = []
    for path in machine.find(_DEVICES):
        folder = path.removesuffix("/cur_freq")
        name = folder.rpartition("/")[2]
        if not (_GPU_CLOCK.fullmatch(name) or _MEMORY_CLOCK.fullmatch(name)):
            continue
        low, high, now = (
            _divided(machine, f"{folder}/{key}_freq", 1_000_000) for key in ("min", "max", "cur")
        )
        governor = machine.text(f"{folder}/governor").strip()
        found.append(
            Frequency(name=name, governor=governor, minimum=low, maximum=high, current=now)
        )
    return tuple(found)


def find_software(machine: Machine, onnxruntime: Mapping[str, Any]) -> Software:
    """onnxruntime: what an import of it said, in a process of its own."""
    found = {name: machine.package(name) for name in dict.fromkeys(PACKAGES)}
    libraries = {library.name: library.version for library in collect.find_libraries(machine)}
    return Software(
        python=collect.find_python(machine),
        system=collect.find_system(machine),
        packages={name: package[0] for name, package in found.items() if package is not None},
        libraries=libraries,
        onnxruntime=collect.find_onnxruntime(machine, onnxruntime),
        settings={name: machine.environ[name] for name in SETTINGS if machine.environ.get(name)},
    )


def find_revision(machine: Host, file: Path = _HERE) -> Revision | None:
    """None outside of a checkout, also where somebody else's checkout has an installed copy in it.

    file: code whose commit is asked for. A file that git does not know yet changes nothing.
    """
    git = ("git", "--no-optional-locks", "-C", str(file.parent))
    # Prints the name of a file that git has; an installed copy in a virtual environment it has not.
    if not machine.run(*git, "ls-files", "--error-unmatch", file.name).strip():
        return None
    commit = machine.run(*git, "rev-parse", "HEAD").strip()
    changes = machine.run(*git, "status", "--porcelain", "--untracked-files=no", ":/")
    return Revision(commit=commit, changed=bool(changes.strip())) if commit else None


def quota_events(machine: Machine) -> int | None:
    """Periods in which the process's groups were held back, since they exist; None is unknown."""
    texts = "".join(
        machine.text(f"{group}/cpu.stat") + "\n" for group in control_groups(machine.text)
    )
    found = re.findall(r"^nr_throttled\s+([0-9]{1,15})$", texts, flags=re.MULTILINE)
    return max(map(int, found), default=None)


def temperatures(machine: Machine) -> tuple[Temperature, ...]:
    """Zones, then sensors of processors that are no zones: AMD's, and Intel's without a driver."""
    sensors = psutil.sensors_temperatures()
    return (
        *collect.find_temperatures(machine),
        *(
            Temperature(zone=f"{driver} {sensor.label}".strip(), celsius=sensor.current)
            for driver, label in _SENSORS.items()
            for sensor in sensors.get(driver, ())
            if sensor.label.startswith(label)
        ),
    )


def find_throttling(machine: Machine) -> Throttling:
    """Read everything that this kernel has of it."""
    texts = (
        [machine.text(path) for path in machine.find(f"{_THROTTLE}/{name}_throttle_count")]
        for name in ("core", "package")
    )
    cores, packages = ([n for n in map(integer, found) if n is not None] for found in texts)
    over_current = {
        path.rpartition("/")[2].partition("_")[0]: count
        for path in machine.find("/sys/class/hwmon/hwmon*/oc[0-9]_event_cnt")
        if (count := integer(machine.text(path))) is not None
    }
    cooling = _cooling(machine)
    quota = quota_events(machine)
    watched = {
        "processor's own counters": bool(cores or packages),
        "cooling devices": cooling is not None,
        "over-current counters": bool(over_current),
        "CPU quota": quota is not None,
    }
    return Throttling(
        core_events=sum(cores) if cores else None,
        package_events=max(packages, default=None),
        quota_events=quota,
        over_current=over_current,
        cooling=tuple(device for device in cooling or () if device.state > 0),
        watched=tuple(name for name, there in watched.items() if there),
    )


def _cooling(machine: Machine) -> list[Cooling] | None:
    """Those that take speed; None where the kernel has none."""
    found = []
    for path in machine.find("/sys/class/thermal/cooling_device*/type"):
        folder, name = path.removesuffix("/type"), machine.text(path).strip()
        state = integer(machine.text(f"{folder}/cur_state"))
        if _SLOWS.fullmatch(name) and state is not None:
            maximum = integer(machine.text(f"{folder}/max_state")) or 0
            found.append(Cooling(name=name, state=state, maximum=maximum))
    return found or None
