"""The gate: what is refused, also by a corpus, what is said, and that nothing of it is written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from run_command import call
from small_recipe import small

from ifmmin.export import graph as shapes
from ifmmin.export.cli import main
from ifmmin.export.context import ExportContext
from ifmmin.export.graph import Plan
from ifmmin.export.specialise.encoder import PRECISIONS
from ifmmin.export.streams import StreamCorpus
from ifmmin.export.verify import parity
from ifmmin.export.verify.corpus import Evaluator
from ifmmin.export.verify.probes import Probes
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import CorpusError, InputError, ParityError
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern
from ifmmin.train.checkpoint import load_checkpoint
from ifmmin.train.data.corpus import Corpus
from ifmmin.train.trainer import fit

FINE = parity.Comparison(1e-5, 1e-6, 0.1, 1e-5, 1e-6, 1e-6, 1.0, 100, 4, 1.0, "T_a=7")


def test_a_comparison_has_the_figures() -> None:
    truth = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    found = truth + np.array([[0.0, 0.02, 0.0], [0.0, 0.0, 0.0]])
    figures = parity.compare(found, truth, ["short", "long"])
    assert figures.max_difference == pytest.approx(0.02)
    assert figures.mean_difference == pytest.approx(0.02 / 6)
    assert figures.excess == pytest.approx(0.02 / 1e-4)
    moved = np.exp(found[0]) / np.exp(found[0]).sum()
    assert figures.probability_max == pytest.approx(np.abs(moved - [0.5, 0.25, 0.25]).max())
    logs = np.abs(np.log(moved) - truth[0])
    assert figures.log_probability_max == pytest.approx(logs.max())
    assert figures.log_probability_mean == pytest.approx(logs.sum() / 6)
    assert (figures.agreement, figures.classes, figures.probes) == (1.0, 2, 2)
    assert figures.worst == "short"


@given(st.integers(0, 9), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_what_is_no_number_is_as_wrong_as_can_be(row: int, value: float) -> None:
    truth = 5 * np.random.default_rng(0).standard_normal((10, 3))
    found = truth.copy()
    found[row, 1] = value
    figures = parity.compare(found, truth, [str(i) for i in range(10)])
    assert figures.probability_max == 1.0
    assert figures.log_probability_max == np.inf
    assert figures.excess == np.inf
    assert figures.agreement == 0.9
    for precision in parity.DEFAULTS:
        assert parity.find_violations("g", figures, None, parity.DEFAULTS[precision])


def test_large_logits_may_differ_by_their_own_rounding() -> None:
    truth = np.array([[400.0, 0.0], [1.0, 0.0]])
    large, small = truth.copy(), truth.copy()
    large[0, 0] += 1e-3
    small[1, 0] += 1e-3
    assert parity.compare(large, truth, ["a", "b"]).excess < 1
    assert parity.compare(small, truth, ["a", "b"]).excess > 1


@pytest.mark.parametrize(
    ("precision", "change", "figure"),
    [
        ("fp32", {"excess": 1.01, "max_difference": 1.01e-4}, "logits"),
        ("fp16", {"probability_max": 2.1e-2}, "probabilities"),
        ("int8", {"probability_max": 5.1e-2}, "probabilities"),
        ("int8-qdq", {"probability_max": 5.1e-2}, "probabilities"),
        ("int8", {"agreement": 0.98}, "agreement"),
    ],
)
def test_default_limits(precision: str, change: dict[str, float], figure: str) -> None:
    assert not parity.find_violations("g", FINE, None, parity.DEFAULTS[precision])
    worse = dataclasses.replace(FINE, **change)  # type: ignore[arg-type]
    (violation,) = parity.find_violations("g", worse, None, parity.DEFAULTS[precision])
    assert violation.figure == figure
    with pytest.raises(ParityError, match=f"nothing was written.*--allow-loss {figure}=") as error:
        parity.require([violation])
    assert figure in error.value.table
    # The number that is proposed is enough, and a smaller loss than the default changes nothing.
    proposed = str(error.value).rsplit(f"{figure}=", 1)[1]
    accepted = parity.allowed(precision, parity.parse_losses([f"{figure}={proposed}"]))
    assert not parity.find_violations("g", worse, None, accepted)
    tighter = parity.allowed(precision, {figure: 1.0 if figure == "agreement" else 1e-9})
    assert tighter == parity.DEFAULTS[precision]


def test_accuracy_on_a_corpus_is_judged() -> None:
    figures = parity.Evaluation("c", 1, 56, 0.7, 0.70, 0.1, 0.7, 0.706, 0.1, 1.0)
    (violation,) = parity.find_violations("g", FINE, figures, parity.DEFAULTS["int8"])
    assert (violation.figure, violation.allowed) == ("ua", 0.005)
    assert violation.got == pytest.approx(0.006)
    assert not parity.find_violations("g", FINE, figures, parity.allowed("int8", {"ua": 0.01}))
    better = dataclasses.replace(figures, ua=0.71)
    assert not parity.find_violations("g", FINE, better, parity.DEFAULTS["int8"])


@pytest.mark.parametrize("text", ["0.05", "ua", "ua=", "speed=0.1", "ua=-1", "ua=nan", "ua=inf"])
def test_losses_need_a_figure_and_a_number(text: str) -> None:
    with pytest.raises(InputError, match="wanted FIGURE=NUMBER"):
        parity.parse_losses([text])


@pytest.fixture
def nudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter whose latency graphs are wrong by a little."""

    def plan(network: Any, pattern: Pattern, precision: Any, recurrence: str) -> Plan:
        made = shapes.plan_latency(network, pattern, precision, recurrence)
        with torch.no_grad():
            made.module.get_parameter("head.rest.classifier.linears.1.weight").mul_(1.01)
        return made

    monkeypatch.setattr("ifmmin.export.export.plan_latency", plan)


