"""Runs a probe in a process of its own and reads what it prints."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from ifmmin.benchmarks.limits.rates import Rates, Reading
from ifmmin.runtime.check import one_line
from ifmmin.runtime.errors import IfmminError

_PATIENCE = 60.0
"""Seconds; a probe takes two, or a few on a machine that is busy."""


class ProbeFailed(IfmminError):  # noqa: N818 - where one fails another takes its place
    """A probe cannot be used on this machine; the message says why."""


@dataclass(frozen=True)
class Span:
    """Working sets that are read, from the first cache to far beyond the last. In bytes."""

    smallest: int
    largest: int


class _Output(msgspec.Struct, frozen=True):
    """What a probe prints, as JSON."""

    float32: float
    int8: float | None
    int8_kernel: str
    busy: float
    read: list[tuple[int, float, float]]


def run_probe(
    command: Sequence[str],
    threads: int,
    span: Span,
    *,
    name: str,
    environment: Mapping[str, str] | None = None,
) -> Rates:
    """The rates that the probe `command` measures with a number of threads at once.

    name: what the record calls it. environment: set beside the variables of this process. Raises
    ProbeFailed for one that does not run here, or prints something else.
    """
    words = [*command, str(threads), str(span.smallest), str(span.largest)]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, **(environment or {})},
            timeout=_PATIENCE,
        )
    except OSError as error:
        raise ProbeFailed(f"it cannot be started ({error.strerror})") from error
    except subprocess.TimeoutExpired as error:
        raise ProbeFailed(f"it was not done in {_PATIENCE:g} seconds") from error
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        reason = told[-1] if told else f"it ended with status {done.returncode}"
        raise ProbeFailed(reason)
    try:
        found = msgspec.json.decode(done.stdout, type=_Output)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProbeFailed(f"it printed something else than rates ({one_line(error)})") from error
    if not (found.read and min(found.float32, *(rate for _, rate, _ in found.read)) > 0):
        raise ProbeFailed("it measured nothing")
    return Rates(
        threads=threads,
        float32=found.float32,
        int8=found.int8,
        int8_kernel=found.int8_kernel,
        busy=found.busy,
        read=tuple(Reading(size=size, rate=rate, busy=busy) for size, rate, busy in found.read),
        probe=name,
    )
