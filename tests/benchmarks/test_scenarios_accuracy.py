"""Accuracy beside a time is that of the answers of the very graphs that were timed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from small_bundles import copied, edit, nudge, small_bundle
from small_networks import DIMS

from ifmmin.benchmarks.scenarios.accuracy import measure_accuracies
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.plan import Plan
from ifmmin.runtime.errors import BundleError, CorpusError
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.checkpoint import load_checkpoint
from ifmmin.train.corpora import SyntheticLayout, load_corpus
from ifmmin.train.corpora.synthetic import SyntheticModality
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
        manifest["checkpoint"]["training"] |= {
            "recipe": msgspec.to_builtins(recipe),
            "fold": fold,
        }

    edit(bundle, change)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_network: Any) -> Path:
    return small_bundle(make_network, tmp_path_factory)


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    found = copied(made, tmp_path)
    _trained_on(found, LAYOUT)
    return found


def _bench(
    bundle: Path, said: list[str] | None = None, *, fold: int | None = 1, **more: Any
) -> Bench:
    heard = [] if said is None else said
    return Bench(Plan(bundle=bundle, rounds=1, fold=fold, **more), heard.append)


def test_figures_are_those_of_the_network(bundle: Path, made: Path) -> None:
    bench = _bench(bundle)
    found = measure_accuracies(bench)
    network, _ = load_checkpoint(made.parent / "model.safetensors")
    wanted = evaluate(network, load_corpus(LAYOUT, fold=1).parts["test"], bench.patterns)
    assert set(found) == {(str(pattern), *WAY) for pattern in bench.patterns}
    for pattern, metrics in wanted.items():
        accuracy = found[(str(pattern), *WAY)]
        assert accuracy.count == 48
        assert accuracy.wa == pytest.approx(metrics.wa, abs=1e-9)
        assert accuracy.ua == pytest.approx(metrics.ua, abs=1e-9)
        assert accuracy.ece == pytest.approx(metrics.ece, abs=1e-3)
    assert len({(a.wa, a.ua, a.ece) for a in found.values()}) == len(bench.patterns)


def test_rows_of_a_way_carry_it(bundle: Path) -> None:
    bench = _bench(bundle)
    bench.accuracies = measure_accuracies(bench)
    for pattern in bench.patterns:
        for entrant in bench.ours(pattern, 1):
            row = bench.row("latency", entrant, pattern, samples=(1.0,))
            assert row.accuracy == bench.accuracies[(str(pattern), *WAY)]


def test_a_graph_that_answers_otherwise_has_another_accuracy(bundle: Path) -> None:
    """The control: what is measured is the graph, not what its network once said."""
    sound = measure_accuracies(_bench(bundle))
    nudge(bundle, Predictor(bundle).bundle.entry(Predictor(bundle).patterns[0]).file, factor=-3.0)
    spoilt = measure_accuracies(_bench(bundle))
    assert spoilt[("a", *WAY)] != sound[("a", *WAY)]
    assert spoilt[("t", *WAY)] == sound[("t", *WAY)]


def test_nothing_is_measured_unless_a_fold_is_named(bundle: Path) -> None:
    assert measure_accuracies(_bench(bundle, fold=None)) == {}


def test_a_fold_that_was_trained_on_is_told(bundle: Path) -> None:
    _trained_on(bundle, LAYOUT, fold=2)
    said: list[str] = []
    measure_accuracies(_bench(bundle, said))
    assert any("of fold 1, the network was trained on fold 2" in line for line in said)


def test_a_bundle_that_does_not_know_its_corpus(made: Path) -> None:
    with pytest.raises(BundleError, match="does not say how its corpus is laid out"):
        measure_accuracies(_bench(made))


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
    assert "pip install 'ifmmin[train]'" in bench.refused["accuracy", 1]


def test_another_precision_is_measured_apart(bundle: Path) -> None:
    """What was not exported is left out, and said."""
    bench = _bench(bundle, precisions=("fp32", "int8"))
    found = measure_accuracies(bench)
    assert {precision for _, _, precision in found} == {"fp32"}
    assert any("accuracy of onnxruntime-cpu int8 a" in what for what, _ in bench.refused)
