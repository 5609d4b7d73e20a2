"""Ctrl-C and the request to end, between events and never within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """Delivers SIGINT as KeyboardInterrupt and SIGTERM as SystemExit while the block lasts.

    Within `held` they wait for its end: an event is heard and answered, or it is not. Signals that
    are ignored, as those of a background job, stay so. Outside of the main thread, where Python
    delivers none, this does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._holding = False
        self._waiting: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._arrive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait for the end of the block."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            number, self._waiting = self._waiting, None
            if number is not None:
                _deliver(number)

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        if self._holding:
            self._waiting = number
        else:
            _deliver(number)


def _deliver(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
