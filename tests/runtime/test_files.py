"""Files: what is written appears whole or not at all, what is read is a file and not too large."""

from __future__ import annotations

import os
import resource
import stat
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from ifmmin.runtime.errors import CheckpointError, InputError, OutputError
from ifmmin.runtime.files import (
    atomic_directory,
    atomic_file,
    cache_dir,
    limit_bytes,
    read_regular,
    require_writable,
)

Atomic = Callable[[Path], AbstractContextManager[Path]]
KINDS = pytest.mark.parametrize("atomic", [atomic_file, atomic_directory])


def _fill(part: Path, text: str = "new") -> None:
    (part / "inside" if part.is_dir() else part).write_text(text)


@KINDS
@pytest.mark.parametrize("kernel", [True, False])
def test_it_appears_whole_and_replaces(
    atomic: Atomic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    """Directories by a call of the kernel, or without it."""
    if not kernel:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    path = tmp_path / "deep" / "out"
    inside = path / "inside" if atomic is atomic_directory else path
    for text in ("one", "two"):
        with atomic(path) as part:
            _fill(part, text)
            assert not path.exists() or inside.read_text() != text
        assert inside.read_text() == text
    with pytest.raises(KeyboardInterrupt), atomic(path) as part:  # noqa: PT012
        _fill(part, "half")
        raise KeyboardInterrupt
    assert inside.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["out"]


def test_what_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for place, said in ((tmp_path / "file/x", "cannot write"), (tmp_path, "is a directory")):
        with pytest.raises(OutputError, match=said), atomic_file(place):
            raise AssertionError("not reached")
    for write in (atomic_file, atomic_directory, require_writable):
        with pytest.raises(OutputError, match="File name too long"), _opened(write, tmp_path):
            raise AssertionError("not reached")
    monkeypatch.chdir(tmp_path)
    require_writable(Path())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def _opened(write: Callable[[Path], AbstractContextManager[Path] | None], place: Path) -> Any:
    return write(place / ("x" * 300)) or nullcontext()


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "ifmmin"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_dir() == tmp_path / ".cache" / "ifmmin"
    monkeypatch.setenv("IFMMIN_CACHE", str(tmp_path / "named"))
    assert cache_dir() == tmp_path / "named"
    assert cache_dir(tmp_path / "chosen") == tmp_path / "chosen"


@KINDS
def test_a_missing_input_keeps_its_own_name(atomic: Atomic, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input"), atomic(tmp_path / "out"):
        (tmp_path / "no such input").read_text()
    assert list(tmp_path.iterdir()) == []


@KINDS
def test_a_full_disk_is_told_of_the_output(atomic: Atomic, tmp_path: Path) -> None:
    said = r"cannot write .*out: No space"
    with pytest.raises(OutputError, match=said), atomic(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


@KINDS
def test_a_place_inside_the_output_is_the_outputs(atomic: Atomic, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*out"), atomic(tmp_path / "out") as part:
        (part / "no" / "such" / "folder").write_text("x")


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_rights_follow_the_umask_which_nobody_touches(tmp_path: Path, mask: int) -> None:
    """Another thread that creates files meanwhile must find the umask that was set."""
    seen: set[int] = set()
    done = threading.Event()

    def create() -> None:
        for number in range(10_000):
            path = tmp_path / "theirs" / str(number)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
            seen.add(stat.S_IMODE(path.stat().st_mode))
            if done.is_set():
                return

    (tmp_path / "theirs").mkdir()
    before = os.umask(mask)
    try:
        thread = threading.Thread(target=create)
        thread.start()
        for number in range(200):
            with atomic_file(tmp_path / "file") as part:
                part.write_text(str(number))
        with atomic_directory(tmp_path / "folder") as part:
            _fill(part)
        done.set()
        thread.join()
    finally:
        os.umask(before)
    assert seen == {0o666 & ~mask}
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask


def _leftover(path: Path, seconds: float, number: int = 0) -> Path:
    """What a killed process left aside of a path so long ago."""
    part = path.with_name(f".{path.name}.{number:012x}.part")
    if number % 2:
        part.mkdir()
        (part / "inner").touch()
    else:
        part.touch()
    then = time.time() - seconds
    os.utime(part, (then, then))
    return part


@KINDS
@pytest.mark.parametrize("name", ["out", "[out]*?.json"])
def test_leftovers_of_killed_processes_go(atomic: Atomic, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    gone = [_leftover(path, 3600, number) for number in (0, 1)]
    young = _leftover(path, 5, 2)
    of_another = _leftover(tmp_path / "out.json", 3600)
    own = tmp_path / f".{name}.mine.part"
    own.touch()
    with atomic(path):
        pass
    assert not any(part.exists() for part in gone)
    assert all(part.exists() for part in (young, of_another, own))


@KINDS
def test_who_still_writes_keeps_what_lies_aside(atomic: Atomic, tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic(path) as part:
        then = time.time() - 3600
        os.utime(part, (then, then))
        with atomic(path):
            pass
        assert part.exists()
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_room_is_tried_before_long_work(tmp_path: Path) -> None:
    require_writable(tmp_path / "out", 5 << 20)
    assert list(tmp_path.iterdir()) == []
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
    try:
        with pytest.raises(OutputError, match="cannot write"):
            require_writable(tmp_path / "out", 5 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(tmp_path.iterdir()) == []


LIMITS = {"": 1 << 30, "1": 1 << 20, "4096": 1 << 32}


@pytest.mark.parametrize("text", LIMITS)
def test_an_input_may_take_so_much(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFMMIN_INPUT_LIMIT", text)
    assert limit_bytes() == LIMITS[text]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "1" * 40])
def test_limits_that_are_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFMMIN_INPUT_LIMIT", text)
    with pytest.raises(InputError, match="IFMMIN_INPUT_LIMIT: got"):
        limit_bytes()


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    pipe, link, loop = tmp_path / "pipe", tmp_path / "link", tmp_path / "loop"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    loop.symlink_to(loop)
    for path, said in (
        (pipe, "is a pipe"), (link, "is a pipe"), (tmp_path, "is a directory"),
        (Path("/dev/zero"), "is a device"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            read_regular(path, InputError)
    with pytest.raises(OSError, match=r"[Ll]inks|loop"):
        read_regular(loop, InputError)
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match=r"takes 1,048,576 MiB.*IFMMIN_INPUT_LIMIT"):
        read_regular(sparse, CheckpointError)
    with pytest.raises(CheckpointError, match="wanted at most 10"):
        read_regular(sparse, CheckpointError, 10)
