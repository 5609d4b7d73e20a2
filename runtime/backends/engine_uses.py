"""Which kept files are in use, and which may go when they are too many.

A process holds a shared lock on each file that it has loaded, which ends with the process, however
that ends. When a file was used last is its time of modification: reading does not set it, and many
systems do not record times of access.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[\w.-]+-[0-9a-f]{20}\.(engine|timing)")
_PART = re.compile(rf"\.{_NAME.pattern}\.\w+\.part")
"""What a process leaves that is killed while it writes; see `atomic_file`."""
_ABANDONED = 3600
"""Seconds without a write after which nobody writes to such a file any more."""


class Uses:
    """Files that are in use as long as this object lives."""

    def __init__(self) -> None:
        self._held: dict[Path, weakref.finalize[..., Uses]] = {}

    def add(self, path: Path) -> None:
        """A file is used now, and from now on. Where locks cannot be had it may be removed, which
        does no harm to who has read it."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with suppress(OSError):
            os.utime(path)
        before = self._held.pop(path, None)
        self._held[path] = weakref.finalize(self, os.close, descriptor)
        if before is not None:
            before()


@dataclass(frozen=True)
class _File:
    path: Path
    used: float
    """Seconds since the epoch."""
    size: int


def remove_unused(directory: Path, limit: int, magic: bytes) -> None:
    """Remove files until at most `limit` bytes are left, those unused for longest first.

    What any process has in use stays, and so does what does not begin with `magic`: it is not ours.
    What cannot be removed is left.
    """
    _remove_abandoned(directory)
    files = sorted(_files(directory, _NAME), key=lambda file: file.used)
    total = sum(file.size for file in files)
    for file in files:
        if total <= limit:
            return
        if _remove(file.path, magic):
            total -= file.size


def _files(directory: Path, name: re.Pattern[str]) -> Iterator[_File]:
    try:
        found = [path for path in directory.iterdir() if name.fullmatch(path.name)]
    except OSError:
        return
    for path in found:
        with suppress(OSError):  # another process may have removed it
            status = path.lstat()
            yield _File(path, status.st_mtime, status.st_size)


def _remove(path: Path, magic: bytes) -> bool:
    """Whether it is gone. A file that takes its place in this very moment may go with it, and will
    be built anew."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.read(descriptor, len(magic)) != magic:
            return False
        path.unlink()
        return True
    except OSError:  # it is in use
        return False
    finally:
        os.close(descriptor)


def _remove_abandoned(directory: Path) -> None:
    oldest = time.time() - _ABANDONED
    for file in _files(directory, _PART):
        if file.used < oldest:
            with suppress(OSError):
                file.path.unlink()
