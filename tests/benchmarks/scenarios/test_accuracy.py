"""Accuracy on a corpus, and MLPerf's scenarios: none is of wrong answers."""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from made_bench import made_bench
from msgspec.structs import replace
from small_bundles import copied, edit, nudge
from small_networks import DIMS

from ifmmin.benchmarks.record import OURS, Row
from ifmmin.benchmarks.scenarios import load as scenario
from ifmmin.benchmarks.scenarios.accuracy import measure_accuracies
from ifmmin.benchmarks.scenarios.load import load
from ifmmin.benchmarks.scenarios.loadgen.base import AnswerCheck, Length, Result
from ifmmin.benchmarks.scenarios.plan import MONOLITH
from ifmmin.runtime import Pattern
from ifmmin.runtime.errors import BundleError, CorpusError
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.checkpoint import load_checkpoint
from ifmmin.train.data import SyntheticLayout, load_corpus
from ifmmin.train.data.synthetic import SyntheticModality
from ifmmin.train.evaluate import evaluate
from ifmmin.train.recipe import load_recipe

WAY = ("onnxruntime-cpu", "fp32")
LAYOUT = SyntheticLayout(
    modalities={
        modality: SyntheticModality(dim=DIMS[modality.value], frames=(5, 12))
        for modality in load_recipe("synthetic").corpus.modalities  # type: ignore[union-attr]
    },
    train=40,
    validation=20,
    test=48,
)


def _trained_on(bundle: Path, layout: Any, fold: int = 1) -> None:
    """Let the manifest say on what the network was trained."""
    recipe = msgspec.structs.replace(load_recipe("synthetic"), corpus=layout)

    def change(manifest: dict[str, Any]) -> None:
        manifest["checkpoint"]["training"] |= {"recipe": msgspec.to_builtins(recipe), "fold": fold}

    edit(bundle, change)


@pytest.fixture
def bundle(bundle: Path, tmp_path: Path) -> Path:
    found = copied(bundle, tmp_path)
    _trained_on(found, LAYOUT)
    return found


_bench = partial(made_bench, fold=1)


def test_figures_are_those_of_the_network(bundle: Path, make_bundle: Any) -> None:
    bench = _bench(bundle)
    found = measure_accuracies(bench)
    network, _ = load_checkpoint(make_bundle().parent / "model.safetensors")
    wanted = evaluate(network, load_corpus(LAYOUT, fold=1).parts["test"], bench.patterns)
    assert set(found) == {(str(pattern), *WAY) for pattern in bench.patterns}
    for pattern, metrics in wanted.items():
        accuracy = found[(str(pattern), *WAY)]
        assert accuracy.count == 48
        assert accuracy.wa == pytest.approx(metrics.wa, abs=1e-9)
        assert accuracy.ua == pytest.approx(metrics.ua, abs=1e-9)
        assert accuracy.ece == pytest.approx(metrics.ece, abs=1e-3)
    assert len({(a.wa, a.ua, a.ece) for a in found.values()}) == len(bench.patterns)


@pytest.mark.parametrize("without", ["", "v"])
def test_a_network_of_two_is_measured_on_a_corpus_of_two_or_three(
    without: str, make_bundle: Any, tmp_path: Path
) -> None:
    made = make_bundle(("a", "t", "a_t"), shapes=("latency",), kind="two")
    layout = replace(
        LAYOUT, modalities={m: x for m, x in LAYOUT.modalities.items() if m != without}
    )
    bundle = copied(made, tmp_path)
    _trained_on(bundle, layout)
    found = measure_accuracies(_bench(bundle))
    network, _ = load_checkpoint(made.parent / "model.safetensors")
    corpus = load_corpus(layout, fold=1, modalities=network.modalities)
    wanted = evaluate(network, corpus.parts["test"])
    assert {way[0]: one.wa for way, one in found.items()} == pytest.approx(
        {str(pattern): one.wa for pattern, one in wanted.items()}
    )


