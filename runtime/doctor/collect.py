"""Facts about the machine: processor, memory, NVIDIA, Jetson, libraries and packages.

A look that goes wrong leaves its fields empty and says so.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..backends import BACKENDS
from ..errors import one_line
from ..process import cpu_quota, usable_cores
from .facts import (
    BackendState,
    Clock,
    Cpu,
    Facts,
    Folder,
    Gpu,
    Jetson,
    Library,
    Memory,
    Nvidia,
    OnnxRuntime,
    Package,
    Python,
    System,
    Temperature,
)
from .probes import Answers, Host, ask, is_frozen

_DIGITS = re.compile(r"-?[0-9]{1,15}")


def integer(text: str) -> int | None:
    """The number at the start of a text: `1410 MHz` is 1410, `[N/A]` is None."""
    found = _DIGITS.match(text.strip())
    return int(found.group()) if found else None


def version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: `6.2.1+b38` is (6, 2, 1); of anything else ()."""
    found = re.match(r"[0-9]{1,9}(?:\.[0-9]{1,9})*", text.strip())
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def major(text: str) -> int | None:
    """The first number of a version."""
    return next(iter(version(text)), None)


X86_FLAGS = ("fma", "f16c", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
ARM_FLAGS = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve")
X86_EIGHT_BITS = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Any of these adds products of bytes without the detour that saturates."""
_ARM_CORES = {("0x41", "0xd42"): "Cortex-A78AE (Orin)", ("0x41", "0xd83"): "Neoverse-V3AE (Thor)"}
_FREQUENCY = "/sys/devices/system/cpu/cpu0/cpufreq"


def find_cpu(host: Host) -> Cpu:
    """Look at /proc/cpuinfo and the first core's frequency."""
    model, cores, flags = parse_cpuinfo(host.text("/proc/cpuinfo"))

    def frequency(name: str) -> int | None:
        khz = integer(host.text(f"{_FREQUENCY}/{name}"))
        return None if khz is None else khz // 1000

    return Cpu(
        model=model,
        cores=cores,
        usable=usable_cores(host.text),
        quota=cpu_quota(host.text),
        flags=flags,
        governor=host.text(f"{_FREQUENCY}/scaling_governor").strip(),
        driver=host.text(f"{_FREQUENCY}/scaling_driver").strip(),
        minimum_mhz=frequency("scaling_min_freq"),
        maximum_mhz=frequency("scaling_max_freq"),
        current_mhz=frequency("scaling_cur_freq"),
    )


def parse_cpuinfo(text: str) -> tuple[str, int, tuple[str, ...]]:
    """Model, cores and the flags that matter, of x86 or Arm."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    cores = len(re.findall(r"^processor\s*:", text, flags=re.MULTILINE))
    have = set(f"{fields.get('flags', '')} {fields.get('features', '')}".split())
    flags = tuple(flag for flag in (*X86_FLAGS, *ARM_FLAGS) if flag in have)
    part = (fields.get("cpu implementer", ""), fields.get("cpu part", ""))
    arm = _ARM_CORES.get(part) or (f"Arm part {part[1]}" if part[1] else "")
    return fields.get("model name") or arm, cores, flags


def eight_bits(cpu: Cpu) -> str:
    """What the processor does with bytes, in one phrase."""
    have = [flag for flag in (*X86_EIGHT_BITS, "i8mm", "asimddp") if flag in cpu.flags]
    if have:
        return f"products of bytes in hardware ({', '.join(have)})"
    if "asimd" in cpu.flags:
        return "no dot product of bytes (asimddp): 8 bits save memory, not time"
    if "avx2" in cpu.flags:
        return "no VNNI: int8 graphs are made not to saturate, and may gain little time"
    return "nothing known of products of bytes"


_HOTTEST = 200.0
"""Degrees; sensors that are not there report fantastic values."""


def find_python(host: Host) -> Python:
    """The interpreter, and whether it sees the system's packages."""
    virtual = sys.prefix != sys.base_prefix
    settings = host.text(str(Path(sys.prefix) / "pyvenv.cfg")) if virtual else ""
    return Python(
        version=platform.python_version(),
        virtual=virtual,
        system_packages=not virtual or sees_system(settings),
        frozen=is_frozen(),
    )


def sees_system(settings: str) -> bool:
    """Whether a pyvenv.cfg lets the system's packages in."""
    pattern = r"^\s*include-system-site-packages\s*=\s*true\s*$"
    return re.search(pattern, settings, flags=re.IGNORECASE | re.MULTILINE) is not None


def find_system(host: Host) -> System:
    """The distribution, the kernel and the C library."""
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', host.text("/etc/os-release"), re.MULTILINE)
    boxed = host.find("/.dockerenv") or host.find("/run/.containerenv")
    return System(
        name=name.group(1) if name else platform.system(),
        kernel=platform.release(),
        libc=" ".join(platform.libc_ver()).strip(),
        machine=platform.machine(),
        container=bool(boxed),
    )


def find_memory(host: Host) -> Memory:
    """Main memory and swap."""
    return parse_meminfo(host.text("/proc/meminfo"))


def parse_meminfo(text: str) -> Memory:
    """The numbers of /proc/meminfo."""
    pairs = re.findall(r"^(\w+):\s*([0-9]{1,15})\s*kB", text, flags=re.MULTILINE)
    found = {name: int(size) * 1024 for name, size in pairs}
    return Memory(
        total=found.get("MemTotal", 0),
        available=found.get("MemAvailable", 0),
        swap=found.get("SwapTotal", 0),
    )


def find_temperatures(host: Host) -> tuple[Temperature, ...]:
    """The thermal zones of the kernel."""
    found = []
    for folder in host.find("/sys/class/thermal/thermal_zone*"):
        millis = integer(host.text(f"{folder}/temp"))
        # On a Jetson, a zone that is switched off cannot be read.
        if millis is not None and 0 < millis / 1000 < _HOTTEST:
            zone = host.text(f"{folder}/type").strip() or folder.rpartition("/")[2]
            found.append(Temperature(zone=zone, celsius=millis / 1000))
    return tuple(found)


def find_library_path(host: Host) -> tuple[Folder, ...]:
    """The entries of LD_LIBRARY_PATH."""
    entries = host.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    entries = list(dict.fromkeys(entry for entry in entries if entry))
    return tuple(Folder(path=entry, exists=bool(host.find(entry))) for entry in entries)


FIELDS = ("name", "compute_cap", "memory.total", "temperature.gpu", "clocks.sm", "clocks.max.sm")
QUERY = (
    "nvidia-smi",
    f"--query-gpu=driver_version,{','.join(FIELDS)}",
    "--format=csv,noheader,nounits",
)
_VENDOR = "0x10de"
_DISPLAY = "0x03"
"""Class of PCI devices; the same cards have sound devices too."""


def find_nvidia(host: Host, cuda: Mapping[str, Any]) -> Nvidia:
    """Put together what there is. cuda: what the driver's own library said; see `ask_cuda`."""
    driver, gpus = parse_smi(host.run(*QUERY))
    return Nvidia(
        pci_devices=_pci_devices(host),
        driver=driver or parse_driver(host.text("/proc/driver/nvidia/version")),
        cuda=str(cuda.get("version", "")),
        cuda_error=str(cuda.get("error", "")),
        gpus=gpus or _by_driver(cuda.get("gpus")),
    )


def parse_smi(text: str) -> tuple[str, tuple[Gpu, ...]]:
    """Driver and GPUs from the answer to `QUERY`; a Jetson's older nvidia-smi has `[N/A]` in it."""
    driver, gpus = "", []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(FIELDS) + 1:
            continue
        driver = cells[0] if integer(cells[0]) is not None else ""
        name, capability, memory, temperature, clock, maximum = cells[1:]
        gpus.append(
            Gpu(
                name=name,
                compute_capability=capability if re.fullmatch(r"\d+\.\d+", capability) else "",
                memory=(integer(memory) or 0) << 20,
                temperature=integer(temperature),
                clock_mhz=integer(clock),
                maximum_clock_mhz=integer(maximum),
            )
        )
    return driver, tuple(gpus)


def parse_driver(text: str) -> str:
    """The driver's version from /proc/driver/nvidia/version, of the closed or open module."""
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)*)\s", text)
    return found.group(1) if found else ""


