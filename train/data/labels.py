"""Labels of utterances: the class that a number, a name or a one-hot row says, and classes of
real-valued scores by edges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise

import numpy as np

from ifmmin.runtime.errors import CorpusError, RecipeError
from ifmmin.runtime.validate import as_numbers

from .corpus import shown_name


def check_edges(edges: Sequence[float], labels: Sequence[str] | None = None) -> None:
    """RecipeError unless the edges ascend, and there is one between every two of the classes."""
    if any(not low < high for low, high in pairwise(edges)) or not (np.isfinite(edges).all()):
        raise RecipeError(
            f"bins: got {', '.join(f'{edge:g}' for edge in edges)}, wanted finite edges of scores, "
            "each above the one before"
        )
    if edges and labels is not None and len(labels) != len(edges) + 1:
        raise RecipeError(
            f"bins: got {len(edges)} edges and {len(labels)} labels, wanted {len(edges) + 1} "
            "labels, from the lowest scores to the highest"
        )


def read_target(
    given: object, classes: Sequence[str], edges: Sequence[float]
) -> tuple[int, float | None]:
    """The class of a label, and the score that it was; None where there are no edges.

    A score on an edge is of the class above it. Raises CorpusError for what is none.
    """
    if not edges:
        return read_label(given, classes), None
    with suppress(CorpusError):
        array = as_numbers(given, "a score", CorpusError)
        if array.size == 1 and array.dtype.kind != "b" and np.isfinite(array).all():
            score = float(array.reshape(()))
            return int(np.searchsorted(edges, score, side="right")), score
    raise CorpusError(f"got the score {_shown(given)}, wanted a finite number, as corpus.bins says")


def read_targets(
    names: Sequence[str],
    given: Iterable[object],
    classes: Sequence[str],
    edges: Sequence[float],
    where: str,
) -> list[tuple[int, float | None]]:
    """`read_target` of every utterance. CorpusError with the first mistake and the number of
    others."""
    found, first = [], ""
    for name, label in zip(names, given, strict=True):
        try:
            found.append(read_target(label, classes, edges))
        except CorpusError as error:
            first = first or f"{where}: {shown_name(name)}: {error}"
    others = len(names) - len(found) - 1
    if first:
        raise CorpusError(first + (f"; and {others} more of {len(names)}" if others else ""))
    return found


def read_label(given: object, classes: Sequence[str]) -> int:
    """The number of a class from a whole number, a class's name, or a row with a single 1.

    Raises CorpusError for anything else: a score of 1.7 is of no class.
    """
    name = given.decode("utf-8", "replace") if isinstance(given, bytes) else given
    if isinstance(name, str):
        if name in classes:
            return list(classes).index(name)
    elif not isinstance(given, Sequence):
        with suppress(CorpusError):
            array = as_numbers(given, "a label", CorpusError)
            if array.shape == (len(classes),) and np.count_nonzero(array) == 1 == array.max():
                return int(array.argmax())
            if array.ndim == 0 and array.dtype.kind != "b":
                number = float(array)
                if number.is_integer() and 0 <= number < len(classes):
                    return int(number)
    raise CorpusError(
        f"got label {_shown(given)}, wanted a whole number from 0 to {len(classes) - 1}, one "
        f"of {', '.join(classes)}, or a single 1 in their order; corpus.bins makes classes of "
        "scores"
    )


def _shown(given: object) -> str:
    plain = given.tolist() if isinstance(given, np.ndarray | np.generic) else given
    return repr(str(plain)[:99])
