"""How much memory this process holds now and held at most, by what the system tells."""

from __future__ import annotations

import sys
from pathlib import Path

PEAK, RSS, PSS, USS = "peak", "RSS", "PSS", "USS"
_KIB = 1024
_ROLLUP = Path("/proc/self/smaps_rollup")
_STATUS = Path("/proc/self/status")


def resident_bytes() -> dict[str, int]:
    """Bytes by measure: `peak` always, RSS, PSS and USS where Linux tells them.

    RSS: pages in memory; PSS: shared ones divided among the processes that map them; USS: only
    those of this process, which its end would give back.
    """
    found = {PEAK: _peak()}
    pages = _table(_ROLLUP)
    if pages:
        found[RSS] = pages["Rss"]
        # The high water is kept by counters that lag a little.
        found[PEAK] = max(found[PEAK], found[RSS])
        found[PSS] = pages["Pss"]
        found[USS] = sum(pages.get(f"Private_{kind}", 0) for kind in ("Clean", "Dirty", "Hugetlb"))
    return found


def _peak() -> int:
    """The most that was resident since this program began.

    Not `ru_maxrss` where there is another way: Linux counts in it what the process held before it
    became this program, and that is its parent's memory, however large.
    """
    high_water = _table(_STATUS).get("VmHWM")
    if high_water is not None:
        return high_water
    import resource  # not on every system

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * _KIB


def _table(path: Path) -> dict[str, int]:
    """Bytes by name of lines like `VmHWM:  8564 kB`; nothing where the file is not to be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0]) * _KIB
    return found