def test_rows_of_a_way_carry_it(bundle: Path) -> None:
    bench = _bench(bundle)
    bench.accuracies = measure_accuracies(bench)
    for pattern in bench.patterns:
        for contender in bench.ours(pattern, 1):
            row = bench.row("latency", contender, pattern, samples=(1.0,))
            assert row.accuracy == bench.accuracies[(str(pattern), *WAY)]


def test_a_graph_that_answers_otherwise_has_another_accuracy(bundle: Path) -> None:
    """The control: what is measured is the graph, not what its network once said."""
    sound = measure_accuracies(_bench(bundle))
    nudge(bundle, Predictor(bundle).bundle.entry(Predictor(bundle).patterns[0]).file, factor=-3.0)
    damaged = measure_accuracies(_bench(bundle))
    assert damaged[("a", *WAY)] != sound[("a", *WAY)]
    assert damaged[("t", *WAY)] == sound[("t", *WAY)]


def test_a_fold_has_to_be_named_and_a_corpus_to_be_known(bundle: Path, make_bundle: Any) -> None:
    assert measure_accuracies(_bench(bundle, fold=None)) == {}
    _trained_on(bundle, LAYOUT, fold=2)
    said: list[str] = []
    measure_accuracies(_bench(bundle, said.append))
    assert any("of fold 1, the network was trained on fold 2" in line for line in said)
    with pytest.raises(BundleError, match="does not say how its corpus is laid out"):
        measure_accuracies(_bench(make_bundle()))


def test_a_corpus_that_does_not_fit(bundle: Path) -> None:
    wider = {
        m: msgspec.structs.replace(one, dim=one.dim + 1) for m, one in LAYOUT.modalities.items()
    }
    _trained_on(bundle, msgspec.structs.replace(LAYOUT, modalities=wider))
    with pytest.raises(CorpusError, match="takes 5 features of a, corpus synthetic has 6"):
        measure_accuracies(_bench(bundle))
    edit(bundle, lambda manifest: manifest["labels"].reverse())
    with pytest.raises(CorpusError, match="the bundle answers sad, neutral"):
        measure_accuracies(_bench(bundle))


