"""Corpora that the trainer reads; docs/corpora.md tells how to add another."""

from __future__ import annotations

from pathlib import Path

from ifmmin.runtime.errors import CorpusError

from .corpus import Corpus
from .released import (
    AdapterLayout,
    ReleasedLayout,
    load_adapter,
    load_released,
    read_adapter,
    read_released,
)
from .synthetic import SyntheticLayout, draw_synthetic

Layout = AdapterLayout | ReleasedLayout | SyntheticLayout


def load_corpus(
    layout: Layout, *, fold: int, features: Path | None = None, targets: Path | None = None
) -> Corpus:
    """One fold of the corpus that a recipe describes, ready for training.

    features, targets: root directories, for layouts that read files. Raises CorpusError with the
    first problem.
    """
    if isinstance(layout, SyntheticLayout):
        return _draw(layout, fold)
    load = load_adapter if isinstance(layout, AdapterLayout) else load_released
    return load(layout, features=features, targets=targets, fold=fold)  # type: ignore[arg-type]


def read_corpus(
    layout: Layout, *, fold: int, features: Path | None = None, targets: Path | None = None
) -> Corpus:
    """One fold as it is, sound or not; for looking at it. Raises CorpusError."""
    if isinstance(layout, SyntheticLayout):
        return _draw(layout, fold)
    read = read_adapter if isinstance(layout, AdapterLayout) else read_released
    return read(layout, features=features, targets=targets, fold=fold)  # type: ignore[arg-type]


_MOST_DRAWN = 1000


def _draw(layout: SyntheticLayout, fold: int) -> Corpus:
    if not 1 <= fold <= _MOST_DRAWN:
        raise CorpusError(f"a synthetic corpus has folds 1 to {_MOST_DRAWN}, got fold {fold}")
    return draw_synthetic(layout, fold=fold)


def fold_count(layout: Layout) -> int:
    """How many folds there are; a synthetic corpus has as many as one likes and answers 1."""
    return 1 if isinstance(layout, SyntheticLayout) else layout.folds


__all__ = [
    "AdapterLayout", "Layout", "ReleasedLayout", "SyntheticLayout", "fold_count", "load_corpus",
    "read_corpus",
]  # fmt: skip
