"""Healthy machines as the rules see them, and a way to change one."""

from __future__ import annotations

from typing import Any

import msgspec

from ifmmin.runtime.doctor import facts

PYPI = ("cp312-cp312-manylinux_2_34_aarch64",)
JETSON_WHEEL = ("cp310-cp310-linux_aarch64",)
_RUNS = (facts.BackendState(name="onnxruntime-cpu", usable=True),)


def library(name: str, version: str = "") -> facts.Library:
    """A library that the loader finds."""
    path = f"/usr/lib/{name}"
    return facts.Library(
        name=name, version=version or name.rpartition("so.")[2], path=path, loader=True
    )


def package(name: str, version: str, tags: tuple[str, ...] = ()) -> facts.Package:
    """An installed package."""
    return facts.Package(name=name, version=version, tags=tags)


DESKTOP = facts.Facts(
    python=facts.Python(version="3.12.3", virtual=True, system_packages=False),
    system=facts.System(name="Ubuntu 24.04", machine="x86_64"),
    cpu=facts.Cpu(model="made", cores=8, flags=("avx2", "avx512_vnni"), governor="performance"),
    memory=facts.Memory(total=64 << 30, available=60 << 30),
    nvidia=facts.Nvidia(
        pci_devices=1, driver="580.65.06", cuda="13.0",
        gpus=(facts.Gpu(name="RTX", compute_capability="8.9", temperature=40),),
    ),
    libraries=(library("libcublasLt.so.13"), library("libnvinfer.so.10", "10.16.1")),
    packages=(package("numpy", "2.4.6"), package("onnxruntime-gpu", "1.31.1")),
    onnxruntime=facts.OnnxRuntime(
        package="onnxruntime-gpu", version="1.31.1", cuda="13.0", tensorrt=10,
    ),
    temperatures=(facts.Temperature(zone="x86_pkg_temp", celsius=48.0),),
    library_path=(facts.Folder(path="/usr/local/cuda-13.0/lib64", exists=True),),
    backends=_RUNS,
)  # fmt: skip
_NX = facts.Jetson(
    model="NVIDIA Jetson Orin NX", soc="tegra234", l4t="36.4.3", jetpack="6.2",
    power_mode="MAXN_SUPER",
    clocks=(facts.Clock(name="cpu0", minimum=5, maximum=5, current=5, pinned=True),),
    system_tensorrt="/usr/lib/python3.10/dist-packages/tensorrt/__init__.py",
)  # fmt: skip
ORIN = facts.Facts(
    python=facts.Python(version="3.10.12", virtual=True, system_packages=True),
    system=facts.System(name="Ubuntu 22.04.5 LTS", machine="aarch64"),
    cpu=facts.Cpu(model="Cortex-A78AE (Orin)", flags=("asimd", "asimddp"), governor="schedutil"),
    memory=facts.Memory(total=7 << 30, available=5 << 30, swap=4 << 30),
    nvidia=facts.Nvidia(cuda="12.6", gpus=(facts.Gpu(name="Orin", compute_capability="8.7"),)),
    jetson=_NX,
    libraries=(library("libnvinfer.so.10", "10.3.0"), library("libcublasLt.so.12")),
    packages=(
        package("numpy", "1.26.4"), package("onnxruntime", "1.23.2"), package("tensorrt", "10.3.0"),
        package("cuda-python", "12.9.4"),
    ),
    onnxruntime=facts.OnnxRuntime(package="onnxruntime", version="1.23.2"),
    backends=_RUNS,
)  # fmt: skip
THOR = msgspec.structs.replace(
    ORIN,
    python=facts.Python(version="3.12.3", virtual=True, system_packages=True),
    nvidia=facts.Nvidia(cuda="13.0", gpus=(facts.Gpu(name="Thor", compute_capability="11.0"),)),
    jetson=msgspec.structs.replace(_NX, soc="tegra264", l4t="39.2"),
    libraries=(
        library("libnvinfer.so.10", "10.16.2"),
        facts.Library(name="libnvdla_compiler.so", version="", path="/usr/lib/x", loader=True),
    ),
    packages=(package("numpy", "2.4.6"), package("onnxruntime", "1.32.0")),
)
HEALTHY = {"desktop": DESKTOP, "orin": ORIN, "thor": THOR}


def change(machine: facts.Facts, **fields: Any) -> facts.Facts:
    """Facts with other values: `jetson__l4t="35.4"` reaches into the part `jetson`."""
    for name, value in fields.items():
        part, _, inner = name.partition("__")
        if inner:
            value = msgspec.structs.replace(getattr(machine, part), **{inner: value})
        machine = msgspec.structs.replace(machine, **{part: value})
    return machine
