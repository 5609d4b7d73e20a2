"""`--live`: what is drawn of a moment, on any width, with and without colour; on a terminal of its
own it is drawn in place, and left as it was, whatever ends it."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from run_command import STREAM, command, event, frames, refused

from ifmmin.runtime import Pattern, Predictor, StreamOptions
from ifmmin.runtime.cli import live
from ifmmin.runtime.cli.events import Tick, Update
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.prediction import Prediction

SHARES = {"angry": 0.0625, "happy": 0.5, "neutral": 0.25, "sad and very long": 0.1875}
ABSENT = {Modality.V: "silent for 3.12 s, more than 2.5", Modality.T: "not given"}
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def _update(label: str | None = "happy", absent: Mapping[Modality, str] = ABSENT) -> Update:
    present = [m for m in Modality if m not in absent]
    said = None
    if present:
        shares = np.array(list(SHARES.values()), np.float32)
        said = Prediction(
            "happy", shares, shares, Pattern.of(present), "made", "auto", "fp32", {}, 0.001,
            absent, {}, tuple(SHARES),
        )  # fmt: skip
    counts = {Modality.A: 124, Modality.V: 60, Modality.T: 0}
    return Update(3, Tick(at=12.3), 12.3, said, label, absent, counts, {}, {}, 0.00031)


def _drawn(dashboard: live.Dashboard, width: int = 40, **options: Any) -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=options.pop("encoding", "utf-8"))
    console = Console(
        file=file, width=width, record=True, _environ={"TERM": "xterm-256color"}, **options
    )
    console.print(dashboard)
    return [line.rstrip() for line in console.export_text().splitlines()]


def _bar(line: str) -> tuple[str, str, str, str]:
    """The winner's sign, the class, its bar and its probability."""
    found = re.fullmatch(r"([▸>]?) +(.+?) +([━╸-]+) +(0\.\d{3})", line)
    assert found, line
    sign, name, bar, share = found.groups()
    return sign, name, bar, share


def test_a_moment_in_forty_columns() -> None:
    lines = _drawn(live.Dashboard(_update(), SHARES, 24.75, 2))
    assert all(len(line) <= 40 for line in lines)
    bars, lights, rest = lines[:4], lines[4:8], lines[8:]
    signs, names, drawn, shares = zip(*map(_bar, bars), strict=True)
    assert signs == ("", "▸", "", "")
    assert names[:3] == ("angry", "happy", "neutral")
    assert re.fullmatch("sad and very ?…", names[3])
    assert shares == ("0.062", "0.500", "0.250", "0.188")
    lengths = [bar.count("━") + bar.count("╸") / 2 for bar in drawn]
    assert lengths[1] > lengths[2] > lengths[3] > lengths[0] > 0
    assert re.fullmatch(r"a +● +heard +124 frames", lights[0])
    assert re.fullmatch(r"v +◐ +stale: silent for 3.12( s,)? +60 frames", lights[1])
    assert lights[2].strip().endswith("more than 2.5")
    assert re.fullmatch(r"t +○ +missing: not given +0 frames", lights[3])
    text = " ".join(rest)
    for fact in ("pattern a", "at 12.30 s", "24.8 updates/s", "0.31 ms each"):
        assert fact in text
    assert "events without an answer: 2" in text


def test_no_line_is_longer_than_the_terminal() -> None:
    for width in (40, 55, 80, 200):
        lines = _drawn(live.Dashboard(_update(), SHARES, 24.75, 2), width)
        assert max(map(len, lines)) <= min(width, 76)


def test_while_nothing_counts_the_last_bars_stay_without_a_winner() -> None:
    absent = dict.fromkeys(Modality, "cleared")
    lines = _drawn(live.Dashboard(_update(None, absent), SHARES, 1.0, 0), 60)
    assert "▸" not in "".join(lines)
    assert [line[-5:] for line in lines[:4]] == ["0.062", "0.500", "0.250", "0.188"]
    assert sum("missing: cleared" in line for line in lines) == 3
    assert "pattern -" in lines[-1]
    assert _drawn(live.Dashboard(None, SHARES, 0.0, 0)) == ["waiting for events"]
    # An unsure answer names no class either.
    assert "▸" not in "".join(_drawn(live.Dashboard(_update(None), SHARES, 1.0, 0)))


