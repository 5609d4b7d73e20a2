"""Parts of a device in words."""

from __future__ import annotations

from collections.abc import Iterable

from ifmmin.benchmarks.device.facts import Board, Cache, Frequency, Gpu, Processor
from ifmmin.runtime.doctor.facts import OnnxRuntime

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


def join(*parts: str) -> str:
    """With commas; what is empty is left out."""
    return ", ".join(part for part in parts if part)


def gibibytes(size: int) -> str:
    """A size in bytes; empty where it is unknown."""
    return f"{size / _GIB:.1f} GiB" if size else ""


def processor(found: Processor) -> str:
    """Model, cores, and what is taken away of them."""
    kinds = [f"{count} {name}" for name, count in found.kinds.items()]
    return join(
        found.model or "model not available",
        *kinds,
        f"{found.physical} cores" if found.physical else "",
        f"{found.logical} logical CPUs",
        f"{found.usable} usable" if found.usable < found.logical else "",
        f"a quota of {found.quota:g} CPUs" if found.quota is not None else "",
        f"virtual machine ({found.hypervisor})" if found.hypervisor else "",
    )


def cache(found: Cache) -> str:
    """Such as `L2 512 KiB x 8`."""
    whole = found.size % _MIB == 0
    size = f"{found.size // _MIB} MiB" if whole else f"{found.size // _KIB} KiB"
    return f"{found.name} {size}" + (f" x {found.instances}" if found.instances > 1 else "")


def gpu(found: Gpu) -> str:
    """Name, size, clocks and limits."""
    clocks = {
        "SM clock": (found.sm_mhz, found.sm_mhz_maximum),
        "memory clock": (found.memory_mhz, found.memory_mhz_maximum),
    }
    return join(
        found.name,
        f"compute capability {found.compute_capability}" if found.compute_capability else "",
        gibibytes(found.memory),
        *(f"{name} {now} of {most} MHz" for name, (now, most) in clocks.items() if most),
        f"power limit {found.watts_limit:g} W" if found.watts_limit else "",
        f"{found.celsius} degrees Celsius" if found.celsius is not None else "",
        f"MIG {found.mig.lower()}" if found.mig else "",
        f"PCIe {found.pcie}" if found.pcie else "",
    )


def jetson(board: Board) -> str:
    """Module, software and power mode."""
    module = board.module
    pinned = {True: "clocks pinned", False: "clocks not pinned", None: ""}[board.pinned]
    return join(
        module.model,
        module.soc,
        f"JetPack {module.jetpack}" if module.jetpack else "",
        f"Jetson Linux {module.l4t}" if module.l4t else "",
        f"power mode {module.power_mode or 'not available: nvpmodel does not say'}",
        pinned,
    )


def clocks(found: Iterable[Frequency]) -> str:
    """Governors and limits; equal ones of many cores once, with their number."""
    texts = [_limits(clock) for clock in found]
    numbers = {text: texts.count(text) for text in texts}
    return "; ".join(f"{n} x {text}" if n > 1 else text for text, n in numbers.items())


def named_clock(clock: Frequency) -> str:
    """A clock of its own, such as a GPU's."""
    now = f"{clock.current} MHz" if clock.current is not None else "unknown"
    return f"{clock.name} {now} ({_limits(clock)})"


def onnxruntime(runtime: OnnxRuntime) -> str:
    """The build, and what is compiled in."""
    cuda = f"for CUDA {runtime.cuda}" if runtime.cuda else ""
    providers = f"compiled in: {', '.join(runtime.providers)}" if runtime.providers else ""
    return join(f"{runtime.package} {runtime.version}".strip(), cuda, providers, runtime.error)


def _limits(clock: Frequency) -> str:
    least, most = (mhz or "?" for mhz in (clock.minimum, clock.maximum))
    beyond = (clock.hardware_maximum or 0) > (clock.maximum or 0)
    cut = f"the hardware can {clock.hardware_maximum}" if beyond and clock.maximum else ""
    return join(clock.governor, clock.driver, f"{least} to {most} MHz", cut)