def _by_driver(found: Any) -> tuple[Gpu, ...]:
    gpus = []
    for gpu in found if isinstance(found, list) else []:
        if isinstance(gpu, dict):
            name, capability = str(gpu.get("name", "")), str(gpu.get("compute_capability", ""))
            memory = gpu.get("memory", 0)
            size = memory if isinstance(memory, int) and 0 <= memory < 1 << 60 else 0
            gpus.append(Gpu(name=name, compute_capability=capability, memory=size))
    return tuple(gpus)


def _pci_devices(host: Host) -> int:
    folders = [path.rpartition("/")[0] for path in host.find("/sys/bus/pci/devices/*/vendor")]
    return sum(
        host.text(f"{folder}/vendor").strip() == _VENDOR
        and host.text(f"{folder}/class").strip().startswith(_DISPLAY)
        for folder in folders
    )


CAPABILITIES = {"tegra194": "7.2", "tegra234": "8.7", "tegra264": "11.0"}
"""Compute capability by SoC: Xavier, Orin, Thor. Known even where the driver is not."""
_SYSTEM_MODULE = "/usr/lib/python3*/dist-packages/tensorrt/__init__.py"


def find_jetson(host: Host) -> Jetson | None:
    """None where this is no Jetson."""
    release = host.text("/etc/nv_tegra_release")
    compatible = host.text("/proc/device-tree/compatible").replace("\0", " ")
    soc = re.search(r"nvidia,(tegra\d{1,6})\b", compatible)
    if not release and not soc:
        return None
    return Jetson(
        model=host.text("/proc/device-tree/model").replace("\0", "").strip(),
        soc=soc.group(1) if soc else "",
        l4t=parse_release(release),
        jetpack=host.run("dpkg-query", "-W", "-f=${Version}", "nvidia-jetpack").strip(),
        power_mode=parse_power_mode(host.run("nvpmodel", "-q")),
        clocks=parse_clocks(host.run("jetson_clocks", "--show")),
        system_tensorrt=next(iter(host.find(_SYSTEM_MODULE)), ""),
    )


