"""Which rails together are the whole device: some contain others, and some hang on no sensor."""

from __future__ import annotations

from collections.abc import Mapping

_INPUTS = ("VIN", "VDD_IN", "POM_5V_IN")
"""Rails that feed all others: AGX Thor with its carrier; the module of Orin NX and Nano; Nano."""
_TOGETHER = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin; VDDQ_VDD2_1V8AO hangs on the last
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)
"""Rails of a module that has no common input sensor, which sum up to all of it."""


def whole_device(rails: Mapping[str, float]) -> tuple[float | None, tuple[str, ...], str]:
    """The sum of those rails that together are the device, their names, or why it is unknown.

    No rail is added to one that contains it: a board's input rail has GPU and CPU in it.
    """
    board = {name.rpartition("/")[2]: name for name in rails if name.startswith(("ina/", "tegra"))}
    for name in _INPUTS:
        if name in board:
            return rails[board[name]], (board[name],), ""
    for together in _TOGETHER:
        if board.keys() >= set(together):
            chosen = tuple(board[name] for name in together)
            return sum(rails[name] for name in chosen), chosen, ""
    if board:
        names = ", ".join(board)
        return None, (), f"it is not known which of the rails {names} are the whole board"
    processor = tuple(name for name in rails if _is_package(name))
    if not processor:
        return None, (), "the processor's energy cannot be read, and without it the sum is not all"
    chosen = (*processor, *(name for name in rails if name.startswith("gpu")))
    return sum(rails[name] for name in chosen), chosen, ""


def _is_package(rail: str) -> bool:
    """Whether it is a whole package, or memory, which packages do not contain."""
    parts = rail.split("/")
    return parts[0] == "rapl" and (
        (len(parts) == 2 and parts[1].startswith("package")) or parts[-1] == "dram"
    )
