"""The layout of the features released with MMIN and IF-MMIN: HDF5 per modality, .npy per fold.

FEATURES/A/comparE.h5            one dataset (T, D) per utterance
FEATURES/A/comparE_mean_std.h5   group per fold: mean (D,), std (D,)
TARGETS/FOLD/{trn,val,tst}_label.npy      one-hot (N, C) or integers (N,)
TARGETS/FOLD/{trn,val,tst}_int2name.npy   names (N, 1) or (N,), bytes or str
"""

from __future__ import annotations

from pathlib import Path

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.config import FeatureConfig
from ifmmin.train.corpus import (
    PARTS,
    Corpus,
    Statistics,
    Utterance,
    check_utterance,
    training_statistics,
)

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
    labels: tuple[str, ...]
    """Names of the classes, in the order of the label columns."""
    files: dict[Modality, FeatureFile]
    folds: int
    """Number of folds, directories `1` to `folds` of the target root."""


def load_released(
    layout: ReleasedLayout, *, features: Path | None, targets: Path | None, fold: int
) -> Corpus:
    """Read one fold. Raises CorpusError naming the file or the utterance at fault."""
    if features is None or targets is None:
        raise CorpusError(f"corpus {layout.name} is read from files; give --features and --targets")
    if not 1 <= fold <= layout.folds:
        raise CorpusError(f"corpus {layout.name} has folds 1 to {layout.folds}, got fold {fold}")
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
    parts = {}
    for part, (names, labels) in names_and_labels.items():
        parts[part] = [
            Utterance(name, {m: arrays[m][name] for m in MODALITIES if name in arrays[m]}, label)
            for name, label in zip(names, labels, strict=True)
        ]
        for utterance in parts[part]:
            check_utterance(utterance, described)
            if not utterance.features:
                raise CorpusError(f"utterance {utterance.name} is in none of the feature files")
    statistics = {
        modality: _statistics(layout.files[modality], modality, features, fold, parts["train"])
        for modality in MODALITIES
        if layout.files[modality].standardise != "none"
    }
    return Corpus(layout.name, layout.labels, described, parts, statistics)


def _read_targets(directory: Path, prefix: str, classes: int) -> tuple[list[str], list[int]]:
    labels = _load_npy(directory / f"{prefix}_label.npy")
    names = _load_npy(directory / f"{prefix}_int2name.npy")
    names = names.reshape(len(names), -1)[:, 0]
    decoded = [n.decode() if isinstance(n, bytes) else str(n) for n in names]
    if labels.ndim == 2 and labels.shape[1] == classes and (labels.sum(axis=1) == 1).all():
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


def _load_npy(path: Path) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorpusError(f"{path} cannot be read ({error}); is --targets right?") from error
    return array


def _read_features(path: Path, wanted: set[str]) -> dict[str, NDArray[np.floating]]:
    """The datasets of the wanted utterances, in the type in which they are stored."""
    try:
        with h5py.File(path, "r") as file:
            found = {name: np.asarray(file[name]) for name in file if name in wanted}
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error}); is --features right?") from error
    if not found:
        raise CorpusError(f"{path} holds none of the fold's utterances; is --targets right?")
    return found


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
    file: FeatureFile, modality: Modality, root: Path, fold: int, train: list[Utterance]
) -> Statistics:
    if file.standardise == "train":
        return training_statistics(train, modality)
    path = root / file.standardise
    try:
        with h5py.File(path, "r") as content:
            mean, std = (np.asarray(content[f"{fold}/{name}"]) for name in ("mean", "std"))
    except (OSError, KeyError) as error:
        raise CorpusError(f"{path} gives no mean and std for fold {fold} ({error})") from error
    std = std.astype(np.float64)
    return Statistics(mean.astype(np.float64), np.where(std > 0, std, 1.0))
