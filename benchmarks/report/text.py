"""The report on a terminal: its tables and what is to be said of them."""

from __future__ import annotations

from ifmmin.benchmarks.record import Report
from ifmmin.benchmarks.report.facts import caveats, headline
from ifmmin.benchmarks.report.sections import build_sections
from ifmmin.benchmarks.report.surroundings import surroundings
from ifmmin.benchmarks.report.table import Table
from ifmmin.runtime.console import print_table, write


def print_report(report: Report) -> None:
    """Print everything but the plots on standard output."""
    write(f"{report.title}\n")
    if line := headline(report):
        write(f"{line}\n")
    for section in build_sections(report):
        write(f"\n{section.title}. {section.about}\n")
        for table in section.tables:
            _table(table, table.title)
        for note in section.notes:
            write(note)
    for block in surroundings(report):
        write("")
        if isinstance(block.content, Table):
            _table(block.content, block.title)
        else:
            print_table([block.title, ""], block.content)
    write("")
    for caveat in caveats(report):
        write(f"- {caveat}")


def _table(table: Table, title: str) -> None:
    print_table(table.headers, table.rows, title or None)
    if table.caption:
        write(table.caption)
