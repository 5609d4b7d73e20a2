"""Two-stage training: a full-modality teacher, then the network that imagines what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ifmmin.runtime.modality import ALL_PATTERNS, INCOMPLETE_PATTERNS, MODALITIES, Modality
from ifmmin.train.config import ModelConfig
from ifmmin.train.corpus import Corpus, Utterance, column_statistics
from ifmmin.train.feed import Feed
from ifmmin.train.frames import frame_statistics
from ifmmin.train.linear import LinearNetwork, fit_linear
from ifmmin.train.models import FusionNetwork, ImaginationNetwork
from ifmmin.train.network import EmotionNetwork
from ifmmin.train.objectives import Objective, TaughtObjective
from ifmmin.train.optimise import HistoryRow, Validation, run_stage
from ifmmin.train.recipe import Recipe
from ifmmin.train.schedule import Schedule
from ifmmin.train.statistics import StatisticsEncoder
from ifmmin.train.teacher import Teacher

_FULL = ALL_PATTERNS[-1:]
_Network = TypeVar("_Network", bound=EmotionNetwork)


@dataclass(frozen=True)
class Trained:
    """What training gives."""

    network: EmotionNetwork
    history: list[HistoryRow]
    """A row per epoch: stage, epoch, learning rate, mean of every loss term, validation figure,
    share of active embedding units per modality."""


def train(recipe: Recipe, corpus: Corpus, *, seed: int) -> Trained:
    """Train the recipe's network on a corpus. The same seed and thread count give the same bits."""
    torch.manual_seed(seed)
    session = _Session(recipe, corpus, np.random.default_rng(seed))
    model = recipe.network.model
    if model == "linear":
        return session.linear()
    if model == "augmented":
        return session.augmented()
    if model == "fusion":
        return session.fusion("fusion")
    return session.imagining()


class _Session:
    """The corpus, the configuration and the draws of one training."""

    def __init__(self, recipe: Recipe, corpus: Corpus, draws: np.random.Generator) -> None:
        self._recipe = recipe
        self._corpus = corpus
        self._draws = draws
        self._config = ModelConfig(
            labels=corpus.labels, features=corpus.features, architecture=recipe.network
        )

    def linear(self) -> Trained:
        network = LinearNetwork(self._config)
        set_statistics(network, self._corpus)
        fit_linear(network, self._corpus.parts["train"], self._corpus.parts["validation"])
        return Trained(network.eval(), [])

    def fusion(self, model: str) -> Trained:
        network = self._prepare(FusionNetwork(self._config.with_model(model)))
        feed = Feed(network, self._corpus.parts["train"])
        objective = Objective(network, self._recipe.stage1, feed, self._draws)
        return Trained(network, self._run(1, objective, feed))

    def augmented(self) -> Trained:
        assert self._recipe.stage2 is not None
        network = self._prepare(FusionNetwork(self._config))
        feed = Feed(network, self._corpus.parts["train"])
        objective = Objective(network, self._recipe.stage2, feed, self._draws)
        return Trained(network, self._run(2, objective, feed))

    def imagining(self) -> Trained:
        assert self._recipe.stage2 is not None
        # MMIN's teacher fuses without invariant features, as the baseline `augmented` does.
        first = self.fusion("fusion" if self._config.architecture.invariant else "augmented")
        teacher = first.network
        assert isinstance(teacher, FusionNetwork)
        student = self._prepare(ImaginationNetwork(self._config))
        for part in ("encoders", "invariant"):
            if hasattr(teacher, part):
                student.get_submodule(part).load_state_dict(
                    teacher.get_submodule(part).state_dict()
                )
        feed = Feed(student, self._corpus.parts["train"])
        objective = TaughtObjective(
            student, self._recipe.stage2, feed, self._draws, Teacher(teacher, feed)
        )
        return Trained(student, first.history + self._run(2, objective, feed))

    def _prepare(self, network: _Network) -> _Network:
        set_statistics(network, self._corpus)
        network.reference_batches = self._recipe.reference_batches
        return network

    def _run(self, number: int, objective: Objective, feed: Feed) -> list[HistoryRow]:
        stage: Schedule = objective.stage
        patterns = _FULL if stage.patterns == "full" else INCOMPLETE_PATTERNS
        held_out = Feed(objective.network, self._corpus.parts["validation"])
        history = run_stage(
            number,
            objective,
            feed,
            Validation(held_out, patterns, self._recipe.select),
            buckets=self._recipe.length_buckets,
            draws=self._draws,
        )
        objective.network.eval()
        return history


def set_statistics(network: EmotionNetwork, corpus: Corpus) -> None:
    """Give the network the standardisation of frames, and of statistics where it pools those.

    With sequence encoders, only modalities that the corpus standardises are.
    """
    train = corpus.parts["train"]
    for modality in MODALITIES:
        encoder = network.encoder(modality)
        if isinstance(encoder, StatisticsEncoder) or modality in corpus.statistics:
            config = network.config.architecture.transforms.get(modality)
            network.normaliser(modality).take(frame_statistics(corpus, modality, config))
        if isinstance(encoder, StatisticsEncoder):
            encoder.weigh_as(network.normaliser(modality))
            encoder.take(column_statistics(_pooled_frames(network, encoder, modality, train)))


def _pooled_frames(
    network: EmotionNetwork,
    encoder: StatisticsEncoder,
    modality: Modality,
    utterances: Sequence[Utterance],
) -> NDArray[np.float32]:
    """Statistics (N, P) of the utterances that have a modality, before they are standardised."""
    pooled = []
    for utterance in utterances:
        if modality in utterance.features:
            raw = torch.from_numpy(utterance.features[modality].astype(np.float32))[None]
            lengths = torch.tensor([raw.shape[1]])
            pooled.append(encoder.statistics(network.frames(raw, modality), lengths).numpy())
    return np.concatenate(pooled)
