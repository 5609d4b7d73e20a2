"""A corpus that the user's own code gives: `layout: adapter`, `function: package.module:name`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import MODALITIES
from ifmmin.train.corpus import PARTS, Corpus
from ifmmin.train.problems import require_sound

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
