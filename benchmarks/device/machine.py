"""The doctor's door to the machine, with a root of its own and tools that print line after line."""

from __future__ import annotations

import glob
import re
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import IO

from ifmmin.runtime.doctor.host import Host

_GOODBYE = 2.0
"""Seconds that a followed tool gets to end."""
_KEPT = 64
"""Lines of a followed tool: one per GPU and turn."""


class Machine(Host):
    """Files, tools and packages of this machine, each of which may be absent.

    root: where its files lie; elsewhere in tests, and in a container that has the host's `/sys`
    mounted aside.
    """

    def __init__(self, root: str = "") -> None:
        self.root = root.rstrip("/")

    def content(self, path: str) -> bytes:
        """The bytes of a file."""
        return super().content(self.root + path)

    def find(self, pattern: str) -> list[str]:
        """The paths that fit a pattern of the shell; of several with a number, in its order."""
        found = super().find(glob.escape(self.root) + pattern)
        return in_order(path[len(self.root) :] for path in found)

    def resolve(self, path: str) -> str:
        """The file at the end of the links."""
        return super().resolve(self.root + path).removeprefix(self.root)

    def follow(self, *command: str) -> Followed | None:
        """Start a tool that goes on printing; None where there is no such tool."""
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**self.environ, "LC_ALL": "C"},
            )
        except (OSError, ValueError):
            return None
        return Followed(process)


class Followed:
    """A tool that prints a line every now and then; the newest are kept."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lines: deque[tuple[float, str]] = deque(maxlen=_KEPT)
        assert process.stdout is not None
        reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        reader.start()

    def wait(self, patience: float) -> bool:
        """Whether a line came within `patience` seconds."""
        until = time.monotonic() + patience
        while not self._lines and time.monotonic() < until and self._process.poll() is None:
            time.sleep(0.01)
        return bool(self._lines)

    def recent(self, oldest: float) -> list[str]:
        """Lines of the last `oldest` seconds, in order: none, once the tool hangs or is gone."""
        since = time.monotonic() - oldest
        return [line for came, line in tuple(self._lines) if came >= since]

    def close(self) -> None:
        """End the tool."""
        self._process.terminate()
        try:
            self._process.wait(_GOODBYE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                self._lines.append((time.monotonic(), line.decode(errors="replace").strip()))


def in_order(names: Iterable[str]) -> list[str]:
    """Sorted, `cpu2` before `cpu10`."""

    def key(name: str) -> list[tuple[int, str]]:
        parts = re.findall(r"[0-9]+|[^0-9]+", name)
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    return sorted(names, key=key)


def number(text: str) -> float | None:
    """The number at the start of a text: `35.20 W` is 35.2, `[N/A]` is None."""
    found = re.match(r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?", text.strip())
    return float(found.group()) if found else None
