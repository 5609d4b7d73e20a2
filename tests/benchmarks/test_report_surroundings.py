"""What surrounds the numbers is told in words and tables with units, never as it is stored."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sample_report import sample_report, sample_watched
from sample_rows import Machine

from ifmmin.benchmarks.device.energy import Energy
from ifmmin.benchmarks.device.monitor import Span
from ifmmin.benchmarks.record import Report
from ifmmin.benchmarks.report import print_report, render_html, render_markdown
from ifmmin.benchmarks.report.facts import surroundings
from ifmmin.benchmarks.report.sections import Table
from ifmmin.benchmarks.report.summary import TO

WATCHED = "Device while scenarios ran"


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_report(Machine(rounds=8), scenarios=("idle",))


def _block(report: Report, title: str) -> Any:
    return next(block.content for block in surroundings(report) if block.title == title)


def test_what_was_watched_is_told_in_sentences(report: Report) -> None:
    assert dict(_block(report, WATCHED)) == {
        "watched for": "498 s, 1,990 looks",
        "processors": "62 % of their time at work, for this benchmark or others; 0.4 % taken by "
        "other virtual machines",
        "temperature": f"package 48.0{TO}62.0 degrees Celsius, median 58.5",
        "clock": f"cpu 2,400{TO}3,100 MHz, median 3,000",
        "power": "not available",
        "energy": "not available: the kernel shows no counters",
        "throttled": "nothing was seen",
    }
    busy = msgspec.structs.replace(
        sample_watched(),
        watts={"VDD_IN": Span(low=4.0, median=5.5, high=9.0)},
        energy=Energy(joules=2490.0, covers="VDD_IN", seconds=498.0, samples=1990),
        throttled=("core (3 times)",),
    )
    facts = dict(_block(msgspec.structs.replace(report, watched=busy), WATCHED))
    assert facts["energy"] == (
        "2,490 J of VDD_IN, 5.00 W on average, added up from samples of power"
    )
    assert facts["power"] == f"VDD_IN 4.00{TO}9.00 W, median 5.50"
    assert facts["throttled"] == "core (3 times)"


def test_rates_are_a_table_with_units(report: Report) -> None:
    table: Table = _block(report, "What the processor can do")
    assert table.headers == ("rate", "1 thread", "2 threads")
    assert table.rows == (
        ("multiply-adds in float32, billion/s", "48.5", "97.0"),
        ("multiply-adds in 8 bits, billion/s", "89.0", "178"),
        ("read from L2, GB/s", "92.0", "184"),
        ("read from memory, GB/s", "16.5", "16.5"),
        ("the probe had of its processors", "97 %", "97 %"),
    )
    assert table.caption == "Measured by C, by cc; 8 bits: AVX2."


def test_where_the_time_went_and_what_was_cut(report: Report) -> None:
    table: Table = _block(report, "Where the time of the run went")
    assert table.rows == (
        ("latency", "98.2", "14", f"4{TO}8", "3"),
        ("making ready", "71.4", "", "", ""),
        ("idle", "52.0", "2", "50", "0"),
    )
    assert "(at most 8;" in table.caption


def test_every_way_of_showing_has_all_of_it(
    report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    print_report(report)
    shown = (capsys.readouterr().out, render_markdown(report), render_html(report))
    for block in surroundings(report):
        rows = block.content.rows if isinstance(block.content, Table) else block.content
        for text in shown:
            assert block.title in text or block.title == "Run"
            assert all(cell in text for row in rows for cell in row)


def test_an_older_record_without_them_is_shown(report: Report) -> None:
    bare = msgspec.structs.replace(report, watched=None, rates=(), phases=())
    assert [block.title for block in surroundings(bare)] == ["Run", "Settings", "Device"]
    assert "Time was short: 3 of 16 groups" in render_markdown(report)
    assert "Time was short" not in render_markdown(bare)
