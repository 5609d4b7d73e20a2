"""Corpus: labelled utterances in three parts, their padded batches, and what can be wrong.

Length 0 in a batch says that a modality is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifmmin.runtime.console import printable
from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern, patterns_of
from ifmmin.runtime.validate import as_numbers

from ..config import FeatureConfig, ModelConfig

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Utterance:
    """One labelled utterance; a modality that it lacks is naturally missing."""

    name: str
    """Unique within its corpus."""
    features: dict[Modality, NDArray[np.floating]]
    """Per modality raw features (T, D), in the compact type in which they were stored."""
    label: int
    """Number of the class. An adapter may give a name or, with `corpus.bins`, a score."""
    score: float | None = None
    """What the class was made of, where the corpus has `bins`."""


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation (D,) with which a modality is standardised."""

    mean: NDArray[np.float64]
    """(D,)"""
    std: NDArray[np.float64]
    """(D,)"""


@dataclass(frozen=True)
class Corpus:
    """One fold of a corpus."""

    name: str
    """For tables and checkpoints."""
    labels: tuple[str, ...]
    """Class names, in the order of `Utterance.label`."""
    features: dict[Modality, FeatureConfig]
    """What each modality's features are."""
    parts: dict[str, list[Utterance]]
    """`train`, `validation`, `test`; speakers of one never occur in another."""
    statistics: dict[Modality, Statistics] = field(default_factory=dict)
    """For the modalities to be standardised. Of an adapter's corpus, those that are lacking are
    computed from the training part, unless the features are `normalised`."""
    possible: dict[Pattern, float] = field(default_factory=dict)
    """Accuracy of the Bayes rule on the test part, where it is known."""
    bins: tuple[float, ...] = ()
    """Edges between the classes on the scores that they were made of; the recipe's."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those that it has features of, in canonical order."""
        return tuple(m for m in MODALITIES if m in self.features)

    def of(self, modalities: Collection[Modality]) -> Corpus:
        """The corpus without the other modalities, and without the utterances that have no more.

        Raises CorpusError where it has no features of one of them.
        """
        for modality in modalities:
            if modality not in self.features:
                raise CorpusError(
                    f"corpus {self.name} has no features of {modality}, only of "
                    f"{', '.join(self.modalities)}; leave {modality} out of modalities"
                )
        if set(modalities) == set(self.features):
            return self
        parts = {
            part: [
                replace(u, features={m: x for m, x in u.features.items() if m in modalities})
                for u in utterances
                if not u.features.keys().isdisjoint(modalities)
            ]
            for part, utterances in self.parts.items()
        }
        patterns = patterns_of(modalities)
        return replace(
            self,
            features={m: self.features[m] for m in self.modalities if m in modalities},
            parts=parts,
            statistics={m: x for m, x in self.statistics.items() if m in modalities},
            possible={p: value for p, value in self.possible.items() if p in patterns},
        )


def training_statistics(utterances: Sequence[Utterance], modality: Modality) -> Statistics:
    """Statistics over all frames of the modality; a constant feature gets deviation 1."""
    frames = [u.features[modality] for u in utterances if modality in u.features]
    count = sum(len(x) for x in frames)
    if count == 0:
        raise CorpusError(f"no training utterance has modality {modality}; nothing to standardise")
    mean = np.asarray(sum(x.sum(axis=0, dtype=np.float64) for x in frames) / count)
    variance = np.asarray(sum(((x - mean) ** 2).sum(axis=0) for x in frames) / count)
    return Statistics(mean, _no_zero(np.sqrt(variance)))


def standardised(corpus: Corpus) -> Corpus:
    """The corpus with statistics of the training frames, where it has none of its own, of the
    modalities that are not `normalised`."""
    train = corpus.parts["train"]
    missing = [
        m for m, f in corpus.features.items() if m not in corpus.statistics and not f.normalised
    ]
    found = {m: training_statistics(train, m) for m in missing}
    return replace(corpus, statistics=corpus.statistics | found)


