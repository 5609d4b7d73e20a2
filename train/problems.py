"""What can be wrong with a corpus, told with the utterance's name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.config import FeatureConfig
from ifmmin.train.corpus import PARTS, Corpus, Utterance


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
    for modality in MODALITIES:
        if train and not any(modality in u.features for u in train):
            yield f"no training utterance has modality {modality}"


def utterance_problems(
    utterance: Utterance, features: Mapping[Modality, FeatureConfig], classes: int
) -> Iterator[str]:
    """Problems of one utterance: no features, a wrong width or type, values not finite."""
    name = f"utterance {utterance.name}"
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
            yield f"utterance {utterance.name} is in {where} and again in {part}"
            if label != utterance.label:
                yield (
                    f"utterance {utterance.name} is {corpus.labels[label]} in {where} and "
                    f"{corpus.labels[utterance.label]} in {part}"
                )
