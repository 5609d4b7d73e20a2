"""Bundles: written whole, joined, refused; heads stand beside what they were proven with."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from run_command import call, mistake
from small_networks import small_network

from ifmmin.export.bundle_cli import main as bundle_main
from ifmmin.export.cli import choose_shapes, main
from ifmmin.runtime.bundle import BACKENDS, SHAPES, Bundle
from ifmmin.runtime.errors import BundleError
from ifmmin.runtime.modality import ALL_PATTERNS, Pattern
from ifmmin.train.checkpoint import save_checkpoint

LOOSE = ("--allow-loss", "probabilities=0.3", "--allow-loss", "agreement=0.7")
"""These tiny networks have large weights."""


def _words(checkpoint: Path, out: Path, *patterns: str, more: tuple[str, ...] = ()) -> list[str]:
    chosen = [word for pattern in patterns for word in ("--pattern", pattern)]
    return [str(checkpoint), *chosen, "--out", str(out), *more]


def _export(*told: Any, more: tuple[str, ...] = ()) -> None:
    assert main(_words(*told, more=more)) == 0


def _refusal(*told: Any, more: tuple[str, ...] = ()) -> str:
    return mistake(main, *_words(*told, more=more))


def _contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_patterns_join_a_bundle_without_disturbing_it(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    _export(checkpoint, out, "t_a")
    first = _contents(out)
    assert {entry.shape for entry in Bundle(out).manifest.graphs} == set(SHAPES) - {"throughput"}
    _export(checkpoint, out, "all", more=("--shape", "throughput"))
    bundle = Bundle(out)
    assert bundle.patterns == ALL_PATTERNS
    then = _contents(out)
    for name, content in first.items():
        if name.endswith((".onnx", ".safetensors")):
            assert then[name] == content
    for shape in SHAPES:
        subjects = "avt" if shape in ("step", "summary") else ALL_PATTERNS
        for subject in subjects:
            (entry,) = bundle.find(shape, subject)  # type: ignore[arg-type]
            assert hashlib.sha256(bundle.graph(entry)).hexdigest() == entry.sha256
            assert entry.parity.get("max_difference", 0.0) < 1e-4
    assert {p.name for p in tmp_path.iterdir()} == {"bundle", "model.safetensors"}


def test_precisions_join_a_bundle_without_disturbing_it(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    _export(checkpoint, out, "a_t")
    first = {name: c for name, c in _contents(out).items() if name.endswith(".onnx")}
    for precision in ("fp16", "int8", "int8-qdq"):
        _export(checkpoint, out, "a_t", more=("--precision", precision, *LOOSE))
    bundle = Bundle(out)
    then = _contents(out)
    assert {name: then[name] for name in first} == first
    pattern = Pattern.parse("a_t")
    assert [bundle.find("latency", pattern, p)[0].recurrence for p in ("fp32", "fp16")] == [
        "lstm", "scan",
    ]  # fmt: skip
    assert bundle.find("head", pattern, "int8")
    assert not bundle.find("head", pattern, "int8-qdq")
    assert bundle.find("latency", pattern, "int8")[0].quantised
    assert bundle.manifest.backends == BACKENDS
    assert bundle.entry(pattern, "fp16", backend="tensorrt").recurrence == "scan"
    with pytest.raises(BundleError, match="no fp16 latency graph of a_t for onnxruntime-cpu"):
        bundle.entry(pattern, "fp16")


def test_two_exports_give_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    more = ("--precision", "fp32", "--precision", "fp16", "--precision", "int8", *LOOSE)
    for name in ("one", "two"):
        _export(checkpoint, tmp_path / name, "a_t", more=more)
    assert _contents(tmp_path / "one") == _contents(tmp_path / "two")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", "latency stream"),
        ("throughput", "latency stream throughput"),
        ("latency", "latency"),
        ("stream stream", "stream"),
        ("throughput latency", "latency throughput"),
        ("stream throughput", "stream throughput"),
        ("stream latency throughput", "latency stream throughput"),
    ],
)
def test_throughput_adds_to_shapes_and_others_restrict_them(given: str, wanted: str) -> None:
    assert sorted(choose_shapes(given.split())) == wanted.split()


def test_shapes_that_are_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    more = ("--shape", "stream", "--shape", "throughput", "--licence", "CC-BY-4.0")
    _export(checkpoint, tmp_path / "bundle", "v", more=more)
    bundle = Bundle(tmp_path / "bundle")
    assert [e.shape for e in bundle.manifest.graphs] == ["throughput", "step", "summary", "head"]
    assert bundle.manifest.licence == "CC-BY-4.0"
    with pytest.raises(BundleError, match=r"no fp32 latency graph of v .* it has none"):
        bundle.entry(Pattern.parse("v"))


def test_without_throughput_graphs_the_cure_is_told(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    _export(checkpoint, out, "v")
    with pytest.raises(BundleError, match=r"--pattern v --shape throughput$"):
        Bundle(out).entry(Pattern.parse("v"), shape="throughput")
    assert call(bundle_main, "verify", "-b", out).code == 0
    assert re.search(
        "batches .*--shape throughput adds", call(bundle_main, "inspect", "-b", out).out
    )
    assert "throughput" not in (out / "README.md").read_text()
    _export(checkpoint, out, "v", more=("--shape", "throughput"))
    assert "--shape throughput" not in call(bundle_main, "inspect", "-b", out).out


@pytest.mark.parametrize(
    ("pattern", "more", "message"),
    [
        ("x", (), "unknown pattern 'x'"),
        ("a_a", (), "names a modality twice"),
        ("a", ("--precision", "int8-qdq", "--shape", "stream"), "has no graphs for streams"),
        ("a", ("--fold", "1"), "--fold is of a corpus; say what for by --evaluate"),
        ("a", ("--features", "1"), "--features is of a corpus"),
        ("a", ("--targets", "1"), "--targets is of a corpus"),
        ("a", ("--evaluate",), "does not say how its corpus is laid out"),
    ],
)
def test_what_cannot_be_meant(
    checkpoint: Path, tmp_path: Path, pattern: str, more: tuple[str, ...], message: str
) -> None:
    assert message in _refusal(checkpoint, tmp_path / "bundle", pattern, more=more)
    assert not (tmp_path / "bundle").exists()


def test_another_checkpoint_is_not_mixed_in(checkpoint: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other.safetensors", tmp_path / "bundle"
    save_checkpoint(other, small_network(seed=9), {})
    _export(checkpoint, out, "a")
    assert "another checkpoint" in _refusal(other, out, "v")
    assert Bundle(out).patterns == (Pattern.parse("a"),)
    _export(other, out, "v", more=("--overwrite",))
    assert Bundle(out).patterns == (Pattern.parse("v"),)


def test_the_linear_model_has_no_graphs(tmp_path: Path) -> None:
    path, out = tmp_path / "linear.safetensors", tmp_path / "bundle"
    save_checkpoint(path, small_network("linear"), {})
    error = _refusal(path, out, "all")
    assert f"{path} holds the model linear" in error
    assert "give a checkpoint of a network" in error
    assert not out.exists()


def test_places_that_are_taken_or_cannot_be_written(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "thesis.tex").touch()
    for out, message in (
        (tmp_path / "docs", "in use by something that is no bundle"),
        (checkpoint, "a file is in the way"),
        (checkpoint / "bundle", "cannot write"),
    ):
        assert message in _refusal(checkpoint, out, "a")
    assert [p.name for p in (tmp_path / "docs").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("where", ["export.to_model", "writer.model_card"])
def test_an_interrupted_export_leaves_what_was_there(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    out = tmp_path / "bundle"
    _export(checkpoint, out, "a")
    before = _contents(out)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"ifmmin.export.{where}", interrupt)
    assert main(_words(checkpoint, out, "all")) == 130
    assert _contents(out) == before
    assert {p.name for p in tmp_path.iterdir()} == {"bundle", "model.safetensors"}


LOOSER = ("--allow-loss", "agreement=0.5", "--allow-loss", "probabilities=0.9")
"""So much that another part of the summary of a computes in 8 bits."""


@pytest.fixture
def words(checkpoint: Path, tmp_path: Path) -> list[str]:
    """Exports int8 stream graphs; the head of a stands already."""
    words = [str(checkpoint), "--precision", "int8", "--shape", "stream",
             "--out", str(tmp_path / "bundle")]  # fmt: skip
    assert main([*words, "--pattern", "a", *LOOSER[:2]]) == 0
    return words


def test_what_a_head_was_proven_with_stays(words: list[str], tmp_path: Path) -> None:
    before = _contents(tmp_path / "bundle")
    error = mistake(main, *words, "--pattern", "a_t", *LOOSER)
    assert "the int8 stream graphs of a would change under the heads of a at" in error
    assert "--pattern a, " in error
    assert _contents(tmp_path / "bundle") == before
    # Heads that are made anew may change.
    assert main([*words, "--pattern", "a_t", "--pattern", "a", *LOOSER]) == 0
    after = _contents(tmp_path / "bundle")
    assert after["a.summary.int8.onnx"] != before["a.summary.int8.onnx"]


@pytest.mark.parametrize("pattern", ["v", "a"])
def test_what_changes_under_no_head_joins(words: list[str], tmp_path: Path, pattern: str) -> None:
    """Another modality, or the same graphs again."""
    losses = LOOSER if pattern == "v" else LOOSER[:2]
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
