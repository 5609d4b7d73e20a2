"""Corpora in the released layout: features in HDF5, labels and names of folds in NumPy files."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import CorpusError, RecipeError, one_line
from ifmmin.runtime.files import npy_header, open_regular, require_size
from ifmmin.runtime.frontends.spec import FrontEndSpec
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.runtime.prediction import check_labels

from ..config import FeatureConfig, require_modalities
from .corpus import PARTS, Corpus, Statistics, Utterance, checked_statistics, training_statistics
from .labels import check_edges, read_targets

FILE_PREFIX = dict(zip(PARTS, ("trn", "val", "tst"), strict=True))


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
    weight_column: int | None = None
    """Feature that weighs the frames of the weighted functionals, such as the probability of
    voicing; none: those are left out."""
    frontend: FrontEndSpec | None = None
    """What made the features of a signal, as `ifmmin-train extract` writes it; goes into checkpoint
    and bundle, which then takes the signal itself."""


def check_folds(folds: int) -> None:
    """RecipeError unless it is 1 to 1000."""
    if not 1 <= folds <= _MOST_FOLDS:
        raise RecipeError(f"folds must be 1 to {_MOST_FOLDS}, got {folds}")


_MOST_FOLDS = 1000


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
    bins: tuple[float, ...] = ()
    """Edges between the classes where labels are real-valued scores; a score on an edge is of the
    class above it."""

    def __post_init__(self) -> None:
        require_modalities("files", self.files)
        check_labels(self.labels)
        check_edges(self.bins, self.labels)
        check_folds(self.folds)


def read_released(
    layout: ReleasedLayout,
    *,
    features: Path | None,
    targets: Path | None,
    fold: int,
    modalities: Collection[Modality],
) -> Corpus:
    """Read one fold as it is, sound or not, without statistics; the files of some modalities."""
    if features is None or targets is None:
        raise CorpusError(f"corpus {layout.name} is read from files; give --features and --targets")
    if not 1 <= fold <= layout.folds:
        raise CorpusError(f"corpus {layout.name} has folds 1 to {layout.folds}, got fold {fold}")
    if not (targets / str(fold)).is_dir():
        raise CorpusError(f"fold {fold} has no directory in {targets}; is --targets right?")
    read = {
        part: _read_targets(targets / str(fold), prefix, layout)
        for part, prefix in FILE_PREFIX.items()
    }
    arrays, described = {}, {}
    wanted = {name for names, _ in read.values() for name in names}
    for modality, file in layout.files.items():
        if modality not in modalities:
            continue
        arrays[modality] = _read_features(features / file.file, wanted)
        described[modality] = _describe(file, modality, arrays[modality])
    # What has none of those that were asked for is no mistake where there are others.
    whole = len(arrays) == len(layout.files)
    parts = {
        part: [
            Utterance(name, found, label, score)
            for name, (label, score) in zip(names, labels, strict=True)
            if (found := _features_of(name, arrays)) or whole
        ]
        for part, (names, labels) in read.items()
    }
    return Corpus(layout.name, layout.labels, described, parts, bins=layout.bins)


def _features_of(
    name: str, arrays: dict[Modality, dict[str, NDArray[np.floating]]]
) -> dict[Modality, NDArray[np.floating]]:
    found = {m: arrays[m][name] for m in MODALITIES if m in arrays and name in arrays[m]}
    return {m: x for m, x in found.items() if not is_empty(x)}


def is_empty(array: NDArray[Any]) -> bool:
    """Whether there are no frames, which is to say that the modality is missing."""
    return array.ndim > 0 and len(array) == 0


def _read_targets(
    directory: Path, prefix: str, layout: ReleasedLayout
) -> tuple[list[str], list[tuple[int, float | None]]]:
    classes = layout.labels
    path, names_path = (directory / f"{prefix}_{what}.npy" for what in ("label", "int2name"))
    given, names = _load_npy(path), _load_npy(names_path)
    if names.ndim == 0 or 0 in names.shape[1:]:
        raise CorpusError(f"{names_path}: got shape {names.shape}, wanted a name per utterance")
    widths = (len(classes), 1) if layout.bins else (len(classes),)
    if given.ndim not in (1, 2) or (given.ndim == 2 and given.shape[1] not in widths):
        raise CorpusError(
            f"{path}: got shape {given.shape}, wanted one-hot (utterances, {len(classes)}), or a "
            "whole number, the name of a class or, with corpus.bins, a score for each"
        )
    if len(names) != len(given):
        raise CorpusError(
            f"{directory}: {len(given)} labels but {len(names)} names in {prefix}_*.npy"
        )
    rows = names.reshape(len(names), math.prod(names.shape[1:]))
    decoded = [_text(name, names_path) for name in rows[:, 0]]
    return decoded, read_targets(decoded, given, classes, layout.bins, str(path))


def _text(name: Any, path: Path) -> str:
    try:
        return name.decode() if isinstance(name, bytes) else str(name)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: got the name {bytes(name)!r}, wanted it in UTF-8") from error


_ROW_BYTES = 64
"""What a name or a label takes in memory at least, once it is read."""


def _load_npy(path: Path) -> NDArray[np.generic]:
    try:
        with open_regular(path, CorpusError) as file:
            shape, _, dtype = npy_header(file, CorpusError)
            size = math.prod(shape) * max(dtype.itemsize, _ROW_BYTES)
            require_size(size, path, CorpusError)
            file.seek(0)
            array: NDArray[np.generic] = np.load(file, allow_pickle=False)
    except (*_UNREADABLE, CorpusError) as error:
        raise CorpusError(f"{path} cannot be read ({one_line(error)}); is --targets right?") from (
            error
        )
    return array


_UNREADABLE = (OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError)
"""What numpy and h5py raise of damaged files."""


def _read_features(path: Path, wanted: set[str]) -> dict[str, NDArray[np.floating]]:
    """The datasets of the wanted utterances, each read once, as stored but never wider than
    float32."""
    try:
        with _open_hdf5(path) as file:
            # Before any of it is read: a file may declare more than it holds, and than there is.
            found = {name: _dataset(file, name, path) for name in sorted(wanted)}
            items = {name: item for name, item in found.items() if item is not None}
            declared = sum(item.size * item.dtype.itemsize for item in items.values())
            if declared > _UNFOLDED * path.stat().st_blocks * 512:  # of which a gap takes none
                require_size(declared, f"{path}, of which most is not on the disk,", CorpusError)
            arrays = {name: _compact(item) for name, item in items.items()}
    except _UNREADABLE as error:
        raise CorpusError(f"{path} cannot be read ({one_line(error)}); is --features right?") from (
            error
        )
    if not arrays:
        raise CorpusError(f"{path} holds none of the fold's utterances; is --targets right?")
    return arrays


_UNFOLDED = 16
"""Times what its numbers take on the disk, compressed: a corpus may be as large as the disk, and a
small file may not become one."""


def _open_hdf5(path: Path) -> h5py.File:
    open_regular(path, CorpusError, sys.maxsize).close()
    return h5py.File(path, "r")


_LOW_LEVEL: Any = h5py  # whose stubs leave it out
_HARD = _LOW_LEVEL.h5l.TYPE_HARD


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset | None:
    """The dataset of a name like `a` or `a/b`, not yet read; None where there is none.

    CorpusError where it is another thing, or a link, behind which anything may be.
    """
    place: Any = file
    for step in name.split("/"):
        links = place.id.links if isinstance(place, h5py.Group) else None
        if not step or links is None or not links.exists(step.encode("utf-8", "surrogateescape")):
            return None
        if links.get_info(step.encode("utf-8", "surrogateescape")).type != _HARD:
            raise CorpusError(f"{path}: {name} is behind a link, wanted its numbers in this file")
        place = place[step]
    if not isinstance(place, h5py.Dataset) or place.is_virtual or place.external:
        raise CorpusError(f"{path}: {name} is no dataset of this file, wanted its numbers there")
    if place.shape is None or h5py.check_vlen_dtype(place.dtype) is not None:
        raise CorpusError(f"{path}: {name} is no array of numbers, wanted one")
    require_size(place.size * place.dtype.itemsize, f"{path}: {name}", CorpusError)
    return place


def _compact(item: h5py.Dataset) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):  # infinite then, and told as such
        wide = item.dtype.kind == "f" and item.dtype.itemsize > 4
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
        weight_column=file.weight_column,
        frontend=file.frontend,
    )


def released_statistics(
    layout: ReleasedLayout, corpus: Corpus, root: Path, fold: int
) -> dict[Modality, Statistics]:
    """Those that the layout asks for; root: of the feature files."""
    return {
        modality: _statistics(layout.files[modality], modality, root, fold, corpus)
        for modality in corpus.modalities
        if layout.files[modality].standardise != "none"
    }


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
        with _open_hdf5(path) as file:
            found = [_dataset(file, f"{fold}/{name}", path) for name in ("mean", "std")]
            if None in found:
                raise KeyError("there is no such dataset")
            mean, std = (item[()] for item in found if item is not None)
    except _UNREADABLE as error:
        raise CorpusError(
            f"{path} gives no mean and std for fold {fold} ({one_line(error)})"
        ) from error
    return checked_statistics(Statistics(mean, std), dim, str(path))
