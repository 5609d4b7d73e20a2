"""How figures are shown."""

from __future__ import annotations

from collections.abc import Mapping

from ifmmin.runtime.console import print_table
from ifmmin.runtime.modality import Pattern

from ..evaluate import mean_over_incomplete
from ..metrics import Metrics

FIGURES = ("wa", "ua", "f1", "ece")


def print_metrics(
    metrics: Mapping[Pattern, Metrics], possible: Mapping[Pattern, float] | None = None
) -> None:
    """A row per pattern and their mean; `possible`: the Bayes rule's accuracy, where known."""
    headers = ["pattern", *(name.upper() for name in FIGURES), *(["possible"] if possible else [])]
    rows = []
    for pattern, value in metrics.items():
        row = [str(pattern), *(f"{getattr(value, name):.3f}" for name in FIGURES)]
        rows.append([*row, *([f"{possible[pattern]:.3f}"] if possible else [])])
    means = [f"{mean_over_incomplete(dict(metrics), name):.3f}" for name in FIGURES]
    rows.append(["mean of six", *means, *([""] if possible else [])])
    print_table(headers, rows)
