"""Validation of what a caller hands in: arrays of frames and which modalities are present.

Also the batches of a throughput graph, whose utterances are padded to one length.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bundle import Features, ModalitySpec
from .errors import IfmminError, InputError, one_line
from .files import require_size
from .modality import MODALITIES, Modality, Pattern


def pad_batch(utterances: Sequence[Features], filler: float = 0.0) -> dict[str, NDArray[Any]]:
    """Frames (B, T, D) and lengths (B,) per modality, T the longest of the batch.

    utterances: all with the same modalities. filler: what lies past an end; graphs do not care.
    """
    inputs: dict[str, NDArray[Any]] = {}
    for modality, first in utterances[0].items():
        arrays = [utterance[modality] for utterance in utterances]
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        padded = np.full((len(arrays), lengths.max(), first.shape[1]), filler, np.float32)
        for row, array in enumerate(arrays):
            padded[row, : len(array)] = array
        inputs[modality.value], inputs[f"{modality}_lengths"] = padded, lengths
    return inputs


_BLOCK = 10_000
"""Values in one dot product: for longer ones OpenBLAS may start threads of its own, which would
fight with the backend's."""


def pad_frames(array: NDArray[np.float32], minimum: int) -> NDArray[np.float32]:
    """`array` (T, D) with zero frames appended up to `minimum` frames; itself when long enough."""
    short = minimum - len(array)
    return array if short <= 0 else np.pad(array, ((0, short), (0, 0)))


def as_numbers(value: Any, what: str, error: type[IfmminError] = InputError) -> NDArray[Any]:
    """A caller's array-like as an array of numbers; `error` with the reason where it is none.

    What is masked is NaN, which is to be dropped or refused as any other. what: begins the message.
    """
    try:
        array = np.asarray(_unmasked(value))
    # Whoever has an `__array__` may raise anything: torch of a tensor with a gradient or on a GPU.
    except Exception as reason:
        raise error(
            f"{what}: got {type(value).__name__} that is no array ({one_line(reason)}), wanted "
            "numbers in rows of one length, such as a NumPy array"
        ) from reason
    if array.dtype.kind not in "fiub":
        raise error(f"{what}: got an array of {array.dtype}, wanted numbers")
    return array


def _unmasked(value: Any) -> Any:
    """A masked array, or rows of which some are, with NaN for what is masked."""
    ma = sys.modules.get("numpy.ma")  # where nobody has imported it, nothing is masked
    if ma is None:
        return value
    rows = value if isinstance(value, (list, tuple)) else [value]
    if not any(isinstance(row, ma.MaskedArray) for row in rows):
        return value
    array = ma.array(value)
    return array.astype(np.float64).filled(np.nan) if array.dtype.kind in "fiub" else value


def as_float32(modality: Modality, value: Any) -> NDArray[np.float32]:
    """A caller's array as C-contiguous float32; InputError when it holds no numbers."""
    array = as_numbers(value, f"modality {modality}")
    require_size(array.size * 4, f"modality {modality}: an array {array.shape}", InputError)
    # A float64 beyond float32's range becomes infinite here and is named as such below.
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype=np.float32, order="C")


def is_finite(array: NDArray[np.float32]) -> bool:
    """Whether every value of a C-contiguous (T, D) is finite.

    A finite sum of squares proves it, in less than half the time of asking each. Huge values
    overflow the sum, so only a sum that is not finite leads to the full search.
    """
    if array.size <= _BLOCK:
        return math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())
    flat = array.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        if not (math.isfinite(np.vdot(block, block)) or np.isfinite(block).all()):
            return False
    return True


def without_nan(
    modality: Modality, array: NDArray[np.float32], nan_frames: str
) -> tuple[NDArray[np.intp], str | None]:
    """Of an array (T, D) that is not finite which frames (T',) are, and the reason if none is.

    nan_frames: `refuse` or `drop`. InputError for an infinity, and for a NaN that is not dropped.
    """
    nan = np.isnan(array)
    _require_none(modality, array, np.isinf(array), "features must be finite in float32")
    if nan.all():
        return np.empty(0, np.intp), "all frames are NaN"
    if nan_frames == "refuse":
        cure = "features must be finite; such frames can be dropped (nan_frames='drop', --nan drop)"
        _require_none(modality, array, nan, cure)
    kept = np.flatnonzero(~nan.any(axis=1))
    return kept, None if len(kept) else "every frame has a NaN"


def _require_none(
    modality: Modality, array: NDArray[np.float32], wrong: NDArray[np.bool_], cure: str
) -> None:
    found = np.argwhere(wrong)
    if len(found):
        frame, column = found[0]
        raise InputError(
            f"modality {modality} ({modality.word}): {array[frame, column]} at frame {frame}, "
            f"column {column}; {cure}"
        )


__all__ = [
    "Policy", "Quality", "Utterance", "ValidFrames", "ValidatedInput", "below_quality",
    "nothing_present", "pad_frames", "require_frontends", "valid_frames", "validate",
]  # fmt: skip

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
        if not isinstance(self.minimum_quality, Mapping):
            raise InputError(
                f"minimum_quality: got {self.minimum_quality!r}, wanted a number per modality"
            )
        for letter, threshold in self.minimum_quality.items():
            if not (isinstance(threshold, Real) and math.isfinite(threshold)):
                word = Modality.of(letter)
                raise InputError(f"minimum quality of {word}: got {threshold}, wanted a number")


