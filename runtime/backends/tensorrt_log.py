"""TensorRT's one logger in this process, and what it said during one piece of work.

TensorRT keeps the logger that it was given first, as long as any of its objects lives, and warns
about every other. So there is one for each library, which lives as long as the process and hands
every message to the work that goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

_ERRORS = ("INTERNAL_ERROR", "ERROR")
_INCONSISTENT = ("self-consistent", "kMIN")
_NO_DRIVER = "CUDA driver version is insufficient"
"""Follows each error on a machine without a driver, whatever the error was."""


@dataclass
class Messages:
    """What TensorRT said during one piece of work, in order, each in one line."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    inconsistent: list[str] = field(default_factory=list)
    """Of any severity: sizes of a profile for which the graph has no meaning."""
    count: int = 0
    """All that were said, those of no interest too: zero when another logger got them."""
    interrupt: BaseException | None = None
    """What was raised in a callback. TensorRT prints and forgets it, so the caller has to raise."""

    def add(self, severity: str, text: str) -> None:
        """Sort in a message."""
        self.count += 1
        line = one_line(text)
        if any(word in line for word in _INCONSISTENT):
            self.inconsistent.append(line)
        if severity in _ERRORS:
            self.errors.append(line)
        elif severity == "WARNING":
            self.warnings.append(line)

    @property
    def reason(self) -> str:
        """The errors as one line, each once."""
        found = [text for text in dict.fromkeys(self.errors) if text]
        telling = [text for text in found if _NO_DRIVER not in text]
        return "; ".join(telling or found) or "TensorRT gave no reason"


def one_line(text: str) -> str:
    """Text of several lines as one, without what only says that there is no driver here."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if _NO_DRIVER not in line]
    return " ".join(" ".join(telling or lines).split())


_WORK = threading.Lock()
_CURRENT: list[Messages] = []


@contextmanager
def collect() -> Iterator[Messages]:
    """The messages of the work inside; other threads wait until it is done."""
    with _WORK:
        messages = Messages()
        _CURRENT.append(messages)
        try:
            yield messages
        finally:
            _CURRENT.pop()


def logger_of(trt: Any) -> Any:
    """The logger to give to every builder, parser and runtime of the module."""
    return _logger_of(trt.ILogger)


@cache
def _logger_of(base: Any) -> Any:
    # By its class and not by the module: what stands in front of a module is not another library.
    class Logger(base):  # type: ignore[misc]  # the module has no types
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, text: str) -> None:
            try:
                _receive(severity.name, text)
            except KeyboardInterrupt as interrupt:
                for messages in _CURRENT:
                    messages.interrupt = interrupt

    return Logger()


def _receive(severity: str, text: str) -> None:
    if _CURRENT:
        _CURRENT[-1].add(severity, text)
    elif severity in _ERRORS:
        logging.getLogger("ifmmin.tensorrt").error("%s", one_line(text))
