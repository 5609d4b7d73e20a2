"""Files: read only where they are files and not too large, written whole or not at all.

A pipe would wait for ever, and what a file says of its size may be a lie. What is written appears
by a rename, once all of it is on the disk; what a killed process left aside, the next one removes.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import msgspec
import numpy as np

from .errors import IfmminError, InputError, OutputError, one_line

JSON_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a decoder raises of text that is no JSON, is another, or is nested without end."""

LIMIT_VARIABLE = "IFMMIN_INPUT_LIMIT"
_LIMIT_MIB = 1024
LINE_SHARE = 16
"""Bytes of numbers in memory for one of JSON."""
_MANY_MIB = 1 << 20


def limit_bytes() -> int:
    """Bytes that one input may take in memory: 1 GiB, or $IFMMIN_INPUT_LIMIT in MiB."""
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        limit = int(text) if text else _LIMIT_MIB
    except ValueError:
        limit = 0
    if not 1 <= limit <= _MANY_MIB:
        raise InputError(f"{LIMIT_VARIABLE}: got {text!r}, wanted a whole number of MiB from 1")
    return limit << 20


def line_limit_bytes() -> int:
    """Bytes of one line of JSON, whose numbers take some times as much: a share of the limit."""
    return limit_bytes() // LINE_SHARE


def require_size(size: int, what: object, error: type[IfmminError]) -> None:
    """`error` where something of so many bytes is more than one input may take."""
    if size > limit_bytes():
        raise error(
            f"{what} takes {mib(size)}, more than the {mib(limit_bytes())} allowed; {RAISE}"
        )


RAISE = f"where it is meant to be so large, allow more by {LIMIT_VARIABLE} (in MiB)"


def mib(size: int) -> str:
    """Bytes for people."""
    return f"{size / (1 << 20):,.0f} MiB"


def open_regular(path: Path, error: type[IfmminError], most: int | None = None) -> BinaryIO:
    """Open a file for reading; `error` for a pipe, a device, a directory or one that is too large.

    most: bytes that it may have; by default what one input may take. A file that is absent or not
    to be read raises OSError, which callers tell in their own words.
    """
    # Without O_NONBLOCK the opening of a pipe would wait for who writes into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise error(f"{path} is {_kind(found.st_mode)}, wanted a file")
        if most is None:
            require_size(found.st_size, path, error)
        elif found.st_size > most:
            raise error(f"{path} has {found.st_size:,} bytes, wanted at most {most:,}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, error: type[IfmminError], most: int | None = None) -> bytes:
    """The content of a file, as `open_regular` opens it."""
    with open_regular(path, error, most) as file:
        return file.read()


def npy_header(
    file: IO[bytes], error: type[IfmminError]
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of an array in the .npy format that begins here.

    `error` where it is none of plain numbers or text; nothing of the array is read.
    """
    try:
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(file)]
        shape, by_columns, dtype = read(file)
    # A header is an expression of Python: whatever its parser raises of what is none.
    except Exception as reason:
        raise error(f"its .npy header cannot be read ({one_line(reason)})") from reason
    if dtype.hasobject or min(shape, default=0) < 0:
        raise error(f"got an array {shape} of {dtype}, wanted plain numbers")
    return shape, by_columns, dtype


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


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
        path.exists()  # raises where a name is too long, or a folder closed
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
    return path.parent / f".{path.name}.{os.urandom(6).hex()}.part"


_YOUNG_SECONDS = 60.0
"""A file aside that is younger may not be locked yet."""


def _sweep(path: Path) -> None:
    """Remove what killed processes left aside of `path`; who still writes holds a lock."""
    with suppress(OSError):
        for part in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 12}.part"):
            if time.time() - part.stat().st_mtime > _YOUNG_SECONDS and (held := _locked(part)):
                shutil.rmtree(part) if part.is_dir() else part.unlink()
                os.close(held)


def _locked(part: Path) -> int | None:
    """A descriptor that holds the lock of a file aside; None where another process does."""
    import fcntl  # of POSIX alone

    descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it becomes `path`, on any error it is gone.

    Raises OutputError when the place cannot be written.
    """
    _prepare_parent(path)
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory; choose a file name")
    _sweep(path)
    part, held = _aside(path), None
    try:
        with _telling(path, part):
            # Created by hand: the kernel takes the process's umask off these rights.
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            held = _locked(part)
            yield part
            _fsync(part)
            part.replace(path)
            _fsync(path.parent)
    finally:
        with suppress(OSError):
            part.unlink()
        if held is not None:
            os.close(held)


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
    _sweep(path)
    part, held = _aside(path), None
    try:
        with _telling(path, part):
            part.mkdir()
            held = _locked(part)
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
        if held is not None:
            os.close(held)


def require_writable(path: Path, size: int = 1) -> None:
    """OutputError unless `size` bytes can be written beside `path`; before long work, not after it.

    They are written and taken back at once.
    """
    _prepare_parent(path)
    part, written = _aside(path), 0
    try:
        with part.open("xb") as file:
            while written < size:
                written += file.write(b"\1" * min(size - written, _CHUNK_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink()


_CHUNK_BYTES = 1 << 20


def require_writable_file(path: Path) -> None:
    """OutputError unless a file can be written at `path`."""
    require_writable(path)
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory; choose a file name")


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


def keep_fonts_in_cache() -> None:
    """Let Matplotlib, before it is imported, keep what it knows of fonts in our cache."""
    os.environ.setdefault("MPLCONFIGDIR", str(cache_dir() / "matplotlib"))


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


def read_hashed(
    path: Path, sha256: str, size: int | None, error: type[IfmminError], most: int
) -> bytes:
    """The content of a file that is what a manifest says; `error` in one line where it is not."""
    try:
        with open_regular(path, error, most) as file:
            found_size = os.fstat(file.fileno()).st_size
            if size is not None and found_size != size:
                raise error(
                    f"{path} is damaged: it has {found_size} bytes, the manifest says {size}; "
                    "copy or export the bundle again"
                )
            content = file.read()
    except OSError as problem:
        raise error(
            f"{path} cannot be read ({problem.strerror}); export the bundle again"
        ) from problem
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise error(
            f"{path} is damaged: its sha256 is {found[:12]}..., the manifest says "
            f"{sha256[:12]}...; copy or export the bundle again"
        )
    return content
