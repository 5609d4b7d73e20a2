"""A session on the terminal, drawn in place as its answers change."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.stream.dashboard import Dashboard
from ifmmin.runtime.stream.events import Event
from ifmmin.runtime.stream.rate import Rate
from ifmmin.runtime.stream.updates import Update

PER_SECOND = 12
"""Drawings. Answers may come much faster; each drawing shows the last one."""


class LiveScreen:
    """Takes updates, and gives what is to be drawn of them to the thread that draws."""

    def __init__(self, labels: Sequence[str], rate: Rate | None = None) -> None:
        self._labels = labels
        self._rate = rate or Rate()
        self._update: Update | None = None
        self._shares: dict[str, float] = {}
        self._failed = 0

    def show(self, update: Update) -> None:
        """Draw this one from now on."""
        self._rate.count()
        if update.prediction is not None:
            shares = update.prediction.probabilities.tolist()
            self._shares = dict(zip(self._labels, shares, strict=True))
        self._update = update

    def fail(self, line: int | None, event: Event | None, message: str) -> None:
        """Count an event without an answer."""
        self._failed += 1

    def dashboard(self) -> Dashboard:
        """What is to be drawn now."""
        shares = self._shares or dict.fromkeys(self._labels, 0.0)
        return Dashboard(self._update, shares, self._rate.per_second(), self._failed)


def require_terminal() -> None:
    """InputError where nothing can be drawn in place."""
    if not sys.stdout.isatty():
        raise InputError(
            "--live draws on a terminal, and standard output is none; without --live a line of "
            "JSON goes there for every event"
        )
    if Console().is_dumb_terminal:
        raise InputError(
            "--live draws in place, which this terminal cannot (TERM=dumb or unknown); leave it "
            "out, or set TERM"
        )


@contextmanager
def live_screen(labels: Sequence[str], console: Console | None = None) -> Iterator[LiveScreen]:
    """Draw until the block ends; the last state stays, and the cursor comes back, whatever ends it.

    What is written to standard error meanwhile stands above, where that is the same terminal.
    """
    screen = LiveScreen(labels)
    drawing = Live(
        console=console or Console(highlight=False),
        refresh_per_second=PER_SECOND,
        redirect_stdout=False,
        redirect_stderr=sys.stderr.isatty(),
        get_renderable=screen.dashboard,
    )
    with drawing:
        yield screen
