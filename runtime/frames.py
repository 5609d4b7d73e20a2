"""What the frames of one modality are worth: numbers, finite, enough of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Modality

_BLOCK = 10_000
"""Values in one dot product: for longer ones OpenBLAS may start threads of its own, which would
fight with the backend's."""


def pad_frames(array: NDArray[np.float32], minimum: int) -> NDArray[np.float32]:
    """`array` (T, D) with zero frames appended up to `minimum` frames; itself when long enough."""
    short = minimum - len(array)
    return array if short <= 0 else np.pad(array, ((0, short), (0, 0)))


def as_float32(modality: Modality, value: Any, shape: str = "(T, D)") -> NDArray[np.float32]:
    """A caller's array as C-contiguous float32; InputError when it holds no numbers.

    shape: what is wanted, for the error.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0, dtype=object)  # ragged: no numbers
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"modality {modality}: got an array of {array.dtype}, wanted numbers {shape}"
        )
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
    _require_none(modality, array, np.isinf(array), "features must be finite")
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
