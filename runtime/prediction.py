"""Prediction: the answer for one utterance, and the classes that it chooses among."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .modality import Modality, Pattern

Float = TypeVar("Float", bound="np.floating")

COLUMNS = (
    "absent", "backend", "dropped_frames", "emotion", "end", "error", "id", "input", "label", "ms",
    "pattern", "seconds", "start",
)  # fmt: skip
"""What answers are written with beside the classes, whose names have to be others."""
_LONGEST_LABEL = 100


def check_labels(labels: Sequence[str]) -> None:
    """InputError unless there are two or more names, each once, that can be shown and told apart.

    An answer is a mapping from names to probabilities, a column for each in a table.
    """
    if len(labels) < 2:
        raise InputError(f"got labels {list(labels)}, wanted two or more classes")
    names: Sequence[object] = labels
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"got labels {list(labels)}, wanted names")
    for name, count in Counter(labels).items():
        if count > 1:
            raise InputError(f"got label {name!r} {count} times, wanted another for every class")
        if not name.isprintable() or name != name.strip() or not 1 <= len(name) <= _LONGEST_LABEL:
            raise InputError(
                f"got label {name[:_LONGEST_LABEL]!r}, wanted 1 to {_LONGEST_LABEL} characters "
                "that print, without blanks around them"
            )
        if name.lower() in COLUMNS:
            raise InputError(f"got label {name!r}, which is a column of its own; take another name")


class Prediction(NamedTuple):
    """The answer for one utterance. A tuple, since one is made in every call."""

    label: str
    """The class with the largest probability."""
    probabilities: NDArray[np.float32]
    """(C,), in the order of the bundle's labels."""
    logits: NDArray[np.float32]
    """(C,)"""
    pattern: Pattern | None
    """What was used; None where nothing was present and the class prior is the answer."""
    backend: str
    """What ran: the backend's name; `prior` where nothing did."""
    requested: str
    """What was asked for, `auto` or a backend's name."""
    precision: str
    """Of the graph that ran."""
    placement: Mapping[str, int]
    """Nodes of the graph by what executed them, where the backend knows."""
    seconds: float
    """From the validated input to the logits; in a batch the share of one utterance."""
    absent: Mapping[Modality, str]
    """Why the other modalities were not used."""
    dropped: Mapping[Modality, int]
    """Frames that were dropped because of NaNs, where any were."""
    labels: tuple[str, ...]
    """The classes, in the order of probabilities and logits."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON holds it; a logit that is not finite is None."""
        shares = zip(self.labels, self.probabilities.tolist(), strict=True)
        return {
            "pattern": str(self.pattern) if self.pattern else None, "label": self.label,
            "probabilities": dict(shares),
            "logits": [x if math.isfinite(x) else None for x in self.logits.tolist()],
            "backend": self.backend, "requested": self.requested, "precision": self.precision,
            "placement": dict(self.placement), "seconds": self.seconds,
            "absent": {m.value: reason for m, reason in self.absent.items()},
            "dropped_frames": {m.value: count for m, count in self.dropped.items()},
        }  # fmt: skip


def is_answer(probabilities: NDArray[np.float32]) -> bool:
    """Whether probabilities (C,) say something: of logits that are not finite all of them are NaN.

    Features that are finite, but of another scale, may overflow inside a graph.
    """
    return not math.isnan(probabilities[0])


def no_answer(precision: str) -> InputError:
    """The error for an answer that is none."""
    return InputError(
        f"the answer is not a number: the features are finite, but too large for {precision} "
        "graphs; see that they are of the scale that the network was trained on"
    )


def softmax_of_one(logits: NDArray[np.float32]) -> tuple[int, NDArray[np.float32]]:
    """The winning class and the probabilities of logits (C,).

    A handful of classes is done in plain Python in a fifth of the time that numpy takes to begin.
    """
    values = logits.tolist()
    top = max(values)
    exponentials = [math.exp(value - top) for value in values]
    total = sum(exponentials)
    shares = [value / total for value in exponentials]
    return values.index(top), np.array(shares, dtype=np.float32)


def softmax(logits: NDArray[Float]) -> NDArray[Float]:
    """Probabilities of logits, (..., C) -> (..., C); not finite where those are not."""
    # Infinite less infinite is NaN, see `is_answer`; far below the largest is as good as infinite.
    with np.errstate(invalid="ignore", over="ignore"):
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[Float] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def largest_differences(
    found: NDArray[np.floating], wanted: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Largest absolute difference of each row, (..., C) -> (...); infinite where one is not finite.

    With `allowed_differences` the one rule by which answers are the same or not.
    """
    with np.errstate(invalid="ignore"):
        sizes = np.abs(np.subtract(found, wanted, dtype=np.float64))
    finite: NDArray[np.float64] = np.nan_to_num(sizes, nan=np.inf, posinf=np.inf)
    return np.asarray(finite.max(axis=-1, initial=0.0))


def allowed_differences(
    wanted: NDArray[np.floating], absolute: float, relative: float = 0.0
) -> NDArray[np.float64]:
    """What each row may be off by, (..., C) -> (...): `absolute`, or `relative` of its largest
    value where that is more."""
    sizes = np.abs(wanted).max(axis=-1, initial=0.0).astype(np.float64)
    return np.asarray(np.maximum(absolute, relative * sizes))
