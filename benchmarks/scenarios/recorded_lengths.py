"""Lengths of utterances as a device meets them: recorded ones, or a stand-in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ifmmin.benchmarks.scenarios.plan import ORDINARY, Plan
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import MODALITIES, Modality

_STAND_IN = 60
"""Utterances drawn where no recorded lengths are given."""


def recorded_lengths(plan: Plan) -> list[Mapping[Modality, int]]:
    """Lengths of recorded utterances, or, seeded, a stand-in: log-normal around the ordinary ones
    with a spread of one half, as utterances of acted and spontaneous speech are spread."""
    if plan.lengths:
        return list(plan.lengths)
    rng = np.random.default_rng(plan.seed)
    spread = rng.lognormal(0.0, 0.5, (_STAND_IN, len(MODALITIES)))
    return [
        {m: max(1, round(ORDINARY[m] * factor)) for m, factor in zip(MODALITIES, row, strict=True)}
        for row in spread
    ]


def read_lengths(path: Path) -> tuple[Mapping[Modality, int], ...]:
    """Frames of recorded utterances: lines like `{"a": 45, "v": 50, "t": 22}`.

    Raises InputError naming the line.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = {Modality.of(letter): int(count) for letter, count in json.loads(line).items()}
        except (ValueError, AttributeError, TypeError, InputError):
            one = {}
        if set(one) != set(Modality) or min(one.values()) < 1:
            raise InputError(
                f"{path} line {number}: got {line.strip()[:60]!r}, wanted frames of every "
                'modality, for example {"a": 45, "v": 50, "t": 22}'
            )
        found.append(one)
    if not found:
        raise InputError(f'{path} has no lengths; wanted lines like {{"a": 45, "v": 50, "t": 22}}')
    return tuple(found)
