"""Records of runs, how their time is shared out, and the figures that are published of one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_system import MadeClock
from run_command import call, mistake
from sample_rows import UA, Machine, sample_report

from ifmmin.benchmarks.record import OURS, Report, Row, read_report, write_report
from ifmmin.benchmarks.report.publish import (
    BEGIN,
    END,
    PAGE,
    README,
    RECORD,
    main,
    marked_table,
    page_text,
)  # fmt: skip
from ifmmin.benchmarks.report.summary import TIMES, TO
from ifmmin.benchmarks.run import SCENARIOS
from ifmmin.benchmarks.scenarios import plan as module
from ifmmin.benchmarks.scenarios.plan import FEWEST_ROUNDS, FIXED, SHARES, Pace
from ifmmin.runtime.errors import InputError, OutputError


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_report(Machine(rounds=12))


def test_a_record_comes_back_as_it_was(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.json"
    write_report(report, path)
    assert read_report(path) == report
    assert list(path.parent.iterdir()) == [path]
    # Unknown fields are of a later record.
    path.write_text(_content(report, weather="fine"))
    assert read_report(path) == report
    # Numbers of numpy are numbers.
    samples: Any = (np.float64(0.25), np.float32(0.5))
    row = Row(scenario="latency", contender=OURS, samples=samples, placement={"n": np.int64(3)})
    write_report(msgspec.structs.replace(report, rows=(row,)), path)
    (found,) = read_report(path).rows
    assert (found.samples, found.placement) == ((0.25, 0.5), {"n": 3})


def test_a_record_that_cannot_be_written_leaves_the_old_one(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    odd = msgspec.structs.replace(report, settings={"peers": object()})
    with pytest.raises(TypeError, match="cannot hold a object"):
        write_report(odd, path)
    assert path.read_text() == "old"
    with pytest.raises(OutputError, match="directory"):
        write_report(report, tmp_path)


def _content(report: Report, **changed: Any) -> str:
    return json.dumps({**msgspec.to_builtins(report), **changed})


def test_what_is_no_record_is_refused_in_one_line(report: Report, tmp_path: Path) -> None:
    rows = [{"scenario": "latency", "contender": "ifmmin", "samples": [0.1]}]
    whole = _content(report)
    wrong = {
        "cannot read": None, "not whole JSON": whole[: len(whole) // 2],
        "not whole": b"\xff\xfe\x00{",
        "no report of ifmmin-bench": '{"schema": 2, "graphs": []}', "is no report": "[1, 2]",
        "of schema 7, this version reads 2": _content(report, schema=7),
        "Invalid enum value": _content(report, rows=[rows[0] | {"scenario": "dance"}]),
        "negative": _content(report, rows=[rows[0] | {"samples": [-1.0]}]),
        "Expected `float`": _content(report, rows=[rows[0] | {"samples": [None]}]),
        "bound": _content(report, rows=[rows[0] | {"bound": 0.0}]),
        "no samples and no note": _content(report, rows=[rows[0] | {"samples": []}]),
        "a time in UTC": _content(report, started="2026-03-01T09:30:00+02:00"),
        "RFC3339": _content(report, started="yesterday"),
        "missing required field `command`": whole.replace('"command":', '"kommand":', 1),
    }  # fmt: skip
    for words, content in wrong.items():
        path = tmp_path / "report.json"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InputError, match=words) as caught:
            read_report(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_key_tells_rows_apart() -> None:
    row = Row(scenario="length", contender=OURS, lengths={"a": 50, "t": 22}, samples=(1.0,))
    same = msgspec.structs.replace(row, lengths={"t": 22, "a": 50}, samples=(2.0,), note="later")
    assert row.key == same.key
    others: list[dict[str, Any]] = [
        {"contender": "control"}, {"pattern": "a"}, {"backend": "x"}, {"precision": "int8"},
        {"threads": 2}, {"lengths": {"a": 51, "t": 22}}, {"batch": 2}, {"streams": 2},
        {"part": "load"}, {"scenario": "latency"},
    ]  # fmt: skip
    keys = {msgspec.structs.replace(row, **other).key for other in others}
    assert len(keys | {row.key}) == len(others) + 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MadeClock:
    made = MadeClock()
    monkeypatch.setattr(module, "time", made)
    return made


def test_every_scenario_has_a_share_or_a_fixed_time() -> None:
    assert {*SHARES, *FIXED} == set(SCENARIOS)
    assert not set(SHARES) & set(FIXED)


def test_no_group_is_longer_than_planned(clock: MadeClock) -> None:
    limit = Pace(None, 20.0, ["latency"]).limit()
    assert (limit.seconds, limit.fewest) == (20.0, 1)
    pace = Pace(1e6, 20.0, ["latency"])
    with pace.phase("latency"):
        assert pace.limit().seconds == 20.0


def _spend(pace: Pace, clock: MadeClock, name: str, groups: int) -> float:
    """Groups that use what they are given; returns what the scenario had."""
    began = clock.now
    with pace.phase(name):
        pace.expect(groups)
        for _ in range(groups):
            clock.now += pace.limit().seconds
            pace.measured(150, 200)
    return clock.now - began


def test_scenarios_that_use_their_share_end_with_the_budget(clock: MadeClock) -> None:
    names = ["latency", "length", "throughput", "idle"]
    pace, began = Pace(300.0, 1e9, names), clock.now
    took = {name: _spend(pace, clock, name, 7) for name in names[:-1]}
    assert clock.now - began == pytest.approx(300.0 - FIXED["idle"])
    for name in names[1:-1]:
        assert took[name] / took["latency"] == pytest.approx(SHARES[name] / SHARES["latency"])


def test_what_takes_long_is_paid_for_by_all_that_follow(clock: MadeClock) -> None:
    pace = Pace(200.0, 1e9, ["latency", "length"])
    with pace.phase("latency"):
        with pace.phase("making ready"):
            clock.now += 50.0
        pace.expect(2)
        first = pace.limit().seconds
        whole = SHARES["latency"] + SHARES["length"]
        assert first == pytest.approx(150.0 * SHARES["latency"] / whole / 2)
        clock.now += first
        pace.measured(200, 200)
        clock.now += 200.0  # more than all that was left
        assert (pace.limit().seconds, pace.limit().fewest) == (0.0, FEWEST_ROUNDS)
        pace.measured(30, 200)
    latency, ready = pace.phases
    assert latency.name == "latency"
    assert latency.seconds == pytest.approx(first + 200.0)
    assert (latency.groups, latency.rounds, latency.cut) == (2, (30, 200), 1)
    assert (ready.name, ready.seconds, ready.groups) == ("making ready", 50.0, 0)


PROSE = f"# Name\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nAfter: {BEGIN.upper()}\n"


@pytest.fixture(scope="module")
def published() -> Report:
    return sample_report(Machine(rounds=60))


@pytest.fixture
def tree(published: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a record and marks, whose figures were not written yet."""
    monkeypatch.chdir(tmp_path)
    write_report(published, tmp_path / RECORD)
    (tmp_path / README).write_text(PROSE)
    return tmp_path