def _words(checkpoint: Path, tmp_path: Path, *more: str) -> list[object]:
    return [checkpoint, "--pattern", "a", *more, "--out", tmp_path / "bundle"]


@pytest.mark.usefixtures("nudged")
def test_a_graph_that_differs_is_never_written(checkpoint: Path, tmp_path: Path) -> None:
    words = _words(checkpoint, tmp_path, "--shape", "latency")
    ran = call(main, *words)
    assert ran.code == 2
    assert "| latency a fp32 |" in ran.err
    assert "1 graph loses more than is allowed; nothing was written" in ran.err
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert call(main, *words, "--allow-loss", "logits=1e-3").code == 2
    enough = ("--allow-loss", "logits=5", "--allow-loss", "agreement=0.5")
    assert call(main, *words, *enough).code == 0
    found = Bundle(tmp_path / "bundle").entry(Pattern.parse("a"))
    assert found.parity["max_difference"] > 1e-3


def test_the_nudge_is_what_was_caught(checkpoint: Path, tmp_path: Path) -> None:
    assert call(main, *_words(checkpoint, tmp_path, "--shape", "latency")).code == 0


LOSSES = ("--allow-loss", "probabilities=0.5", "--allow-loss", "agreement=0.5")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Corpus]:
    """A checkpoint that was hardly trained, and its corpus."""
    recipe, corpus = small("corpus.test=48", "network.embedding=16", "network.text_channels=8",
                           "network.block_sizes=[24,16,8]", "network.blocks=2")  # fmt: skip
    out = tmp_path_factory.mktemp("trained") / "run"
    fit(recipe, corpus, fold=1, seed=0, out=out)
    return out / "model.safetensors", corpus


