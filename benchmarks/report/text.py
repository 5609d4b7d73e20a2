"""The report on a terminal: its tables and what is to be said of them."""

from __future__ import annotations

from ifmmin.benchmarks.record import Report
from ifmmin.benchmarks.report.facts import (
    caveats,
    device_facts,
    headline,
    placement_facts,
    run_facts,
    setting_facts,
)
from ifmmin.benchmarks.report.sections import build_sections
from ifmmin.runtime.console import print_table, write


def print_report(report: Report) -> None:
    """Print everything but the plots on standard output."""
    write(f"{report.title}\n")
    if line := headline(report):
        write(f"{line}\n")
    for section in build_sections(report):
        write(f"\n{section.title}. {section.about}\n")
        for table in section.tables:
            print_table(table.headers, table.rows, table.title or None)
            if table.caption:
                write(table.caption)
        for note in section.notes:
            write(note)
    facts = {
        "run": run_facts(report),
        "settings": setting_facts(report),
        "device": device_facts(report),
        "placement": placement_facts(report),
    }
    for name, rows in facts.items():
        if rows:
            write("")
            print_table([name, ""], rows)
    write("")
    for caveat in caveats(report):
        write(f"- {caveat}")
