"""Benches of scenarios, and rows of one contender."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ifmmin.benchmarks.record import Row
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.plan import Plan


def made_bench(
    bundle: Path, hear: Callable[[str], None] = lambda line: None, *, rounds: int = 1, **more: Any
) -> Bench:
    """One that takes little time. more: fields of Plan."""
    return Bench(Plan(bundle=bundle, rounds=rounds, warm_up=1, **more), hear)


def rows_of(rows: Iterable[Row], contender: str) -> list[Row]:
    """In their order."""
    return [row for row in rows if row.contender == contender]
