"""From what a caller hands in to what a graph can take: what is present, and why the rest is not.

This stands in front of every answer, so a conforming utterance costs a few microseconds: nothing
is copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.frames import as_float32, is_finite, pad_frames, without_nan
from ifmmin.runtime.manifest import ModalitySpec
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern

__all__ = [
    "Conformed",
    "Policy",
    "Quality",
    "Usable",
    "Utterance",
    "examine",
    "nothing_present",
    "pad_frames",
    "too_poor",
    "usable_frames",
]

Utterance = Mapping[str, Any] | Mapping[Modality, Any]
"""Per modality (letter or Modality) an array-like (T, D); None and empty mean missing."""

Quality = Mapping[str, float | None] | Mapping[Modality, float | None]
"""Per modality how far it can be trusted, in the caller's own unit; None: not known."""

NAN_FRAMES = ("refuse", "drop")

_FLOAT32 = np.dtype(np.float32)

_NOTHING = object()


@dataclass(frozen=True)
class Policy:
    """What counts as missing beside None, an empty array and frames of nothing but NaN.

    Raises InputError for a value that is none of those allowed.
    """

    nan_frames: str = "refuse"
    """`refuse`: a NaN among numbers is an error; `drop`: frames with a NaN are left out and
    counted."""
    minimum_quality: Mapping[Modality, float] = field(default_factory=dict)
    """A modality whose score is lower, or NaN, is missing; without a score it is used."""

    def __post_init__(self) -> None:
        if self.nan_frames not in NAN_FRAMES:
            known = " or ".join(NAN_FRAMES)
            raise InputError(f"nan_frames: got {self.nan_frames!r}, wanted {known}")
        for letter, threshold in self.minimum_quality.items():
            if not math.isfinite(threshold):
                word = Modality.of(letter)
                raise InputError(f"minimum quality of {word}: got {threshold}, wanted a number")


@dataclass(frozen=True)
class Conformed:
    """An utterance as a graph can take it."""

    features: dict[Modality, NDArray[np.float32]]
    """Those present, in canonical order: finite, C-contiguous (T, D), T at least the minimum."""
    absent: dict[Modality, str]
    """Why the others are not used: `not given`, `empty`, `all frames are NaN`, ..."""
    dropped: dict[Modality, int]
    """Frames left out because of a NaN; only where there are some."""


class Usable(NamedTuple):
    """What of a caller's (T, D) counts."""

    frames: NDArray[np.float32]
    """(T', D)"""
    reason: str | None = None
    """Why there are none."""
    given: int = 0
    """T"""
    kept: NDArray[np.intp] | None = None
    """(T',), which of the frames given they are; None: all of them."""
    dropped: int = 0
    """Frames left out because of a NaN."""

    @property
    def behind(self) -> int:
        """Frames that do not count, behind the last one that does."""
        return 0 if self.kept is None else self.given - 1 - int(self.kept[-1])


_DEFAULT = Policy()


def examine(
    utterance: Utterance,
    specs: Mapping[Modality, ModalitySpec],
    policy: Policy = _DEFAULT,
    quality: Quality | None = None,
    *,
    only: Pattern | None = None,
) -> Conformed:
    """Sort an utterance into what is present and what is missing; nothing present is no error.

    quality: scores to hold against `policy.minimum_quality`. only: modalities to look at; the
    others are left out unseen. A conforming array is passed on without a copy. Raises InputError
    naming the modality, what was got and what is wanted: other letters, no numbers, another shape,
    infinities, and NaN unless the policy drops them.
    """
    found = Conformed({}, {}, {})
    judged = quality is not None or only is not None
    known = 0
    for modality in MODALITIES:
        value: Any = utterance.get(modality, _NOTHING)
        if value is _NOTHING:
            found.absent[modality] = "not given"
            continue
        known += 1
        reason = None
        if judged or value is None:
            reason = _reason_unseen(modality, value, policy, quality, only)
        if reason is None:
            spec = specs.get(modality)
            ready = spec is not None and _is_ready(value, spec.dim, spec.minimum_length)
            if value is not None and ready:
                found.features[modality] = value
                continue
            reason = _take(modality, value, specs, policy, found)
        if reason is not None:
            found.absent[modality] = reason
    if known != len(utterance):
        _require_letters(utterance)
    return found


