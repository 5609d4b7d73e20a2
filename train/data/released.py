"""Corpora of others: files in the released HDF5 layout, and what a user's own function gives."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, cast

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import CorpusError, IfmminError, InputError, RecipeError, one_line
from ifmmin.runtime.files import npy_header, open_regular, require_size
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Modality
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
        with _opened(path) as file:
            # Before any of it is read: a file may declare more than it holds, and than there is.
            items = {
                name: _dataset(file, name, f"{path}: utterance {name}")
                for name in sorted(wanted)
                if name in file
            }
            declared = sum(item.size * item.dtype.itemsize for item in items.values())
            require_size(declared // _UTTERANCES_AT_ONCE, f"{path}, on average,", CorpusError)
            found = {name: _compact(item) for name, item in items.items()}
    except _DAMAGED as error:
        raise CorpusError(f"{path} cannot be read ({error}); is --features right?") from error
    if not found:
        raise CorpusError(f"{path} holds none of the fold's utterances; is --targets right?")
    return found


_DAMAGED = (OSError, RuntimeError, ValueError, TypeError, KeyError)
"""What h5py raises of a file that is absent or damaged."""
_UTTERANCES_AT_ONCE = 4
"""Times what one input may take, for a whole corpus."""


def _opened(path: Path) -> h5py.File:
    open_regular(path, CorpusError, sys.maxsize).close()  # HDF5 itself would wait for a pipe
    return h5py.File(path, "r")


def _dataset(file: h5py.File, name: str, what: str) -> h5py.Dataset:
    """A dataset that holds its numbers itself, and not more of them than one input may have."""
    item: Any = file
    for part in filter(None, name.split("/")):
        if not isinstance(item, h5py.Group):
            break
        if not isinstance(item.get(part, getlink=True), h5py.HardLink):
            raise CorpusError(f"{what} is absent or a link, wanted its numbers in this file")
        item = item[part]
    if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
        raise CorpusError(f"{what} is no dataset of this file, wanted one of its numbers")
    require_size((item.size or 0) * item.dtype.itemsize, what, CorpusError)
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
        with _opened(path) as content:
            mean, std = (
                as_numbers(
                    _dataset(content, f"{fold}/{name}", f"{path}: {name} of fold {fold}")[()],
                    f"{path}: {name} of fold {fold}", CorpusError,
                )
                for name in ("mean", "std")
            )  # fmt: skip
    except _DAMAGED as error:
        raise CorpusError(f"{path} gives no mean and std for fold {fold} ({error})") from error
    return sound_statistics(mean, std, dim, str(path))


def sound_statistics(
    mean: NDArray[np.generic], std: NDArray[np.generic], dim: int, what: str
) -> Statistics:
    """Statistics (D,) that a network can standardise by; a deviation of 0 becomes 1."""
    if mean.shape != (dim,) or std.shape != (dim,):
        raise CorpusError(f"{what}: got mean {mean.shape} and std {std.shape}, wanted ({dim},)")
    means: NDArray[np.float64] = mean.astype(np.float64)
    deviations: NDArray[np.float64] = std.astype(np.float64)
    largest = np.finfo(np.float32).max
    if not (np.abs([means, deviations]) <= largest).all() or deviations.min() < 0:
        raise CorpusError(f"{what}: mean and std must be finite in float32 and std not negative")
    tiny = np.finfo(np.float32).tiny  # which is 0 in a graph
    return Statistics(means, np.where(deviations > tiny, deviations, 1.0))


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
    try:
        given = function(fold=fold, features=features, targets=targets, **layout.options)
        if not isinstance(given, Corpus):
            raise CorpusError(f"gave a {type(given).__name__}, wanted an ifmmin.train.Corpus")
        return _plain(given)
    except CorpusError as error:
        raise CorpusError(f"{layout.function}: {error}") from error
    except IfmminError:
        raise
    except Exception as error:  # whatever a function of the user's own raises
        raise CorpusError(
            f"{layout.function} failed: {type(error).__name__}: {one_line(error)}; --verbose shows "
            "where"
        ) from error


def _plain(given: Corpus) -> Corpus:
    """A corpus of plain arrays and classes from whatever a user's own function put in its place."""
    _require(given.name, str, "name")
    labels = tuple(_require(given.labels, (tuple, list), "labels"))
    try:
        check_labels(labels)
    except InputError as error:
        raise CorpusError(f"labels: {error}") from error
    features, parts = (
        _by_modality(given.features, "features"),
        _require(given.parts, Mapping, "parts"),
    )
    if set(parts) != set(PARTS) or set(features) != set(MODALITIES):
        raise CorpusError(
            f"got parts {', '.join(map(str, parts))} and features of {', '.join(features)}; wanted "
            f"{', '.join(PARTS)} and a, v, t"
        )
    for config in features.values():
        _require(config, FeatureConfig, "features")
    statistics = {}
    for modality, one in _by_modality(given.statistics, "statistics").items():
        what = f"statistics of {modality}"
        _require(one, Statistics, what)
        mean, std = (as_numbers(x, what, CorpusError) for x in (one.mean, one.std))
        statistics[modality] = sound_statistics(mean, std, features[modality].dim, what)
    possible = _require(given.possible, Mapping, "possible")
    if possible and set(possible) != set(ALL_PATTERNS):
        raise CorpusError("possible: wanted an accuracy for every pattern, or none at all")
    plain = {
        part: [_sound(u, labels) for u in _require(parts[part], Iterable, part)] for part in PARTS
    }
    accuracies = {pattern: float(accuracy) for pattern, accuracy in possible.items()}
    return Corpus(given.name, labels, features, plain, statistics, accuracies)


