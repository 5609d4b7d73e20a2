"""`ifmmin-run BUNDLE --stream`: a session of events in, an answer out after each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ifmmin.runtime.answering import Rules, Tally
from ifmmin.runtime.console import say, write
from ifmmin.runtime.errors import IfmminError, InputError
from ifmmin.runtime.predictor import Predictor
from ifmmin.runtime.saving import LAYOUT_OF, saved_lines
from ifmmin.runtime.stream.arrival import STDIN, arriving, opened
from ifmmin.runtime.stream.cli_options import chosen_pace, stream_options
from ifmmin.runtime.stream.events import Event, Tick, read_event
from ifmmin.runtime.stream.interrupts import Interrupts
from ifmmin.runtime.stream.keeping import kept, require_place
from ifmmin.runtime.stream.update_lines import UpdateLines
from ifmmin.runtime.stream.updates import Listener, Screen

EXIT_SOME_FAILED = 1


def run_stream(
    options: argparse.Namespace, rules: Rules, open_predictor: Callable[[], Predictor]
) -> int:
    """Answer a session; returns the exit code: 0, or 1 when some events have no answer.

    Mistakes in the options are told before the predictor is opened.
    """
    told, wait = stream_options(options), chosen_pace(options)
    _require_places(options)
    with ExitStack() as stack:
        file = stack.enter_context(opened(options.stream))
        predictor = open_predictor()
        stream = predictor.stream(told)
        interrupts = stack.enter_context(Interrupts())
        if options.snapshot is not None:
            stack.enter_context(kept(stream, options.snapshot))
        screens = _screens(options, predictor.labels, rules.top_k, stack)
        session = _Session(
            "stdin" if options.stream == STDIN else options.stream,
            Listener(stream, predictor.labels, rules.threshold),
            screens,
            wait,
            interrupts,
            Tally(),
        )
        for arrived in arriving(file, session.name, options.tick):
            session.take(arrived)
        tally = session.tally
        if not tally.total:
            raise InputError(f"got no event; {session.name} held no line")
    if options.latency and len(tally.seconds):
        say(tally.latency())
    if tally.failed:
        say(f"{tally.failed} of {tally.total} events have no answer")
    return EXIT_SOME_FAILED if tally.failed else 0


@dataclass(frozen=True)
class _Session:
    name: str
    listener: Listener
    screens: Sequence[Screen]
    wait: Callable[[Event], None]
    interrupts: Interrupts
    tally: Tally

    def take(self, arrived: tuple[int, bytes] | None) -> None:
        """A line, or None for silence; raises InputError where its time cannot be kept."""
        number, line = arrived or (None, b"")
        where = f"{self.name}, line {number}" if number else f"{self.name}, silence"
        try:
            event = read_event(line) if number else Tick()
        except InputError as error:
            self._fail(number, None, where, error)
            return
        try:
            self.wait(event)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        with self.interrupts.held():
            self._hear(number, event, where)

    def _hear(self, number: int | None, event: Event, where: str) -> None:
        try:
            update = self.listener.hear(number, event)
        except IfmminError as error:
            self._fail(number, event, where, error)
            return
        self.tally.seconds.append(update.seconds)
        for screen in self.screens:
            screen.show(update)

    def _fail(self, number: int | None, event: Event | None, where: str, error: Exception) -> None:
        message = f"{where}: {' '.join(str(error).split())}"
        self.tally.failed += 1
        for screen in self.screens:
            screen.fail(number, event, message)
        say(f"error: {message}")


def _screens(
    options: argparse.Namespace, labels: Sequence[str], top_k: int, stack: ExitStack
) -> list[Screen]:
    screens: list[Screen] = []
    if options.save is not None:
        keep = stack.enter_context(saved_lines(options.save))
        screens.append(UpdateLines(labels, top_k, keep))
    if options.live:
        from ifmmin.runtime.stream.live import live_screen

        return [*screens, stack.enter_context(live_screen(labels))]
    return [*screens, UpdateLines(labels, top_k, write)]


def _require_places(options: argparse.Namespace) -> None:
    if options.live:
        from ifmmin.runtime.stream.live import require_terminal

        require_terminal()
    if options.snapshot is not None:
        require_place(options.snapshot)
    if options.save is not None and LAYOUT_OF.get(options.save.suffix) != "json":
        raise InputError(f"--save {options.save}: answers of a stream are JSON; name it .jsonl")
