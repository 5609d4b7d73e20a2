"""Bundles: written whole, joined, refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from ifmmin.export.cli import main
from ifmmin.export.specialise import SpecialisedNetwork, specialise
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.modality import ALL_PATTERNS, Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.checkpoint import save_checkpoint
from ifmmin.train.network import EmotionNetwork


def _export(checkpoint: Path, out: Path, *patterns: str) -> int:
    chosen = [word for pattern in patterns for word in ("--pattern", pattern)]
    return main([str(checkpoint), *chosen, "--out", str(out)])


def test_patterns_join_a_bundle_without_disturbing_it(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert _export(checkpoint, out, "t_a") == 0
    first = (out / "a_t.onnx").read_bytes()
    assert _export(checkpoint, out, "all") == 0
    bundle = Bundle(out)
    assert bundle.patterns == ALL_PATTERNS
    assert (out / "a_t.onnx").read_bytes() == first
    for pattern in ALL_PATTERNS:
        entry = bundle.entry(pattern)
        assert hashlib.sha256(bundle.graph(pattern)).hexdigest() == entry.sha256
        assert entry.parity["max_difference"] < 1e-4
    assert {p.name for p in tmp_path.iterdir()} == {"bundle", "model.safetensors"}


def test_golden_vectors_are_answered(checkpoint: Path, tmp_path: Path) -> None:
    assert _export(checkpoint, tmp_path / "bundle", "all") == 0
    predictor = Predictor(tmp_path / "bundle")
    cases = predictor.bundle.golden()
    assert {case.pattern for case in cases} == set(ALL_PATTERNS)
    for case in cases:
        found = predictor.predict(case.features)
        assert found.pattern == case.pattern
        assert abs(found.logits - case.logits).max() < 1e-4


def test_another_checkpoint_is_not_mixed_in(
    make_network: Any, checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    other, out = tmp_path / "other.safetensors", tmp_path / "bundle"
    save_checkpoint(other, make_network(seed=9), {})
    assert _export(checkpoint, out, "a") == 0
    assert _export(other, out, "v") == 2
    assert "another checkpoint" in capsys.readouterr().err
    assert Bundle(out).patterns == (Pattern.parse("a"),)
    assert main([str(other), "--pattern", "v", "--out", str(out), "--overwrite"]) == 0
    assert Bundle(out).patterns == (Pattern.parse("v"),)


@pytest.mark.parametrize(
    ("pattern", "message"), [("x", "unknown pattern 'x'"), ("a_a", "names a modality twice")]
)
def test_wrong_patterns(
    checkpoint: Path, tmp_path: Path, capsys: Any, pattern: str, message: str
) -> None:
    assert _export(checkpoint, tmp_path / "bundle", pattern) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "bundle").exists()


def test_places_that_are_taken_or_cannot_be_written(
    checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "thesis.tex").touch()
    for out, message in (
        (tmp_path / "docs", "in use by something that is no bundle"),
        (checkpoint, "a file is in the way"),
        (checkpoint / "bundle", "cannot write"),
    ):
        assert _export(checkpoint, out, "a") == 2
        assert message in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "docs").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("where", ["to_onnx", "_write"])
def test_an_interrupted_export_leaves_what_was_there(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    out = tmp_path / "bundle"
    assert _export(checkpoint, out, "a") == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def interrupt(folder: Any, *_: object, **__: object) -> None:
        if isinstance(folder, Path):
            (folder / "half.onnx").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(f"ifmmin.export.writer.{where}", interrupt)
    assert _export(checkpoint, out, "all") == 130
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert {p.name for p in tmp_path.iterdir()} == {"bundle", "model.safetensors"}


def test_a_graph_that_differs_is_never_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def nudged(network: EmotionNetwork, pattern: Pattern) -> SpecialisedNetwork:
        made = specialise(network, pattern)
        with torch.no_grad():
            made.get_parameter("head.classifier.linears.1.weight").mul_(1.01)
        return made

    monkeypatch.setattr("ifmmin.export.writer.specialise", nudged)
    assert _export(checkpoint, tmp_path / "bundle", "a", "a_v_t") == 2
    assert "does not say what the network says" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
