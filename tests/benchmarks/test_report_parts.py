"""What reports are made of: numbers, and tables that hold only what differs."""

from __future__ import annotations

import pytest

from ifmmin.benchmarks.report.sections import Column, build_table
from ifmmin.benchmarks.report.summary import Scale, number, percent


@pytest.mark.parametrize(
    ("unit", "values", "shown"),
    [
        ("s", [354e-6], "354 µs"), ("s", [5.15e-3], "5,150 µs"), ("s", [0.0961], "96.1 ms"),
        ("s", [871.0], "871 s"), ("s", [0.0], "0 µs"), ("bytes", [71e6], "71.0 MB"),
        ("bytes", [3.2e9], "3.20 GB"), ("J", [0.0123], "12.3 mJ"),
        ("1/s", [1e6], "1,000,000 utterances/s"),
        ("s", [999.6e-6], "1,000 µs"), ("s", [9.996e-6], "10.0 µs"), ("s", [0.05e-6], "0.050 µs"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits_that_count(unit: str, values: list[float], shown: str) -> None:
    assert Scale.of(unit, values).text(values[0]) == shown


def test_numbers_without_a_unit() -> None:
    assert [number(value) for value in (0.0, 0.0816, 1.006, 12.34, 1234.5)] == [
        "0", "0.082", "1.01", "12.3", "1,234",
    ]  # fmt: skip
    assert [percent(share) for share in (0.043, 0.17)] == ["4.3 %", "17 %"]


def test_shared_names_go_into_the_caption() -> None:
    columns = [
        Column[tuple[str, str, str]]("who", lambda item: item[0], names=True),
        Column[tuple[str, str, str]]("where", lambda item: item[1], names=True, blank="here"),
        Column[tuple[str, str, str]]("what", lambda item: item[2]),
    ]
    table = build_table([("x", "", "1"), ("x", "there", "1")], columns, "T", "C.")
    assert (table.headers, table.names) == (("where", "what"), 1)
    assert table.rows == (("here", "1"), ("there", "1"))
    assert (table.title, table.caption) == ("T", "All rows: who x. C.")
    assert build_table([("x", "", "1")], columns).headers == ("who", "what")
    assert build_table([("x", "", "")], columns).headers == ("who",)
