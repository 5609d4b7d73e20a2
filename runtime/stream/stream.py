"""Stream and StreamGroup: frames of any modality in, at any moment the answer of what was heard.

What the streams of a group heard since is computed in a few calls for all.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..errors import InputError
from ..modality import Modality, Pattern
from ..prediction import Prediction
from ..sessions import Candidate
from ..validate import Policy, Quality, Utterance, ValidFrames, as_float32, is_finite, valid_frames
from .engine import OfPrior, PredictionBuilder, StreamEngine, name_stream
from .graphs import StreamGraphs
from .options import StreamOptions, as_count, refusal
from .snapshot import restore, snapshot
from .state import ModalityState, PendingFrames, StreamRules, StreamState
from .window import Segment


def merge_frames(frames: object, named: Mapping[str, Any]) -> dict[Any, Any]:
    """Frames per modality of a mapping and of keywords; None is nothing.

    Raises InputError where `frames` is no mapping, or a modality is in both.
    """
    found = {letter: x for letter, x in named.items() if x is not None}
    if frames is None:
        return found
    if not isinstance(frames, Mapping):
        raise refusal("frames", frames, "a mapping such as {'a': array}; or write push(a=array)")
    for letter, value in frames.items():
        if letter in found and value is not None:
            raise InputError(f"modality {Modality.of(letter)}: got frames twice; give them once")
        found.setdefault(letter, value)
    return found


class Stream:
    """A conversation as it goes on: `predictor.stream()` gives one.

    After any pushes `predict` gives what `Predictor.predict` says of all frames pushed so far, at a
    cost that does not grow with them. An error changes nothing; the stream can be used on. Not for
    use from two threads at once; different streams may be used from different threads.
    """

    def __init__(
        self,
        engine: StreamEngine,
        rules: StreamRules,
        builder: PredictionBuilder,
        *,
        waits: bool = False,
    ) -> None:
        self._engine = engine
        self._builder = builder
        self._waits = waits
        self.state = StreamState(rules, engine.step_runners)

    def push(
        self,
        frames: Utterance | None = None,
        /,
        *,
        a: Any = None,
        v: Any = None,
        t: Any = None,
        at: float | None = None,
        quality: Quality | None = None,
    ) -> None:
        """New frames of some modalities, (N, D) each, appended to those before.

        frames: the same as a mapping. at: time of the newest of them in seconds; earlier ones of
        the same push lie a frame's duration apart. quality: as in `Predictor.predict`; what is too
        poor is not heard, nor is nothing but NaNs: only its time passes. Raises InputError.
        """
        given = {"a": a, "v": v, "t": t}
        if frames is not None:
            given = merge_frames(frames, given)
        at = self.state.resolve_time(at)
        self._hear(self.state.plan(given, at, quality), at)

    def set_text(self, tokens: Any, *, at: float | None = None) -> None:
        """All token states, (N, D), in place of the text so far; None and no tokens clear it.

        For recognisers that revise what they heard, and for language models that look both ways:
        there a new word changes the states of all words before it. at: when it was so, in seconds;
        what is older than the text so far follows `late`, as pushed frames do. Raises InputError.
        """
        at = self.state.resolve_time(at)
        self._hear([self.state.plan_text(tokens, at)], at)

    def predict(self, *, at: float | None = None) -> Prediction:
        """The answer now. at: the time, where it went on since the last push.

        Raises InputError where nothing counts, unless the predictor answers with the prior.
        """
        self._catch_up(at)
        last_answer, seconds = self._engine.answer_one(self.state)
        return self._builder.one(self.state, last_answer, seconds)

    def clear(self, modality: str) -> None:
        """Forget what a modality said: it is missing until it is pushed again."""
        self.state.channel(modality).clear("cleared")

    def drop(self, modality: str) -> None:
        """Leave a modality out, until `restore`; it goes on listening."""
        self.state.channel(modality).dropped = True

    def restore(self, modality: str) -> None:
        """Let a dropped modality count again, with all that it heard."""
        self.state.channel(modality).dropped = False

    def reset(self) -> None:
        """Forget everything, as if the stream had just begun."""
        self.state.reset()

    def snapshot(self) -> bytes:
        """All that has to be kept to go on later, or elsewhere. Not the frames."""
        self._catch_up()
        return snapshot(self.state, self._engine.identity)

    def resume(self, content: bytes) -> None:
        """Go on from a snapshot of the same network, on whatever device it was taken.

        With a clock of its own a stream goes on where it stopped, as if no time had passed. Raises
        InputError where the bytes are damaged, of another network or of other stream options.
        """
        now = self.state.resolve_time(None)
        classes = len(self._builder.labels)
        restore(self.state, content, self._engine.identity, classes, now)

    @property
    def pattern(self) -> Pattern | None:
        """What counts now; None where nothing does."""
        self._catch_up()
        counting = [channel.modality for channel, _ in self.state.evidence()]
        return Pattern.of(counting) if counting else None

    @property
    def frames(self) -> dict[Modality, int]:
        """Frames per modality that an answer is of now: with a window those within it."""
        self._catch_up()
        encoders = {m: c.answering(self.state.now) for m, c in self.state.channels.items()}
        return {m: encoder.frames if encoder else 0 for m, encoder in encoders.items()}

    def flush(self) -> None:
        """Hear what waits."""
        flush(self._engine, [self.state])

    def _catch_up(self, at: float | None = None) -> None:
        """Hear what waits, and let time go on: to a moment, or to where the clock is."""
        if self._waits:
            self.flush()
        self.state.reach(self.state.resolve_time(at))

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.state.reset()

    def _hear(self, pendings: Sequence[PendingFrames], at: float | None) -> None:
        """Let frames be heard, all of them or, after an error, none."""
        if self._waits:
            # Before anything is taken: what fails to be heard must not be heard twice.
            if is_enough(pendings):
                self.flush()
            # Copied: the caller may use its memory again.
            self.state.enqueue([pending.copied() for pending in pendings], at)
            return
        heard = self._engine.advance([(i.channel, i.encoders, i.segments) for i in pendings])
        for pending, encoders in zip(pendings, heard, strict=True):
            self.state.commit(pending)
            pending.channel.encoders = encoders
        self.state.reach(at)


def is_enough(pendings: Sequence[PendingFrames]) -> bool:
    """Whether so much waits already that it has to be heard first."""
    return any([pending.channel.is_full for pending in pendings])


def flush(engine: StreamEngine, states: Sequence[StreamState]) -> None:
    """Let all that waits in some streams be heard, together."""
    channels = []
    for state in states:
        for channel in state.channels.values():
            if channel.waiting:
                channels.append(channel)
            elif channel.shares:
                state.detach(channel)
    if not channels:
        return
    heard = engine.advance([(c, c.encoders, merge_segments(c.waiting)) for c in channels])
    for channel, encoders in zip(channels, heard, strict=True):
        channel.encoders, channel.shares = encoders, True
        channel.forget_pending()


def merge_segments(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours of one hop as one segment."""
    if len(segments) == 1:
        return list(segments)
    found: list[list[Segment]] = []
    for segment in segments:
        if found and found[-1][0].hop == segment.hop:
            found[-1].append(segment)
        else:
            found.append([segment])
    return [
        group[0] if len(group) == 1
        else Segment(group[0].hop, np.concatenate([s.frames for s in group]))
        for group in found
    ]  # fmt: skip


