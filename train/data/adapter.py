"""Corpora that a user's own Python function gives, checked as files are."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import CorpusError, InputError, one_line
from ifmmin.runtime.files import require_size
from ifmmin.runtime.modality import Modality, patterns_of
from ifmmin.runtime.prediction import check_labels
from ifmmin.runtime.validate import as_numbers

from ..config import FeatureConfig
from .corpus import PARTS, Corpus, Statistics, Utterance, checked_statistics, shown_name
from .labels import check_edges, read_target
from .released import check_folds, is_empty

Adapter = Callable[..., Corpus]
"""Called with the keywords `fold`, `features`, `targets` and the layout's options."""


class AdapterLayout(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="adapter",
    tag_field="layout",
):  # fmt: skip
    """A corpus given by a Python function."""

    function: str
    """`package.module:function`, on PYTHONPATH or in the folder where the command runs."""
    folds: int = 1
    """Number of folds."""
    options: dict[str, Any] = {}
    """Keyword arguments for the function, besides fold, features and targets."""
    bins: tuple[float, ...] = ()
    """Edges between the classes where labels are real-valued scores; a score on an edge is of the
    class above it."""

    def __post_init__(self) -> None:
        check_folds(self.folds)
        check_edges(self.bins)


def read_adapter(
    layout: AdapterLayout, *, fold: int, features: Path | None, targets: Path | None
) -> Corpus:
    """Call the function; what it gives need not be sound."""
    if not 1 <= fold <= layout.folds:
        raise CorpusError(f"the corpus has folds 1 to {layout.folds}, got fold {fold}")
    function = _find(layout.function)
    given = {"fold": fold, "features": features, "targets": targets}
    try:
        inspect.signature(function).bind(**given, **layout.options)
    except (TypeError, ValueError) as error:
        names = ", ".join([*given, *layout.options])
        raise CorpusError(
            f"{layout.function} cannot be called with {names}: {one_line(error)}"
        ) from error
    corpus = function(**given, **layout.options)
    if not isinstance(corpus, Corpus):
        raise CorpusError(
            f"{layout.function} gave a {type(corpus).__name__}, wanted an ifmmin.train.Corpus"
        )
    try:
        return _sound_corpus(corpus, layout.function, layout.bins)
    except InputError as error:
        raise CorpusError(f"{layout.function} gave what is no corpus: {error}") from error


def _sound_corpus(given: Corpus, function: str, bins: tuple[float, ...]) -> Corpus:
    """The corpus of a user's own function, of plain arrays, numbers and classes."""
    if not isinstance(given.name, str):
        raise CorpusError(f"{function} gave name {given.name!r}, wanted text")
    for what, wanted in (
        ("parts", PARTS), ("features", None), ("statistics", None), ("possible", None)
    ):  # fmt: skip
        value = getattr(given, what)
        if not isinstance(value, Mapping) or (wanted and set(value) != set(wanted)):
            got = ", ".join(map(str, value)) if isinstance(value, Mapping) else repr(value)[:99]
            of = f" of {', '.join(wanted)}" if wanted else ""
            raise CorpusError(f"{function} gave {what} {got}; wanted a mapping{of}")
    names: Any = given.labels
    # A set has no order, and an array has words of its own, which JSON does not know.
    labels = tuple(names) if isinstance(names, tuple | list) else ()
    try:
        check_labels(labels)
        check_edges(bins, labels)
    except InputError as error:
        raise CorpusError(f"{function} gave labels {str(names)[:99]!r}: {error}") from error
    for letter, described in given.features.items():
        if not isinstance(described, FeatureConfig):
            raise CorpusError(
                f"{function} gave {str(described)[:99]!r} as features of {letter}, wanted an "
                "ifmmin.train.FeatureConfig"
            )
    features = {Modality.of(letter): one for letter, one in given.features.items()}
    statistics = {}
    for letter, found in given.statistics.items():
        what = f"{function}, statistics of {letter}"
        if not isinstance(found, Statistics):
            raise CorpusError(f"{what}: got a {type(found).__name__}, wanted mean and std")
        modality = Modality.of(letter)
        statistics[modality] = checked_statistics(found, features[modality].dim, what)
    if given.possible and set(given.possible) != set(patterns_of(features)):
        raise CorpusError(f"{function} gave possible accuracies, wanted one for every pattern")
    parts = {}
    for part in PARTS:
        utterances = _all(given.parts[part])
        parts[part] = [_sound(one, labels, bins, features, function) for one in utterances]
    return replace(
        given, labels=labels, features=features, statistics=statistics, parts=parts, bins=bins
    )


def _all(value: Any) -> list[Any]:
    """The items of something; InputError where it has none."""
    try:
        return list(value)
    except TypeError:
        raise InputError(f"got {str(value)[:99]!r}, wanted a list") from None


def _sound(
    given: object,
    labels: Sequence[str],
    bins: Sequence[float],
    described: Collection[Modality],
    function: str,
) -> Utterance:
    """An utterance of the user's own function, of plain arrays and a class."""
    if not isinstance(given, Utterance) or not isinstance(given.name, str):
        raise CorpusError(f"{function} gave {str(given)[:99]!r}, wanted an ifmmin.train.Utterance")
    who = shown_name(given.name)
    if not isinstance(given.features, Mapping):
        raise CorpusError(f"{who}: got no mapping of features, wanted one")
    try:
        label, score = read_target(given.label, labels, bins)
    except CorpusError as error:
        raise CorpusError(f"{who}: {error}") from error
    features: dict[Modality, NDArray[np.floating]] = {}
    for letter, value in given.features.items():
        if value is None:
            continue
        try:
            modality = Modality.of(letter)
        except InputError as error:
            raise CorpusError(f"{who}: {error}") from error
        where = f"{who}, modality {modality}"
        if modality not in described:
            raise CorpusError(
                f"{where}: the corpus does not say what it is; give its FeatureConfig in features, "
                "or leave it out"
            )
        array = as_numbers(value, where, CorpusError)
        if is_empty(array):
            continue
        require_size(array.size * 4, f"{where}: an array {array.shape}", CorpusError)
        compact = array.dtype == np.float16
        with np.errstate(over="ignore"):  # infinite then, and told as such
            features[modality] = array.astype(np.float16 if compact else np.float32)
    return Utterance(given.name, features, label, score)


def _find(reference: str) -> Adapter:
    module, colon, name = reference.partition(":")
    if not colon or not module or not name:
        raise CorpusError(f"got function {reference!r}, wanted package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that it hides nothing
    try:
        found: Adapter | None = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever a module of the user's own raises
        raise CorpusError(
            f"cannot import {module} ({type(error).__name__}: {one_line(error)}); is it here or on "
            "PYTHONPATH? --verbose shows where it fails"
        ) from error
    if not callable(found):
        raise CorpusError(f"module {module} has no function {name}")
    return found
