"""Traps that a machine can be in: each rule's finding, with its cure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import msgspec

from ..errors import one_line
from .collect import X86_EIGHT_BITS, major, version
from .facts import Facts, Jetson

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""error: something that is installed cannot work, or answers wrongly. warning: it works, but slower
or less surely than it could. note: worth knowing. Worst first."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A trap that the machine is in."""

    rule: str
    """Stable name, for scripts."""
    severity: Severity
    found: str
    cure: str


Rule = Callable[[Facts], Finding | None]
"""None where the machine is not in the trap."""


def finding(rule: str, severity: Severity, found: str, cure: str) -> Finding:
    """A finding, in fewer words."""
    return Finding(rule=rule, severity=severity, found=found, cure=cure)


_LOW_MEMORY = 1 << 30
_SMALL_JETSON = 9 << 30
"""Modules of 8 GB and less."""
_HOT = 85.0
"""Degrees; modules and processors begin to slow down some ten degrees above."""


def no_backend(facts: Facts) -> Finding | None:
    """Nothing can run a graph."""
    if not facts.backends or facts.python.frozen or any(state.usable for state in facts.backends):
        return None
    cure = "pip install 'ifmmin[cpu]'"
    return finding("no-backend", "error", "no backend runs on this machine", cure)


def frozen(facts: Facts) -> Finding | None:
    """Backends are tried in processes of their own, which here would be this program once more."""
    if not facts.python.frozen:
        return None
    return finding(
        "frozen",
        "warning",
        "backends were not tried: this program has its Python built in, and would start again",
        "try one by Predictor(bundle, backend=NAME), or run ifmmin-doctor by a Python of its own",
    )


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
        "nothing to mend: int8 graphs have weights of 7 bits and stay right here; measure "
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


_PYTHON_OF_L4T = {35: "3.8", 36: "3.10", 38: "3.12", 39: "3.12"}
"""The system's Python by major release of Jetson Linux: JetPack 5, 6, 7.0 and 7.1, 7.2."""
_JETPACK_6_1 = (36, 4)
_JETPACK_7_2 = (39,)
_ORIN = "tegra234"


def invisible_tensorrt(facts: Facts) -> Finding | None:
    """Apt installs TensorRT's Python module for the system's Python alone."""
    jetson, python = facts.jetson, facts.python
    if jetson is None or not jetson.system_tensorrt or python.system_packages:
        return None
    if facts.package("tensorrt") is not None:
        return None
    return finding(
        "jetson-venv",
        "error",
        f"JetPack's TensorRT is at {jetson.system_tensorrt}, and this virtual environment does not "
        "look there",
        "make it again with python3 -m venv --system-site-packages",
    )


def wrong_python(facts: Facts) -> Finding | None:
    """The module is compiled for one minor version of Python."""
    wanted = _PYTHON_OF_L4T.get(major(facts.jetson.l4t) or 0) if facts.jetson else None
    if wanted is None or not facts.python.version:
        return None
    if version(facts.python.version)[:2] == version(wanted):
        return None
    return finding(
        "jetson-python",
        "error",
        f"Python {facts.python.version}; JetPack's TensorRT is for Python {wanted} of the system",
        f"make the environment with python{wanted} -m venv --system-site-packages"
        + ("; ifmmin needs 3.10, so JetPack 6.1 or later" if wanted == "3.8" else ""),
    )


def old_jetpack(facts: Facts) -> Finding | None:
    """TensorRT 8 has no strongly typed networks, which is how precisions are meant here."""
    jetson = facts.jetson
    if jetson is None or not () < version(jetson.l4t) < _JETPACK_6_1:
        return None
    if max(facts.majors("libnvinfer"), default=8) > 8:
        return None
    return finding(
        "jetpack-old",
        "error",
        f"Jetson Linux {jetson.l4t} has TensorRT 8; engines here need 10 or later",
        "update to JetPack 6.1 or later; until then use the backend onnxruntime-cpu",
    )


def tensorrt_without_orin(facts: Facts) -> Finding | None:
    """TensorRT 10.13 came for Thor and servers; it has no kernels for Orin, 10.16 has."""
    if facts.jetson is None or facts.jetson.soc != _ORIN:
        return None
    found = next((have for have in _tensorrts(facts) if version(have)[:2] == (10, 13)), None)
    if found is None:
        return None
    return finding(
        "tensorrt-orin-kernels",
        "error",
        f"TensorRT {found} has no kernels for Orin (compute capability 8.7)",
        "take the TensorRT of this JetPack: 10.3 on JetPack 6.1 and 6.2, 10.16 on 7.2",
    )


