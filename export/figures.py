"""Figures of a graph as text, the same in `ifmmin-bundle inspect` and in the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ifmmin.runtime.manifest import GraphEntry

COMPARED = ("largest difference", "of a probability", "agreement")
EVALUATED = ("WA", "UA", "ECE")
MEASURED = ("MB", *COMPARED, *EVALUATED, "in 8 bits")
ABSENT = "-"


def mega(count: int) -> str:
    """Bytes as megabytes."""
    return f"{count / 1e6:.2f}"


def short(value: float) -> str:
    """A small number in two digits."""
    return f"{value:.1e}" if value else "0"


def compared(entry: GraphEntry) -> list[str]:
    """Largest difference of a logit and of a probability, and agreement, as in COMPARED."""
    forms = {"max_difference": ".1e", "probability_max": ".1e", "agreement": ".1%"}
    return [_figure_text(entry.parity, name, form) for name, form in forms.items()]


def evaluated(entry: GraphEntry) -> list[str]:
    """Accuracy and calibration on a corpus, the network's in brackets, as in EVALUATED."""
    found = entry.evaluation or {}
    cells = []
    for name in (name.lower() for name in EVALUATED):
        own, network = (_figure_text(found, key, ".3f") for key in (name, f"network_{name}"))
        cells.append(own if ABSENT in (own, network) else f"{own} ({network})")
    return cells


def measured(entry: GraphEntry) -> list[str]:
    """All that is told of a graph in a table, as in MEASURED."""
    return [mega(entry.bytes), *compared(entry), *evaluated(entry), ", ".join(entry.quantised)]


def without_empty(
    headers: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """A table without the columns in which no row has anything."""
    full = [
        column for column in range(len(headers))
        if any(row[column] not in ("", ABSENT) for row in rows)
    ]  # fmt: skip
    return [headers[c] for c in full], [[row[c] for c in full] for row in rows]


def _figure_text(record: Mapping[str, Any], name: str, form: str) -> str:
    value = record.get(name)
    return format(value, form) if isinstance(value, int | float) else ABSENT
