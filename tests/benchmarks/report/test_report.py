"""The report: tables, their parts, and what surrounds them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from sample_rows import SCENARIOS, Machine, a_row, sample_device, sample_report, sample_watched

from ifmmin.benchmarks.device.energy import Energy
from ifmmin.benchmarks.device.monitor import Span
from ifmmin.benchmarks.record import CONTROL, OURS, Report, Row, measured_noise
from ifmmin.benchmarks.report import print_report, render_html, render_markdown
from ifmmin.benchmarks.report.facts import caveats, headline, surroundings
from ifmmin.benchmarks.report.sections import (
    KINDS,
    NO_DIFFERENCE,
    Column,
    Table,
    build_sections,
    build_table,
)
from ifmmin.benchmarks.report.summary import TIMES, TO, Scale, measure, number, percent

ODD = '<script>alert("1|2")</script> & `x`'


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_report(Machine(rounds=120))


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render_html(report)


def _rows(*rows: Row) -> Report:
    return sample_report(Machine(rounds=4), rows=rows, noise=measured_noise(rows))


def test_every_measured_row_is_in_a_table(report: Report) -> None:
    sections = {section.name: section for section in build_sections(report)}
    assert list(sections) == [kind.name for kind in KINDS]
    assert set(sections) == set(SCENARIOS)
    for kind in KINDS:
        if kind.layout == "memory":
            continue  # a row of the table holds several of the record
        split = [row for row in report.of(*kind.scenarios) if row.split]
        shown = sum(len(table.rows) for table in sections[kind.name].tables)
        assert shown == len(report.of(*kind.scenarios)) + len(split)


def test_memory_has_a_row_a_stage_and_a_column_a_measure(report: Report) -> None:
    held, files = next(s for s in build_sections(report) if s.name == "memory").tables
    assert held.headers == (
        "pattern", "stage", "contender", "backend", "RSS MB", "PSS MB", "USS MB", "peak MB",
        "RSS gain on monolith",
    )  # fmt: skip
    assert "Medians of 5 processes." in held.caption
    rows = {(row[0], row[1], row[2]): row[4:] for row in held.rows}
    assert len(rows) == len(held.rows) == 4
    assert rows["any", "all patterns", OURS][-1] == ""
    ours = rows["a_t", "one pattern", OURS]
    assert [float(cell) for cell in ours[:4]] == pytest.approx([71, 56.8, 49.7, 72.4], abs=0.6)
    assert ours[-1].startswith("1.2")
    assert files.headers == ("contender", "size MB", "gain on monolith")
    assert files.rows == ((OURS, "2.90", f"6.34{TIMES}"), ("monolith", "18.4", ""))
    shown = sum(bool(cell) for row in held.rows for cell in row[4:8]) + len(files.rows)
    assert shown == len(report.of("memory"))


def test_a_scenario_without_rows_has_no_section() -> None:
    report = sample_report(Machine(rounds=4), scenarios=("idle",))
    assert [section.name for section in build_sections(report)] == ["idle"]
    page = render_html(report)
    assert "<figure>" not in page
    assert "Throughput" not in page
    assert headline(report) == ""
    empty = sample_report(scenarios=())
    assert build_sections(empty) == []
    assert "<main>" in render_html(empty)


def test_the_latency_table_has_what_its_rows_have(report: Report) -> None:
    section = build_sections(report)[0]
    table, energy, split = section.tables
    assert table.headers == (
        "pattern", "contender", "backend", "precision", "threads", "p50 µs", "95 % interval",
        "p99 µs", "of bound", "gain on monolith", "WA", "UA", "ECE",
    )  # fmt: skip
    assert table.caption == "All rows: samples 120. Frames: 45 a, 50 v, 22 t."
    assert [row[0] for row in table.rows] == sorted(
        (row[0] for row in table.rows), key=["a", "v", "t", "a_v", "a_t", "v_t", "a_v_t"].index
    )
    items = [item for item in measure(report, "latency") if item.row.unit == "s"]
    assert len(items) == len(table.rows)
    for item, cells in zip(items, table.rows, strict=True):
        p50 = float(cells[5].replace(",", ""))
        assert p50 == pytest.approx(item.summary.p50 * 1e6, rel=5e-3)
        assert (cells[9] == "") is (item.row.contender == "monolith")
        assert (cells[8] == "") is (item.row.bound is None)
        assert item.row.accuracy is not None
        assert cells[11] == f"{item.row.accuracy.ua:.3f}"
    for pattern in ("a", "a_v_t"):
        times = [item.summary.p50 for item in items if item.row.pattern == pattern]
        assert times == sorted(times)
    assert energy.headers[-1] == "energy mJ"
    assert split.headers[-5:] == ("a", "v", "t", "head", "overhead")


def test_a_gain_within_the_noise_is_no_difference() -> None:
    fast = [1.0 + 0.001 * (i % 7) for i in range(60)]
    slow = [sample * 1.05 for sample in fast]
    for control, cell in ((1.002, f"1.05{TIMES}"), (1.08, NO_DIFFERENCE)):
        twin = a_row(CONTROL, *(control * s for s in fast))
        rows = _rows(a_row(OURS, *fast), twin, a_row("monolith", *slow))
        table = build_sections(rows)[0].tables[0]
        cells = {row[0]: row[-1] for row in table.rows}
        assert cells[OURS].startswith(cell)
        assert cells["monolith"] == ""
    lucky = _rows(a_row(OURS, *fast), a_row(CONTROL, *fast), a_row("monolith", *fast))
    assert build_sections(lucky)[0].tables[0].rows[0][-1] == NO_DIFFERENCE


def test_few_samples_get_no_interval() -> None:
    rows = (a_row(OURS, 1.0, 1.0, 1.0), a_row("monolith", 2.0, 2.0, 2.0))
    (table,) = build_sections(_rows(*rows))[0].tables
    assert "95 % interval" not in table.headers
    assert "p99 ms" not in table.headers
    assert table.rows[0][-1] == f"about 2.00{TIMES}"


def test_a_rate_gains_by_being_higher() -> None:
    fast, slow = [30.0 + 0.01 * i for i in range(20)], [10.0 + 0.01 * i for i in range(20)]
    common: dict[str, Any] = {"scenario": "throughput", "unit": "1/s"}
    rows = (
        a_row("monolith", *slow, **common), a_row(OURS, *fast, bound=60.0, **common),
    )  # fmt: skip
    (table,) = build_sections(_rows(*rows))[0].tables
    assert [row[0] for row in table.rows] == [OURS, "monolith"]
    assert table.headers[1] == "utterances/s"
    assert table.rows[0][-1].startswith(f"2.98{TIMES}")
    assert table.rows[0][-2] == f"1.99{TIMES}"


def test_what_was_not_measured_is_told(report: Report) -> None:
    notes = build_sections(report)[0].notes
    assert "Not measured, latency compile a: no C++ compiler was found here." in notes
    assert any(note.startswith("Two sessions of one graph differed by up to") for note in notes)
    alone = build_sections(_rows(a_row(OURS, 1.0), a_row("monolith", 2.0)))[0].notes
    assert alone == ("No A/A control ran here, so how much of a gain is chance is not known.",)


def test_the_headline_names_the_extremes(report: Report) -> None:
    line = headline(report)
    assert re.search(r"One utterance takes \d+ µs \(v, int8, .*\) to \d+ µs \(a_v_t, int8", line)
    assert "gain on monolith, on as many threads: 1.7" in line


def test_caveats_speak_of_this_run(report: Report) -> None:
    told = " ".join(caveats(report))
    assert "virtual machine (kvm)" in told
    assert "warmed from 48 to 62 degrees" in told
    assert "noisy" not in told
    assert "throttled" not in told
    cool = msgspec.structs.replace(
        report, device_after=report.device_before, noise={"latency": {"a": 1.2}}
    )
    told = " ".join(caveats(cool))
    assert "warmed" not in told
    assert "differed by up to 20 % in latency" in told
    quiet = msgspec.structs.replace(report, noise={})
    assert "No A/A control ran" in " ".join(caveats(quiet))
    hot = sample_device(50.0)
    limited = msgspec.structs.replace(hot.throttling, core_events=3)
    device = msgspec.structs.replace(hot, throttling=limited)
    throttled = msgspec.structs.replace(report, device_after=device)
    assert "throttled during the run" in " ".join(caveats(throttled))


def test_markdown_has_a_heading_and_a_table_per_section(report: Report) -> None:
    text = render_markdown(report)
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    around = [block.title for block in surroundings(report)]
    assert headings == [*(kind.title for kind in KINDS), *around, "Beware"]
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_terminals_get_the_same_tables(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report)
    printed = capsys.readouterr().out
    for section in build_sections(report):
        assert section.title in printed
        for table in section.tables:
            assert all(cell in printed for row in table.rows for cell in row)


def _odd() -> Report:
    row = a_row(OURS, 1.0, note=ODD, placement={ODD: ODD}, backend=ODD, split={ODD: 0.5})
    peer = a_row(ODD, 2.0, precision="fp32")
    return sample_report(
        Machine(rounds=4), rows=(row, peer), title=ODD, command=ODD, settings={ODD: ODD},
        revision=ODD, noise={},
    )  # fmt: skip


def test_nothing_in_a_record_becomes_markup() -> None:
    report = _odd()
    page, text = render_html(report), render_markdown(report)
    for rendered in (page, text):
        assert "<script" not in rendered
        assert "&lt;script&gt;" in rendered
    assert "1|2" not in text
    assert r"1\|2" in text


class _Reader(HTMLParser):
    """Notes where tags stand that are not closed, and what the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        if tag in ("script", "link", "img", "iframe", "object", "image"):
            self.loads.append(tag)
        found = dict(attrs)
        self.loads += [name for name in found if name in ("src", "srcset", "onload", "onclick")]
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found[name] or "" for name in ("href", "xlink:href") if name in found]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.mark.parametrize("odd", [False, True])
def test_the_page_stands_alone_and_is_well_formed(page: str, odd: bool) -> None:
    page = render_html(_odd()) if odd else page
    reader = _Reader()
    reader.feed(page)
    assert (reader.wrong, reader.open, reader.loads) == ([], [], [])
    assert len(set(reader.ids)) == len(reader.ids)
    assert {link.removeprefix("#") for link in reader.links} == set(reader.ids)
    assert "http" not in re.sub(r'http-equiv="', "", page)
    assert "url(" not in page
    assert "@import" not in page


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


