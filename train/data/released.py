"""Corpora of others: files in the released HDF5 layout, and what a user's own function gives."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import CorpusError, InputError, RecipeError
from ifmmin.runtime.files import npy_header, open_regular, require_size
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.runtime.prediction import check_labels
from ifmmin.runtime.validate import as_numbers

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


def _check_folds(folds: int) -> None:
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

    def __post_init__(self) -> None:
        if set(self.files) != set(MODALITIES):
            got = ", ".join(self.files) or "none"
            raise RecipeError(f"files of a, v and t are wanted, got {got}")
        check_labels(self.labels)
        _check_folds(self.folds)


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
        part: _read_targets(targets / str(fold), prefix, layout.labels)
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
    return {m: x for m, x in found.items() if x.ndim == 0 or len(x)}


def _read_targets(
    directory: Path, prefix: str, classes: Sequence[str]
) -> tuple[list[str], list[int]]:
    path = directory / f"{prefix}_label.npy"
    given, names = _load_npy(path), _load_npy(directory / f"{prefix}_int2name.npy")
    names = names.reshape(len(names), -1)[:, 0] if names.ndim else names.reshape(1)
    decoded = [_text(name, directory / f"{prefix}_int2name.npy") for name in names]
    if given.ndim not in (1, 2) or (given.ndim == 2 and given.shape[1] != len(classes)):
        raise CorpusError(
            f"{path}: got shape {given.shape}, wanted one-hot (utterances, {len(classes)}), or a "
            "whole number or the name of a class for each"
        )
    if len(decoded) != len(given):
        raise CorpusError(
            f"{directory}: {len(given)} labels but {len(decoded)} names in {prefix}_*.npy"
        )
    labels = []
    for name, label in zip(decoded, given, strict=True):
        try:
            labels.append(read_label(label, classes))
        except CorpusError as error:
            raise CorpusError(f"{path}: utterance {name}: {error}") from error
    return decoded, labels


def read_label(given: object, classes: Sequence[str]) -> int:
    """The number of a class from a whole number, a class's name, or a row with a single 1.

    Raises CorpusError for anything else: a score of 1.7 is of no class.
    """
    name = given.decode("utf-8", "replace") if isinstance(given, bytes) else given
    if isinstance(name, str):
        if name in classes:
            return list(classes).index(name)
    elif isinstance(given, np.ndarray) and given.shape == (len(classes),):
        if given.dtype.kind in "fiub" and np.count_nonzero(given) == 1 and given.max() == 1:
            return int(given.argmax())
    elif isinstance(given, Real) and not isinstance(given, bool | np.bool_):
        number = float(given)
        if number.is_integer() and 0 <= number < len(classes):
            return int(number)
    shown = given.tolist() if isinstance(given, np.ndarray | np.generic) else given
    raise CorpusError(
        f"got label {str(shown)[:99]!r}, wanted a whole number from 0 to {len(classes) - 1}, one "
        f"of {', '.join(classes)}, or a single 1 in their order; make classes of scores first"
    )


def _text(name: Any, path: Path) -> str:
    try:
        return name.decode() if isinstance(name, bytes) else str(name)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: got the name {name!r}, wanted it in UTF-8") from error


def _load_npy(path: Path) -> NDArray[np.generic]:
    try:
        with open_regular(path, CorpusError) as file:
            shape, _, dtype = npy_header(file, CorpusError)
            require_size(math.prod(shape) * dtype.itemsize, path, CorpusError)
            file.seek(0)
            array: NDArray[np.generic] = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, CorpusError) as error:
        raise CorpusError(f"{path} cannot be read ({error}); is --targets right?") from error
    return array


def _read_features(path: Path, wanted: set[str]) -> dict[str, NDArray[np.floating]]:
    """The datasets of the wanted utterances, each read once, as stored but never wider than
    float32."""
    try:
        open_regular(path, CorpusError, sys.maxsize).close()
        with h5py.File(path, "r") as file:
            # Before any of it is read: a file may declare more than it holds, and than there is.
            items = {name: _dataset(file, name, path) for name in sorted(wanted) if name in file}
            declared = sum(item.size * item.dtype.itemsize for item in items.values())
            require_size(declared // _UTTERANCES_AT_ONCE, f"{path}, on average,", CorpusError)
            found = {name: _compact(item) for name, item in items.items()}
    # RuntimeError and others: h5py of a damaged file.
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise CorpusError(f"{path} cannot be read ({error}); is --features right?") from error
    if not found:
        raise CorpusError(f"{path} holds none of the fold's utterances; is --targets right?")
    return found


_UTTERANCES_AT_ONCE = 4
"""Times what one input may take, for a whole corpus."""


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise CorpusError(f"{path}: utterance {name} is a link, wanted its numbers in this file")
    item = file[name]
    if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
        raise CorpusError(f"{path}: wanted one dataset per utterance, found something else inside")
    require_size(item.size * item.dtype.itemsize, f"{path}: utterance {name}", CorpusError)
    return item


def _compact(item: h5py.Dataset) -> NDArray[np.floating]:
    wide = item.dtype == np.float64
    with np.errstate(over="ignore"):  # infinite then, and told as such
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

    def __post_init__(self) -> None:
        _check_folds(self.folds)


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
    try:
        check_labels(corpus.labels)
    except (InputError, TypeError) as error:
        raise CorpusError(f"{layout.function} gave labels: {error}") from error
    parts = {
        part: [_sound(u, corpus.labels, layout.function) for u in corpus.parts[part]]
        for part in PARTS
    }
    described = {Modality.of(letter): one for letter, one in corpus.features.items()}
    return replace(corpus, parts=parts, features=described)


def _sound(given: object, labels: Sequence[str], function: str) -> Utterance:
    """An utterance of the user's own function, of plain arrays and a class."""
    if not isinstance(given, Utterance) or not isinstance(given.name, str):
        raise CorpusError(f"{function} gave {str(given)[:99]!r}, wanted an ifmmin.train.Utterance")
    if not isinstance(given.features, Mapping):
        raise CorpusError(f"utterance {given.name}: got no mapping of features, wanted one")
    try:
        label = read_label(given.label, labels)
    except CorpusError as error:
        raise CorpusError(f"utterance {given.name}: {error}") from error
    features: dict[Modality, NDArray[np.floating]] = {}
    for letter, value in given.features.items():
        if value is None:
            continue
        try:
            modality = Modality.of(letter)
        except InputError as error:
            raise CorpusError(f"utterance {given.name}: {error}") from error
        array = as_numbers(value, f"utterance {given.name}, modality {modality}", CorpusError)
        compact = array.dtype == np.float16
        with np.errstate(over="ignore"):  # infinite then, and told as such
            features[modality] = array.astype(np.float16 if compact else np.float32)
    return Utterance(given.name, features, label)


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