def parse_release(text: str) -> str:
    """`36.4.3` from the first line of /etc/nv_tegra_release."""
    found = re.search(r"R(\d{1,4})\s*\(release\),\s*REVISION:\s*(\d{1,4}(?:\.\d{1,4})*)", text)
    return f"{found.group(1)}.{found.group(2)}" if found else ""


def parse_power_mode(text: str) -> str:
    """`MAXN` from what `nvpmodel -q` prints."""
    found = re.search(r"NV Power Mode\s*:\s*(\S+)", text)
    return found.group(1) if found else ""


def parse_clocks(text: str) -> tuple[Clock, ...]:
    """CPU cores, GPU and memory (EMC) from what `jetson_clocks --show` prints."""
    found = []
    for line in text.splitlines():
        name = re.match(r"\s*(cpu\d{1,3}|GPU|EMC)\b", line)
        numbers = dict(re.findall(r"(\w+Freq|FreqOverride)=(\d{1,15})\b", line))
        if not name or not {"MinFreq", "MaxFreq", "CurrentFreq"} <= numbers.keys():
            continue
        low, high, now = (int(numbers[key]) for key in ("MinFreq", "MaxFreq", "CurrentFreq"))
        # The memory's limits stay apart when it is pinned.
        pinned = numbers.get("FreqOverride") == "1" or low == high
        clock = Clock(name=name.group(1), minimum=low, maximum=high, current=now, pinned=pinned)
        found.append(clock)
    return tuple(found)


