"""Whether the accuracy run answered every sample, and rightly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ifmmin.benchmarks.loadgen.result import AnswerCheck
from ifmmin.benchmarks.loadgen.settings import Scenario
from ifmmin.benchmarks.loadgen.system import System
from ifmmin.runtime.errors import InputError, ParityError


def check_answers(
    system: System,
    scenario: Scenario,
    answers: Mapping[int, Sequence[NDArray[np.float32]]],
    truth: NDArray[np.floating] | None,
    tolerance: float,
) -> AnswerCheck:
    """Hold the answers of an accuracy run against the truth.

    answers: per sample the logits (C,), for every time it was asked. truth: (N, C), or None.
    Raises ParityError with figures for samples without an answer, for one sample that was answered
    in two ways, and for answers that differ from the truth by more than `tolerance`.
    """
    where = f"scenario {scenario}: {system.name}"
    missing = [index for index in range(system.count) if not answers.get(index)]
    if missing:
        raise ParityError(
            f"{where} left {len(missing)} of {system.count} samples without an answer, sample "
            f"{missing[0]} first; nothing was timed"
        )
    for index, several in sorted(answers.items()):
        spread = max((float(np.abs(one - several[0]).max()) for one in several[1:]), default=0.0)
        if not spread <= tolerance:
            raise ParityError(
                f"{where} answered sample {index} in two ways that differ by {spread:.1e}, allowed "
                f"{tolerance:.0e}; nothing was timed"
            )
    if truth is None:
        return AnswerCheck(samples=system.count)
    return _compare(where, np.stack([answers[i][0] for i in range(system.count)]), truth, tolerance)


def _compare(
    where: str, found: NDArray[np.float32], truth: NDArray[np.floating], tolerance: float
) -> AnswerCheck:
    if truth.shape != found.shape:
        raise InputError(f"the truth has shape {truth.shape}, the answers {found.shape}")
    off = np.abs(found - truth).max(axis=1)
    agreement = float((found.argmax(axis=1) == truth.argmax(axis=1)).mean())
    if not bool((off <= tolerance).all()):
        worst = int(np.where(np.isfinite(off), off, np.inf).argmax())
        raise ParityError(
            f"{where} answers sample {worst} with logits that differ from the truth by "
            f"{off[worst]:.1e}, allowed {tolerance:.0e}; {agreement:.0%} of {len(found)} answers "
            "agree; nothing was timed"
        )
    return AnswerCheck(samples=len(found), max_difference=float(off.max()), agreement=agreement)
