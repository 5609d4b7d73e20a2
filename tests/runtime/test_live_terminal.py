"""`--live` on a terminal of its own: drawn in place, and left as it was, whatever ends it."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_command import run
from small_bundles import ALL, small_bundle
from stream_process import command, event, frames

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


@pytest.fixture(scope="module")
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(make_network, tmp_path_factory, ALL, shapes=("latency", "stream"))


class _Terminal:
    """The command on a terminal of 40 columns, which it may also use for standard error."""

    def __init__(self, bundle: Path, *options: object, term: str = "xterm-256color") -> None:
        self.ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": term, "COLUMNS": "40", "LINES": "20"}
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [*command(bundle, "--live", *options)], stdin=subprocess.PIPE, stdout=theirs,
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
        for chunk in self._rest():
            self.seen += chunk.decode(errors="replace")
        os.close(self.ours)
        return code

    def _rest(self) -> Iterator[bytes]:
        while True:
            try:
                chunk = os.read(self.ours, 1 << 16)
            except OSError:  # a terminal that nobody holds any more
                return
            if not chunk:
                return
            yield chunk


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
def test_an_ended_session_leaves_the_terminal_sane(
    bundle: Path, tmp_path: Path, number: int, code: int
) -> None:
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
    ran = run(bundle, "--stream", "-", "--live", stdin=[event("reset")])
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "standard output is none" in ran.err
