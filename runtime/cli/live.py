"""Dashboard of a session on a terminal: a bar per emotion, a mark per modality."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, OverflowMethod, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..errors import InputError
from ..modality import MODALITIES
from .events import Event, Update

_SECONDS = 2.0


class RateMeter:
    """Counts what happened in the last two seconds. May be used from many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def count(self) -> None:
        """It happened."""
        with self._lock:
            self._times.append(self._clock())

    def per_second(self) -> float:
        """Times a second."""
        with self._lock:
            since = self._clock() - _SECONDS
            while self._times and self._times[0] <= since:
                self._times.popleft()
            return len(self._times) / _SECONDS


_MOST_COLUMNS = 76
_LONGEST_NAME = 14


@dataclass(frozen=True)
class ModalityStatus:
    """What is known of a modality at a glance; the word says it without colour, too."""

    word: str
    style: str
    sign: str
    plain_sign: str
    """For terminals that know ASCII alone."""


HEARD = ModalityStatus("heard", "green", "●", "*")
STALE = ModalityStatus("stale", "yellow", "◐", "~")
DROPPED = ModalityStatus("dropped", "blue", "◌", "-")
MISSING = ModalityStatus("missing", "red", "○", "o")


def status_of(reason: str | None) -> ModalityStatus:
    """The light for a reason of absence; None: it counts."""
    if reason is None:
        return HEARD
    if reason == "dropped":
        return DROPPED
    if reason.startswith("silent for ") or reason == "nothing in the window":
        return STALE
    return MISSING


@dataclass(frozen=True)
class Dashboard:
    """One moment of a session, for rich to draw in any width from 40 columns on."""

    update: Update | None
    """The last answer; None before the first."""
    shares: Mapping[str, float]
    """Per class its probability, those last known; empty before the first."""
    per_second: float
    """Updates, lately."""
    failed: int
    """Events without an answer so far."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Constrain]:
        for part in self._parts(options.ascii_only):
            yield Constrain(part, _MOST_COLUMNS)

    def _parts(self, ascii_only: bool) -> Iterator[RenderableType]:
        if self.update is None:
            yield Text("waiting for events", style="dim")
        else:
            yield self._bars(self.update, ascii_only)
            yield _statuses(self.update, ascii_only)
            yield self._footer(self.update)
        if self.failed:
            yield Text(f"events without an answer: {self.failed}", style="red")

    def _bars(self, update: Update, ascii_only: bool) -> Table:
        counts = update.prediction is not None
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=1)
        overflow: OverflowMethod = "crop" if ascii_only else "ellipsis"
        grid.add_column(no_wrap=True, overflow=overflow, max_width=_LONGEST_NAME)
        grid.add_column(ratio=1)
        grid.add_column(width=5, justify="right")
        for label, share in self.shares.items():
            wins = counts and label == update.label
            style = "bold" if wins else "" if counts else "dim"
            bar = ProgressBar(1.0, share, complete_style="cyan" if counts else "bright_black")
            grid.add_row(
                Text((">" if ascii_only else "▸") if wins else "", style=style),
                Text(_writable(label, ascii_only), style=style),
                bar,
                Text(f"{share:.3f}", style=style),
            )
        return grid

    def _footer(self, update: Update) -> Text:
        pattern = update.prediction.pattern if update.prediction else None
        facts = [f"pattern {pattern or '-'}"]
        if update.at is not None:
            facts.append(f"at {update.at:.2f} s")
        facts += [f"{self.per_second:.1f} updates/s", f"{update.seconds * 1e3:.2f} ms each"]
        return Text("  ".join(facts), style="dim")


def _statuses(update: Update, ascii_only: bool) -> Table:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=1)
    grid.add_column(width=1)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    for modality in MODALITIES:
        reason = update.absent.get(modality)
        light = status_of(reason)
        grid.add_row(
            modality.value,
            Text(light.plain_sign if ascii_only else light.sign, style=light.style),
            _told(light, reason),
            f"{update.frames.get(modality, 0)} frames",
        )
    return grid


def _told(light: ModalityStatus, reason: str | None) -> Text:
    """The light's word, and the reason where it says more."""
    if reason is None or reason == light.word:
        return Text(light.word)
    return Text(f"{light.word}: {reason}")


def _writable(name: str, ascii_only: bool) -> str:
    """A class's name as the terminal can show it."""
    return name.encode("ascii", "replace").decode() if ascii_only else name


PER_SECOND = 12
"""Drawings. Answers may come much faster; each drawing shows the last one."""


class LiveSink:
    """Takes updates, and gives what is to be drawn of them to the thread that draws."""

    def __init__(self, labels: Sequence[str], rate: RateMeter | None = None) -> None:
        self._labels = labels
        self._rate = rate or RateMeter()
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
def live_sink(labels: Sequence[str], console: Console | None = None) -> Iterator[LiveSink]:
    """Draw until the block ends; the last state stays, and the cursor comes back, whatever ends it.

    What is written to standard error meanwhile stands above, where that is the same terminal.
    """
    sink = LiveSink(labels)
    drawing = Live(
        console=console or Console(highlight=False),
        refresh_per_second=PER_SECOND,
        redirect_stdout=False,
        redirect_stderr=sys.stderr.isatty(),
        get_renderable=sink.dashboard,
    )
    with drawing:
        yield sink
