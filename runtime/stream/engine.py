"""Engine of streams: frames are heard and answers made, for many streams in one call.

What a call costs does not depend on the past: a step sees new frames only, a summary is made anew
where its modality pooled something new, and a head runs where a summary or the pattern changed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle import ModalitySpec
from ..errors import BundleError, IfmminError, InputError
from ..modality import Modality, Pattern
from ..prediction import Prediction, is_answer, no_answer, softmax, softmax_of_one
from ..sessions import Candidate
from ..validate import nothing_present
from .graphs import Parts
from .snapshot import Identity
from .state import Answered, Channel, Evidence, Head, Session, Summaries
from .window import Joined, Lane, Segment, Stepper

_MOST_NAMED = 8


def of_streams(faults: Mapping[int, IfmminError]) -> IfmminError:
    """One error for those of some streams, by their number: each reason once."""
    by_reason: dict[str, list[int]] = {}
    for number, fault in sorted(faults.items()):
        by_reason.setdefault(str(fault), []).append(number)
    told = "; ".join(f"{_named(numbers)}: {reason}" for reason, numbers in by_reason.items())
    lacks = any(isinstance(fault, BundleError) for fault in faults.values())
    return (BundleError if lacks else InputError)(told)


def of_stream(number: int, error: InputError) -> InputError:
    """The error of one of many streams."""
    return InputError(f"stream {number}: {error}")


def _named(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"stream {numbers[0]}"
    more = len(numbers) - _MOST_NAMED
    rest = f" and {more} more" if more > 0 else ""
    return f"streams {', '.join(map(str, numbers[:_MOST_NAMED]))}{rest}"


Work = tuple[Channel, tuple[Lane, ...], Sequence[Segment]]
"""A channel, the lanes it starts from, and what it is to hear."""
Outcome = Answered | BundleError | None
"""An answer, why the bundle has none, or None where nothing counts."""


class Engine:
    """Steps, summaries and heads of a bundle, loaded and ready. May be used from many threads."""

    def __init__(
        self,
        parts: Parts,
        candidate: Candidate,
        specs: Mapping[Modality, ModalitySpec],
        patterns: Sequence[Pattern],
        checkpoint: str,
    ) -> None:
        self.candidate = candidate
        self.checkpoint = checkpoint
        self._parts = parts
        with parts.lock:
            self.steppers = {
                m: Stepper(parts.encoder(m), specs[m].minimum_length)
                for m in specs
                if any(m in pattern for pattern in patterns)
            }
            self._summaries = {m: parts.encoder(m).summary.run for m in self.steppers}
            self._summarised: dict[Modality, Joined] = {}
            """Per modality those made or joined last."""
            # All now: a modality that drops out must not cost the time of loading another head.
            self.heads = {tuple(pattern): Head.load(parts, pattern) for pattern in patterns}
            """By modalities in canonical order."""

    @property
    def identity(self) -> Identity:
        """Whose states these are, for snapshots."""
        states = {
            m.value: [(state.name, state.initial_shape) for state in stepper.states]
            for m, stepper in self.steppers.items()
        }
        return Identity(self.checkpoint, states)

    def hear(self, work: Sequence[Work]) -> list[tuple[Lane, ...]]:
        """What became of the lanes; nothing is changed in place, so a failure changes nothing."""
        if len(work) == 1 and len(work[0][2]) == 1:
            channel, before, (segment,) = work[0]
            lanes = channel.enter(before, segment.hop)
            if len(lanes) == 1 and lanes[0].kept is not None:
                with self._parts.lock:
                    return [(channel.stepper.one(lanes[0], segment.frames),)]
            return self._advance(channel.modality, [lanes], [segment.frames])
        heard = [lanes for _, lanes, _ in work]
        rounds = max([len(segments) for _, _, segments in work], default=0)
        for turn in range(rounds):
            due: dict[Modality, list[tuple[int, Sequence[Lane], Segment]]] = defaultdict(list)
            for index, (channel, _, segments) in enumerate(work):
                if turn < len(segments):
                    segment = segments[turn]
                    lanes = channel.enter(heard[index], segment.hop)
                    due[channel.modality].append((index, lanes, segment))
            for modality, chosen in due.items():
                frames = [segment.frames for _, _, segment in chosen]
                after = self._advance(modality, [lanes for _, lanes, _ in chosen], frames)
                for (index, _, _), moved in zip(chosen, after, strict=True):
                    heard[index] = moved
        return heard

    def answer_one(self, session: Session) -> tuple[Outcome, float]:
        """What `answer` does, for one stream: the path that has to be short.

        Between two updates caches fill with weights: what little Python there is takes two to three
        times as long as it does again and again.
        """
        evidence = session.evidence()
        head = self._head(evidence)
        if not isinstance(head, Head):
            return head, 0.0
        summaries = []
        with self._parts.lock:
            started = time.perf_counter()
            for channel, pooled in evidence:
                summary = channel.summary
                if summary is None or not channel.is_summarised(pooled):
                    (summary,) = self._summaries[channel.modality]({"pooled": pooled})
                    channel.pooled, channel.summary = pooled, summary
                summaries.append(summary)
            if not session.has_answered(head, summaries):
                (logits,) = head.run(dict(zip(head.letters, summaries, strict=True)))
                session.answered = Answered(head, summaries, logits[0])
            return session.answered, time.perf_counter() - started

    def answer(self, sessions: Sequence[Session]) -> tuple[list[Outcome], float]:
        """What each session's evidence comes to now; None where there is none, and an error where
        the bundle has no head for it: the other sessions shall not go without.

        Also the seconds that summaries and heads took, a session's share; nearly none where nothing
        had changed.
        """
        evidence = [session.evidence() for session in sessions]
        heads = [self._head(found) for found in evidence]
        with self._parts.lock:
            started = time.perf_counter()
            self._summarise(evidence)
            self._run_heads(sessions, evidence, heads)
            seconds = (time.perf_counter() - started) / max(1, len(sessions))
        answers: list[Outcome] = [
            session.answered if isinstance(head, Head) else head
            for session, head in zip(sessions, heads, strict=True)
        ]
        return answers, seconds

    def _advance(
        self,
        modality: Modality,
        lanes: Sequence[Sequence[Lane]],
        chunks: Sequence[NDArray[np.float32]],
    ) -> list[tuple[Lane, ...]]:
        if len(lanes) == 1 and len(lanes[0]) == 1:
            with self._parts.lock:
                return [tuple(self.steppers[modality].advance(lanes[0], chunks))]
        if all([len(group) == 1 for group in lanes]):
            with self._parts.lock:
                moved = self.steppers[modality].advance([lane for (lane,) in lanes], chunks)
            return [(lane,) for lane in moved]
        flat = [lane for group in lanes for lane in group]
        frames = [chunk for group, chunk in zip(lanes, chunks, strict=True) for _ in group]
        with self._parts.lock:
            ahead = iter(self.steppers[modality].advance(flat, frames))
        return [tuple(next(ahead) for _ in group) for group in lanes]

    def _head(self, evidence: Evidence) -> Head | BundleError | None:
        """The one of what counts; None where nothing does."""
        counting = tuple([channel.modality for channel, _ in evidence])
        head = self.heads.get(counting)
        if head is not None or not counting:
            return head
        pattern = Pattern.of(counting)
        known = ", ".join(one.name for one in self.heads.values())
        return BundleError(
            f"the bundle has no head for streams of pattern {pattern}; it has {known}; drop a "
            f"modality, or export it with ifmmin-export ... --pattern {pattern}"
        )

    def _summarise(self, evidence: Sequence[Evidence]) -> None:
        """Make anew the summaries of what has pooled something new."""
        due: dict[Modality, list[tuple[Channel, NDArray[np.float32]]]] = defaultdict(list)
        for found in evidence:
            for channel, pooled in found:
                if not channel.is_summarised(pooled):
                    due[channel.modality].append((channel, pooled))
        for modality, asking in due.items():
            given = Joined.join([pooled for _, pooled in asking])
            (made,) = self._summaries[modality]({"pooled": given.whole})
            rows = self._summarised[modality] = Joined.split(made)
            for (channel, pooled), summary in zip(asking, rows.each, strict=True):
                channel.pooled, channel.summary, channel.shares = pooled, summary, True

    def _run_heads(
        self,
        sessions: Sequence[Session],
        evidence: Sequence[Evidence],
        heads: Sequence[Head | BundleError | None],
    ) -> None:
        """Make anew the answers of which a summary or the pattern is another one."""
        due: dict[str, list[tuple[Session, Head, Summaries]]] = defaultdict(list)
        for session, found, head in zip(sessions, evidence, heads, strict=True):
            if not isinstance(head, Head):
                continue
            summaries = [c.summary for c, _ in found if c.summary is not None]
            if not session.has_answered(head, summaries):
                due[head.name].append((session, head, summaries))
        for waiting in due.values():
            _, head, _ = waiting[0]
            columns = zip(*(summaries for _, _, summaries in waiting), strict=True)
            inputs = {m.value: self._join(m, x) for m, x in zip(head.pattern, columns, strict=True)}
            (logits,) = head.run(inputs)
            for (session, head, made), row in zip(waiting, logits, strict=True):
                session.answered = Answered(head, made, row.copy())

    def _join(
        self, modality: Modality, summaries: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Summaries side by side, (B, S); in most rounds those of the one before."""
        if len(summaries) == 1:
            return summaries[0]
        known = self._summarised.get(modality)
        if known is None or not known.has(summaries):
            known = self._summarised[modality] = Joined.join(summaries)
        return known.whole


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
