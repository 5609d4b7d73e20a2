"""Versions of what runs graphs, by metadata alone, and settings that change their speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ifmmin.benchmarks.device.facts import Software
from ifmmin.benchmarks.device.machine import Machine
from ifmmin.runtime.doctor import packages
from ifmmin.runtime.doctor.facts import OnnxRuntime
from ifmmin.runtime.doctor.libraries import find_libraries
from ifmmin.runtime.doctor.system import find_python, find_system

PACKAGES = (
    *packages.NAMES, "onnxruntime-openvino", "safetensors", "msgspec", "onnx", "nvidia-ml-py",
    "torch",
)  # fmt: skip
SETTINGS = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY", "KMP_BLOCKTIME", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES", "CUDA_MODULE_LOADING", "CUDA_LAUNCH_BLOCKING",
    "NVIDIA_TF32_OVERRIDE", "LD_PRELOAD", "MALLOC_ARENA_MAX",
)  # fmt: skip
"""Environment variables that are recorded where they are set; no other is."""


def find_software(machine: Machine, onnxruntime: Mapping[str, Any]) -> Software:
    """onnxruntime: what an import of it said, in a process of its own."""
    found = {name: machine.package(name) for name in dict.fromkeys(PACKAGES)}
    libraries = {library.name: library.version for library in find_libraries(machine)}
    return Software(
        python=find_python(machine),
        system=find_system(machine),
        packages={name: package[0] for name, package in found.items() if package is not None},
        libraries=libraries,
        onnxruntime=_onnxruntime(machine, onnxruntime),
        settings={name: machine.environ[name] for name in SETTINGS if machine.environ.get(name)},
    )


def _onnxruntime(machine: Machine, answer: Mapping[str, Any]) -> OnnxRuntime:
    providers = answer.get("providers")
    names = tuple(map(str, providers)) if isinstance(providers, list) else ()
    return packages.find_onnxruntime(machine, names, str(answer.get("error", "")))