LIBRARIES = (
    "libcuda", "libcudart", "libcublasLt", "libcudnn", "libnvinfer", "libnvonnxparser",
    "libtensorrt_rtx", "libnvdla_compiler",
)  # fmt: skip
_WANTED = re.compile(rf"^(?:{'|'.join(LIBRARIES)})\.so(?:\.\d{{1,9}}){{0,4}}$")
_IN_PACKAGES = ("nvidia/*/lib", "tensorrt_libs", "tensorrt_rtx_libs", "tensorrt_lean_libs")
_ELSEWHERE = (
    "/usr/local/cuda*/lib64",
    "/usr/local/cuda*/targets/*/lib",
    "/usr/lib/*-linux-gnu",
    "/usr/lib/*-linux-gnu/nvidia",
)


def find_libraries(host: Host) -> tuple[Library, ...]:
    """Each file once, under the shortest name that has a major version."""
    loader = parse_ldconfig(host.run("ldconfig", "-p"))
    loaded = {path for _, path in loader}
    paths = [*(path for _, path in loader), *_lying_about(host)]
    found: dict[str, Library] = {}
    for path in sorted(paths, key=lambda path: (path not in loaded, len(path), path)):
        name, real = path.rpartition("/")[2], host.resolve(path)
        bare = name.endswith(".so") and "nvdla" not in name  # a link for compilers, of no version
        gone = not host.find(real)  # the loader's cache may be older than the files
        if bare or gone or real in found:
            continue
        found[real] = Library(name=name, version=_version(real), path=path, loader=path in loaded)
    return tuple(sorted(found.values(), key=lambda library: (library.name, library.path)))


def parse_ldconfig(text: str) -> list[tuple[str, str]]:
    """Names and paths, of the libraries that matter, from what `ldconfig -p` prints."""
    lines = re.findall(r"^\s*(\S+)\s+\([^\n]*?\)\s+=>\s+(\S+)[ \t]*$", text, flags=re.MULTILINE)
    return [(name, path) for name, path in lines if _WANTED.match(name)]


def _lying_about(host: Host) -> list[str]:
    folders = [f"{site}/{inside}" for site in host.site_folders() for inside in _IN_PACKAGES]
    folders += _ELSEWHERE
    folders += [f for f in host.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if f]
    paths = [
        path
        for folder in folders
        for name in LIBRARIES
        for path in host.find(f"{folder}/{name}.so*")
    ]
    return [path for path in paths if _WANTED.match(path.rpartition("/")[2])]


def _version(path: str) -> str:
    return path.rpartition(".so")[2].strip(".")


PACKAGE_NAMES = (
    "ifmmin", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-cu12",
    "tensorrt-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "cuda-python", "cuda-bindings",
    "cupy-cuda12x", "cupy-cuda13x",
)  # fmt: skip
_INSIDE = "onnxruntime/capi"
_TENSORRT_PROVIDER = "libonnxruntime_providers_tensorrt.so"


def find_packages(host: Host) -> tuple[Package, ...]:
    """Those that are installed."""
    names = dict.fromkeys((*PACKAGE_NAMES, *host.owners("onnxruntime")))
    found = [(name, host.package(name)) for name in names]
    return tuple(Package(name=name, version=p[0], tags=p[1]) for name, p in found if p is not None)


