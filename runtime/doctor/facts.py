"""Facts about a machine. Every field has a value for "not found".

Part of the JSON report, whose schema `ifmmin-doctor --schema` prints: fields may be added, and a
change of meaning or a removal raises `ifmmin.runtime.doctor.report.SCHEMA`.
"""

from __future__ import annotations

import msgspec


class Python(msgspec.Struct, frozen=True, kw_only=True):
    """The interpreter that runs this."""

    version: str = ""
    virtual: bool = False
    """It is a virtual environment."""
    system_packages: bool = True
    """It sees the packages of the system's Python."""
    frozen: bool = False
    """It is part of a program, and no process of it can be started to try backends in."""


class System(msgspec.Struct, frozen=True, kw_only=True):
    """Operating system."""

    name: str = ""
    kernel: str = ""
    libc: str = ""
    machine: str = ""
    """`x86_64`, `aarch64`."""
    container: bool = False


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """Processor."""

    model: str = ""
    cores: int = 0
    usable: int = 0
    """Cores that this process may use, by what it is bound to and by its quota."""
    quota: float | None = None
    """CPUs' worth of time that a container may take, where it has such a limit."""
    flags: tuple[str, ...] = ()
    """Those instruction sets that matter to the kernels."""
    governor: str = ""
    driver: str = ""
    """Of the frequency, such as `intel_pstate`."""
    minimum_mhz: int | None = None
    maximum_mhz: int | None = None
    current_mhz: int | None = None


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Main memory in bytes; 0 is unknown."""

    total: int = 0
    available: int = 0
    swap: int = 0


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One NVIDIA GPU."""

    name: str = ""
    compute_capability: str = ""
    """Such as `8.7`."""
    memory: int = 0
    """Bytes."""
    temperature: int | None = None
    """Degrees Celsius."""
    clock_mhz: int | None = None
    maximum_clock_mhz: int | None = None


class Nvidia(msgspec.Struct, frozen=True, kw_only=True):
    """GPUs and their driver."""

    pci_devices: int = 0
    """NVIDIA display devices on the PCI bus, with a driver or without."""
    driver: str = ""
    cuda: str = ""
    """Newest CUDA that the driver speaks, such as `12.6`."""
    cuda_error: str = ""
    """Why the driver does not start, where it does not."""
    gpus: tuple[Gpu, ...] = ()


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """A clock of a Jetson, in Hz or kHz as the device says."""

    name: str
    minimum: int
    maximum: int
    current: int
    pinned: bool


class Jetson(msgspec.Struct, frozen=True, kw_only=True):
    """A Jetson module."""

    model: str = ""
    soc: str = ""
    """`tegra234` is Orin, `tegra264` is Thor."""
    l4t: str = ""
    """Release of Jetson Linux, such as `36.4.3`."""
    jetpack: str = ""
    """Version of the package nvidia-jetpack, where it is installed."""
    power_mode: str = ""
    clocks: tuple[Clock, ...] = ()
    """Empty where `jetson_clocks --show` was refused; it needs root."""
    system_tensorrt: str = ""
    """Where apt put the Python module of TensorRT."""


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """A shared library of CUDA or TensorRT."""

    name: str
    """Such as `libnvinfer.so.10`."""
    version: str
    path: str
    loader: bool
    """The loader finds it by its name alone."""


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """An installed Python package."""

    name: str
    version: str
    tags: tuple[str, ...] = ()
    """Of its wheel, such as `cp310-cp310-linux_aarch64`."""


class OnnxRuntime(msgspec.Struct, frozen=True, kw_only=True):
    """The build of ONNX Runtime that an import gets."""

    package: str = ""
    version: str = ""
    cuda: str = ""
    """CUDA that it was built for."""
    tensorrt: int | None = None
    """Major version of TensorRT that its provider links; None without that provider."""
    providers: tuple[str, ...] = ()
    """Compiled in, whether they work here or not."""
    owners: tuple[str, ...] = ()
    """Packages that have files in its folder; more than one overwrote each other's."""
    error: str = ""
    """Why it cannot be imported."""


class Temperature(msgspec.Struct, frozen=True, kw_only=True):
    """A thermal zone."""

    zone: str
    celsius: float


class Folder(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of LD_LIBRARY_PATH."""

    path: str
    exists: bool


class BackendState(msgspec.Struct, frozen=True, kw_only=True):
    """A backend of ifmmin on this machine."""

    name: str
    usable: bool
    reason: str = ""
    """Why not, and what to do."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found."""

    python: Python = Python()
    system: System = System()
    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    nvidia: Nvidia = Nvidia()
    jetson: Jetson | None = None
    libraries: tuple[Library, ...] = ()
    packages: tuple[Package, ...] = ()
    onnxruntime: OnnxRuntime = OnnxRuntime()
    temperatures: tuple[Temperature, ...] = ()
    library_path: tuple[Folder, ...] = ()
    backends: tuple[BackendState, ...] = ()
    failed: tuple[str, ...] = ()
    """Looks that went wrong: a fault of ours, worth a report."""

    def package(self, name: str) -> Package | None:
        """An installed package by its name."""
        return next((package for package in self.packages if package.name == name), None)

    def majors(self, library: str) -> set[int]:
        """Major versions of a library such as `libnvinfer`."""
        prefix = f"{library}.so."
        names = [found.name for found in self.libraries if found.name.startswith(prefix)]
        tails = [name[len(prefix) :].split(".")[0] for name in names]
        return {int(tail) for tail in tails if tail.isascii() and tail.isdigit()}

    @property
    def compute_capabilities(self) -> set[str]:
        """Of the GPUs at hand."""
        return {gpu.compute_capability for gpu in self.nvidia.gpus if gpu.compute_capability}
