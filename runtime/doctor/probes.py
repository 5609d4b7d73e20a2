"""Probes of a machine: files, tools, packages, and questions asked in a process of their own."""

from __future__ import annotations

import glob
import json
import os
import re
import select
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import InputError, one_line
from ..files import open_regular

_LARGEST = 64 << 20
"""Bytes that are read of a file; what is asked for is far smaller."""
TOOL_SECONDS = 5.0
"""Seconds that a tool may take; a driver that hangs must not take this command with it."""
UNREADABLE = "unreadable"
"""Begins the version of a package that does not say which it is; the reason follows."""
_TOOL_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""ldconfig lies where an ordinary user's PATH does not lead."""


def run_for(
    patience: float | None, command: Sequence[str], env: Mapping[str, str] | None = None
) -> tuple[bytes, int | None]:
    """What a process prints, and its exit code: None where it was given up, which takes longer than
    `patience` seconds or prints without end. One that hangs in a driver cannot be killed, and is
    not waited for. Raises OSError and ValueError where it does not start."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=env,
    )  # fmt: skip
    assert process.stdout
    ends = None if patience is None else time.monotonic() + patience
    output = bytearray()
    try:
        while len(output) < _LARGEST:
            left = None if ends is None else max(0.0, ends - time.monotonic())
            if not select.select([process.stdout], [], [], left)[0]:
                return bytes(output), None
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                left = None if ends is None else max(0.0, ends - time.monotonic())
                return bytes(output), process.wait(left)
            output += piece
        return b"", None
    except subprocess.TimeoutExpired:
        return bytes(output), None
    finally:
        process.stdout.close()
        process.kill()
        # Else Python would complain that it still runs; it may, where nothing can end it.
        process.returncode = process.poll() or 0


def is_frozen() -> bool:
    """Whether no Python can be started, but this program: it was made by PyInstaller or the like,
    or it has Python built in."""
    return bool(getattr(sys, "frozen", False)) or not sys.executable


class Host:
    """This machine. No method raises; what is not there is empty."""

    environ: Mapping[str, str] = os.environ

    def content(self, path: str) -> bytes:
        """The bytes of a file."""
        try:
            with open_regular(Path(path), InputError, sys.maxsize) as file:
                return file.read(_LARGEST)
        except (OSError, ValueError, InputError):
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
            output, code = run_for(
                TOOL_SECONDS, command, env={**self.environ, "PATH": places, "LC_ALL": "C"}
            )
        except (OSError, ValueError):
            return ""
        return output.decode(errors="replace") if code == 0 else ""

    def package(self, name: str) -> tuple[str, tuple[str, ...]] | None:
        """Version and wheel tags of an installed package; a broken one is there all the same."""
        try:
            found = metadata.distribution(name)
            lines = (found.read_text("WHEEL") or "").splitlines()
            version = str(found.version or "")
        except metadata.PackageNotFoundError:
            return None
        # A broken installation may raise anything: a missing file, no name in it, a bad encoding.
        except Exception as error:
            return f"{UNREADABLE}: {one_line(error)}", ()
        tags = [line.partition(":")[2].strip() for line in lines if line.startswith("Tag:")]
        return version, tuple(tags)

    def owners(self, folder: str) -> tuple[str, ...]:
        """Names of the packages whose files lie in a folder that is imported, say `onnxruntime`: of
        all on the path, those that were installed to the place that an import takes."""
        found: dict[str, list[str]] = {}
        for package in metadata.distributions():
            try:
                files = f"\n{package.read_text('RECORD') or package.read_text('top_level.txt')}\n"
                if f"\n{folder}/" in files or f"\n{folder}\n" in files:
                    name = re.sub(r"[-_.]+", "-", str(package.metadata["Name"])).lower()
                    found.setdefault(str(package.locate_file("")), []).append(name)
            # A broken installation may raise anything, and owns nothing that can be told; `package`
            # says of it by name what is wrong.
            except Exception:
                continue
        places = [place for place in sys.path if (Path(place) / folder).is_dir()]
        here = next((names for place, names in found.items() if _same(place, places[:1])), [])
        return tuple(dict.fromkeys(here))

    def site_folders(self) -> list[str]:
        """Where this Python's packages lie."""
        paths = sysconfig.get_paths()
        return list(dict.fromkeys(paths[key] for key in ("purelib", "platlib") if key in paths))


def _same(place: str, places: Sequence[str]) -> bool:
    return any(os.path.realpath(place) == os.path.realpath(other) for other in places)


Answers = dict[str, dict[str, Any]]
"""Per question what was found, or `error` with the reason in one line."""

PATIENCE = 60.0
"""Seconds for all questions at once: the first import on a Jetson reads a gigabyte."""
FROZEN = "not asked: there is no Python here but in this program, which would start again"
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
    if is_frozen():
        return {question: {"error": FROZEN} for question in questions}
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
        output, code = run_for(patience, command)
    except (OSError, ValueError) as error:
        return {}, f"no process could be started: {error}"
    end = f"it gave no answer within {patience or 0:.0f} s" if code is None else _end(code)
    return _read(output), end


def _read(output: bytes) -> Answers:
    """Lines of JSON; the last may have been cut off."""
    found: Answers = {}
    for line in output.decode(errors="replace").splitlines():
        try:
            name, answer = json.loads(line)
        except (ValueError, TypeError, RecursionError):
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
