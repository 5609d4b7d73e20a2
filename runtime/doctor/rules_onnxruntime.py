"""Traps around the builds of ONNX Runtime."""

from __future__ import annotations

from ifmmin.runtime.doctor.facts import Facts
from ifmmin.runtime.doctor.finding import Finding, Rule, finding
from ifmmin.runtime.doctor.versions import major, version

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
    """Both write into one directory, and the last one installed wins, file by file."""
    if facts.package("onnxruntime") is None or facts.package(GPU) is None:
        return None
    return finding(
        "onnxruntime-twice",
        "error",
        f"onnxruntime and {GPU} are both installed and overwrite each other's files",
        f"pip uninstall onnxruntime {GPU}; then install the one that is wanted",
    )


def numpy_of_wheel(facts: Facts) -> Finding | None:
    """Wheels built against numpy 1 do not load beside numpy 2; Jetson's own are often such."""
    numpy = facts.package("numpy")
    if numpy is None or (major(numpy.version) or 0) < 2:
        return None
    names = [p for p in facts.packages if p.name in ("onnxruntime", GPU)]
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
    cuda_of_wheel,
    tensorrt_of_wheel,
    wheel_without_kernels,
    both_packages,
    numpy_of_wheel,
)
