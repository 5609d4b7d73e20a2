"""Stream graphs are held to a corpus: heads are measured, and what they hear is chosen by it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifmmin.export.cli import main
from ifmmin.export.evaluate_on import Evaluator
from ifmmin.export.precision import PRECISIONS
from ifmmin.export.probes import Probes
from ifmmin.export.stream_corpus import StreamCorpus
from ifmmin.export.workshop import Workshop
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern
from ifmmin.train.checkpoint import load_checkpoint
from ifmmin.train.corpora import load_corpus
from ifmmin.train.corpus import Corpus
from ifmmin.train.recipe import load_recipe
from ifmmin.train.run import fit

LOSSES = ("--allow-loss", "probabilities=0.5", "--allow-loss", "agreement=0.5")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Corpus]:
    """A checkpoint that was hardly trained, and its corpus."""
    recipe = load_recipe("synthetic", ["corpus.train=60", "corpus.test=48", "stage1.epochs=1",
        "stage1.decay_epochs=0", "stage2.epochs=1", "stage2.decay_epochs=0",
        "network.embedding=16", "network.text_channels=8", "network.blocks=2",
        "network.block_sizes=[24,16,8]"])  # fmt: skip
    corpus = load_corpus(recipe.corpus, fold=1)
    out = tmp_path_factory.mktemp("trained") / "run"
    fit(recipe, corpus, fold=1, seed=0, out=out)
    return out / "model.safetensors", corpus


def _evaluator(checkpoint: Path, corpus: Corpus) -> Evaluator:
    return Evaluator(load_checkpoint(checkpoint)[0], corpus, 1)


def _stream_corpus(checkpoint: Path, corpus: Corpus) -> StreamCorpus:
    network, _ = load_checkpoint(checkpoint)
    shop = Workshop(network=network, probes=Probes(network), metadata={}, limits={})
    return StreamCorpus(shop, PRECISIONS["int8"], _evaluator(checkpoint, corpus))


def test_a_summary_that_says_the_same_loses_nothing_and_another_does(
    trained: tuple[Path, Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = _stream_corpus(*trained)
    asked = []
    head = measured._evaluator.head

    def ask(run: Any, pattern: Pattern, said: Any) -> Any:
        asked.append(str(pattern))
        return dataclasses.replace(head(run, pattern, said), network_ua=1.0)

    plain = measured._say_plainly(Modality.A)
    assert len(plain) == 48
    assert measured.loss_of(Modality.A, plain) == 0.0
    monkeypatch.setattr(measured._evaluator, "head", ask)
    constant = {row: 1e3 * np.ones_like(summary) for row, summary in plain.items()}
    assert measured.loss_of(Modality.A, constant) >= 0.5  # one class for all utterances
    assert asked == ["a", "a_v", "a_t", "a_v_t"]


@pytest.mark.parametrize(("loss", "reduced"), [(0.0, True), (0.02, False)])
def test_a_summary_stays_whole_where_eight_bits_turn_answers(
    trained: tuple[Path, Corpus],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loss: float,
    reduced: bool,
) -> None:
    monkeypatch.setattr(StreamCorpus, "loss_of", lambda *_: loss)
    words = [str(trained[0]), "--pattern", "a", "--precision", "int8", "--shape", "stream",
             "--evaluate-on", "1", *LOSSES, "--out", str(tmp_path / "b")]  # fmt: skip
    assert main(words) == 0
    (summary,) = Bundle(tmp_path / "b").find("summary", Modality.A, "int8")
    assert bool(summary.quantised) == reduced


def test_a_head_that_loses_accuracy_is_refused(
    trained: tuple[Path, Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    head = Evaluator.head

    def worse(self: Evaluator, *arguments: Any) -> Any:
        found = head(self, *arguments)
        return dataclasses.replace(found, ua=found.network_ua - 0.03)

    monkeypatch.setattr(Evaluator, "head", worse)
    words = [str(trained[0]), "--pattern", "a", "--shape", "stream", "--evaluate-on", "1",
             "--out", str(tmp_path / "b")]  # fmt: skip
    for precision in ("fp32", "int8"):
        assert main([*words, "--precision", precision, *LOSSES]) == 2
        said = capsys.readouterr().err
        assert f"| head a {precision} |" in said
        assert "--allow-loss ua=0.0" in said
        assert not (tmp_path / "b").exists()


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
    measured = _stream_corpus(checkpoint, poor)
    assert measured.loss_of(Modality.V, measured._say_plainly(Modality.V)) == 0.0