def tensorrt_11_on_jetpack(facts: Facts) -> Finding | None:
    """11.0 to 11.3 leave JetPack out; 11.4 is for 7.2.2 and later."""
    jetson = facts.jetson
    newest = max((version(have) for have in _tensorrts(facts)), default=())
    if jetson is None or newest < (11,):
        return None
    if newest >= (11, 4) and version(jetson.l4t) >= _JETPACK_7_2:
        return None
    return finding(
        "tensorrt-11-jetpack",
        "error",
        f"TensorRT {'.'.join(map(str, newest))} on Jetson Linux {jetson.l4t or '(unknown)'}: "
        "11.0 to 11.3 support no JetPack, 11.4 only 7.2.2 and later",
        "take the TensorRT that JetPack brings",
    )


def missing_dla_compiler(facts: Facts) -> Finding | None:
    """On release 39, TensorRT links a library that minimal hosts and containers lack."""
    jetson = facts.jetson
    if jetson is None or (major(jetson.l4t) or 0) < 39 or not facts.majors("libnvinfer"):
        return None
    if any(library.name.startswith("libnvdla_compiler.so") for library in facts.libraries):
        return None
    return finding(
        "jetson-nvdla",
        "error",
        f"Jetson Linux {jetson.l4t} without libnvdla_compiler.so: TensorRT does not load",
        "install JetPack's DLA compiler, or let the container see the host's library",
    )


def power_mode(facts: Facts) -> Finding | None:
    """Numbers of another mode say little about what the module can do."""
    mode = facts.jetson.power_mode if facts.jetson else ""
    if not mode or mode.upper().startswith("MAXN"):
        return None
    return finding(
        "jetson-power-mode",
        "warning",
        f"power mode {mode}, which caps cores and clocks",
        "for measurements: nvpmodel -p --verbose lists the modes, sudo nvpmodel -m ID sets MAXN",
    )


def loose_clocks(facts: Facts) -> Finding | None:
    """A call after idle time pays for clocks that have to rise."""
    if facts.jetson is None or not _loose(facts, facts.jetson):
        return None
    return finding(
        "jetson-clocks",
        "warning",
        f"clocks are not pinned ({_loose(facts, facts.jetson)} may sink)",
        "for measurements: sudo jetson_clocks, after the power mode is set",
    )


def _loose(facts: Facts, jetson: Jetson) -> str:
    if jetson.clocks:
        return ", ".join(clock.name for clock in jetson.clocks if not clock.pinned)
    # jetson_clocks wants root to show anything; the first core's limits are open to all.
    low, high = facts.cpu.minimum_mhz, facts.cpu.maximum_mhz
    return "cpu0" if low is not None and high is not None and low < high else ""


def _tensorrts(facts: Facts) -> list[str]:
    """Versions of TensorRT: of Python modules and of libraries."""
    names = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
    modules = [package.version for package in facts.packages if package.name in names]
    files = [lib.version for lib in facts.libraries if lib.name.startswith("libnvinfer.so")]
    return modules + files


GPU = "onnxruntime-gpu"
_FIRST_OF_CUDA_13 = (1, 27)
_FIRST_OF_NUMPY_2 = (1, 19)
_JETSON_CAPABILITIES = {"8.7": "Orin", "11.0": "Thor"}
_NUMPY_COMPLAINTS = ("_ARRAY_API", "NumPy 1.x", "numpy.core.multiarray", "dtype size changed")


def cuda_of_wheel(facts: Facts) -> Finding | None:
    """From 1.27 on, onnxruntime-gpu wants CUDA 13, which neither old drivers nor JetPack 6 have."""
    package = facts.package(GPU)
    if package is None:
        return None
    wanted = _wanted_cuda(facts, package.version)
    driver, runtimes = major(facts.nvidia.cuda), facts.majors("libcublasLt")
    built = f"{GPU} {package.version} is built for CUDA {wanted}"
    if driver is not None and driver < wanted:
        cure = f"pip install '{GPU}<1.27'" if wanted == 13 else "update the driver"
        found = f"{built}, the driver speaks CUDA {facts.nvidia.cuda}"
        return finding("onnxruntime-cuda", "error", found, f"{cure}; the CPU backend goes on")
    if driver is not None and runtimes and wanted not in runtimes:
        have = ", ".join(map(str, sorted(runtimes)))
        cure = f"pip install '{GPU}[cuda,cudnn]=={package.version}', which brings the libraries"
        found = f"{built}, the libraries here are of CUDA {have}"
        return finding("onnxruntime-cuda", "error", found, cure)
    return None


