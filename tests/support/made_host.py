"""A machine that is made of texts."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch

from recorded_outputs import (
    BUILD_INFO,
    CLOCKS_R36,
    CPUINFO_ARM,
    DRIVER_OPEN,
    LDCONFIG,
    MEMINFO,
    NVPMODEL,
    RELEASE_R36,
    SMI_JETSON,
)

from ifmmin.runtime.doctor.probes import Host

SITE = "/site-packages"
FREQUENCY = "/sys/devices/system/cpu/cpu0/cpufreq"


class MadeHost(Host):
    """Files by path, tools by the first words of their command, packages by name."""

    def __init__(
        self,
        files: Mapping[str, str] | None = None,
        tools: Mapping[str, str] | None = None,
        packages: Mapping[str, tuple[str, tuple[str, ...]]] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.files, self.tools = dict(files or {}), dict(tools or {})
        self.packages, self.variables = dict(packages or {}), dict(environ or {})
        self.environ = self.variables

    def content(self, path: str) -> bytes:
        return self.files.get(path, "").encode(errors="replace")

    def find(self, pattern: str) -> list[str]:
        return sorted(path for path in self.files if fnmatch(path, pattern))

    def resolve(self, path: str) -> str:
        return path

    def run(self, *command: str) -> str:
        return self.tools.get(command[0], "")

    def package(self, name: str) -> tuple[str, tuple[str, ...]] | None:
        return self.packages.get(name)

    def site_folders(self) -> list[str]:
        return [SITE]


def orin() -> MadeHost:
    """An Orin NX of 8 GB with JetPack 6.2."""
    libraries = [line.split(" => ")[1] for line in LDCONFIG.splitlines() if " => " in line]
    return MadeHost(
        files={
            **dict.fromkeys(libraries, "library"),
            "/etc/nv_tegra_release": RELEASE_R36,
            "/etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
            "/proc/cpuinfo": CPUINFO_ARM,
            "/proc/meminfo": MEMINFO,
            "/proc/driver/nvidia/version": DRIVER_OPEN,
            "/proc/device-tree/model": "NVIDIA Jetson Orin NX\0",
            "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0001\0nvidia,tegra234\0",
            "/sys/class/thermal/thermal_zone0": "",
            "/sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "/sys/class/thermal/thermal_zone0/temp": "51250\n",
            f"{FREQUENCY}/scaling_governor": "schedutil\n",
            f"{FREQUENCY}/scaling_min_freq": "729600\n",
            f"{FREQUENCY}/scaling_max_freq": "1984000\n",
            "/usr/lib/python3.10/dist-packages/tensorrt/__init__.py": "",
            f"{SITE}/onnxruntime/capi/build_and_package_info.py": BUILD_INFO,
            f"{SITE}/onnxruntime/capi/libonnxruntime_providers_tensorrt.so": "\0libnvinfer.so.10\0",
        },
        tools={
            "nvpmodel": NVPMODEL,
            "jetson_clocks": CLOCKS_R36,
            "nvidia-smi": SMI_JETSON,
            "ldconfig": LDCONFIG,
            "dpkg-query": "6.2.1+b38",
        },
        packages={
            "numpy": ("2.2.6", ("cp310-cp310-manylinux_2_17_aarch64",)),
            "onnxruntime-gpu": ("1.31.1", ("cp312-cp312-manylinux_2_34_aarch64",)),
        },
        environ={"LD_LIBRARY_PATH": "/usr/local/cuda-11.4/lib64"},
    )