def test_terminals_that_know_ascii_alone() -> None:
    shares = {"zornig": 0.5, "glücklich": 0.5}
    absent = {Modality.V: "nothing in the window", Modality.T: "dropped"}
    for reasons, signs in ((absent, "*~-"), (dict.fromkeys(Modality, "cleared"), "ooo")):
        dashboard = live.Dashboard(_update("zornig", reasons), shares, 1.0, 1)
        lines = _drawn(dashboard, encoding="ascii")
        assert "".join(lines).isascii()
        assert _bar(lines[0])[:2] == (">" if reasons is absent else "", "zornig")
        assert _bar(lines[1])[:2] == ("", "gl?cklich")
        seen = [line.split()[1] for line in lines if line[:2] in ("a ", "v ", "t ")]
        assert seen == list(signs)


def _console(**environment: str) -> tuple[Console, io.StringIO]:
    """One that draws in place, and what it draws."""
    file, environ = io.StringIO(), {"TERM": "xterm-256color", **environment}
    return Console(file=file, width=40, force_terminal=True, _environ=environ), file


def test_colours_are_left_out_where_they_are_not_wanted() -> None:
    def drawn(**environment: str) -> str:
        console, file = _console(**environment)
        console.print(live.Dashboard(_update(), SHARES, 1.0, 0))
        return file.getvalue()

    colour = re.compile(r"\x1b\[(?:[0-9;]*;)?[34][0-8]")
    assert colour.search(drawn())
    assert not colour.search(drawn(NO_COLOR="1"))
    assert "● heard" in drawn(NO_COLOR="1")


def test_lights_are_those_of_what_a_stream_says(predictor: Predictor) -> None:
    stream = predictor.stream(StreamOptions(window=4.0, stale_after={Modality.V: 2.0}))

    def lights(at: float) -> list[str]:
        stream.state.reach(at)
        assert stream.pattern or stream.state.absent
        return [live.status_of(stream.state.absent.get(m)).word for m in Modality]

    missing, heard = live.MISSING.word, live.HEARD.word
    assert lights(0.0) == [missing] * 3
    stream.push(a=frames("a", 5), v=frames("v", 5), at=0.5)
    assert lights(0.5) == [heard, heard, missing]
    stream.drop("a")
    assert lights(1.0) == [live.DROPPED.word, heard, missing]
    stream.restore("a")
    assert lights(3.0) == [heard, live.STALE.word, missing]
    assert lights(9.0) == [live.STALE.word, live.STALE.word, missing]
    stream.clear("a")
    assert lights(9.0) == [missing, live.STALE.word, missing]


def test_the_rate_is_that_of_the_last_seconds() -> None:
    now = 10.0
    rate = live.RateMeter(lambda: now)
    for now in np.arange(10.0, 14.0, 0.1):  # noqa: B007 - the rate's clock reads it
        rate.count()
    assert rate.per_second() == pytest.approx(10, abs=0.6)
    now += 1.0
    assert rate.per_second() == pytest.approx(5, abs=0.6)
    now += 1.5
    assert rate.per_second() == 0.0


def test_the_screen_shows_the_last_answer() -> None:
    screen = live.LiveSink(list(SHARES))
    assert screen.dashboard().update is None
    assert screen.dashboard().shares == dict.fromkeys(SHARES, 0.0)
    first, nothing = _update(), _update(None, dict.fromkeys(Modality, "cleared"))
    screen.show(first)
    screen.fail(4, None, "broken")
    screen.show(nothing)
    seen = screen.dashboard()
    assert (seen.update, seen.failed) == (nothing, 1)
    assert seen.shares == pytest.approx(SHARES)
    assert seen.per_second == 1.0