def _require(value: Any, kind: Any, what: str) -> Any:
    if not isinstance(value, kind):
        wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise CorpusError(f"{what}: got a {type(value).__name__}, wanted a {wanted}")
    return value


def _by_modality(given: Any, what: str) -> dict[Modality, Any]:
    try:
        return {Modality.of(letter): x for letter, x in _require(given, Mapping, what).items()}
    except InputError as error:
        raise CorpusError(f"{what}: {error}") from error


def _sound(given: Any, labels: Sequence[str]) -> Utterance:
    """An utterance of plain arrays and a class; an empty array is a missing modality."""
    _require(given, Utterance, "an utterance")
    _require(given.name, str, "the name of an utterance")
    what = f"utterance {given.name}"
    try:
        label = read_label(given.label, labels)
    except CorpusError as error:
        raise CorpusError(f"{what}: {error}") from error
    features: dict[Modality, NDArray[np.floating]] = {}
    for modality, value in _by_modality(given.features, what).items():
        if value is None:
            continue
        where = f"{what}, modality {modality}"
        array = as_numbers(value, where, CorpusError)
        if array.size:
            require_size(4 * array.size, where, CorpusError)
            compact = array.dtype == np.float16
            with np.errstate(over="ignore"):  # infinite then, and told as such
                features[modality] = array.astype(np.float16 if compact else np.float32)
    return Utterance(given.name, features, label)


def _find(reference: str) -> Adapter:
    module, colon, name = reference.partition(":")
    if not colon or not module or not name:
        raise CorpusError(f"got function {reference!r}, wanted package.module:function")
    try:
        found = getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise CorpusError(f"module {module} has no {name} ({one_line(error)})") from error
    except Exception as error:  # whatever a module of the user's own raises
        raise CorpusError(
            f"cannot import {module} ({type(error).__name__}: {one_line(error)}); is it on "
            "PYTHONPATH? --verbose shows where it fails"
        ) from error
    if not callable(found):
        raise CorpusError(f"{reference} is a {type(found).__name__}, wanted a function")
    return cast(Adapter, found)