def test_graphs_are_measured_on_a_corpus(trained: tuple[Path, Corpus], tmp_path: Path) -> None:
    checkpoint, out = trained[0], tmp_path / "bundle"
    words = [checkpoint, "--pattern", "a_v", "--evaluate", "--shape", "throughput"]
    assert call(main, *words, "--out", out).code == 0
    metrics = json.loads(checkpoint.with_name("metrics.json").read_text())["test"]["a_v"]
    found = {e.shape: e.evaluation for e in Bundle(out).manifest.graphs if e.evaluation is not None}
    assert list(found) == ["latency", "throughput", "head"]
    for evaluation in found.values():
        for figure in ("wa", "ua", "ece"):
            assert evaluation[figure] == pytest.approx(metrics[figure], abs=1e-4)
            assert evaluation[f"network_{figure}"] == pytest.approx(metrics[figure], abs=1e-4)
        assert (evaluation["utterances"], evaluation["fold"]) == (48, 1)


def _evaluator(checkpoint: Path, corpus: Corpus) -> Evaluator:
    return Evaluator(load_checkpoint(checkpoint)[0], corpus, 1)


def _stream_corpus(evaluator: Evaluator, checkpoint: Path) -> StreamCorpus:
    network, _ = load_checkpoint(checkpoint)
    context = ExportContext(network=network, probes=Probes(network), metadata={}, limits={})
    return StreamCorpus(context, PRECISIONS["int8"], evaluator)


def test_losses_of_summaries(trained: tuple[Path, Corpus], monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = _evaluator(*trained)
    measured, head = _stream_corpus(evaluator, trained[0]), evaluator.head
    asked = []

    def ask(run: Any, pattern: Pattern, said: Any) -> Any:
        asked.append(str(pattern))
        return dataclasses.replace(head(run, pattern, said), network_ua=1.0)

    plain = measured.plain(Modality.A)
    assert len(plain) == 48
    assert measured.loss_of(Modality.A, plain) == 0.0
    monkeypatch.setattr(evaluator, "head", ask)
    constant = {row: 1e3 * np.ones_like(summary) for row, summary in plain.items()}
    assert measured.loss_of(Modality.A, constant) >= 0.5  # one class for all utterances
    assert asked == ["a", "a_v", "a_t", "a_v_t"]


@pytest.mark.parametrize(("loss", "reduced"), [(0.0, True), (0.02, False)])
def test_a_summary_stays_whole_where_eight_bits_turn_answers(
    trained: tuple[Path, Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float,
    reduced: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(StreamCorpus, "loss_of", lambda *_: loss)
    more = ("--precision", "int8", "--shape", "stream", "--evaluate", *LOSSES)
    assert call(main, *_words(trained[0], tmp_path, *more)).code == 0
    (summary,) = Bundle(tmp_path / "bundle").find("summary", Modality.A, "int8")
    assert bool(summary.quantised) == reduced


def test_a_head_that_loses_accuracy_is_refused(
    trained: tuple[Path, Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Evaluator.head

    def worse(self: Evaluator, *arguments: Any) -> Any:
        found = head(self, *arguments)
        return dataclasses.replace(found, ua=found.network_ua - 0.03)

    monkeypatch.setattr(Evaluator, "head", worse)
    more = ("--shape", "stream", "--evaluate", "--precision", "fp32", "--precision", "int8")
    ran = call(main, *_words(trained[0], tmp_path, *more, *LOSSES))
    assert ran.code == 2
    for said in ("| head a fp32 |", "| head a int8 |", "--allow-loss ua=0.0"):
        assert said in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_pattern_that_no_utterance_has(trained: tuple[Path, Corpus]) -> None:
    checkpoint, corpus = trained
    deaf = [
        dataclasses.replace(u, features={m: x for m, x in u.features.items() if m is Modality.V})
        for u in corpus.parts["test"]
    ]
    parts = {**corpus.parts, "test": deaf}
    poor = dataclasses.replace(corpus, parts=parts)
    evaluator = _evaluator(checkpoint, poor)
    assert [evaluator.covers(Pattern.of([m])) for m in MODALITIES] == [False, True, False]
    with pytest.raises(CorpusError, match=r"has all of a_v; leave out that pattern"):
        evaluator.latency(lambda inputs: [], Pattern.parse("a_v"))
    measured = _stream_corpus(evaluator, checkpoint)
    assert measured.loss_of(Modality.V, measured.plain(Modality.V)) == 0.0
