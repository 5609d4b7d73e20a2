"""From what a caller hands in to arrays that a graph can take, or one clear line why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.manifest import ModalitySpec
from ifmmin.runtime.modality import MODALITIES, Modality

Utterance = Mapping[str, Any] | Mapping[Modality, Any]
"""Per modality (letter or Modality) an array-like (T, D); None and empty mean missing."""


def conform(
    utterance: Utterance, specs: Mapping[Modality, ModalitySpec]
) -> dict[Modality, NDArray[np.float32]]:
    """The modalities that are present, as finite C-contiguous float32 (T, D) with T >= minimum.

    A conforming array is passed on without a copy. Raises InputError naming the modality, what
    was got and what is wanted.
    """
    given = {Modality.of(letter): value for letter, value in utterance.items()}
    present = {}
    for modality in MODALITIES:
        value = given.get(modality)
        if value is None:
            continue
        array = _as_float32(modality, value)
        if array.size == 0:
            continue
        if modality not in specs:
            known = ", ".join(m.value for m in specs)
            raise InputError(f"this bundle knows no modality {modality}; it knows {known}")
        present[modality] = _checked(modality, array, specs[modality])
    if not present:
        raise InputError("no modality is present; give at least one of a, v, t with a frame in it")
    return present


def _as_float32(modality: Modality, value: Any) -> NDArray[np.float32]:
    if isinstance(value, np.ndarray) and value.dtype == np.float32:
        return np.ascontiguousarray(value)
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(value, dtype=object)
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"modality {modality}: got an array of {array.dtype}, wanted numbers (T, D)"
        )
    # A float64 beyond float32's range becomes infinite here and is named as such below.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def _checked(
    modality: Modality, array: NDArray[np.float32], spec: ModalitySpec
) -> NDArray[np.float32]:
    if array.ndim != 2 or array.shape[1] != spec.dim:
        raise InputError(
            f"modality {modality} ({modality.word}): got shape {array.shape}, "
            f"wanted (frames, {spec.dim}): {spec.features}"
        )
    # A finite sum proves every value finite and is far cheaper than asking each. Large values may
    # overflow it, so only a sum that is not finite leads to the full search.
    with np.errstate(over="ignore", invalid="ignore"):
        total = array.sum()
    if not np.isfinite(total):
        _require_finite(modality, array)
    return pad_frames(array, spec.minimum_length)


def _require_finite(modality: Modality, array: NDArray[np.float32]) -> None:
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        frame, column = wrong[0]
        raise InputError(
            f"modality {modality} ({modality.word}): {array[frame, column]} at frame {frame}, "
            f"column {column}; features must be finite"
        )


def pad_frames(array: NDArray[np.float32], minimum: int) -> NDArray[np.float32]:
    """`array` (T, D) with zero frames appended up to `minimum` frames; itself when long enough."""
    short = minimum - len(array)
    return array if short <= 0 else np.pad(array, ((0, short), (0, 0)))
