"""Questions that have to load somebody's library, asked in a process of their own.

An engine that is built for another machine may hang, print, or end its process with a signal. Then
the question that was on is answered by what happened, and the others go on in a new process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

Answers = dict[str, dict[str, Any]]
"""Per question what was found, or `error` with the reason in one line."""

PATIENCE = 60.0
"""Seconds for all questions at once: the first import on a Jetson reads a gigabyte."""
_COMMAND = (sys.executable, "-W", "ignore", "-m", "ifmmin.runtime.doctor.answer")


def ask(
    questions: Sequence[str],
    *,
    patience: float | None = PATIENCE,
    command: Sequence[str] = _COMMAND,
) -> Answers:
    """The answer to each question; see `ifmmin.runtime.doctor.answer` for those that there are.

    patience: seconds until a process is given up; None waits. command: what answers the questions
    that follow it.
    """
    answers: Answers = {}
    rest = list(questions)
    while rest:
        found, end = _run([*command, *rest], patience)
        answers.update({name: found[name] for name in rest if name in found})
        rest = [name for name in rest if name not in answers]
        if rest:
            answers[rest.pop(0)] = {"error": end}
    return answers


def _run(command: Sequence[str], patience: float | None) -> tuple[Answers, str]:
    """What a process answered, and how it ended."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return _read(late.stdout or b""), f"it gave no answer within {patience:.0f} s"
    except (OSError, ValueError) as error:
        return {}, f"no process could be started: {error}"
    return _read(done.stdout), _end(done.returncode)


def _read(output: bytes) -> Answers:
    """Lines of JSON; the last may have been cut off."""
    found: Answers = {}
    for line in output.decode(errors="replace").splitlines():
        try:
            name, answer = json.loads(line)
        except (ValueError, TypeError):
            continue
        if isinstance(name, str) and isinstance(answer, dict):
            found[name] = answer
    return found


def _end(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code} and gave no answer"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was ended by {name}: a library in it does not fit this machine"
