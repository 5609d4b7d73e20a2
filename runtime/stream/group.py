"""Many streams that move on together: what they heard since is computed in a few calls for all."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.prediction import Prediction
from ifmmin.runtime.stream.conclude import Concluder
from ifmmin.runtime.stream.engine import Engine
from ifmmin.runtime.stream.faults import of_stream
from ifmmin.runtime.stream.numeric import as_count, refusal
from ifmmin.runtime.stream.rows import usable_rows
from ifmmin.runtime.stream.session import Intake, Rules, Session
from ifmmin.runtime.stream.stream import Stream, hear_waiting, is_enough
from ifmmin.runtime.validate import Usable


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
            raise of_stream(index, error) from error

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
        session = self._streams[0].session
        now = session.moment(at)
        rows = {
            Modality.of(letter): usable_rows(session.channel(letter), x, numbers, session.rules)
            for letter, x in {"a": a, "v": v, "t": t}.items()
            if x is not None
        }
        if now is None and _are_simple(session, rows):
            self._append([self._streams[n].session for n in numbers], rows)
            return
        planned = [
            self._plan(number, [(m, row[place]) for m, row in rows.items()], now)
            for place, number in enumerate(numbers)
        ]
        chosen = list(zip([self._streams[n].session for n in numbers], planned, strict=True))
        full = [session for session, intakes in chosen if is_enough(intakes)]
        if full:
            hear_waiting(self._engine, full)
        for session, intakes in chosen:
            session.keep(intakes, now)

    def _append(
        self, sessions: Sequence[Session], rows: Mapping[Modality, Sequence[Usable]]
    ) -> None:
        """Keep rows of which nothing has to be planned: what most pushes are, with least Python."""
        full = [s for s in sessions if any([s.channels[m].is_full for m in rows])]
        if full:
            hear_waiting(self._engine, full)
        for modality, found in rows.items():
            for session, row in zip(sessions, found, strict=True):
                session.channels[modality].append(row)

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
        self, number: int, rows: Sequence[tuple[Modality, Usable]], at: float | None
    ) -> list[Intake]:
        session = self._streams[number].session
        try:
            return [session.plan_usable(session.channels[m], row, at) for m, row in rows]
        except InputError as error:
            raise of_stream(number, error) from error

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
        for session in sessions if now is not None else ():
            session.reach(now)
        hear_waiting(self._engine, sessions)
        return self._concluder.all(sessions, *self._engine.answer(sessions))

    def __len__(self) -> int:
        return len(self._streams)

    def __getitem__(self, index: Any) -> Any:
        return self._streams[index]

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams)


def _are_simple(session: Session, rows: Mapping[Modality, Sequence[Usable]]) -> bool:
    """Whether frames without a time can only be appended, all of them.

    session: one of a group; options are the same in all.
    """
    return all(
        session.channels[m].is_simple
        and all([row.reason is None and not row.dropped for row in found])
        for m, found in rows.items()
    )
