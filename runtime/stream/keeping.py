"""A session that outlives its process, in a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ifmmin.runtime.atomic import atomic_file, require_writable
from ifmmin.runtime.errors import InputError, OutputError
from ifmmin.runtime.json_lines import readable
from ifmmin.runtime.stream.stream import Stream


def require_place(path: Path) -> None:
    """OutputError where a snapshot could not be written; before a session, not after it."""
    require_writable(path)
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory; choose a file name")


@contextmanager
def kept(stream: Stream, path: Path) -> Iterator[None]:
    """Go on from the snapshot at `path` where there is one, and write one there at the end.

    The end is also Ctrl-C, the request to end, or that nobody reads the answers any more: a stream
    is whole between events. After any other error what stood at `path` is untouched. Raises
    InputError where it is no snapshot of such a stream.
    """
    if path.exists():
        with readable(path):
            content = path.read_bytes()
        try:
            stream.resume(content)
        except InputError as error:
            raise InputError(f"{path}: {error}; or name another file to begin anew") from error
    try:
        yield
    except (KeyboardInterrupt, SystemExit, BrokenPipeError):
        _write(stream, path)
        raise
    _write(stream, path)


def _write(stream: Stream, path: Path) -> None:
    content = stream.snapshot()
    with atomic_file(path) as part:
        part.write_bytes(content)
