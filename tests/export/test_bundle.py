"""Bundles: written whole, joined, refused; heads stand beside what they were proven with."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from small_networks import small_network

from ifmmin.export.bundle_cli import main as bundle_main
from ifmmin.export.cli import choose_shapes, main
from ifmmin.runtime.bundle import BACKENDS, SHAPES, Bundle
from ifmmin.runtime.errors import BundleError
from ifmmin.runtime.modality import ALL_PATTERNS, Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.checkpoint import save_checkpoint
from ifmmin.train.data import load_corpus
from ifmmin.train.recipe import load_recipe
from ifmmin.train.trainer import fit

LOOSE = ("--allow-loss", "probabilities=0.3", "--allow-loss", "agreement=0.7")
"""These tiny networks have large weights."""


def _export(checkpoint: Path, out: Path, *patterns: str, more: tuple[str, ...] = ()) -> int:
    chosen = [word for pattern in patterns for word in ("--pattern", pattern)]
    return main([str(checkpoint), *chosen, "--out", str(out), *more])


def _contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_patterns_join_a_bundle_without_disturbing_it(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert _export(checkpoint, out, "t_a") == 0
    first = _contents(out)
    assert {entry.shape for entry in Bundle(out).manifest.graphs} == set(SHAPES) - {"throughput"}
    assert _export(checkpoint, out, "all", more=("--shape", "throughput")) == 0
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
    assert _export(checkpoint, out, "a_t") == 0
    first = {name: c for name, c in _contents(out).items() if name.endswith(".onnx")}
    for precision in ("fp16", "int8", "int8-qdq"):
        assert _export(checkpoint, out, "a_t", more=("--precision", precision, *LOOSE)) == 0
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
        assert _export(checkpoint, tmp_path / name, "a_t", more=more) == 0
    assert _contents(tmp_path / "one") == _contents(tmp_path / "two")


def test_what_a_graph_says_of_itself(checkpoint: Path, tmp_path: Path) -> None:
    assert _export(checkpoint, tmp_path / "bundle", "a_t") == 0
    bundle = Bundle(tmp_path / "bundle")
    for entry in bundle.manifest.graphs:
        model = onnx.load_from_string(bundle.graph(entry))
        about = {p.key: p.value for p in model.metadata_props}
        assert about["name"] == f"ifmmin {entry.subject} {entry.shape} fp32"
        assert about["shape"] == entry.shape
        assert about["recurrence"] == entry.recurrence
        assert about["subject"] == entry.subject
        assert about["precision"] == entry.precision
        assert about["labels"] == "angry,happy,neutral,sad"
        assert about["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        assert about["features_a"] == "unspecified"
        assert ("pattern" in about) == (entry.pattern is not None)
        names = [value.name for value in model.graph.input]
        assert names == [spec.name for spec in entry.inputs]
        assert [v.name for v in model.graph.output] == [spec.name for spec in entry.outputs]
        assert not any(t.external_data for t in model.graph.initializer)


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
def test_throughput_adds_to_the_shapes_and_the_others_restrict_them(
    given: str, wanted: str
) -> None:
    assert sorted(choose_shapes(given.split())) == wanted.split()


def test_shapes_that_are_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    more = ("--shape", "stream", "--shape", "throughput", "--licence", "CC-BY-4.0")
    assert _export(checkpoint, tmp_path / "bundle", "v", more=more) == 0
    bundle = Bundle(tmp_path / "bundle")
    assert [e.shape for e in bundle.manifest.graphs] == ["throughput", "step", "summary", "head"]
    assert bundle.manifest.licence == "CC-BY-4.0"
    with pytest.raises(BundleError, match=r"no fp32 latency graph of v .* it has none"):
        bundle.entry(Pattern.parse("v"))


def test_a_request_of_nothing_is_refused(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    more = ("--precision", "int8-qdq", "--shape", "stream")
    assert _export(checkpoint, tmp_path / "bundle", "a", more=more) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "int8-qdq has no graphs for streams" in text
    assert not (tmp_path / "bundle").exists()


def test_without_throughput_graphs_the_cure_is_told(
    checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "bundle"
    assert _export(checkpoint, out, "v") == 0
    with pytest.raises(BundleError, match=r"--pattern v --shape throughput$"):
        Bundle(out).entry(Pattern.parse("v"), shape="throughput")
    capsys.readouterr()
    assert bundle_main(["verify", "-b", str(out)]) == 0
    assert bundle_main(["inspect", "-b", str(out)]) == 0
    assert re.search("batches .*--shape throughput adds", capsys.readouterr().out)
    assert "throughput" not in (out / "README.md").read_text()
    assert _export(checkpoint, out, "v", more=("--shape", "throughput")) == 0
    capsys.readouterr()
    assert bundle_main(["inspect", "-b", str(out)]) == 0
    assert "--shape throughput" not in capsys.readouterr().out


def test_graphs_are_measured_on_a_corpus(tmp_path: Path) -> None:
    recipe = load_recipe("synthetic", ["corpus.train=60", "corpus.test=48", "stage1.epochs=1",
        "stage1.decay_epochs=0", "stage2.epochs=1", "stage2.decay_epochs=0",
        "network.embedding=16", "network.text_channels=8", "network.blocks=2",
        "network.block_sizes=[24,16,8]"])  # fmt: skip
    corpus = load_corpus(recipe.corpus, fold=1)
    fit(recipe, corpus, fold=1, seed=0, out=tmp_path / "run")
    words = ("--evaluate", "--shape", "throughput")
    checkpoint = tmp_path / "run" / "model.safetensors"
    assert _export(checkpoint, tmp_path / "bundle", "a_v", more=words) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["a_v"]
    evaluated = [e for e in Bundle(tmp_path / "bundle").manifest.graphs if e.evaluation is not None]
    assert [entry.shape for entry in evaluated] == ["latency", "throughput", "head"]
    for entry in evaluated:
        assert entry.evaluation is not None
        for figure in ("wa", "ua", "ece"):
            assert entry.evaluation[figure] == pytest.approx(metrics[figure], abs=1e-4)
            assert entry.evaluation[f"network_{figure}"] == pytest.approx(metrics[figure], abs=1e-4)
        assert (entry.evaluation["utterances"], entry.evaluation["fold"]) == (48, 1)


@pytest.mark.parametrize("word", ["--fold", "--features", "--targets"])
def test_a_corpus_for_nothing(checkpoint: Path, tmp_path: Path, capsys: Any, word: str) -> None:
    assert _export(checkpoint, tmp_path / "bundle", "a", more=(word, "1")) == 2
    assert f"{word} is of a corpus; say what for by --evaluate" in capsys.readouterr().err


def test_a_checkpoint_without_a_corpus(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    assert _export(checkpoint, tmp_path / "bundle", "a", more=("--evaluate",)) == 2
    assert "does not say how its corpus is laid out" in capsys.readouterr().err


def test_golden_vectors_are_answered(checkpoint: Path, tmp_path: Path) -> None:
    assert _export(checkpoint, tmp_path / "bundle", "all", more=("--shape", "latency")) == 0
    predictor = Predictor(tmp_path / "bundle")
    cases = predictor.bundle.golden()
    assert {case.pattern for case in cases} == set(ALL_PATTERNS)
    for case in cases:
        found = predictor.predict(case.features)
        assert found.pattern == case.pattern
        assert abs(found.logits - case.logits).max() < 1e-4


def test_another_checkpoint_is_not_mixed_in(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    other, out = tmp_path / "other.safetensors", tmp_path / "bundle"
    save_checkpoint(other, small_network(seed=9), {})
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


def test_the_linear_model_has_no_graphs(tmp_path: Path, capsys: Any) -> None:
    path, out = tmp_path / "linear.safetensors", tmp_path / "bundle"
    save_checkpoint(path, small_network("linear"), {})
    assert _export(path, out, "all") == 2
    error = capsys.readouterr().err
    assert f"{path} holds the model linear" in error
    assert "give a checkpoint of a network" in error
    assert error.count("\n") == 1
    assert not out.exists()


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


@pytest.mark.parametrize("where", ["export.to_model", "writer.model_card"])
def test_an_interrupted_export_leaves_what_was_there(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    out = tmp_path / "bundle"
    assert _export(checkpoint, out, "a") == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"ifmmin.export.{where}", interrupt)
    assert _export(checkpoint, out, "all") == 130
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
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


def test_what_a_head_was_proven_with_stays(words: list[str], tmp_path: Path, capsys: Any) -> None:
    before = _contents(tmp_path / "bundle")
    assert main([*words, "--pattern", "a_t", *LOOSER]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the int8 stream graphs of a would change under the heads of a at" in error
    assert "--pattern a, " in error
    assert _contents(tmp_path / "bundle") == before


def test_heads_that_are_made_anew_may_change(words: list[str], tmp_path: Path) -> None:
    before = _contents(tmp_path / "bundle")
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
