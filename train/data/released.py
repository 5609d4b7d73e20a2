"""Corpora of others: files in the released HDF5 layout, and what a user's own function gives."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import MODALITIES, Modality

from ..config import FeatureConfig
from .corpus import PARTS, Corpus, Statistics, Utterance, require_sound, training_statistics

_FILE_PREFIX = dict(zip(PARTS, ("trn", "val", "tst"), strict=True))


class FeatureFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the features of one modality are and what they are."""

    file: str
    """HDF5 file, relative to the feature root."""
    standardise: str = "none"
    """`none`: take the values as they are; `train`: mean and deviation over the training frames;
    otherwise the HDF5 file with a group per fold that holds `mean` and `std`."""
    features: str = "unspecified"
    """What the numbers are; goes into checkpoint and bundle."""
    frame_rate: float | None = None
    """Frames a second; none where frames have no fixed rate."""
    missing_length: int = 100
    """Frames of the all-zero input that stands for the missing modality."""


class ReleasedLayout(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="released",
    tag_field="layout",
):  # fmt: skip
    """A corpus in the released layout."""

    name: str
    """What tables and messages call it."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the label columns."""
    files: dict[Modality, FeatureFile]
    """Where the features of each modality are."""
    folds: int
    """Number of folds, directories `1` to `folds` of the target root."""


def load_released(
    layout: ReleasedLayout, *, features: Path | None, targets: Path | None, fold: int
) -> Corpus:
    """Read one fold. Raises CorpusError naming the file or the utterance at fault."""
    corpus = read_released(layout, features=features, targets=targets, fold=fold)
    require_sound(corpus)
    assert features is not None
    statistics = {
        modality: _statistics(layout.files[modality], modality, features, fold, corpus)
        for modality in MODALITIES
        if layout.files[modality].standardise != "none"
    }
    return replace(corpus, statistics=statistics)


def read_released(
    layout: ReleasedLayout, *, features: Path | None, targets: Path | None, fold: int
) -> Corpus:
    """Read one fold as it is, sound or not, without statistics."""
    if features is None or targets is None:
        raise CorpusError(f"corpus {layout.name} is read from files; give --features and --targets")
    if not 1 <= fold <= layout.folds:
        raise CorpusError(f"corpus {layout.name} has folds 1 to {layout.folds}, got fold {fold}")
    if not (targets / str(fold)).is_dir():
        raise CorpusError(f"fold {fold} has no directory in {targets}; is --targets right?")
    names_and_labels = {
        part: _read_targets(targets / str(fold), prefix, len(layout.labels))
        for part, prefix in _FILE_PREFIX.items()
    }
    arrays, described = {}, {}
    wanted = {name for names, _ in names_and_labels.values() for name in names}
    for modality in MODALITIES:
        file = layout.files[modality]
        arrays[modality] = _read_features(features / file.file, wanted)
        described[modality] = _describe(file, modality, arrays[modality])
    parts = {
        part: [
            Utterance(name, _features_of(name, arrays), label)
            for name, label in zip(names, labels, strict=True)
        ]
        for part, (names, labels) in names_and_labels.items()
    }
    return Corpus(layout.name, layout.labels, described, parts)


def _features_of(
    name: str, arrays: dict[Modality, dict[str, NDArray[np.floating]]]
) -> dict[Modality, NDArray[np.floating]]:
    """What there is of an utterance; a dataset without frames is a missing modality."""
    found = {m: arrays[m][name] for m in MODALITIES if name in arrays[m]}
    return {m: x for m, x in found.items() if len(x)}


def _read_targets(directory: Path, prefix: str, classes: int) -> tuple[list[str], list[int]]:
    labels = _load_npy(directory / f"{prefix}_label.npy")
    names = _load_npy(directory / f"{prefix}_int2name.npy")
    names = names.reshape(len(names), -1)[:, 0]
    decoded = [n.decode() if isinstance(n, bytes) else str(n) for n in names]
    if labels.ndim == 2 and labels.shape[1] == classes:
        _require_one_hot(labels, decoded, directory / f"{prefix}_label.npy")
        integers = labels.argmax(axis=1)
    elif labels.ndim == 1 and labels.size and labels.min() >= 0 and labels.max() < classes:
        integers = labels.astype(np.int64)
    else:
        raise CorpusError(
            f"{directory}/{prefix}_label.npy: got shape {labels.shape}, wanted one-hot "
            f"(utterances, {classes}) or integers below {classes}"
        )
    if len(decoded) != len(integers):
        raise CorpusError(
            f"{directory}: {len(integers)} labels but {len(decoded)} names in {prefix}_*.npy"
        )
    return decoded, [int(label) for label in integers]


def _require_one_hot(labels: NDArray[np.generic], names: list[str], path: Path) -> None:
    right = ((labels == 1).sum(axis=1) == 1) & ((labels != 0).sum(axis=1) == 1)
    if not right.all():
        row = int(np.argmin(right))
        name = names[row] if row < len(names) else f"number {row}"
        raise CorpusError(
            f"{path}: utterance {name} has label {labels[row].tolist()}, wanted a single 1"
        )


