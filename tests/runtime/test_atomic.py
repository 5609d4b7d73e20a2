"""Whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from ifmmin.runtime import atomic
from ifmmin.runtime.errors import OutputError


def test_a_file_appears_whole_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    for text in ("one", "two"):
        with atomic.atomic_file(path) as part:
            part.write_text(text)
            assert not path.exists() or path.read_text() != text
        assert path.read_text() == text
    with pytest.raises(KeyboardInterrupt), atomic.atomic_file(path) as part:  # noqa: PT012
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("kernel", [True, False])
def test_a_directory_is_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    if not kernel:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    path = tmp_path / "folder"
    for text in ("one", "two"):
        with atomic.atomic_directory(path) as part:
            (part / text).write_text(text)
        assert [p.name for p in path.iterdir()] == [text]
    with pytest.raises(KeyboardInterrupt), atomic.atomic_directory(path) as part:  # noqa: PT012
        (part / "half").touch()
        raise KeyboardInterrupt
    assert [p.name for p in path.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"), atomic.atomic_file(tmp_path / "file/x"):
        raise AssertionError("not reached")
    with pytest.raises(OutputError, match="is a directory"), atomic.atomic_file(tmp_path):
        raise AssertionError("not reached")
