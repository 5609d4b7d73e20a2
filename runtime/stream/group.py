"""Many streams that move on together: what they heard since is computed in a few calls for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.prediction import Prediction
from ifmmin.runtime.stream.conclude import Concluder
from ifmmin.runtime.stream.engine import Engine
from ifmmin.runtime.stream.numeric import as_count, refusal
from ifmmin.runtime.stream.session import Rules
from ifmmin.runtime.stream.stream import Stream, hear_waiting


class StreamGroup(Sequence[Stream]):
    """Streams of one predictor: `predictor.streams(n)` gives them.

    `group[i]` is a stream like any other, but what is pushed waits until `update`, or until that
    stream is asked: then all streams are computed together, by graphs for batches. Not for use from
    two threads at once.
    """

    def __init__(self, engine: Engine, rules: Rules, concluder: Concluder, count: int) -> None:
        self._engine = engine
        self._concluder = concluder
        self._streams = [Stream(engine, rules, concluder, waits=True) for _ in range(count)]

    def push(self, index: int, frames: Any = None, /, **options: Any) -> None:
        """`Stream.push` of one stream; InputError names it."""
        wanted = f"the number of one of {len(self)} streams"
        number = as_count("stream", index, -len(self), wanted)
        if number >= len(self):
            raise refusal("stream", index, wanted)
        try:
            self._streams[number].push(frames, **options)
        except InputError as error:
            raise InputError(f"stream {index}: {error}") from error

    def update(self, *, at: float | None = None) -> list[Prediction | None]:
        """Hear what was pushed and answer, in the order of the streams.

        None for a stream of which nothing counts, unless the predictor answers with the prior. at:
        the time for all of them.

        Raises BundleError where the bundle has no head for what counts in some streams, and
        InputError where an answer is no number; both name the streams. By then all was heard and
        the others were answered: once a modality is dropped there, `update` costs next to nothing,
        and each stream can be asked alone, `group[i].predict()`.
        """
        sessions = [stream.session for stream in self._streams]
        now = sessions[0].moment(at)
        for session in sessions:
            session.reach(now)
        hear_waiting(self._engine, sessions)
        return self._concluder.all(sessions, *self._engine.answer(sessions))

    def __len__(self) -> int:
        return len(self._streams)

    def __getitem__(self, index: Any) -> Any:
        return self._streams[index]

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams)