WATCHED = "Device while scenarios ran"


@pytest.fixture(scope="module")
def brief() -> Report:
    return sample_report(Machine(rounds=8), scenarios=("idle",))


def _block(brief: Report, title: str) -> Any:
    return next(block.content for block in surroundings(brief) if block.title == title)


def test_what_was_watched_is_told_in_sentences(brief: Report) -> None:
    assert dict(_block(brief, WATCHED)) == {
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
    facts = dict(_block(msgspec.structs.replace(brief, watched=busy), WATCHED))
    assert facts["energy"] == (
        "2,490 J of VDD_IN, 5.00 W on average, added up from samples of power"
    )
    assert facts["power"] == f"VDD_IN 4.00{TO}9.00 W, median 5.50"
    assert facts["throttled"] == "core (3 times)"


def test_rates_are_a_table_with_units(brief: Report) -> None:
    table: Table = _block(brief, "What the processor can do")
    assert table.headers == ("rate", "1 thread", "2 threads")
    assert table.rows == (
        ("multiply-adds in float32, billion/s", "48.5", "97.0"),
        ("multiply-adds in 8 bits, billion/s", "89.0", "178"),
        ("read from L2, GB/s", "92.0", "184"),
        ("read from memory, GB/s", "16.5", "16.5"),
        ("the probe had of its processors", "97 %", "97 %"),
    )
    assert table.caption == "Measured by C, by cc; 8 bits: AVX2."


def test_where_the_time_went_and_what_was_cut(brief: Report) -> None:
    table: Table = _block(brief, "Where the time of the run went")
    assert table.rows == (
        ("latency", "98.2", "14", f"4{TO}8", "3"),
        ("making ready", "71.4", "", "", ""),
        ("idle", "52.0", "2", "50", "0"),
    )
    assert "(at most 8;" in table.caption
    # An older record has none of it.
    bare = msgspec.structs.replace(brief, watched=None, rates=(), phases=())
    assert [block.title for block in surroundings(bare)] == ["Run", "Settings", "Device"]
    assert "Time was short: 3 of 16 groups" in render_markdown(brief)
    assert "Time was short" not in render_markdown(bare)


def test_every_way_of_showing_has_it_all(brief: Report, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(brief)
    shown = (capsys.readouterr().out, render_markdown(brief), render_html(brief))
    for block in surroundings(brief):
        rows = block.content.rows if isinstance(block.content, Table) else block.content
        for text in shown:
            assert block.title in text or block.title == "Run"
            assert all(cell in text for row in rows for cell in row)