def valid_rows(
    channel: ModalityState, value: Any, numbers: Sequence[int], rules: StreamRules
) -> list[ValidFrames]:
    """Of a caller's (S, N, D) the frames of each row that count, copied.

    numbers: the streams to which the rows belong. Raises InputError as a push of a row would, and
    names the stream.
    """
    modality = channel.modality
    array = as_float32(modality, value)
    spec = rules.specs[modality]
    if array.ndim != 3 or array.shape[::2] != (len(numbers), spec.dim):
        raise InputError(
            f"modality {modality} ({modality.word}): got shape {array.shape}, wanted "
            f"({len(numbers)} streams, frames, {spec.dim}): {spec.features}"
        )
    # Each copied: one that waits longer must not hold the others'.
    rows, length = [row.copy() for row in array], array.shape[1]
    if length and is_finite(array):
        return [ValidFrames(row, None, length) for row in rows]
    found = []
    for number, row in zip(numbers, rows, strict=True):
        try:
            found.append(valid_frames(modality, row, rules.specs, rules.policy))
        except InputError as error:
            raise name_stream(number, error) from error
    return found


class StreamGroup(Sequence[Stream]):
    """Streams of one predictor: `predictor.streams(n)` gives them.

    `group[i]` is a stream like any other, but what is pushed waits until `update`, or until that
    stream is asked: then all streams are computed together, by graphs for batches. Not for use from
    two threads at once.
    """

    def __init__(
        self, engine: StreamEngine, rules: StreamRules, builder: PredictionBuilder, count: int
    ) -> None:
        self._engine = engine
        self._builder = builder
        self._streams = [Stream(engine, rules, builder, waits=True) for _ in range(count)]

    def push(self, index: int, frames: Any = None, /, **options: Any) -> None:
        """`Stream.push` of one stream; InputError names it."""
        wanted = f"the number of one of {len(self)} streams"
        number = as_count("stream", index, -len(self), wanted)
        if number >= len(self):
            raise refusal("stream", index, wanted)
        try:
            self._streams[number].push(frames, **options)
        except InputError as error:
            raise name_stream(index, error) from error

    def push_all(
        self,
        *,
        a: Any = None,
        v: Any = None,
        t: Any = None,
        at: float | None = None,
        streams: Iterable[int] | None = None,
    ) -> None:
        """New frames of many streams in one call, (S, N, D) each: row by row what `push` does.

        Without `quality`; in a third of the time of S pushes. streams: the S streams to which rows
        belong, each once, default to all in order; those with more or fewer frames have a call of
        their own. at: the time for all of them. Raises InputError, which names the stream; then
        none of them has changed.
        """
        numbers = range(len(self)) if streams is None else self._numbers(streams)
        state = self._streams[0].state
        now = state.resolve_time(at)
        rows = {
            Modality.of(letter): valid_rows(state.channel(letter), x, numbers, state.rules)
            for letter, x in {"a": a, "v": v, "t": t}.items()
            if x is not None
        }
        if now is None and _are_simple(state, rows):
            self._append([self._streams[n].state for n in numbers], rows)
            return
        planned = [
            self._plan(number, [(m, row[place]) for m, row in rows.items()], now)
            for place, number in enumerate(numbers)
        ]
        chosen = list(zip([self._streams[n].state for n in numbers], planned, strict=True))
        full = [state for state, pendings in chosen if is_enough(pendings)]
        if full:
            flush(self._engine, full)
        for state, pendings in chosen:
            state.enqueue(pendings, now)

    def _append(
        self, states: Sequence[StreamState], rows: Mapping[Modality, Sequence[ValidFrames]]
    ) -> None:
        """Keep rows of which nothing has to be planned: what most pushes are, with least Python."""
        full = [s for s in states if any([s.channels[m].is_full for m in rows])]
        if full:
            flush(self._engine, full)
        for modality, found in rows.items():
            for state, row in zip(states, found, strict=True):
                state.channels[modality].append(row)

    def _numbers(self, streams: Iterable[int]) -> list[int]:
        wanted = f"numbers of some of {len(self)} streams, each once, from 0 on"
        try:
            given = list(streams)
        except TypeError:
            raise refusal("streams", streams, wanted) from None
        if isinstance(streams, (set, frozenset)):
            raise refusal("streams", streams, f"{wanted}, in the order of the rows")
        numbers = [as_count("streams", each, 0, wanted) for each in given]
        for number in numbers:
            if number >= len(self):
                raise refusal("streams", number, wanted)
        if len(set(numbers)) < len(numbers):
            raise InputError(f"streams: got {reprlib.repr(numbers)}, wanted {wanted}")
        return numbers

    def _plan(
        self, number: int, rows: Sequence[tuple[Modality, ValidFrames]], at: float | None
    ) -> list[PendingFrames]:
        state = self._streams[number].state
        try:
            return [state.plan_valid(state.channels[m], row, at) for m, row in rows]
        except InputError as error:
            raise name_stream(number, error) from error

    def update(self, *, at: float | None = None) -> list[Prediction | None]:
        """Hear what was pushed and answer, in the order of the streams.

        None for a stream of which nothing counts, unless the predictor answers with the prior. at:
        the time for all of them.

        Raises BundleError where the bundle has no head for what counts in some streams, and
        InputError where an answer is no number; both name the streams. By then all was heard and
        the others were answered: once a modality is dropped there, `update` costs next to nothing,
        and each stream can be asked alone, `group[i].predict()`.
        """
        states = [stream.state for stream in self._streams]
        now = states[0].resolve_time(at)
        for state in states if now is not None else ():
            state.reach(now)
        flush(self._engine, states)
        return self._builder.all(states, *self._engine.answer(states))

    def __len__(self) -> int:
        return len(self._streams)

    def __getitem__(self, index: Any) -> Any:
        return self._streams[index]

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams)


