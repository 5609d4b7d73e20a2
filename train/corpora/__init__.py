"""The corpora that ship with the trainer; docs/corpora.md tells how to add another."""

from __future__ import annotations

from pathlib import Path

from ifmmin.train.corpora.released import ReleasedLayout, load_released
from ifmmin.train.corpora.synthetic import SyntheticLayout, draw_synthetic
from ifmmin.train.corpus import Corpus

Layout = ReleasedLayout | SyntheticLayout


def load_corpus(
    layout: Layout, *, fold: int, features: Path | None = None, targets: Path | None = None
) -> Corpus:
    """One fold of the corpus that a recipe describes.

    features, targets: root directories, for layouts that read files. Raises CorpusError.
    """
    if isinstance(layout, SyntheticLayout):
        return draw_synthetic(layout, fold=fold)
    return load_released(layout, features=features, targets=targets, fold=fold)


__all__ = ["Layout", "ReleasedLayout", "SyntheticLayout", "load_corpus"]
