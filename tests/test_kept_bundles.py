"""Bundles kept for an interpreter without torch: the newest is given, and none is never a pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_bundles import VARIABLE, keep, kept


def _bundle(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "manifest.json").write_text(content)
    return folder


def test_the_last_one_kept_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kept"))
    for content in ("first", "second"):
        keep(_bundle(tmp_path / content, content), "a.fp32")
    assert (kept("a.fp32") / "manifest.json").read_text() == "second"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["a.fp32"]


def test_one_that_was_not_kept_fails_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match=r"has no bundle a\.fp32; run make test-run"):
        kept("a.fp32")


def test_without_a_folder_the_test_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    keep(_bundle(tmp_path / "made", ""), "a.fp32")
    with pytest.raises(pytest.skip.Exception, match="names no folder"):
        kept("a.fp32")
