"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from ifmmin.runtime.atomic import atomic_directory, atomic_file, cache_dir
from ifmmin.runtime.errors import OutputError

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


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, said in ((tmp_path / "file/x", "cannot write"), (tmp_path, "is a directory")):
        with pytest.raises(OutputError, match=said), atomic_file(place):
            raise AssertionError("not reached")


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
