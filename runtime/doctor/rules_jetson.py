"""Traps of Jetsons: what JetPack brings, and what of it is seen."""

from __future__ import annotations

from ifmmin.runtime.doctor.facts import Facts, Jetson
from ifmmin.runtime.doctor.finding import Finding, Rule, finding
from ifmmin.runtime.doctor.versions import major, version

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


RULES: tuple[Rule, ...] = (
    invisible_tensorrt,
    wrong_python,
    old_jetpack,
    tensorrt_without_orin,
    tensorrt_11_on_jetpack,
    missing_dla_compiler,
    power_mode,
    loose_clocks,
)
