"""Corpora that the trainer reads; docs/corpora.md tells how to add another."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import Modality

from .adapter import AdapterLayout, read_adapter
from .corpus import Corpus, require_sound, standardised
from .pickled import PickledLayout, read_pickled
from .released import ReleasedLayout, read_released, released_statistics
from .synthetic import SyntheticLayout, draw_synthetic

Layout = AdapterLayout | PickledLayout | ReleasedLayout | SyntheticLayout


def load_corpus(
    layout: Layout,
    *,
    fold: int,
    features: Path | None = None,
    targets: Path | None = None,
    modalities: Collection[Modality] | None = None,
) -> Corpus:
    """One fold of the corpus that a recipe describes, ready for training.

    features, targets: root directories, for layouts that read files; modalities: leave out the
    others, and what is in none of these. Raises CorpusError with the first problem.
    """
    corpus = read_corpus(
        layout, fold=fold, features=features, targets=targets, modalities=modalities
    )
    require_sound(corpus)
    if isinstance(layout, ReleasedLayout):
        assert features is not None
        return replace(corpus, statistics=released_statistics(layout, corpus, features, fold))
    return standardised(corpus)


def read_corpus(
    layout: Layout,
    *,
    fold: int,
    features: Path | None = None,
    targets: Path | None = None,
    modalities: Collection[Modality] | None = None,
) -> Corpus:
    """One fold as it is, sound or not; for looking at it. Raises CorpusError."""
    if isinstance(layout, SyntheticLayout):
        corpus = _draw(layout, fold)
    elif isinstance(layout, AdapterLayout):
        corpus = read_adapter(layout, features=features, targets=targets, fold=fold)
    elif isinstance(layout, PickledLayout):
        corpus = read_pickled(layout, features=features, fold=fold, modalities=modalities)
    else:
        wanted = layout.files if modalities is None else modalities
        corpus = read_released(
            layout, features=features, targets=targets, fold=fold, modalities=wanted
        )
    return corpus if modalities is None else corpus.of(modalities)


_MOST_DRAWN = 1000


def _draw(layout: SyntheticLayout, fold: int) -> Corpus:
    if not 1 <= fold <= _MOST_DRAWN:
        raise CorpusError(f"a synthetic corpus has folds 1 to {_MOST_DRAWN}, got fold {fold}")
    return draw_synthetic(layout, fold=fold)


def fold_count(layout: Layout) -> int:
    """How many folds there are; a synthetic corpus has as many as one likes and answers 1."""
    return 1 if isinstance(layout, SyntheticLayout) else layout.folds


__all__ = [
    "AdapterLayout", "Layout", "PickledLayout", "ReleasedLayout", "SyntheticLayout", "fold_count",
    "load_corpus", "read_corpus",
]  # fmt: skip