def tensorrt_of_wheel(facts: Facts) -> Finding | None:
    """A provider loads one major version of TensorRT; PyPI's wheels link 10, not 11."""
    wanted, have = facts.onnxruntime.tensorrt, facts.majors("libnvinfer")
    if wanted is None or not have or wanted in have:
        return None
    return finding(
        "onnxruntime-tensorrt",
        "error",
        f"ONNX Runtime's TensorRT provider loads libnvinfer.so.{wanted}, here is TensorRT "
        f"{', '.join(map(str, sorted(have)))}",
        f"install TensorRT {wanted} beside it (pip install 'tensorrt-cu13<11' for CUDA 13), or "
        "use the backend tensorrt, which takes 10 and 11",
    )


def wheel_without_kernels(facts: Facts) -> Finding | None:
    """PyPI's aarch64 wheel is for servers: no kernels for Jetsons, no TensorRT provider."""
    package = facts.package(GPU)
    jetsons = facts.compute_capabilities & _JETSON_CAPABILITIES.keys()
    if package is None or not jetsons or facts.system.machine != "aarch64":
        return None
    of_pypi = any("manylinux" in tag for tag in package.tags)
    if not of_pypi and (package.tags or facts.onnxruntime.tensorrt is not None):
        return None
    capability = min(jetsons)
    return finding(
        "onnxruntime-jetson-kernels",
        "error",
        f"{GPU} {package.version} is PyPI's wheel for aarch64: it has no kernels for compute "
        f"capability {capability} ({_JETSON_CAPABILITIES[capability]}) and no TensorRT provider",
        f"pip uninstall {GPU}; pip install onnxruntime; use the backend tensorrt for the GPU",
    )


def both_packages(facts: Facts) -> Finding | None:
    """All write into one directory, and the last one installed wins, file by file."""
    names = facts.onnxruntime.owners
    if len(names) < 2:
        return None
    return finding(
        "onnxruntime-twice",
        "error",
        f"{' and '.join(names)} are installed together and overwrite each other's files",
        f"pip uninstall {' '.join(names)}; then install the one that is wanted",
    )


def numpy_of_wheel(facts: Facts) -> Finding | None:
    """Wheels built against numpy 1 do not load beside numpy 2; Jetson's own are often such."""
    numpy = facts.package("numpy")
    if numpy is None or (major(numpy.version) or 0) < 2:
        return None
    known = ("onnxruntime", GPU, *facts.onnxruntime.owners)
    names = [p for p in facts.packages if p.name in known]
    old = [p for p in names if () < version(p.version) < _FIRST_OF_NUMPY_2]
    complains = any(word in facts.onnxruntime.error for word in _NUMPY_COMPLAINTS)
    if not complains and not old:
        return None
    have = ", ".join(f"{p.name} {p.version}" for p in old or names) or "a package"
    return finding(
        "numpy-2",
        "error",
        f"numpy {numpy.version} beside {have}, built against numpy 1",
        "pip install 'numpy<2', or a newer build of ONNX Runtime",
    )


def _wanted_cuda(facts: Facts, package: str) -> int:
    """By the wheel's own word, else by its version."""
    own = major(facts.onnxruntime.cuda) if facts.onnxruntime.package == GPU else None
    return own or (13 if version(package) >= _FIRST_OF_CUDA_13 else 12)


RULES: tuple[Rule, ...] = (
    no_backend, frozen, driver_fails, gpu_without_driver, cuda_python, library_path, low_memory,
    governor, heat, no_vnni, no_gpu, looks_failed, cuda_of_wheel, tensorrt_of_wheel,
    wheel_without_kernels, both_packages, numpy_of_wheel, invisible_tensorrt, wrong_python,
    old_jetpack, tensorrt_without_orin, tensorrt_11_on_jetpack, missing_dla_compiler, power_mode,
    loose_clocks,
)  # fmt: skip


def find_problems(facts: Facts) -> tuple[Finding, ...]:
    """The findings, worst first."""
    found: list[Finding] = []
    for rule in RULES:
        try:
            verdict = rule(facts)
        # One rule that a strange machine breaks must not keep the others silent.
        except Exception as error:
            what = f"rule {rule.__name__} failed: {type(error).__name__}: {one_line(error)}"
            verdict = finding("incomplete", "note", what, "report it with ifmmin-doctor --json")
        if verdict is not None:
            found.append(verdict)
    return tuple(sorted(found, key=lambda found: SEVERITIES.index(found.severity)))