def find_onnxruntime(host: Host, answer: Mapping[str, Any]) -> OnnxRuntime:
    """The build that an import gets, by the files it came with; answer: what an import said."""
    providers, error = answer.get("providers"), str(answer.get("error", ""))
    names = tuple(map(str, providers)) if isinstance(providers, list) else ()
    owners = host.owners("onnxruntime")
    for site in host.site_folders():
        info = parse_build(host.text(f"{site}/{_INSIDE}/build_and_package_info.py"))
        if info:
            library = host.content(f"{site}/{_INSIDE}/{_TENSORRT_PROVIDER}")
            return OnnxRuntime(
                package=info.get("package_name", ""),
                version=info.get("__version__", ""),
                cuda=info.get("cuda_version", ""),
                tensorrt=linked_tensorrt(library),
                providers=names,
                owners=owners,
                error=error,
            )
    return OnnxRuntime(providers=names, owners=owners, error=error)


def parse_build(text: str) -> dict[str, str]:
    """The assignments of ONNX Runtime's build_and_package_info.py."""
    return dict(re.findall(r"^(\w+)\s*=\s*['\"]([^'\"\n]*)['\"]", text, flags=re.MULTILINE))


def linked_tensorrt(library: bytes) -> int | None:
    """Major version of TensorRT that a library names among those it needs."""
    found = re.search(rb"libnvinfer\.so\.(\d{1,4})\b", library)
    return int(found.group(1)) if found else None


Found = TypeVar("Found")
_LOOKS: dict[str, Callable[[Host], Any]] = {
    "python": find_python, "system": find_system, "cpu": find_cpu, "memory": find_memory,
    "jetson": find_jetson, "libraries": find_libraries, "packages": find_packages,
    "temperatures": find_temperatures, "library_path": find_library_path,
}  # fmt: skip


class Looking:
    """Looks for things that may fail, each with what then stands in for it."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        """What failed, and how."""

    def __call__(self, name: str, find: Callable[[], Found], otherwise: Found) -> Found:
        """What `find` finds. Whatever it raises is kept in `failed`."""
        try:
            return find()
        # A machine may be stranger than any test; the rest of the report is still of use.
        except Exception as error:
            self.failed.append(f"{name}: {type(error).__name__}: {one_line(error)}")
            return otherwise


def collect(host: Host, ask: Callable[[Sequence[str]], Answers] = ask) -> Facts:
    """Look at everything. ask: answers what needs a process of its own."""
    look = Looking()
    backends = [f"backend:{name}" for name in BACKENDS]
    nothing: Answers = {}
    answers = look("ask", lambda: ask(["cuda", "onnxruntime", *backends]), nothing)
    facts = Facts()
    for name, find in _LOOKS.items():
        found = look(name, partial(find, host), getattr(facts, name))
        facts = msgspec.structs.replace(facts, **{name: found})
    nvidia = look("nvidia", lambda: find_nvidia(host, answers.get("cuda", {})), Nvidia())
    runtime = look(
        "onnxruntime", lambda: find_onnxruntime(host, answers.get("onnxruntime", {})), OnnxRuntime()
    )
    return msgspec.structs.replace(
        facts,
        nvidia=_with_soc(nvidia, facts.jetson),
        onnxruntime=runtime,
        backends=tuple(_state(name, answers) for name in BACKENDS),
        failed=tuple(look.failed),
    )


def _state(name: str, answers: Answers) -> BackendState:
    answer = answers.get(f"backend:{name}", {"error": "nobody answered"})
    reason = str(answer.get("error", ""))
    return BackendState(name=name, usable=not reason, reason=reason)


def _with_soc(nvidia: Nvidia, jetson: Jetson | None) -> Nvidia:
    """The GPU of a Jetson is known by its SoC, also where driver and nvidia-smi say nothing."""
    capability = CAPABILITIES.get(jetson.soc, "") if jetson else ""
    if not capability or any(gpu.compute_capability for gpu in nvidia.gpus):
        return nvidia
    name = nvidia.gpus[0].name if nvidia.gpus else f"{jetson.soc} (built in)" if jetson else ""
    return msgspec.structs.replace(nvidia, gpus=(Gpu(name=name, compute_capability=capability),))