@dataclass(frozen=True)
class ValidatedInput:
    """An utterance as a graph can take it."""

    features: dict[Modality, NDArray[np.float32]]
    """Those present, in canonical order: finite, C-contiguous (T, D), T at least the minimum."""
    absent: dict[Modality, str]
    """Why the others are not used: `not given`, `empty`, `all frames are NaN`, ..."""
    dropped: dict[Modality, int]
    """Frames left out because of a NaN; only where there are some."""


class ValidFrames(NamedTuple):
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


def validate(
    utterance: Utterance,
    specs: Mapping[Modality, ModalitySpec],
    policy: Policy = _DEFAULT,
    quality: Quality | None = None,
    *,
    only: Pattern | None = None,
) -> ValidatedInput:
    """Sort an utterance into what is present and what is missing; nothing present is no error.

    quality: scores to hold against `policy.minimum_quality`. only: modalities to look at; the
    others are left out unseen. A conforming array is passed on without a copy. Raises InputError
    naming the modality, what was got and what is wanted: other letters, no numbers, another shape,
    infinities, and NaN unless the policy drops them.
    """
    try:
        given = utterance.get
    except AttributeError:
        kind = type(utterance).__name__
        raise InputError(
            f"got {kind}, wanted arrays per modality, such as {{'a': voice}}"
        ) from None
    if not (only is None or isinstance(only, Pattern)):
        raise InputError(f"pattern: got {only!r}, wanted for example 'a_t'")
    found = ValidatedInput({}, {}, {})
    judged = quality is not None or only is not None
    known = 0
    for modality in MODALITIES:
        value: Any = given(modality, _NOTHING)
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


def require_frontends(named: Mapping[str, str], specs: Mapping[Modality, ModalitySpec]) -> None:
    """InputError unless features come from the front-ends that the bundle was made for."""
    for letter, identity in named.items():
        modality = Modality.of(letter)
        spec = specs.get(modality)
        own = None if spec is None or spec.frontend is None else spec.frontend.identity
        if identity != own:
            raise InputError(
                f"modality {modality}: the features come from the front-end {identity}, wanted "
                f"those of {own or 'the caller: the bundle names none'}; make them with that one"
            )


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
    return below_quality(modality, policy, quality)


def below_quality(modality: Modality, policy: Policy, quality: Quality) -> str | None:
    """Why a modality's score makes it missing; None where it is good enough or not known."""
    if not isinstance(quality, Mapping):
        raise InputError(
            f"quality: got {type(quality).__name__}, wanted a score per modality such as "
            "{'v': 0.5}"
        )
    _require_letters(quality)
    score, threshold = quality.get(modality), policy.minimum_quality.get(modality)
    if score is None:
        return None
    if not isinstance(score, Real):
        raise InputError(f"quality of {modality}: got {score!r}, wanted a number")
    return (
        None
        if threshold is None or score >= threshold
        else f"quality {score:g} is below {threshold:g}"
    )


def _require_letters(given: Mapping[Any, Any]) -> None:
    for letter in given:
        Modality.of(letter)


def _take(
    modality: Modality,
    value: Any,
    specs: Mapping[Modality, ModalitySpec],
    policy: Policy,
    found: ValidatedInput,
) -> str | None:
    """Put the usable frames of a modality into `found`; the reason where there are none."""
    valid = valid_frames(modality, value, specs, policy)
    if valid.dropped:
        found.dropped[modality] = valid.dropped
    if valid.reason is None:
        found.features[modality] = pad_frames(valid.frames, specs[modality].minimum_length)
    return valid.reason


def valid_frames(
    modality: Modality, value: Any, specs: Mapping[Modality, ModalitySpec], policy: Policy
) -> ValidFrames:
    """A caller's (T, D) as the frames (T', D) that count.

    Raises InputError as `validate` does. A conforming array is passed on without a copy.
    """
    spec = specs.get(modality)
    if spec is not None and _is_ready(value, spec.dim, 1):
        return ValidFrames(value, None, len(value))
    array = as_float32(modality, value)
    if array.size == 0:
        return ValidFrames(array, "empty")
    if spec is None:
        known = ", ".join(m.value for m in specs)
        raise InputError(f"this bundle knows no modality {modality}; it knows {known}")
    if array.ndim != 2 or array.shape[1] != spec.dim:
        raise InputError(
            f"modality {modality} ({modality.word}): got shape {array.shape}, "
            f"wanted (frames, {spec.dim}): {spec.features}"
        )
    if is_finite(array):
        return ValidFrames(array, given=len(array))
    kept, reason = without_nan(modality, array, policy.nan_frames)
    dropped = len(array) - len(kept) if policy.nan_frames == "drop" else 0
    return ValidFrames(array[kept], reason, len(array), kept, dropped)


@dataclass(frozen=True)
class PlannedBatch:
    """Utterances of one pattern."""

    pattern: Pattern
    rows: list[int]
    """Their positions in what was given."""

    def inputs(self, found: Sequence[ValidatedInput]) -> list[dict[Modality, NDArray[np.float32]]]:
        """Their features."""
        return [{m: found[i].features[m] for m in self.pattern} for i in self.rows]


def plan_batches(
    found: Sequence[ValidatedInput], used: Sequence[Pattern | None], size: int
) -> Iterator[PlannedBatch]:
    """Batches of at most `size` utterances, those of a pattern sorted by their frames."""
    if type(size) is not int or size < 1:
        raise InputError(f"batch_size must be at least 1, got {size!r}")
    groups: dict[Pattern, list[int]] = {}
    for index, pattern in enumerate(used):
        if pattern is not None:
            groups.setdefault(pattern, []).append(index)
    for pattern, rows in groups.items():
        rows.sort(key=lambda i: sum(map(len, found[i].features.values())))
        for start in range(0, len(rows), size):
            yield PlannedBatch(pattern, rows[start : start + size])