def nothing_present(absent: Mapping[Modality, str]) -> InputError:
    """The error for an utterance of which nothing is left, with what became of each modality."""
    reasons = "; ".join(f"{modality}: {reason}" for modality, reason in absent.items())
    return InputError(
        f"no modality is present ({reasons}); give at least one of a, v, t with a frame in it"
    )


def _is_ready(value: Any, dim: int, least: int) -> bool:
    """Whether a value can be passed on as it is; the one path that has to be fast."""
    return (
        type(value) is np.ndarray
        and value.dtype == _FLOAT32
        and value.ndim == 2
        and value.shape[1] == dim
        and value.shape[0] >= least
        and value.shape[0] > 0
        and value.flags.c_contiguous
        and is_finite(value)
    )


def _reason_unseen(
    modality: Modality, value: Any, policy: Policy, quality: Quality | None, only: Pattern | None
) -> str | None:
    """Why a modality is missing whatever its values are; None: look at them."""
    if value is None:
        return "not given"
    if only is not None and modality not in only.present:
        return f"left out by pattern {only}"
    if quality is None:
        return None
    return too_poor(modality, policy, quality)


def too_poor(modality: Modality, policy: Policy, quality: Quality) -> str | None:
    """Why a modality's score makes it missing; None where it is good enough or not known."""
    if not isinstance(quality, Mapping):
        raise InputError(
            f"quality: got {type(quality).__name__}, wanted a score per modality such as "
            "{'v': 0.5}"
        )
    _require_letters(quality)
    score, threshold = quality.get(modality), policy.minimum_quality.get(modality)
    if score is None or threshold is None:
        return None
    if not isinstance(score, (int, float, np.number)):
        raise InputError(f"quality of {modality}: got {score!r}, wanted a number")
    return None if score >= threshold else f"quality {score:g} is below {threshold:g}"


def _require_letters(given: Mapping[Any, Any]) -> None:
    for letter in given:
        Modality.of(letter)


def _take(
    modality: Modality,
    value: Any,
    specs: Mapping[Modality, ModalitySpec],
    policy: Policy,
    found: Conformed,
) -> str | None:
    """Put the usable frames of a modality into `found`; the reason where there are none."""
    usable = usable_frames(modality, value, specs, policy)
    if usable.dropped:
        found.dropped[modality] = usable.dropped
    if usable.reason is None:
        found.features[modality] = pad_frames(usable.frames, specs[modality].minimum_length)
    return usable.reason


def usable_frames(
    modality: Modality, value: Any, specs: Mapping[Modality, ModalitySpec], policy: Policy
) -> Usable:
    """A caller's (T, D) as the frames (T', D) that count.

    Raises InputError as `examine` does. A conforming array is passed on without a copy.
    """
    spec = specs.get(modality)
    if spec is not None and _is_ready(value, spec.dim, 1):
        return Usable(value, None, len(value))
    array = as_float32(modality, value)
    if array.size == 0:
        return Usable(array, "empty")
    if spec is None:
        known = ", ".join(m.value for m in specs)
        raise InputError(f"this bundle knows no modality {modality}; it knows {known}")
    if array.ndim != 2 or array.shape[1] != spec.dim:
        raise InputError(
            f"modality {modality} ({modality.word}): got shape {array.shape}, "
            f"wanted (frames, {spec.dim}): {spec.features}"
        )
    if is_finite(array):
        return Usable(array, given=len(array))
    kept, reason = without_nan(modality, array, policy.nan_frames)
    dropped = len(array) - len(kept) if policy.nan_frames == "drop" else 0
    return Usable(array[kept], reason, len(array), kept, dropped)
