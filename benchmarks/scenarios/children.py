"""Starts a fresh process, waits for it, and reads what it tells."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from ifmmin.runtime.check import one_line
from ifmmin.runtime.errors import IfmminError

PATIENCE = 120.0
"""Seconds that a process gets; importing PyTorch from a slow card takes tens."""
_PROGRAM = "import time; began = time.monotonic(); from {module} import main; main(began)"
_LONGEST_REASON = 300

T = TypeVar("T")


class ChildFailed(IfmminError):  # noqa: N818 - what it should have measured is left out
    """A process that was to be measured did not do its work; the message says why."""


@dataclass(frozen=True)
class Told(Generic[T]):
    """What came of a process."""

    started: float
    """When it was asked for, by the clock `time.monotonic`, which all processes share."""
    output: T


def run_child(
    module: str, words: Mapping[str, str], kind: type[T], patience: float = PATIENCE
) -> Told[T]:
    """Run `main(began)` of a module in a process that has imported nothing yet.

    began: the clock at Python's first line. words: what it finds in `sys.argv`, as `key=value`.
    kind: what the last line of its output is, as JSON. The process has ended when this returns.
    Raises ChildFailed with the last line of its complaint.
    """
    program = _PROGRAM.format(module=module)
    command = [sys.executable, "-c", program, *(f"{k}={v}" for k, v in words.items())]
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience
        )
    except OSError as error:
        raise ChildFailed(f"no process can be started ({error.strerror})") from error
    except subprocess.TimeoutExpired as error:
        raise ChildFailed(f"it was not done in {patience:g} seconds") from error
    if done.returncode:
        raise ChildFailed(_complaint(done))
    try:
        return Told(started, msgspec.json.decode(done.stdout.splitlines()[-1], type=kind))
    except (IndexError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ChildFailed(
            f"it printed something else than was asked ({one_line(error)})"
        ) from error


def _complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """The last line that it wrote, without the module of a class of ours."""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if lines:
        return lines[-1].removeprefix("ifmmin.runtime.errors.")[:_LONGEST_REASON]
    if done.returncode < 0:
        return f"signal {-done.returncode} ended it"
    return f"it ended with status {done.returncode}"
