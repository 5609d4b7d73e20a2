"""TensorRT's Python module, and its one logger in this process.

TensorRT keeps the logger that it was given first, as long as any of its objects lives, and warns
about every other. So there is one for each library, which lives as long as the process and hands
every message to the work that goes on.
"""

from __future__ import annotations

import importlib
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import FrameType
from typing import Any

from ..errors import BackendUnavailable, InputError

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""The flavours and their modules: the one builds for the GPU it runs on, the other for any of the
desktop generations since Turing. Their API is the same, but for targets and timing caches."""

_CURES = {
    "tensorrt": (
        "on a Jetson, install JetPack's python3-libnvinfer with apt and make the environment with "
        "--system-site-packages; elsewhere run pip install tensorrt-cu12"
    ),
    "tensorrt-rtx": "run pip install 'ifmmin[rtx]'",
}
_OLDEST_MAJOR = {"tensorrt": 10, "tensorrt-rtx": 1}
"""Strongly typed networks came with 10; JetPack 6.0 still has 8.6."""


def load_tensorrt(flavour: str) -> Any:
    """The module of `tensorrt` or `tensorrt-rtx`.

    Raises BackendUnavailable, in one line, where it is absent, lacks a library or is too old, and
    InputError for another flavour.
    """
    if flavour not in MODULES:
        raise InputError(f"unknown flavour {flavour!r}; use {' or '.join(MODULES)}")
    name = MODULES[flavour]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise _broken(flavour, error) from error
        raise BackendUnavailable(
            f"the Python module {name} is not installed here; {_CURES[flavour]}"
        ) from error
    # A library that is not there is an ImportError on Linux and an OSError where ctypes loads it.
    except (ImportError, OSError) as error:
        raise _broken(flavour, error) from error
    _require_version(flavour, module)
    return module


def _broken(flavour: str, error: Exception) -> BackendUnavailable:
    reason = " ".join(str(error).split())
    return BackendUnavailable(
        f"the Python module {MODULES[flavour]} is installed but does not load ({reason}); "
        f"{_CURES[flavour]}"
    )


def _require_version(flavour: str, module: Any) -> None:
    version = str(getattr(module, "__version__", "0"))
    major = version.split(".")[0]
    oldest = _OLDEST_MAJOR[flavour]
    if not hasattr(module, "Builder") or not major.isdigit() or int(major) < oldest:
        raise BackendUnavailable(
            f"the Python module {MODULES[flavour]} has version {version}, at least {oldest} with a "
            f"builder was wanted; {_CURES[flavour]}"
        )


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
    """What ends the work: a signal, or what a callback raised, which TensorRT prints and forgets.
    The caller has to raise it."""

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
    """The messages of the work inside; other threads wait until it is done.

    So do signals: their handlers run at its end.
    """
    messages = Messages()
    with _WORK, _signals_held(messages):
        _CURRENT.append(messages)
        try:
            yield messages
        finally:
            _CURRENT.pop()


@contextmanager
def _signals_held(messages: Messages) -> Iterator[None]:
    """Let signals whose handlers may raise wait for the end of the block, and say that they did.

    A handler runs in whatever Python runs next, which may be a callback of TensorRT: an exception
    there is lost, or the end of the process.
    """
    before: dict[int, Any] = {}
    arrived: list[int] = []

    def arrive(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)
        messages.interrupt = messages.interrupt or KeyboardInterrupt()

    if threading.current_thread() is threading.main_thread():
        for number in map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
            if callable(signal.getsignal(number)):
                before[number] = signal.signal(number, arrive)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in arrived[:1]:
            before[number](number, None)


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
            _receive(severity.name, text)

    return Logger()


def _receive(severity: str, text: str) -> None:
    if _CURRENT:
        _CURRENT[-1].add(severity, text)
    elif severity in _ERRORS:
        logging.getLogger("ifmmin.tensorrt").error("%s", one_line(text))