def _are_simple(state: StreamState, rows: Mapping[Modality, Sequence[ValidFrames]]) -> bool:
    """Whether frames without a time can only be appended, all of them.

    session: one of a group; options are the same in all.
    """
    return all(
        state.channels[m].is_simple
        and all([row.reason is None and not row.dropped for row in found])
        for m, found in rows.items()
    )


class StreamFactory:
    """Makes streams, all of which share one set of loaded graphs."""

    def __init__(
        self,
        bundle: Bundle,
        graphs: StreamGraphs,
        candidate: Candidate,
        *,
        requested: str,
        policy: Policy,
        of_prior: OfPrior | None,
    ) -> None:
        manifest = bundle.manifest
        self._specs = manifest.modalities
        self._policy = policy
        self._engine = StreamEngine(
            graphs, candidate, self._specs, bundle.stream_patterns, manifest.checkpoint.sha256
        )
        self._builder = PredictionBuilder(manifest.labels, requested, self._engine, of_prior)

    def one(self, options: StreamOptions) -> Stream:
        """A stream that hears what is pushed at once."""
        return Stream(self._engine, self._rules(options), self._builder)

    def many(self, count: int, options: StreamOptions) -> StreamGroup:
        """Streams that move on together."""
        count = as_count("streams", count, 1, "a whole number of at least 1")
        return StreamGroup(self._engine, self._rules(options), self._builder, count)

    def _rules(self, options: StreamOptions) -> StreamRules:
        if not isinstance(options, StreamOptions):
            raise refusal("options", options, "StreamOptions(...)")
        return StreamRules(self._specs, self._policy, options)
