"""Files that others give: opened only where they are files, read only where they are not too large.

A pipe would wait for ever, a device has no end, and what a file says of its size may be a lie.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

import msgspec

from .errors import IfmminError, InputError

JSON_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a decoder raises of text that is no JSON, is another, or is nested without end."""

LIMIT_VARIABLE = "IFMMIN_INPUT_LIMIT"
_LIMIT_MIB = 1024
_LINE_SHARE = 16
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
    return limit_bytes() // _LINE_SHARE


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


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
