"""Probes of a machine: files, tools, packages, and questions asked in a process of their own."""

from __future__ import annotations

import glob
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

_LARGEST = 64 << 20
"""Bytes that are read of a file; what is asked for is far smaller."""
_PATIENCE = 5.0
"""Seconds that a tool may take; a driver that hangs must not take this command with it."""
UNREADABLE = "unreadable"
"""Version of a package that is there and does not say which it is."""
_TOOL_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""ldconfig lies where an ordinary user's PATH does not lead."""


class Host:
    """This machine. No method raises; what is not there is empty."""

    environ: Mapping[str, str] = os.environ

    def content(self, path: str) -> bytes:
        """The bytes of a file."""
        try:
            with Path(path).open("rb") as file:
                return file.read(_LARGEST)
        except (OSError, ValueError):
            return b""

    def text(self, path: str) -> str:
        """The text of a file."""
        return self.content(path).decode(errors="replace")

    def find(self, pattern: str) -> list[str]:
        """The paths that fit a pattern of the shell."""
        try:
            return sorted(glob.glob(pattern))  # noqa: PTH207 - an absolute pattern
        except (OSError, ValueError):
            return []

    def resolve(self, path: str) -> str:
        """The file at the end of the links."""
        try:
            return str(Path(path).resolve())
        except (OSError, RuntimeError, ValueError):
            return path

    def run(self, *command: str) -> str:
        """What a tool prints; empty where there is no such tool, or it fails."""
        places = os.pathsep.join([self.environ.get("PATH", os.defpath), *_TOOL_FOLDERS])
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_PATIENCE,
                env={**self.environ, "PATH": places, "LC_ALL": "C"},
                check=True,
            )
        except (OSError, ValueError, subprocess.SubprocessError):
            return ""
        return done.stdout.decode(errors="replace")

    def package(self, name: str) -> tuple[str, tuple[str, ...]] | None:
        """Version and wheel tags of an installed package; a broken one is there all the same."""
        try:
            found = metadata.distribution(name)
            lines = (found.read_text("WHEEL") or "").splitlines()
            version = str(found.version or "")
        except metadata.PackageNotFoundError:
            return None
        # A broken installation may raise anything: a missing file, no name in it, a bad encoding.
        except Exception:
            return UNREADABLE, ()
        tags = [line.partition(":")[2].strip() for line in lines if line.startswith("Tag:")]
        return version, tuple(tags)

    def site_folders(self) -> list[str]:
        """Where this Python's packages lie."""
        paths = sysconfig.get_paths()
        return list(dict.fromkeys(paths[key] for key in ("purelib", "platlib") if key in paths))


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
