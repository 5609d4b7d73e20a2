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
from .graphs import StreamGraphs
from .snapshot import Identity
from .state import Evidence, Head, LastAnswer, ModalityState, StreamState, Summaries
from .window import Batch, EncoderState, Segment, StepRunner

_MOST_NAMED = 8


def merge_errors(faults: Mapping[int, IfmminError]) -> IfmminError:
    """One error for those of some streams, by their number: each reason once."""
    by_reason: dict[str, list[int]] = {}
    for number, fault in sorted(faults.items()):
        by_reason.setdefault(str(fault), []).append(number)
    told = "; ".join(f"{_named(numbers)}: {reason}" for reason, numbers in by_reason.items())
    lacks = any(isinstance(fault, BundleError) for fault in faults.values())
    return (BundleError if lacks else InputError)(told)


def name_stream(number: int, error: InputError) -> InputError:
    """The error of one of many streams."""
    return InputError(f"stream {number}: {error}")


def _named(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"stream {numbers[0]}"
    more = len(numbers) - _MOST_NAMED
    rest = f" and {more} more" if more > 0 else ""
    return f"streams {', '.join(map(str, numbers[:_MOST_NAMED]))}{rest}"


Work = tuple[ModalityState, tuple[EncoderState, ...], Sequence[Segment]]
"""The state of a modality, the encoder states it starts from, and what it is to hear."""
Outcome = LastAnswer | BundleError | None
"""An answer, why the bundle has none, or None where nothing counts."""


class StreamEngine:
    """Steps, summaries and heads of a bundle, loaded and ready. May be used from many threads."""

    def __init__(
        self,
        graphs: StreamGraphs,
        candidate: Candidate,
        specs: Mapping[Modality, ModalitySpec],
        patterns: Sequence[Pattern],
        checkpoint: str,
    ) -> None:
        self.candidate = candidate
        self.checkpoint = checkpoint
        self._graphs = graphs
        with graphs.lock:
            self.step_runners = {
                m: StepRunner(graphs.encoder(m), specs[m].minimum_length)
                for m in specs
                if any(m in pattern for pattern in patterns)
            }
            self._summaries = {m: graphs.encoder(m).summary.run for m in self.step_runners}
            self._summarised: dict[Modality, Batch] = {}
            """Per modality those made or joined last."""
            # All now: a modality that drops out must not cost the time of loading another head.
            self.heads = {tuple(pattern): Head.load(graphs, pattern) for pattern in patterns}
            """By modalities in canonical order."""

    @property
    def identity(self) -> Identity:
        """Whose states these are, for snapshots."""
        states = {
            m.value: [(state.name, state.initial_shape) for state in step_runner.states]
            for m, step_runner in self.step_runners.items()
        }
        return Identity(self.checkpoint, states)

    def advance(self, work: Sequence[Work]) -> list[tuple[EncoderState, ...]]:
        """The next encoder states; nothing is changed in place, so a failure changes nothing."""
        if len(work) == 1 and len(work[0][2]) == 1:
            channel, before, (segment,) = work[0]
            encoders = channel.enter(before, segment.hop)
            if len(encoders) == 1 and encoders[0].kept is not None:
                with self._graphs.lock:
                    return [(channel.step_runner.one(encoders[0], segment.frames),)]
            return self._advance(channel.modality, [encoders], [segment.frames])
        heard = [encoders for _, encoders, _ in work]
        rounds = max([len(segments) for _, _, segments in work], default=0)
        for turn in range(rounds):
            due: dict[Modality, list[tuple[int, Sequence[EncoderState], Segment]]] = defaultdict(
                list
            )
            for index, (channel, _, segments) in enumerate(work):
                if turn < len(segments):
                    segment = segments[turn]
                    encoders = channel.enter(heard[index], segment.hop)
                    due[channel.modality].append((index, encoders, segment))
            for modality, chosen in due.items():
                frames = [segment.frames for _, _, segment in chosen]
                after = self._advance(modality, [encoders for _, encoders, _ in chosen], frames)
                for (index, _, _), moved in zip(chosen, after, strict=True):
                    heard[index] = moved
        return heard

    def answer_one(self, state: StreamState) -> tuple[Outcome, float]:
        """What `answer` does, for one stream: the path that has to be short.

        Between two updates caches fill with weights: what little Python there is takes two to three
        times as long as it does again and again.
        """
        evidence = state.evidence()
        head = self._head(evidence)
        if not isinstance(head, Head):
            return head, 0.0
        summaries = []
        with self._graphs.lock:
            started = time.perf_counter()
            for channel, pooled in evidence:
                summary = channel.summary
                if summary is None or not channel.is_summarised(pooled):
                    (summary,) = self._summaries[channel.modality]({"pooled": pooled})
                    channel.pooled, channel.summary = pooled, summary
                summaries.append(summary)
            if not state.has_answered(head, summaries):
                (logits,) = head.run(dict(zip(head.letters, summaries, strict=True)))
                state.last_answer = LastAnswer(head, summaries, logits[0])
            return state.last_answer, time.perf_counter() - started

    def answer(self, states: Sequence[StreamState]) -> tuple[list[Outcome], float]:
        """What each session's evidence comes to now; None where there is none, and an error where
        the bundle has no head for it: the other sessions shall not go without.

        Also the seconds that summaries and heads took, a session's share; nearly none where nothing
        had changed.
        """
        evidence = [state.evidence() for state in states]
        heads = [self._head(found) for found in evidence]
        with self._graphs.lock:
            started = time.perf_counter()
            self._summarise(evidence)
            self._run_heads(states, evidence, heads)
            seconds = (time.perf_counter() - started) / max(1, len(states))
        answers: list[Outcome] = [
            state.last_answer if isinstance(head, Head) else head
            for state, head in zip(states, heads, strict=True)
        ]
        return answers, seconds

    def _advance(
        self,
        modality: Modality,
        encoders: Sequence[Sequence[EncoderState]],
        chunks: Sequence[NDArray[np.float32]],
    ) -> list[tuple[EncoderState, ...]]:
        if len(encoders) == 1 and len(encoders[0]) == 1:
            with self._graphs.lock:
                return [tuple(self.step_runners[modality].advance(encoders[0], chunks))]
        if all([len(group) == 1 for group in encoders]):
            with self._graphs.lock:
                moved = self.step_runners[modality].advance(
                    [encoder for (encoder,) in encoders], chunks
                )
            return [(encoder,) for encoder in moved]
        flat = [encoder for group in encoders for encoder in group]
        frames = [chunk for group, chunk in zip(encoders, chunks, strict=True) for _ in group]
        with self._graphs.lock:
            ahead = iter(self.step_runners[modality].advance(flat, frames))
        return [tuple(next(ahead) for _ in group) for group in encoders]

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
        due: dict[Modality, list[tuple[ModalityState, NDArray[np.float32]]]] = defaultdict(list)
        for found in evidence:
            for channel, pooled in found:
                if not channel.is_summarised(pooled):
                    due[channel.modality].append((channel, pooled))
        for modality, asking in due.items():
            given = Batch.join([pooled for _, pooled in asking])
            (made,) = self._summaries[modality]({"pooled": given.whole})
            rows = self._summarised[modality] = Batch.split(made)
            for (channel, pooled), summary in zip(asking, rows.each, strict=True):
                channel.pooled, channel.summary, channel.shares = pooled, summary, True

    def _run_heads(
        self,
        states: Sequence[StreamState],
        evidence: Sequence[Evidence],
        heads: Sequence[Head | BundleError | None],
    ) -> None:
        """Make anew the answers of which a summary or the pattern is another one."""
        due: dict[str, list[tuple[StreamState, Head, Summaries]]] = defaultdict(list)
        for state, found, head in zip(states, evidence, heads, strict=True):
            if not isinstance(head, Head):
                continue
            summaries = [c.summary for c, _ in found if c.summary is not None]
            if not state.has_answered(head, summaries):
                due[head.name].append((state, head, summaries))
        for waiting in due.values():
            _, head, _ = waiting[0]
            columns = zip(*(summaries for _, _, summaries in waiting), strict=True)
            inputs = {m.value: self._join(m, x) for m, x in zip(head.pattern, columns, strict=True)}
            (logits,) = head.run(inputs)
            for (state, head, made), row in zip(waiting, logits, strict=True):
                state.last_answer = LastAnswer(head, made, row.copy())

    def _join(
        self, modality: Modality, summaries: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Summaries side by side, (B, S); in most rounds those of the one before."""
        if len(summaries) == 1:
            return summaries[0]
        known = self._summarised.get(modality)
        if known is None or not known.has(summaries):
            known = self._summarised[modality] = Batch.join(summaries)
        return known.whole


OfPrior = Callable[[Mapping[Modality, str], Mapping[Modality, int]], Prediction]


@dataclass(frozen=True)
class PredictionBuilder:
    """Makes answers for the streams of one predictor."""

    labels: tuple[str, ...]
    requested: str
    engine: StreamEngine
    of_prior: OfPrior | None
    """What to answer where nothing counts; None: nothing."""

    def one(self, state: StreamState, last_answer: Outcome, seconds: float) -> Prediction:
        """A stream's answer. Raises InputError where nothing counts and no prior is asked for, and
        where the answer is no number; BundleError where the bundle has none."""
        if isinstance(last_answer, BundleError):
            raise last_answer
        if last_answer is None:
            absent = state.absent
            if self.of_prior is None:
                raise nothing_present(absent)
            return self.of_prior(absent, state.dropped_frames)
        last = state.last_prediction
        if last is None or last[0] is not last_answer.logits:
            last = state.last_prediction = (last_answer.logits, *softmax_of_one(last_answer.logits))
        _, winner, probabilities = last
        if not is_answer(probabilities):
            raise self._no_answer()
        # A copy, the caller's own: the next answer may be made of the same.
        logits = last_answer.logits.copy()
        return self._make(state, last_answer.head, winner, probabilities.copy(), logits, seconds)

    def all(
        self, states: Sequence[StreamState], answers: Sequence[Outcome], seconds: float
    ) -> list[Prediction | None]:
        """The answers of many streams; None where nothing counts and no prior is asked for.

        Raises one error that names all streams of which `one` would, before any answer is smoothed.
        """
        given = [
            last_answer.logits for last_answer in answers if isinstance(last_answer, LastAnswer)
        ]
        flat = np.concatenate(given) if given else np.empty(0, np.float32)
        logits = flat.reshape(len(given), len(self.labels))
        probabilities = softmax(logits)
        self._require(answers, probabilities)
        rows = zip(probabilities.argmax(axis=-1).tolist(), probabilities, logits, strict=True)
        found: list[Prediction | None] = []
        for state, last_answer in zip(states, answers, strict=True):
            if isinstance(last_answer, LastAnswer):
                found.append(self._make(state, last_answer.head, *next(rows), seconds))
            elif self.of_prior is None:
                found.append(None)
            else:
                found.append(self.of_prior(state.absent, state.dropped_frames))
        return found

    def _require(self, answers: Sequence[Outcome], probabilities: NDArray[np.float32]) -> None:
        """probabilities: (N, C) of those of the answers that are one."""
        faults: dict[int, IfmminError] = {}
        if not np.isnan(probabilities).any() and BundleError not in map(type, answers):
            return
        rows = iter(probabilities)
        for number, last_answer in enumerate(answers):
            if isinstance(last_answer, BundleError):
                faults[number] = last_answer
            elif last_answer is not None and not is_answer(next(rows)):
                faults[number] = self._no_answer()
        if faults:
            raise merge_errors(faults)

    def _no_answer(self) -> InputError:
        told = no_answer(self.engine.candidate.precision)
        return InputError(f"{told}; clear the modality, or reset the stream")

    def _make(
        self,
        state: StreamState,
        head: Head,
        winner: int,
        probabilities: NDArray[np.float32],
        logits: NDArray[np.float32],
        seconds: float,
    ) -> Prediction:
        if state.smoother is not None:
            winner, probabilities = state.smoother(probabilities, state.now)
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
            state.absent,
            state.dropped_frames,
            self.labels,
        )
