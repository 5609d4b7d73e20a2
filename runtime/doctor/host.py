"""The one door to the machine: files, tools and packages, each of which may be absent."""

from __future__ import annotations

import glob
import os
import subprocess
import sysconfig
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

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
