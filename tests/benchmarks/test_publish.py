"""Figures of the documentation: page and README alike, and equal to what a record says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sample_report import sample_report
from sample_rows import UA, Machine

from ifmmin.benchmarks.publish import BEGIN, END, PAGE, README, RECORD, main, marked_table
from ifmmin.benchmarks.record import Report, write_report
from ifmmin.benchmarks.report.summary import TIMES, TO

PROSE = f"# Name\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nAfter: {BEGIN.upper()}\n"


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_report(Machine(rounds=60))


@pytest.fixture
def tree(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a record and marks, whose figures were not written yet."""
    monkeypatch.chdir(tmp_path)
    write_report(report, tmp_path / RECORD)
    (tmp_path / README).write_text(PROSE)
    return tmp_path


def test_page_and_readme_of_this_project_are_of_one_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    assert main(["--check"]) == 0, capsys.readouterr()
    assert PAGE.read_text().count("\n") < 150, "a page that a person reads"


def test_figures_are_written_once_and_then_hold(tree: Path, report: Report) -> None:
    assert main(["--check", str(RECORD)]) == 1
    assert (tree / README).read_text() == PROSE, "a check writes nothing"
    assert main([]) == 0
    assert main(["--check"]) == main(["--check", str(RECORD)]) == 0
    table = marked_table(report)
    assert (tree / README).read_text() == PROSE.replace(f"{BEGIN}\nold\n{END}", table)
    page = (tree / PAGE).read_text()
    assert table in page
    for title in ("Beside what", "Streams", "Cold start", "Memory", "Limits", "Device", "Beware"):
        assert f"\n## {title}" in page


@pytest.mark.parametrize("path", [README, PAGE], ids=str)
def test_a_figure_that_was_typed_by_hand_is_found(
    tree: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control: without a record by the other file, with one also where both were changed."""
    assert main([]) == 0
    figure = re.search(rf"\d\.\d\d{TIMES}", (tree / README).read_text())
    assert figure is not None

    def spoil(place: Path) -> None:
        text = (tree / place).read_text()
        (tree / place).write_text(text.replace(figure.group(), f"9.99{TIMES}"))

    spoil(path)
    assert main(["--check"]) == 1
    assert f"{PAGE} and {README} differ" in capsys.readouterr().err
    spoil(README if path == PAGE else PAGE)
    assert main(["--check", str(RECORD)]) == 1
    said = capsys.readouterr().err
    assert all(f"{place} differs from {RECORD}" in said for place in (README, PAGE))


@pytest.mark.parametrize("text", ["no marks", f"{BEGIN} no end", f"{END} {BEGIN}"])
def test_a_readme_without_both_marks_is_refused(
    tree: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / README).write_text(text)
    assert main([]) == 2
    assert f"want {BEGIN}" in capsys.readouterr().err
    assert (tree / README).read_text() == text
    assert not (tree / PAGE).exists(), "half of the documentation was written"


def test_a_record_that_is_not_there_is_one_line(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / RECORD).unlink()
    assert main([]) == 2
    assert f"cannot read {RECORD}" in capsys.readouterr().err


def test_the_table_of_the_readme_is_small_and_complete(report: Report) -> None:
    table, caption = marked_table(report).split("\n\n")
    _, head, _, *rows = [[c.strip() for c in row.split("|")[1:-1]] for row in table.split("\n")]
    assert head == ["pattern", "monolith us", "fp32 us", "gain", "UA", "int8 us", "gain", "UA"]
    assert [row[0] for row in rows] == list(UA)
    for row in rows:
        monolith, ours = (float(cell.replace(",", "")) for cell in row[1:3])
        gain = row[3].partition(TIMES)[0]
        assert gain == "no difference" or float(gain) == pytest.approx(monolith / ours, abs=0.02)
        assert row[4] == f"{UA[row[0]]:.3f}"
        assert row[7] == f"{UA[row[0]] - 0.006:.3f}"
        assert re.fullmatch(rf"\d\.\d\d{TIMES} \(\d\.\d\d{TO}\d\.\d\d\)", row[6])
    assert "on one thread of AMD EPYC" in caption
    assert "UA: unweighted accuracy on 1,241 utterances." in caption
    assert "Two sessions of one graph differed by up to" in caption