def column_statistics(values: NDArray[np.floating]) -> Statistics:
    """Mean and deviation (P,) of the columns of (N, P); a constant column gets deviation 1."""
    exact = values.astype(np.float64)
    return Statistics(exact.mean(axis=0), _no_zero(exact.std(axis=0)))


def _no_zero(std: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where a deviation is zero, or so small that it is the rounding of a constant."""
    return np.where(std > 1e-9, std, 1.0)


def checked_statistics(given: Statistics, dim: int, what: str) -> Statistics:
    """Statistics that float32 can standardise by; a deviation of 0 becomes 1."""
    mean, std = (
        as_numbers(value, f"{what}: mean and std", CorpusError).astype(np.float64)
        for value in (given.mean, given.std)
    )
    if mean.shape != (dim,) or std.shape != (dim,):
        raise CorpusError(f"{what}: got mean {mean.shape} and std {std.shape}, wanted ({dim},)")
    largest = np.finfo(np.float32).max
    # Written so that NaN fails as well.
    if not ((abs(mean) <= largest).all() and ((std >= 0) & (std <= largest)).all()):
        raise CorpusError(f"{what}: mean and std must be finite in float32 and std not negative")
    return Statistics(mean, np.where(std > np.finfo(np.float32).tiny, std, 1.0))


@dataclass(frozen=True)
class Batch:
    """B utterances. Frames past a length are never read, whatever they hold."""

    features: dict[Modality, Tensor]
    """Per modality raw features (B, T_m, D_m)."""
    lengths: dict[Modality, Tensor]
    """Per modality, in canonical order, frames (B,), int64; 0 where the modality is missing."""
    labels: Tensor
    """(B,) int64"""
    pooled: dict[Modality, Tensor] | None = None
    """Per modality pooled encodings (B, P), where they were computed before; features are then
    empty."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def present(self) -> Tensor:
        """(B, M) bool, canonical order."""
        return torch.stack([lengths > 0 for lengths in self.lengths.values()], dim=1)

    def masked(self, keep: Tensor) -> Batch:
        """The same batch where only modalities with `keep` (B, M) bool are present."""
        lengths = {m: x * keep[:, i] for i, (m, x) in enumerate(self.lengths.items())}
        return replace(self, lengths=lengths)

    def to(self, dtype: torch.dtype) -> Batch:
        """The same batch with features of another floating type."""
        return replace(self, features={m: x.to(dtype) for m, x in self.features.items()})


def collate(utterances: Sequence[Utterance], config: ModelConfig) -> Batch:
    """Pad utterances to the longest of each modality, and to the network's minimum length.

    A present input below the minimum counts as having it: its padding are zero frames that the
    network sees, the same alone and in any batch.
    """
    features = {}
    lengths = {}
    for modality in config.modalities:
        shortest = config.minimum_length(modality)
        arrays = [u.features.get(modality) for u in utterances]
        frames = [0 if x is None or len(x) == 0 else max(len(x), shortest) for x in arrays]
        shape = (len(arrays), max([shortest, *frames]), config.features[modality].dim)
        padded = np.zeros(shape, dtype=np.float32)
        for row, array in enumerate(arrays):
            if array is not None:
                padded[row, : len(array)] = array
        features[modality] = torch.from_numpy(padded)
        lengths[modality] = torch.tensor(frames)
    return Batch(features, lengths, torch.tensor([u.label for u in utterances]))


def pattern_mask(
    patterns: Sequence[Pattern], modalities: Sequence[Modality] = MODALITIES
) -> Tensor:
    """(B, M) bool, true where a pattern has the modality."""
    return torch.tensor([[m in pattern for m in modalities] for pattern in patterns])


def require_sound(corpus: Corpus) -> None:
    """CorpusError with the first problem and the number of others."""
    found = problems(corpus)
    first = next(found, None)
    if first is not None:
        others = sum(1 for _ in found)
        more = f"; and {others} more, see ifmmin-train inspect" if others else ""
        raise CorpusError(f"corpus {corpus.name}: {first}{more}")


def problems(corpus: Corpus) -> Iterator[str]:
    """Every problem of a fold, one line each."""
    for part in PARTS:
        if not corpus.parts[part]:
            yield f"its {part} part is empty"
        for utterance in corpus.parts[part]:
            yield from utterance_problems(utterance, corpus.features, len(corpus.labels))
    yield from _repeated(corpus)
    train = corpus.parts["train"]
    seen = {u.label for u in train}
    for index, label in enumerate(corpus.labels):
        if train and index not in seen:
            yield f"no training utterance is of class {label}"
    for modality in corpus.modalities:
        if train and not any(modality in u.features for u in train):
            yield f"no training utterance has modality {modality}"


_MANY_ZEROS = 0.05
"""Share of a modality's utterances of which somebody should hear."""


def remarks(corpus: Corpus) -> Iterator[str]:
    """What is no problem of a fold, but what whoever trains on it should know, one line each."""
    every = [u for part in PARTS for u in corpus.parts[part]]
    for modality in corpus.modalities:
        arrays = [u.features[modality] for u in every if modality in u.features]
        zeros = sum(array.dtype.kind == "f" and not array.any() for array in arrays)
        if arrays and zeros > _MANY_ZEROS * len(arrays):
            yield (
                f"modality {modality} is nothing but zeros in {zeros} of {len(arrays)} utterances; "
                "where they stand for a missing one, leave them out"
            )
    for part, cost in (
        ("validation", "neither in what chooses the epoch nor in the temperatures"),
        ("test", "in no figure and no mean"),
    ):
        present = {m for u in corpus.parts[part] for m in u.features}
        for modality in corpus.modalities:
            if modality not in present:
                yield (
                    f"no {part} utterance has modality {modality}: patterns of it alone count "
                    f"{cost}"
                )
    for part in PARTS:
        if len({u.label for u in corpus.parts[part]}) == 1:
            yield f"the {part} part has one class alone: its figures say little"


_LONGEST_NAME = 300


def shown_name(name: str) -> str:
    """An utterance as messages call it, in one line whatever its name."""
    return f"utterance {printable(name[:_LONGEST_NAME])}"


def utterance_problems(
    utterance: Utterance, features: Mapping[Modality, FeatureConfig], classes: int
) -> Iterator[str]:
    """Problems of one utterance: no features, a wrong width or type, values not finite."""
    name = shown_name(utterance.name)
    if not 1 <= len(utterance.name) <= _LONGEST_NAME or utterance.name != printable(utterance.name):
        yield f"{name}: its name must have 1 to {_LONGEST_NAME} characters, all of which print"
    if not utterance.features:
        yield f"{name} is in none of the feature files"
    if not 0 <= utterance.label < classes:
        yield f"{name}: got label {utterance.label}, wanted 0 to {classes - 1}"
    for modality, array in utterance.features.items():
        dim = features[modality].dim
        where = f"{name}, modality {modality}"
        if array.ndim != 2 or array.shape[1] != dim:
            yield f"{where}: got shape {array.shape}, wanted (frames, {dim})"
        elif not np.issubdtype(array.dtype, np.floating):
            yield f"{where}: got {array.dtype}, wanted a floating type"
        elif not np.isfinite(array).all():
            frame, column = np.argwhere(~np.isfinite(array))[0]
            yield (
                f"{where}: {array[frame, column]} at frame {frame}, column {column}; "
                "features must be finite"
            )


def _repeated(corpus: Corpus) -> Iterator[str]:
    known: dict[str, tuple[str, int]] = {}
    for part in PARTS:
        for utterance in corpus.parts[part]:
            if utterance.name not in known:
                known[utterance.name] = (part, utterance.label)
                continue
            where, label = known[utterance.name]
            name = shown_name(utterance.name)
            yield f"{name} is in {where} and again in {part}"
            if label != utterance.label:
                yield (
                    f"{name} is {corpus.labels[label]} in {where} and "
                    f"{corpus.labels[utterance.label]} in {part}"
                )
