"""One colour per contender, the same in every plot of a report.

The style sheet gives the classes their colours, after Okabe and Ito's set, which people with any
common kind of colour blindness can tell apart: once for paper, once for a dark screen.
"""

from __future__ import annotations

from collections.abc import Iterable

from ifmmin.benchmarks.record import OURS, TWIN

_KNOWN = {
    OURS: "c0", "monolith": "c1", "eager": "c2", "openvino": "c3", "compile": "c4",
    "torchscript": "c5", TWIN: "c6",
}  # fmt: skip
_FREE = ("c7", "c8", "c9", "c1", "c3", "c4", "c2", "c5")


def palette(contenders: Iterable[str]) -> dict[str, str]:
    """Classes by contender. More contenders than colours share the last free ones in turn."""
    names = sorted(set(contenders))
    chosen = {name: _KNOWN[name] for name in names if name in _KNOWN}
    free = [colour for colour in _FREE if colour not in chosen.values()] or list(_FREE)
    others = [name for name in names if name not in chosen]
    return chosen | {name: free[place % len(free)] for place, name in enumerate(others)}
