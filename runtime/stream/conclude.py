"""From logits of streams to answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import BundleError, IfmminError, InputError
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.prediction import (
    Prediction,
    is_answer,
    no_answer,
    softmax,
    softmax_of_one,
)
from ifmmin.runtime.stream.answers import Answered, Head
from ifmmin.runtime.stream.engine import Engine, Outcome
from ifmmin.runtime.stream.faults import of_streams
from ifmmin.runtime.stream.session import Session
from ifmmin.runtime.validate import nothing_present

OfPrior = Callable[[Mapping[Modality, str], Mapping[Modality, int]], Prediction]


@dataclass(frozen=True)
class Concluder:
    """Makes answers for the streams of one predictor."""

    labels: Sequence[str]
    requested: str
    engine: Engine
    of_prior: OfPrior | None
    """What to answer where nothing counts; None: nothing."""

    def one(self, session: Session, answered: Outcome, seconds: float) -> Prediction:
        """A stream's answer. Raises InputError where nothing counts and no prior is asked for, and
        where the answer is no number; BundleError where the bundle has none."""
        if isinstance(answered, BundleError):
            raise answered
        if answered is None:
            absent = session.absent
            if self.of_prior is None:
                raise nothing_present(absent)
            return self.of_prior(absent, session.dropped_frames)
        last = session.concluded
        if last is None or last[0] is not answered.logits:
            last = session.concluded = (answered.logits, *softmax_of_one(answered.logits))
        _, winner, probabilities = last
        if not is_answer(probabilities):
            raise self._no_answer()
        # A copy, the caller's own: the next answer may be made of the same.
        logits = answered.logits.copy()
        return self._make(session, answered.head, winner, probabilities.copy(), logits, seconds)

    def all(
        self, sessions: Sequence[Session], answers: Sequence[Outcome], seconds: float
    ) -> list[Prediction | None]:
        """The answers of many streams; None where nothing counts and no prior is asked for.

        Raises one error that names all streams of which `one` would, before any answer is smoothed.
        """
        given = [answered.logits for answered in answers if isinstance(answered, Answered)]
        flat = np.concatenate(given) if given else np.empty(0, np.float32)
        logits = flat.reshape(len(given), len(self.labels))
        probabilities = softmax(logits)
        self._require(answers, probabilities)
        rows = zip(probabilities.argmax(axis=-1).tolist(), probabilities, logits, strict=True)
        found: list[Prediction | None] = []
        for session, answered in zip(sessions, answers, strict=True):
            if isinstance(answered, Answered):
                found.append(self._make(session, answered.head, *next(rows), seconds))
            elif self.of_prior is None:
                found.append(None)
            else:
                found.append(self.of_prior(session.absent, session.dropped_frames))
        return found

    def _require(self, answers: Sequence[Outcome], probabilities: NDArray[np.float32]) -> None:
        """probabilities: (N, C) of those of the answers that are one."""
        faults: dict[int, IfmminError] = {}
        if not np.isnan(probabilities).any() and BundleError not in map(type, answers):
            return
        rows = iter(probabilities)
        for number, answered in enumerate(answers):
            if isinstance(answered, BundleError):
                faults[number] = answered
            elif answered is not None and not is_answer(next(rows)):
                faults[number] = self._no_answer()
        if faults:
            raise of_streams(faults)

    def _no_answer(self) -> InputError:
        told = no_answer(self.engine.candidate.precision)
        return InputError(f"{told}; clear the modality, or reset the stream")

    def _make(
        self,
        session: Session,
        head: Head,
        winner: int,
        probabilities: NDArray[np.float32],
        logits: NDArray[np.float32],
        seconds: float,
    ) -> Prediction:
        if session.smoother is not None:
            winner, probabilities = session.smoother(probabilities, session.now)
        candidate = self.engine.candidate
        return Prediction(
            self.labels[winner],
            probabilities,
            logits,
            head.pattern,
            candidate.backend,
            self.requested,
            candidate.precision,
            head.placement,
            seconds,
            session.absent,
            session.dropped_frames,
        )
