"""All that surrounds the numbers, in the order in which every way of showing it has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ifmmin.benchmarks.record import Report
from ifmmin.benchmarks.report.facts import (
    Facts,
    device_facts,
    placement_facts,
    run_facts,
    setting_facts,
)
from ifmmin.benchmarks.report.table import Table
from ifmmin.benchmarks.report.while_it_ran import phase_table, rates_table, watched_facts


@dataclass(frozen=True)
class Block:
    """Facts or a table under a title."""

    title: str
    content: Facts | Table


def surroundings(report: Report) -> Sequence[Block]:
    """The run, where its time went, settings, the device; what is empty is left out."""
    blocks: dict[str, Facts | Table | None] = {
        "Run": run_facts(report),
        "Where the time of the run went": phase_table(report),
        "Settings": setting_facts(report),
        "Device": device_facts(report),
        "Device while scenarios ran": watched_facts(report),
        "What the processor can do": rates_table(report),
        "Where graphs ran": placement_facts(report),
    }
    return [Block(title, content) for title, content in blocks.items() if content]
