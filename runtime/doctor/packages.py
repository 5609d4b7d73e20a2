"""Python packages that matter, by their metadata alone: nothing is imported."""

from __future__ import annotations

import re

from ifmmin.runtime.doctor.facts import OnnxRuntime, Package
from ifmmin.runtime.doctor.host import Host

NAMES = (
    "ifmmin",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx-cu12",
    "tensorrt-rtx-cu13",
    "cuda-python",
    "cuda-bindings",
    "cupy-cuda12x",
    "cupy-cuda13x",
)
_INSIDE = "onnxruntime/capi"
_TENSORRT_PROVIDER = "libonnxruntime_providers_tensorrt.so"


def find_packages(host: Host) -> tuple[Package, ...]:
    """Those that are installed."""
    found = [(name, host.package(name)) for name in NAMES]
    return tuple(Package(name=name, version=p[0], tags=p[1]) for name, p in found if p is not None)


def find_onnxruntime(host: Host, providers: tuple[str, ...], error: str) -> OnnxRuntime:
    """The build that an import gets, by the files it came with; the rest is what an import said."""
    for site in host.site_folders():
        info = parse_build(host.text(f"{site}/{_INSIDE}/build_and_package_info.py"))
        if info:
            library = host.content(f"{site}/{_INSIDE}/{_TENSORRT_PROVIDER}")
            return OnnxRuntime(
                package=info.get("package_name", ""),
                version=info.get("__version__", ""),
                cuda=info.get("cuda_version", ""),
                tensorrt=linked_tensorrt(library),
                providers=providers,
                error=error,
            )
    return OnnxRuntime(providers=providers, error=error)


def parse_build(text: str) -> dict[str, str]:
    """The assignments of ONNX Runtime's build_and_package_info.py."""
    return dict(re.findall(r"^(\w+)\s*=\s*['\"]([^'\"\n]*)['\"]", text, flags=re.MULTILINE))


def linked_tensorrt(library: bytes) -> int | None:
    """Major version of TensorRT that a library names among those it needs."""
    found = re.search(rb"libnvinfer\.so\.(\d{1,4})\b", library)
    return int(found.group(1)) if found else None
