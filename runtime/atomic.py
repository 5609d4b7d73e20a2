"""Files and directories that appear whole or not at all, and the root of the cache.

They are written aside, synchronised and renamed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {path}: {reason}; choose a place that can be written")


def _prepare_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


@contextmanager
def _telling(path: Path, part: Path) -> Iterator[None]:
    """Turn errors of writing into OutputError; one that names another file is the caller's own."""
    try:
        yield
    except OSError as error:
        if error.filename is None or _is_within(Path(os.fsdecode(error.filename)), part, path):
            raise _cannot_write(path, error) from error
        raise


def _is_within(path: Path, *places: Path) -> bool:
    return any(path == place or place in path.parents for place in places)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it becomes `path`, on any error it is gone.

    Raises OutputError when the place cannot be written.
    """
    _prepare_parent(path)
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory; choose a file name")
    part = _aside(path)
    try:
        with _telling(path, part):
            # Created by hand: the kernel takes the process's umask off these rights.
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield part
            _fsync(part)
            part.replace(path)
            _fsync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give an empty temporary directory; on success it takes the place of `path`, contents and all.

    A directory that stood at `path` is exchanged in one step and then removed, so a reader finds
    the old one or the new one. Raises OutputError when the place cannot be written.
    """
    path = path.absolute()
    _prepare_parent(path)
    if path.exists() and not path.is_dir():
        raise OutputError(f"cannot write {path}: a file is in the way; choose another name")
    part = _aside(path)
    try:
        with _telling(path, part):
            part.mkdir()
            yield part
            for child in sorted(part.rglob("*")):
                _fsync(child)
            _fsync(part)
            if path.exists():
                _exchange(part, path)
            else:
                part.rename(path)
            _fsync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def require_writable(path: Path) -> None:
    """OutputError unless something can be created beside `path`; before long work, not after it."""
    _prepare_parent(path)
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise _cannot_write(path, error) from error


def cache_dir(chosen: str | Path | None = None) -> Path:
    """Root of what is kept between runs: `chosen`, else $IFMMIN_CACHE, else the user's cache; for a
    user without a home a place where nothing can be kept."""
    if chosen is not None:
        return Path(chosen)
    if named := os.environ.get("IFMMIN_CACHE"):
        return Path(named)
    from platformdirs import user_cache_path  # not for who never looks into it

    try:
        path = user_cache_path("ifmmin", appauthor=False)
    except RuntimeError:  # no HOME, and a user that the system does not know
        path = Path("~")
    return path if path.is_absolute() else Path(os.devnull, "ifmmin")


def _exchange(first: Path, second: Path) -> None:
    """Swap two directories, in one step where the kernel can (Linux), else in two renames."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        renameat2 = None
    if renameat2 is not None:
        status = renameat2(
            _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE
        )
        if status == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code), str(second))
    aside = first.with_name(first.name + ".old")
    second.rename(aside)
    first.rename(second)
    aside.rename(first)
