"""A head that stands in a bundle was proven with the step and summary that stand beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ifmmin.export.cli import main
from ifmmin.runtime.bundle import Bundle

LOOSE = ("--allow-loss", "agreement=0.5", "--allow-loss", "probabilities=0.9")
"""So much that another part of the summary of a computes in 8 bits."""


@pytest.fixture
def words(checkpoint: Path, tmp_path: Path) -> list[str]:
    """Exports int8 stream graphs; the head of a stands already."""
    words = [str(checkpoint), "--precision", "int8", "--shape", "stream",
             "--out", str(tmp_path / "bundle")]  # fmt: skip
    assert main([*words, "--pattern", "a", *LOOSE[:2]]) == 0
    return words


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_a_head_was_proven_with_stays(words: list[str], tmp_path: Path, capsys: Any) -> None:
    before = _contents(tmp_path / "bundle")
    assert main([*words, "--pattern", "a_t", *LOOSE]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the int8 stream graphs of a would change under the heads of a at" in error
    assert "--pattern a, " in error
    assert _contents(tmp_path / "bundle") == before


def test_heads_that_are_made_anew_may_change(words: list[str], tmp_path: Path) -> None:
    before = _contents(tmp_path / "bundle")
    assert main([*words, "--pattern", "a_t", "--pattern", "a", *LOOSE]) == 0
    after = _contents(tmp_path / "bundle")
    assert after["a.summary.int8.onnx"] != before["a.summary.int8.onnx"]


@pytest.mark.parametrize("pattern", ["v", "a"])
def test_what_changes_under_no_head_joins(words: list[str], tmp_path: Path, pattern: str) -> None:
    """Another modality, or the same graphs again."""
    losses = LOOSE if pattern == "v" else LOOSE[:2]
    before = _contents(tmp_path / "bundle")
    assert main([*words, "--pattern", pattern, *losses]) == 0
    after = _contents(tmp_path / "bundle")
    assert {n: after[n] for n in before if n.startswith("a.")} == {
        n: content for n, content in before.items() if n.startswith("a.")
    }


def test_other_precisions_join(words: list[str], tmp_path: Path) -> None:
    words[words.index("int8")] = "fp32"
    assert main([*words, "--pattern", "a_t"]) == 0
    heads = Bundle(tmp_path / "bundle").manifest.graphs
    assert [(e.subject, e.precision) for e in heads if e.shape == "head"] == [
        ("a", "int8"), ("a_t", "fp32"),
    ]  # fmt: skip
