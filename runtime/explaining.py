"""Why a backend was taken: every way to run every pattern, tried here and now."""

from __future__ import annotations

from collections.abc import Sequence

from ifmmin.runtime.candidates import Trial
from ifmmin.runtime.console import print_table
from ifmmin.runtime.predictor import Predictor


def print_explanation(predictor: Predictor) -> None:
    """One row per pattern and candidate; then why some cannot run, each reason once."""
    trials = predictor.explain()
    rows = [
        [
            str(trial.pattern),
            trial.candidate.backend,
            trial.candidate.precision,
            str(trial.candidate.threads or ""),
            trial.outcome,
            "" if trial.seconds is None else f"{trial.seconds * 1e6:.0f}",
        ]
        for trial in trials
        if trial.outcome not in ("unavailable", "absent")
    ]
    print_table(["pattern", "backend", "precision", "threads", "outcome", "p50 us"], rows)
    reasons = _reasons(trials)
    if reasons:
        print_table(["backend", "why it is not taken"], reasons)


def _reasons(trials: Sequence[Trial]) -> list[list[str]]:
    found = {
        (trial.candidate.backend, trial.detail): None
        for trial in trials
        if trial.outcome in ("unavailable", "refused")
    }
    return [[backend, detail] for backend, detail in found]
