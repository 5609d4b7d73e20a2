"""Names of Arm cores: /proc/cpuinfo has numbers only."""

from __future__ import annotations

import re
from collections import Counter

_ARM, _NVIDIA = 0x41, 0x4E
_CORES = {
    (_ARM, 0xD03): "Cortex-A53",
    (_ARM, 0xD04): "Cortex-A35",
    (_ARM, 0xD05): "Cortex-A55",
    (_ARM, 0xD07): "Cortex-A57",
    (_ARM, 0xD08): "Cortex-A72",
    (_ARM, 0xD09): "Cortex-A73",
    (_ARM, 0xD0A): "Cortex-A75",
    (_ARM, 0xD0B): "Cortex-A76",
    (_ARM, 0xD0C): "Neoverse-N1",
    (_ARM, 0xD0D): "Cortex-A77",
    (_ARM, 0xD0E): "Cortex-A76AE",
    (_ARM, 0xD40): "Neoverse-V1",
    (_ARM, 0xD41): "Cortex-A78",
    (_ARM, 0xD42): "Cortex-A78AE",
    (_ARM, 0xD44): "Cortex-X1",
    (_ARM, 0xD46): "Cortex-A510",
    (_ARM, 0xD47): "Cortex-A710",
    (_ARM, 0xD49): "Neoverse-N2",
    (_ARM, 0xD4B): "Cortex-A78C",
    (_ARM, 0xD4D): "Cortex-A715",
    (_ARM, 0xD4F): "Neoverse-V2",
    (_ARM, 0xD80): "Cortex-A520",
    (_ARM, 0xD81): "Cortex-A720",
    (_ARM, 0xD83): "Neoverse-V3AE",
    (_ARM, 0xD84): "Neoverse-V3",
    (_ARM, 0xD85): "Cortex-X925",
    (_ARM, 0xD87): "Cortex-A725",
    (_NVIDIA, 0x003): "Denver 2",
    (_NVIDIA, 0x004): "Carmel",
}
"""By the numbers of implementer and part in the core's identification register."""


def core_kinds(cpuinfo: str) -> dict[str, int]:
    """How many cores there are of each design; empty on other architectures."""
    kinds: Counter[str] = Counter()
    for core in re.split(r"^processor\s*:", cpuinfo, flags=re.MULTILINE)[1:]:
        implementer, part = _field("CPU implementer", core), _field("CPU part", core)
        if implementer is not None and part is not None:
            unknown = f"part {part:#x} of implementer {implementer:#x}"
            kinds[_CORES.get((implementer, part), unknown)] += 1
    return dict(kinds)


def _field(name: str, core: str) -> int | None:
    found = re.search(rf"^{name}\s*:\s*(0x[0-9a-fA-F]{{1,8}})\s*$", core, flags=re.MULTILINE)
    return int(found.group(1), 16) if found else None
