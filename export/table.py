"""What an export shows: every graph with what it loses and what it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ifmmin.runtime.console import print_table

if TYPE_CHECKING:
    from ifmmin.export.export import Exported
    from ifmmin.export.workshop import ProvenGraph

HEADERS = ("graph", "MB", "logit", "probability", "log-prob. mean", "agreement", "classes")
EVALUATED = ("WA", "UA", "ECE", "UA loss")


def print_exported(exported: Exported) -> None:
    """One row per graph: its size, largest differences to the network, and accuracy if measured."""
    evaluated = any(graph.entry.evaluation for graph in exported.graphs)
    headers = [*HEADERS, *(EVALUATED if evaluated else ())]
    rows = [_row(graph, evaluated=evaluated) for graph in exported.graphs]
    print_table(headers, rows)
    if exported.engines:
        print_table(
            ["engine", "MB", "targets", "version"],
            [[e.file, f"{e.bytes / 1e6:.2f}", ",".join(e.targets), e.version]
             for e in exported.engines],
        )  # fmt: skip


def _row(graph: ProvenGraph, *, evaluated: bool) -> list[str]:
    found = graph.comparison
    row = [graph.name, f"{graph.entry.bytes / 1e6:.2f}"]
    if found is None:
        row += ["by heads"] + [""] * 4
    else:
        row += [
            f"{found.max_difference:.1e}",
            f"{found.probability_max:.1e}",
            f"{found.log_probability_mean:.1e}",
            f"{found.agreement:.1%}",
            str(found.classes),
        ]
    if evaluated:
        figures = graph.entry.evaluation
        if figures is None:
            row += [""] * 4
        else:
            row += [f"{figures[name]:.3f}" for name in ("wa", "ua", "ece")]
            row.append(f"{figures['network_ua'] - figures['ua']:+.3f}")
    return row