def _end_drawing(console: Console, ending: type[BaseException]) -> None:
    with live.live_sink(list(SHARES), console) as screen:
        screen.show(_update())
        raise ending


def test_drawing_ends_with_the_block_whatever_ends_it() -> None:
    for ending in (KeyboardInterrupt, SystemExit, ValueError):
        console, file = _console()
        with pytest.raises(ending):
            _end_drawing(console, ending)
        text = file.getvalue()
        assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1
        assert text.index(HIDE_CURSOR) < text.index("happy") < text.rindex(SHOW_CURSOR)


def test_drawings_are_few_however_many_answers() -> None:
    console, file = _console()
    started = time.monotonic()
    with live.live_sink(list(SHARES), console) as screen:
        while time.monotonic() < started + 0.5:
            screen.show(_update())
    seconds = time.monotonic() - started
    assert live.PER_SECOND <= 15
    assert 2 <= file.getvalue().count("pattern a") <= 15 * seconds + 2


class _Terminal:
    """The command on a terminal of 40 columns, which it may also use for standard error."""

    def __init__(self, bundle: Path, *options: object, term: str = "xterm-256color") -> None:
        self.ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": term, "COLUMNS": "40", "LINES": "20"}
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [*command(bundle, *STREAM, "--live", *options)], stdin=subprocess.PIPE, stdout=theirs,
            stderr=theirs, env=environment,
        )  # fmt: skip
        os.close(theirs)
        self.seen = ""

    def send(self, *lines: str) -> None:
        assert self.process.stdin
        self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())
        self.process.stdin.flush()

    def read_until(self, text: str) -> None:
        ends = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < ends, self.seen
            self.seen += os.read(self.ours, 1 << 16).decode(errors="replace")

    def end(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        code = self.process.wait(60)
        with suppress(OSError):  # a terminal that nobody holds any more
            while chunk := os.read(self.ours, 1 << 16):
                self.seen += chunk.decode(errors="replace")
        os.close(self.ours)
        return code


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_on_a_terminal(bundle: Path, tmp_path: Path) -> None:
    saved = tmp_path / "answers.jsonl"
    terminal = _Terminal(bundle, "--save", saved)
    terminal.read_until("waiting for events")
    terminal.send(event("push", a=frames("a", 5), at=1.0))
    terminal.read_until("at 1.00 s")
    terminal.send("garbage", event("push", v=frames("v", 5), at=2.0))
    terminal.read_until("at 2.00 s")
    assert terminal.end() == 1
    text = _plain(terminal.seen)
    assert '{"line"' not in text
    assert "error: stdin, line 2: JSON is malformed" in text
    assert "events without an answer: 1" in text
    assert text.rstrip().endswith("1 of 3 events have no answer")
    assert terminal.seen.count(HIDE_CURSOR) == terminal.seen.count(SHOW_CURSOR) == 1
    assert saved.read_text().count("\n") == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_terminal_is_left_sane(bundle: Path, tmp_path: Path, number: int, code: int) -> None:
    kept = tmp_path / "session.bin"
    terminal = _Terminal(bundle, "--snapshot", kept)
    terminal.send(event("push", a=frames("a", 5), at=1.0))
    terminal.read_until("at 1.00 s")
    terminal.process.send_signal(number)
    assert terminal.end() == code
    assert terminal.seen.count(HIDE_CURSOR) == terminal.seen.count(SHOW_CURSOR) == 1
    assert terminal.seen.rindex(SHOW_CURSOR) > terminal.seen.rindex("at 1.00 s")
    assert kept.exists()


def test_terminals_that_cannot_draw_in_place(bundle: Path) -> None:
    terminal = _Terminal(bundle, term="dumb")
    terminal.read_until("TERM=dumb")
    assert terminal.end() == 2
    assert terminal.seen.count("\n") == 1
    said = refused(bundle, *STREAM, "--live", stdin=[event("reset")])
    assert "standard output is none" in said
