"""How much memory this process holds now and held at most, by Linux's own files.

No library reads them: what it takes itself would be counted as what is measured.
"""

from __future__ import annotations

import re
from pathlib import Path

PEAK, RSS, PSS, USS = "peak", "RSS", "PSS", "USS"


def resident_bytes() -> dict[str, int]:
    """Bytes by measure.

    RSS: pages in memory; PSS: shared ones divided among the processes that map them; USS: only
    those of this process, which its end would give back.
    """
    pages, status = (_table(Path("/proc/self") / name) for name in ("smaps_rollup", "status"))
    return {
        # Not `ru_maxrss`: Linux counts in it what the process held before it became this program,
        # and that is its parent's memory, however large. Its counters lag a little.
        PEAK: max(status["VmHWM"], pages["Rss"]),
        RSS: pages["Rss"],
        PSS: pages["Pss"],
        USS: sum(pages.get(f"Private_{kind}", 0) for kind in ("Clean", "Dirty", "Hugetlb")),
    }


def _table(path: Path) -> dict[str, int]:
    """Bytes by name of lines like `VmHWM:  8564 kB`."""
    found = re.findall(r"^(\w+):\s*([0-9]+) kB$", path.read_text(), flags=re.MULTILINE)
    return {name: int(kib) << 10 for name, kib in found}
