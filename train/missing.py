"""Masks of what is missing: modality slots of a corpus at a rate, frames within a modality.

Masks follow from names and a seed alone, so that they are the same for every model, every seed of
training and every order of the corpus: those of frames from the utterance's name, those of slots
from the names of all utterances, among which the rate is met. What is missing at one rate is
missing at every higher one, but for runs of frames. The protocol of slots is GCNet's (Lian et al.,
TPAMI 2023) with the rate met exactly; that of frames is MMSA's (zeros in the place of what is
missing), zeros of the raw features, before a network standardises them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import MODALITIES, Modality

Mask = NDArray[np.bool_]
Manner = Literal["random", "run"]
MOST_RATES = 101
_DECIMALS = 9


def parse_rates(text: str, what: str) -> tuple[float, ...]:
    """`0:0.7:0.1` (both ends included) or `0.1,0.3` as ascending rates in [0, 1].

    what: begins the message of the InputError for anything else.
    """
    try:
        rates = _rates(text)
    except (ValueError, OverflowError):
        rates = ()
    if not 1 <= len(rates) <= MOST_RATES or not all(0 <= rate <= 1 for rate in rates):
        raise InputError(
            f"{what}: got {text!r:.99}, wanted 1 to {MOST_RATES} rates from 0 to 1, as "
            "FROM:TO:STEP or with commas, e.g. 0:0.7:0.1 or 0.1,0.3"
        )
    return tuple(sorted({round(rate, _DECIMALS) for rate in rates}))


def _rates(text: str) -> tuple[float, ...]:
    if ":" not in text:
        return tuple(float(part) for part in text.split(","))
    first, last, step = (float(part) for part in text.split(":"))
    if not (math.isfinite(first + last) and 0 < step < math.inf and first <= last):
        raise ValueError
    count = math.floor((last - first) / step + 1e-6) + 1
    return tuple(first + index * step for index in range(min(count, MOST_RATES + 1)))


@dataclass(frozen=True)
class SlotDraws:
    """What decides which slots of N utterances with M modalities go, whatever the rate."""

    kept: NDArray[np.float64]
    """(N, M) in [0, 1): of what an utterance has, the modality with the largest always stays."""
    order: NDArray[np.float64]
    """(N, M) in [0, 1): the other slots go in ascending order."""

    @classmethod
    def of_names(cls, names: Sequence[str], modalities: Sequence[Modality], seed: int) -> SlotDraws:
        """Those of utterances by their names."""
        columns = [MODALITIES.index(m) for m in modalities]
        drawn = [_draws(seed, name).random((2, len(MODALITIES))) for name in names]
        kept, order = np.reshape(drawn, (-1, 2, len(MODALITIES))).transpose(1, 0, 2)
        return cls(kept[:, columns], order[:, columns])

    @classmethod
    def fresh(cls, shape: tuple[int, ...], draws: np.random.Generator) -> SlotDraws:
        """New ones of `shape` (N, M), for a batch of training."""
        return cls(draws.random(shape), draws.random(shape))


def slots_left(present: Mask, rate: float, slots: SlotDraws) -> Mask:
    """What is left (N, M) of what is `present` (N, M) when a share `rate` of all N M slots is
    absent, rounded to whole slots; what is lacking by nature counts.

    An utterance keeps one modality of those it has. So a rate above (M - 1) / M runs at that, and
    one below what is lacking by nature runs at that.
    """
    last = np.zeros_like(present)
    rows = np.arange(len(present))
    last[rows, np.where(present, slots.kept, -1.0).argmax(axis=1)] = True
    free = np.flatnonzero(present & ~last)
    wanted = math.floor(rate * present.size + 0.5) - int((~present).sum())
    going = free[slots.order.flat[free].argsort(kind="stable")[: max(0, wanted)]]
    left = present.copy()
    left.flat[going] = False
    return left


def frames_left(
    length: int, rate: float, manner: Manner, *, name: str, modality: Modality, seed: int
) -> Mask:
    """Which of an utterance's `length` frames or tokens are left (length,) when a share `rate` of
    them is missing, up to one more or less and so that one is left.

    manner: `random`, each apart, or `run`, all of them in a row.
    """
    draws = _draws(seed, name, modality.value)
    rounding, place = draws.random(2)
    missing = max(0, min(length - 1, math.floor(rate * length + rounding)))
    left = np.ones(length, dtype=bool)
    if manner == "run":
        start = math.floor(place * (length - missing + 1))
        left[start : start + missing] = False
    else:
        left[draws.permutation(length)[:missing]] = False
    return left


def _draws(seed: int, *words: str) -> np.random.Generator:
    """A generator of its own for every seed and words, the same on every machine."""
    digest = hashlib.blake2b("\n".join([str(seed), *words]).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
