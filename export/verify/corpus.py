"""Accuracy of graphs on the test part of a corpus, beside that of their network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends import Runner
from ifmmin.runtime.bundle import Features
from ifmmin.runtime.cli.readers import find_inputs
from ifmmin.runtime.errors import CheckpointError, CorpusError, IfmminError, InputError
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.validate import pad_batch, pad_frames
from ifmmin.train.checkpoint import Header
from ifmmin.train.data import load_corpus
from ifmmin.train.data.corpus import Corpus, Utterance, utterance_problems
from ifmmin.train.evaluate import Scores, labels_of, score
from ifmmin.train.metrics import measure
from ifmmin.train.model.network import EmotionNetwork
from ifmmin.train.recipe import Recipe

from .parity import Evaluation
from .probes import run_head

_BATCH = 16


@dataclass(frozen=True)
class CorpusChoice:
    """A fold of the corpus on which a checkpoint was trained, or of one laid out like it."""

    fold: int | None = None
    """None: the one on which the checkpoint was trained."""
    features: Path | None = None
    targets: Path | None = None

    def fold_of(self, header: Header) -> int:
        """The fold."""
        known = header.training.get("fold")
        if self.fold is not None:
            return self.fold
        return known if isinstance(known, int) else 1

    def load(self, network: EmotionNetwork, header: Header) -> Corpus:
        """The corpus; CheckpointError where it does not fit the network.

        A network that does not know what its features are like sees it in the training part.
        """
        try:
            recipe = msgspec.convert(header.training["recipe"], Recipe)
        except (KeyError, msgspec.ValidationError, IfmminError) as error:
            raise CheckpointError(
                f"the checkpoint does not say how its corpus is laid out ({error}); it cannot be "
                "evaluated on one"
            ) from error
        corpus = load_corpus(
            recipe.corpus, fold=self.fold_of(header), features=self.features, targets=self.targets,
            modalities=network.modalities,
        )  # fmt: skip
        network.require_corpus(corpus)
        for modality in network.modalities:
            if network.config.features[modality].normalised and modality in corpus.statistics:
                raise InputError(
                    f"this checkpoint wants {modality} standardised by its caller; import it with "
                    "--statistics to evaluate its graphs"
                )
            if not network.observed(modality).known:
                network.observed(modality).watch(corpus.parts["train"], modality)
        return corpus


_SAMPLE = 1000
"""Utterances of a sample that are looked at."""


def watch_sample(network: EmotionNetwork, source: str) -> None:
    """Let a network see what features are like, in inputs such as ifmmin-run takes.

    Raises InputError where one cannot be read, or has features that the network does not take.
    """
    utterances = []
    for item in islice(find_inputs([source]).items(), _SAMPLE):
        try:
            given = item.read().utterance
            every = {Modality(letter): np.asarray(x) for letter, x in given.items() if len(x)}
            features = {m: x for m, x in every.items() if m in network.modalities}
            utterances.append(Utterance(item.name, features, 0))
            for problem in utterance_problems(utterances[-1], network.config.features, 1):
                raise InputError(problem)
        except InputError as error:
            raise InputError(f"--sample {item.where}: {error}") from error
    for modality in network.modalities:
        network.observed(modality).watch(utterances, modality)


class Evaluator:
    """Measures graphs on the test part; the network answers it once."""

    def __init__(self, network: EmotionNetwork, corpus: Corpus, fold: int) -> None:
        self._network = network
        self._corpus = corpus
        self._fold = fold
        self._test = corpus.parts["test"]

    @cached_property
    def _scores(self) -> dict[Pattern, Scores]:
        return score(self._network, self._test)

    def latency(self, run: Runner, pattern: Pattern) -> Evaluation:
        """Of a latency graph, one utterance at a time."""
        rows = [run({m.value: x for m, x in f.items()})[0] for f in self._inputs(pattern)]
        return self._measure(np.stack(rows), pattern)

    def throughput(self, run: Runner, pattern: Pattern) -> Evaluation:
        """Of a throughput graph, in batches."""
        inputs = self._inputs(pattern)
        starts = range(0, len(inputs), _BATCH)
        rows = [run(pad_batch(inputs[i : i + _BATCH]))[0] for i in starts]
        return self._measure(np.concatenate(rows), pattern)

    def heard(self, modality: Modality) -> dict[int, NDArray[np.float32]]:
        """Frames (T, D) of the utterances that have a modality, by position."""
        alone = Pattern.of([modality])
        return {
            row: utterance_features(self._test[row], alone, self._network)[modality]
            for row in self._having(alone)
        }

    def head(
        self,
        run: Runner,
        pattern: Pattern,
        said: Mapping[Modality, Mapping[int, NDArray[np.floating]]],
    ) -> Evaluation:
        """Of a head graph, one stream at a time; said: summaries (S,) of what was `heard`."""
        rows = self._complete(pattern)
        summaries = {m: np.stack([said[m][row] for row in rows]) for m in pattern}
        return self._measure(run_head(run, pattern, summaries).logits, pattern)

    def _inputs(self, pattern: Pattern) -> list[Features]:
        """The utterances that have all of a pattern."""
        chosen = [self._test[row] for row in self._complete(pattern)]
        return [utterance_features(u, pattern, self._network) for u in chosen]

    def covers(self, pattern: Pattern) -> bool:
        """Whether some utterance has all of a pattern."""
        return bool(self._having(pattern))

    def _complete(self, pattern: Pattern) -> list[int]:
        rows = self._having(pattern)
        if not rows:
            raise CorpusError(
                f"no test utterance of {self._corpus.name}, fold {self._fold}, has all of "
                f"{pattern}; leave out that pattern, or --evaluate"
            )
        return rows

    def _having(self, pattern: Pattern) -> list[int]:
        return [i for i, u in enumerate(self._test) if all(m in u.features for m in pattern)]

    def _measure(self, logits: NDArray[np.floating], pattern: Pattern) -> Evaluation:
        rows = self._complete(pattern)
        scores = self._scores[pattern]
        position = {int(row): i for i, row in enumerate(scores.rows)}
        truth = scores.logits[[position[row] for row in rows]]
        labels = labels_of(self._test)[rows]
        ours, theirs = measure(logits, labels), measure(truth, labels)
        return Evaluation(
            corpus=self._corpus.name,
            fold=self._fold,
            utterances=len(rows),
            wa=ours.wa,
            ua=ours.ua,
            ece=ours.ece,
            network_wa=theirs.wa,
            network_ua=theirs.ua,
            network_ece=theirs.ece,
            agreement=float((logits.argmax(axis=1) == truth.argmax(axis=1)).mean()),
        )


def utterance_features(utterance: Utterance, pattern: Pattern, network: EmotionNetwork) -> Features:
    """What a graph takes of an utterance: float32, padded to the minimum length."""
    return {
        m: pad_frames(
            np.ascontiguousarray(utterance.features[m], dtype=np.float32),
            network.config.minimum_length(m),
        )
        for m in pattern
    }