def test_without_the_trainer_it_is_left_out(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ifmmin.train.recipe", None)
    bench = _bench(bundle)
    assert measure_accuracies(bench) == {}
    assert "pip install 'ifmmin[train]'" in bench.refused["latency", "accuracy", 1]


def test_another_precision_is_measured_apart(bundle: Path) -> None:
    """What was not exported is left out, and said."""
    bench = _bench(bundle, precisions=("fp32", "int8"))
    found = measure_accuracies(bench)
    assert {precision for _, _, precision in found} == {"fp32"}
    assert any("accuracy of onnxruntime-cpu int8 a" in what for _, what, _ in bench.refused)


TINY = Length(name="tiny", seconds=0.02, offline_samples=8, probe_seconds=0.02, probes=1)
KINDS = {"single-stream", "multi-stream", "offline", "server"}
A = Pattern.parse("a")


def _kinds(rows: list[Row], **wanted: str) -> Counter[str]:
    return Counter(
        row.scenario
        for row in rows
        if all(getattr(row, name) == value for name, value in wanted.items())
    )


def test_every_scenario_of_both_patterns_and_contenders(bundle: Path, make_bundle: Any) -> None:
    checkpoint = make_bundle().parent / "model.safetensors"
    bench = made_bench(bundle, checkpoint=checkpoint, peers=(MONOLITH,))
    rows = load(bench, length=TINY, generator="own")
    for pattern in ("a", "a_t"):
        assert _kinds(rows, contender=OURS, pattern=pattern) == dict.fromkeys(KINDS, 1)
        peer = dict.fromkeys(KINDS - {"multi-stream"}, 1)
        assert _kinds(rows, contender=MONOLITH, pattern=pattern) == peer
    for row in rows:
        assert row.unit == ("1/s" if row.scenario in ("offline", "server") else "s")
        assert row.batch == (8 if row.scenario == "multi-stream" else 1)
        assert row.lengths == {
            letter: {"a": 50, "t": 22}[letter] for letter in row.pattern.split("_")
        }
        assert "load by own; not valid by MLPerf's rules (" in row.note
        assert "a run of 0.02 s; MLPerf's rules want 600 s" in row.note
        assert "all 32 answers of the accuracy run are " in row.note
        assert "one by one" not in row.note
        if row.scenario != "server":  # which a busy machine may not hold
            assert min(row.samples) > 0
    assert all(len(row.samples) > 99 for row in rows if row.unit == "s")


@pytest.mark.skipif(find_spec("mlperf_loadgen") is None, reason="MLPerf's LoadGen is not installed")
def test_load_is_made_by_mlperf_where_it_is_installed(bundle: Path) -> None:
    rows = load(made_bench(bundle, patterns=(A,)), length=TINY)
    assert _kinds(rows) == dict.fromkeys(KINDS, 1)
    assert all("load by loadgen " in row.note for row in rows)


def test_batches_that_are_answered_one_by_one_say_so(make_bundle: Any) -> None:
    plain = make_bundle(("a", "t"), shapes=("latency",))
    rows = load(made_bench(plain, patterns=(A,)), length=TINY, generator="own")
    told = {row.scenario for row in rows if "ifmmin-export --shape throughput adds" in row.note}
    assert told == {"offline", "multi-stream"}


def test_a_wrong_answer_leaves_no_figure(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: batches that answer otherwise than the same utterances alone."""
    right = Predictor.predict_batch

    def wrong(self: Predictor, utterances: Any, **options: Any) -> Any:
        answers = right(self, utterances, **options)
        return [a._replace(logits=a.logits + np.float32(0.01)) for a in answers]

    monkeypatch.setattr(Predictor, "predict_batch", wrong)
    rows = {row.scenario: row for row in load(made_bench(bundle, patterns=(A,)), length=TINY)}
    for name in ("offline", "multi-stream"):
        assert not rows[name].samples
        assert "differ" in rows[name].note
    assert rows["single-stream"].samples, "one utterance a time does not go through batches"


def test_none_begins_when_time_is_over(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "LONGEST_SECONDS", -1.0)
    rows = load(made_bench(bundle, patterns=(A,)), length=TINY)
    assert _kinds(rows) == dict.fromkeys(KINDS, 1)
    assert all("were over; take --full-rules" in row.note and not row.samples for row in rows)
    assert {row.scenario for row in rows if row.unit == "1/s"} == {"offline", "server"}


def test_full_rules_take_their_time(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "LONGEST_SECONDS", -1.0)
    monkeypatch.setattr(scenario, "FULL", replace(TINY, name="full"))
    rows = load(made_bench(bundle, patterns=(A,), full_rules=True), generator="own")
    assert all(row.samples for row in rows if row.scenario != "server")
    assert _kinds(rows) == dict.fromkeys(KINDS, 1)
    assert {row.lengths["a"] for row in rows} == {50}


def _result(kind: Any, **more: Any) -> Result:
    given: dict[str, Any] = {
        "scenario": kind, "generator": "loadgen 6.0", "why_not": (),
        "metrics": {"p50": 0.001, "p90": 0.002, "p99": 0.0123, "rate": 0.0}, "queries": 123_456,
        "samples": (), "latency_limit": 0.01,
        "accuracy": AnswerCheck(samples=32, max_difference=2e-6, agreement=1.0),
    }  # fmt: skip
    return Result(**given | more)


def test_notes_say_what_a_sample_is() -> None:
    note = scenario.describe_result(_result("single-stream"))
    assert "too many to keep: the sample is the percentile; p90 2 ms over 123,456" in note
    assert "load by loadgen 6.0; valid by MLPerf's rules; all 32" in note
    assert "no rate held the limit of 10 ms" in scenario.describe_result(_result("server"))
    held = _result("server", metrics={"p99": 0.0081, "rate": 500.0})
    assert scenario.describe_result(held).startswith("99 % within 8.1 ms, limit 10 ms")
