"""`ifmmin-run --stream` as a process of its own that is spoken to line by line."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from run_command import BACKEND

DIMS = {"a": 5, "v": 7, "t": 11}
_SECONDS = 60
"""After which a process that says nothing is ended, and the test fails."""


def frames(letter: str, count: int, seed: int = 0) -> list[list[float]]:
    """Random frames that the small networks take."""
    rng = np.random.default_rng([ord(letter), seed])
    drawn = (2 * rng.standard_normal((count, DIMS[letter]))).astype(np.float32)
    return [[float(x) for x in frame] for frame in drawn]


def event(kind: str, **fields: object) -> str:
    """A line."""
    return json.dumps({"event": kind, **fields})


@dataclass
class Conversation:
    """A running command."""

    process: subprocess.Popen[str]

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and wait for its answer."""
        self.send(line)
        return self.hear()

    def send(self, line: str) -> None:
        """Send a line."""
        self._stdin.write(line + "\n")
        self._stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Wait for an answer."""
        assert self.process.stdout
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> tuple[int, str, str]:
        """Close standard input; the exit code and what else was said."""
        out, err = self.process.communicate(timeout=_SECONDS)
        return self.process.returncode, out, err

    @property
    def _stdin(self) -> IO[str]:
        assert self.process.stdin
        return self.process.stdin


def command(bundle: Path, *options: object) -> Sequence[str]:
    """The command line."""
    start = [sys.executable, "-m", "ifmmin.runtime.cli", str(bundle), "--stream", "-"]
    return [*start, *map(str, options), *BACKEND]


@contextmanager
def conversation(bundle: Path, *options: object) -> Iterator[Conversation]:
    """Start the command; it is ended with the block, or when it says nothing for too long."""
    with subprocess.Popen(
        command(bundle, *options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        watchdog = threading.Timer(_SECONDS, process.kill)
        watchdog.start()
        try:
            yield Conversation(process)
        finally:
            watchdog.cancel()
            process.kill()
