"""Text of others on its way to a terminal, to CSV, to JSON and to Markdown."""

from __future__ import annotations

import csv
import html
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifmmin.runtime.console import (
    csv_row,
    csv_rows,
    escaped,
    json_line,
    log_line,
    markdown_table,
    printable,
)

HOSTILE = (
    "\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\x7f", "a\rb", "a\nb", "a\tb", "\u202e\u2066x",
    "\u200b", "\u2028\u2029", "\ud800", "\ue000", "\U000e0041", "\x00", "\x85",
)  # fmt: skip
FORMULAS = ("=1+1", "+1", "-cmd|' /C calc'!A0", "@SUM(A1)", "=\tA1", "==", "-x")
PLAIN = ("会话01", "naïve café", "😀", "a b", "a\u3000b", "a\xa0b", "-", "=", "x=1", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_moves_the_cursor(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    for shown in (printable(text), csv_row([text]), json_line({text: text}), escaped(text)):
        assert all(c.isprintable() or c in "\xa0\u3000" for c in shown), ascii(shown)
    table = markdown_table(["h"], [[text]])
    assert table.count("\n") == 2
    log_line(f"error: {text}")
    err = capfd.readouterr().err
    assert all(c.isprintable() or c == "\n" for c in err)
    assert json.loads(json_line({text: text})) == {text: text}


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_plain_stays_as_it_is(text: str) -> None:
    assert printable(text) == text
    assert next(csv.reader([csv_row([text, 1])])) == [text, "1"]
    assert json.loads(json_line([text])) == [text]
    assert not text.isprintable() or json_line([text]) == json.dumps([text], ensure_ascii=False)


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_computed(text: str) -> None:
    (cell,) = next(csv.reader([csv_row([text])]))
    assert cell[0] == "'"
    assert next(csv.reader([csv_row([-0.5, -3, "-"])])) == ["-0.5", "-3", "-"]


@given(st.text(st.sampled_from("'=+-@a,\"\\ 0")))
def test_names_come_back_from_csv(text: str) -> None:
    lines = [csv_row([text, 1]) + "\n", csv_row(["'" + text]) + "\n"]
    assert list(csv_rows(lines)) == [[text, "1"], ["'" + text]]


MARKUP = (
    "<script>alert(1)</script>", "[x](javascript:1)", "`a`", "*a*", "_a_", "a|b", "# a", "~~a~~",
    "&amp;", "'\"", "![x](y)", "\\",
)  # fmt: skip


@pytest.mark.parametrize("text", MARKUP)
def test_markup_stands_for_itself(text: str) -> None:
    shown = escaped(text)
    assert "<" not in shown
    assert html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", shown)) == text


@given(st.text())
def test_any_text_comes_back_from_json_and_never_breaks_a_line(text: str) -> None:
    assert json.loads(json_line({"id": text})) == {"id": text}
    assert len(json_line(text).splitlines()) == 1
    assert len((csv_row([text, "x"])).splitlines()) == 1


def test_what_is_not_a_number_is_no_json() -> None:
    with pytest.raises(ValueError, match=r"[Oo]ut of range"):
        json_line([float("nan")])