def _load_npy(path: Path) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorpusError(f"{path} cannot be read ({error}); is --targets right?") from error
    return array


def _read_features(path: Path, wanted: set[str]) -> dict[str, NDArray[np.floating]]:
    """The datasets of the wanted utterances, each read once, as stored but never wider than
    float32."""
    try:
        with h5py.File(path, "r") as file:
            found = {name: _compact(file[name], path) for name in sorted(wanted) if name in file}
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error}); is --features right?") from error
    if not found:
        raise CorpusError(f"{path} holds none of the fold's utterances; is --targets right?")
    return found


def _compact(item: object, path: Path) -> NDArray[np.floating]:
    if not isinstance(item, h5py.Dataset):
        raise CorpusError(f"{path}: wanted one dataset per utterance, found something else inside")
    wide = item.dtype == np.float64
    return np.asarray(item[()], dtype=np.float32 if wide else item.dtype)


def _describe(
    file: FeatureFile, modality: Modality, arrays: dict[str, NDArray[np.floating]]
) -> FeatureConfig:
    name, first = next(iter(arrays.items()))
    if first.ndim != 2 or first.shape[1] == 0:
        raise CorpusError(
            f"utterance {name}, modality {modality}: got shape {first.shape}, wanted (frames, dim)"
        )
    return FeatureConfig(
        dim=first.shape[1],
        features=file.features,
        frame_rate=file.frame_rate,
        missing_length=file.missing_length,
    )


def _statistics(
    file: FeatureFile, modality: Modality, root: Path, fold: int, corpus: Corpus
) -> Statistics:
    if file.standardise == "train":
        return training_statistics(corpus.parts["train"], modality)
    return read_statistics(root / file.standardise, fold, corpus.features[modality].dim)


def read_statistics(path: Path, fold: int, dim: int) -> Statistics:
    """A fold's statistics from HDF5, checked; a deviation of 0 becomes 1, as the reference reads
    it."""
    try:
        with h5py.File(path, "r") as content:
            mean, std = (np.asarray(content[f"{fold}/{name}"]) for name in ("mean", "std"))
    except (OSError, KeyError) as error:
        raise CorpusError(f"{path} gives no mean and std for fold {fold} ({error})") from error
    if mean.shape != (dim,) or std.shape != (dim,):
        raise CorpusError(f"{path}: got mean {mean.shape} and std {std.shape}, wanted ({dim},)")
    means: NDArray[np.float64] = mean.astype(np.float64)
    deviations: NDArray[np.float64] = std.astype(np.float64)
    if not np.isfinite([means, deviations]).all() or deviations.min() < 0:
        raise CorpusError(f"{path}: mean and std must be finite and std not negative")
    return Statistics(means, np.where(deviations > 0, deviations, 1.0))


Adapter = Callable[..., Corpus]
"""Called with the keywords `fold`, `features`, `targets` and the layout's options."""


class AdapterLayout(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="adapter",
    tag_field="layout",
):  # fmt: skip
    """A corpus given by a Python function."""

    function: str
    """`package.module:function`, importable where the command runs."""
    folds: int = 1
    """Number of folds."""
    options: dict[str, Any] = {}
    """Keyword arguments for the function, besides fold, features and targets."""


def load_adapter(
    layout: AdapterLayout, *, fold: int, features: Path | None, targets: Path | None
) -> Corpus:
    """Call the function and check what it gives. Raises CorpusError."""
    corpus = read_adapter(layout, fold=fold, features=features, targets=targets)
    require_sound(corpus)
    return corpus


def read_adapter(
    layout: AdapterLayout, *, fold: int, features: Path | None, targets: Path | None
) -> Corpus:
    """Call the function; what it gives need not be sound."""
    if not 1 <= fold <= layout.folds:
        raise CorpusError(f"the corpus has folds 1 to {layout.folds}, got fold {fold}")
    function = _find(layout.function)
    corpus = function(fold=fold, features=features, targets=targets, **layout.options)
    if not isinstance(corpus, Corpus):
        raise CorpusError(
            f"{layout.function} gave a {type(corpus).__name__}, wanted an ifmmin.train.Corpus"
        )
    if set(corpus.parts) != set(PARTS) or set(corpus.features) != set(MODALITIES):
        raise CorpusError(
            f"{layout.function} gave parts {', '.join(corpus.parts)} and features of "
            f"{', '.join(map(str, corpus.features))}; wanted {', '.join(PARTS)} and a, v, t"
        )
    return corpus


def _find(reference: str) -> Adapter:
    module, colon, name = reference.partition(":")
    if not colon or not module or not name:
        raise CorpusError(f"got function {reference!r}, wanted package.module:function")
    try:
        found: Adapter = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise CorpusError(f"cannot import {module} ({error}); is it on PYTHONPATH?") from error
    except AttributeError:
        raise CorpusError(f"module {module} has no {name}") from None
    return found