def test_page_and_readme_are_of_one_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    checked = call(main, "--check")
    assert checked.code == 0, checked
    assert PAGE.read_text().count("\n") < 150, "a page that a person reads"


def test_figures_are_written_once_and_then_hold(tree: Path, published: Report) -> None:
    assert main(["--check", str(RECORD)]) == 1
    assert (tree / README).read_text() == PROSE, "a check writes nothing"
    assert main([]) == 0
    assert main(["--check"]) == main(["--check", str(RECORD)]) == 0
    table = marked_table(published)
    assert (tree / README).read_text() == PROSE.replace(f"{BEGIN}\nold\n{END}", table)
    page = (tree / PAGE).read_text()
    assert table in page
    titles = ("Gain and accuracy", "Beside what", "Streams", "Cold start", "Memory", "Limits")
    for title in (*titles, "Device", "Beware"):
        assert f"\n## {title}" in page


@pytest.mark.parametrize("path", [README, PAGE], ids=str)
def test_a_figure_that_was_typed_by_hand_is_found(tree: Path, path: Path) -> None:
    """The control: without a record by the other file, with one also where both were changed."""
    assert main([]) == 0
    figure = re.search(rf"\d\.\d\d{TIMES}", (tree / README).read_text())
    assert figure is not None

    def break_it(place: Path) -> None:
        text = (tree / place).read_text()
        (tree / place).write_text(text.replace(figure.group(), f"9.99{TIMES}"))

    break_it(path)
    checked = call(main, "--check")
    assert (checked.code, f"{PAGE} and {README} differ" in checked.err) == (1, True)
    break_it(README if path == PAGE else PAGE)
    checked = call(main, "--check", RECORD)
    assert checked.code == 1
    assert all(f"{place} differs from {RECORD}" in checked.err for place in (README, PAGE))


@pytest.mark.parametrize("text", ["no marks", f"{BEGIN} no end", f"{END} {BEGIN}"])
def test_a_readme_without_both_marks_is_refused(tree: Path, text: str) -> None:
    (tree / README).write_text(text)
    assert f"want {BEGIN}" in mistake(main)
    assert (tree / README).read_text() == text
    assert not (tree / PAGE).exists(), "half of the documentation was written"
    (tree / README).write_text(PROSE)
    (tree / RECORD).unlink()
    assert f"cannot read {RECORD}" in mistake(main)


def _cells(table: str) -> list[list[str]]:
    """Head and rows of a Markdown table."""
    head, _, *rows = [[c.strip() for c in row.split("|")[1:-1]] for row in table.split("\n")]
    return [head, *rows]


def test_the_table_of_the_readme_is_small_and_complete(published: Report) -> None:
    text = marked_table(published)
    assert max(map(len, text.splitlines())) <= 120
    table, caption = text.removeprefix(f"{BEGIN}\n").split("\n\n")
    head, *rows = _cells(table)
    assert head == ["pattern", "fp32, ms", "int8, ms"]
    assert [row[0] for row in rows] == list(UA)
    for cell in (cell for row in rows for cell in row[1:]):
        assert re.fullmatch(rf"\d\.\d\d \((\d\.\d\d{TIMES}|no difference)\)", cell), cell
    caption = " ".join(caption.split())
    assert "on one thread of AMD EPYC" in caption
    assert "Two sessions of one graph differed by up to" in caption


def test_the_page_has_intervals_and_accuracy(published: Report) -> None:
    section = page_text(published).split("\n## Gain and accuracy\n\n")[1]
    caption, table, *_ = section.split("\n\n")
    assert "UA: unweighted accuracy on 1,241 utterances." in caption
    head, *rows = _cells(table)
    assert head == ["pattern", "monolith us", "fp32 us", "gain", "UA", "int8 us", "gain", "UA"]
    for row in rows:
        monolith, ours = (float(cell.replace(",", "")) for cell in row[1:3])
        gain = row[3].partition(TIMES)[0]
        assert gain == "no difference" or float(gain) == pytest.approx(monolith / ours, abs=0.02)
        assert row[4] == f"{UA[row[0]]:.3f}"
        assert row[7] == f"{UA[row[0]] - 0.006:.3f}"
        assert re.fullmatch(rf"\d\.\d\d{TIMES} \(\d\.\d\d{TO}\d\.\d\d\)", row[6])
