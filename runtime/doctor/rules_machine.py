"""Traps of any machine: driver, search path, memory, governor, heat, instructions."""

from __future__ import annotations

import re

from ifmmin.runtime.doctor.cpu import X86_EIGHT_BITS
from ifmmin.runtime.doctor.facts import Facts
from ifmmin.runtime.doctor.finding import Finding, Rule, finding
from ifmmin.runtime.doctor.versions import major

_LOW_MEMORY = 1 << 30
_SMALL_JETSON = 9 << 30
"""Modules of 8 GB and less."""
_HOT = 85.0
"""Degrees; modules and processors begin to slow down some ten degrees above."""


def no_backend(facts: Facts) -> Finding | None:
    """Nothing can run a graph."""
    if not facts.backends or any(state.usable for state in facts.backends):
        return None
    cure = "pip install 'ifmmin[cpu]'"
    return finding("no-backend", "error", "no backend runs on this machine", cure)


def driver_fails(facts: Facts) -> Finding | None:
    """The library of the driver is there and does not start."""
    if not facts.nvidia.cuda_error:
        return None
    cure = "reboot after an update of the driver"
    if facts.system.container:
        cure = "start the container with --gpus all (on a Jetson with --runtime nvidia)"
    return finding("driver", "error", facts.nvidia.cuda_error, cure)


def gpu_without_driver(facts: Facts) -> Finding | None:
    """A card is plugged in that nobody drives."""
    nvidia = facts.nvidia
    if not nvidia.pci_devices or nvidia.driver or nvidia.cuda or nvidia.cuda_error:
        return None
    cure = "install NVIDIA's driver"
    if facts.system.container:
        cure += ", or start the container with --gpus all"
    return finding("gpu-driver", "warning", "an NVIDIA GPU without a driver", cure)


def cuda_python(facts: Facts) -> Finding | None:
    """The bindings of a newer CUDA than the driver's ask it for what it does not have."""
    driver = major(facts.nvidia.cuda)
    package = facts.package("cuda-bindings") or facts.package("cuda-python")
    if driver is None or package is None or (major(package.version) or 0) <= driver:
        return None
    return finding(
        "cuda-python",
        "error",
        f"{package.name} {package.version}, the driver speaks CUDA {facts.nvidia.cuda}",
        f"pip install 'cuda-python<{driver + 1}'",
    )


def library_path(facts: Facts) -> Finding | None:
    """What an old installation left in LD_LIBRARY_PATH is found before what is wanted."""
    cuda = major(facts.nvidia.cuda)
    gone = [folder.path for folder in facts.library_path if not folder.exists]
    other = [
        folder.path
        for folder in facts.library_path
        if folder.exists and cuda is not None and _cuda_of(folder.path) not in (None, cuda)
    ]
    if not gone and not other:
        return None
    parts = [f"{path} is not there" for path in gone]
    parts += [f"{path} is not of the driver's CUDA {cuda}" for path in other]
    cure = "take them out of LD_LIBRARY_PATH, in ~/.bashrc or the service that sets it"
    found = f"LD_LIBRARY_PATH: {'; '.join(parts)}"
    return finding("library-path", "warning" if other else "note", found, cure)


def low_memory(facts: Facts) -> Finding | None:
    """An engine is built in memory, and a small Jetson shares it with the GPU."""
    memory = facts.memory
    available = f"{memory.available / (1 << 30):.1f} GiB of memory available"
    if memory.total and memory.available < _LOW_MEMORY:
        cure = "end other programs, or add swap, before engines are built"
        return finding("memory", "warning", available, cure)
    small = facts.jetson is not None and 0 < memory.total < _SMALL_JETSON
    if small and not memory.swap:
        cure = "add swap before engines are built; running them needs none"
        return finding("memory", "note", f"{available} and no swap", cure)
    return None


def governor(facts: Facts) -> Finding | None:
    """Under `powersave` the clock stays low, but with Intel's and AMD's own drivers."""
    cpu = facts.cpu
    if cpu.governor != "powersave":
        return None
    own = cpu.driver.startswith(("intel_pstate", "amd-pstate-epp", "amd_pstate_epp"))
    return finding(
        "governor",
        "note" if own else "warning",
        f"CPU governor powersave ({cpu.driver or 'driver unknown'})"
        + (", which still raises the clock under load" if own else ", which keeps the clock low"),
        "for measurements: sudo cpupower frequency-set -g performance",
    )


def heat(facts: Facts) -> Finding | None:
    """A hot machine slows down."""
    zones = [(zone.celsius, zone.zone) for zone in facts.temperatures]
    zones += [(float(gpu.temperature or 0), gpu.name) for gpu in facts.nvidia.gpus]
    celsius, zone = max(zones, default=(0.0, ""))
    if celsius < _HOT:
        return None
    cure = "let it cool, and look at its fan, before measuring"
    return finding("heat", "warning", f"{zone} is at {celsius:.0f} degrees Celsius", cure)


def no_vnni(facts: Facts) -> Finding | None:
    """Without VNNI, products of signed bytes saturate; our int8 graphs are made for that."""
    cpu = facts.cpu
    if facts.system.machine not in ("x86_64", "AMD64") or not cpu.flags:
        return None
    if set(X86_EIGHT_BITS) & set(cpu.flags):
        return None
    return finding(
        "no-vnni",
        "note",
        "x86 without VNNI: sums of products of bytes saturate in 16 bits",
        "nothing to mend: int8 graphs have unsigned or 7-bit weights and stay right here; measure "
        "whether they are faster than fp32, and leave int8-qdq graphs to TensorRT",
    )


def no_gpu(facts: Facts) -> Finding | None:
    """Say it plainly, so that nobody looks for a reason."""
    nvidia = facts.nvidia
    if nvidia.gpus or nvidia.pci_devices or nvidia.cuda_error or nvidia.cuda:
        return None
    cure = "nothing to mend: onnxruntime-cpu and openvino need none"
    return finding("no-gpu", "note", "no NVIDIA GPU here", cure)


def looks_failed(facts: Facts) -> Finding | None:
    """Our fault, and no reason to keep silent."""
    if not facts.failed:
        return None
    cure = "report it together with the output of ifmmin-doctor --json"
    found = f"could not look everywhere: {'; '.join(facts.failed)}"
    return finding("incomplete", "note", found, cure)


def _cuda_of(path: str) -> int | None:
    found = re.search(r"/cuda-(\d{1,3})(?:\.\d+)?(?:/|$)", path)
    return int(found.group(1)) if found else None


RULES: tuple[Rule, ...] = (
    no_backend,
    driver_fails,
    gpu_without_driver,
    cuda_python,
    library_path,
    low_memory,
    governor,
    heat,
    no_vnni,
    no_gpu,
    looks_failed,
)
