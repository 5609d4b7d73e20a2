"""Streams: what an update costs as the past grows, beside asking for the whole again; many at once.

An update is one new frame of a modality and an answer. In most of them a running maximum has not
moved and nothing after the step has to be computed; here every update is made to compute all of
it, which is the most that one can cost. `usual` updates are beside them, as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.benchmarks.record import OURS, Row
from ifmmin.benchmarks.scenarios.bench import Bench, Entrant, Way
from ifmmin.benchmarks.scenarios.plan import ORDINARY
from ifmmin.benchmarks.timing import Timing, time_together
from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.predictor import Predictor

PASTS = (50, 400, 4000)
"""Acoustic frames before the update against which the whole is asked again."""
LATE_SECONDS = (10, 600)
"""Age of a stream whose updates should cost the same."""
RATE = 10
"""Acoustic frames a second of the released features, comParE's."""
GROUP = 64
RERUN = "whole again"
"""Contender: `predict` of all frames so far."""
CHANGED = "changed"
EVERYTHING = "all summaries"
"""Contender: summaries of all modalities made anew, also of those that heard nothing."""
USUAL = "usual"
"""Part: updates as they come, where what did not change is not computed again."""
SINGLE = "one by one"
"""Contender: the same streams, each updated on its own."""


def stream(bench: Bench) -> list[Row]:
    """One stream: updates against the whole again, and as the stream ages."""
    rows: list[Row] = []
    for way, predictor in _ready(bench):
        for pattern in _patterns(bench):
            for past in PASTS:
                bench.say(f"update of a {way.precision} stream of {pattern} after {past} frames")
                rows += _against_whole(bench, predictor, way, pattern, past)
            for seconds in LATE_SECONDS:
                rows += _aged(bench, predictor, way, pattern, seconds)
    return rows


def streams(bench: Bench) -> list[Row]:
    """Many streams: all of them in batches, against each on its own."""
    rows: list[Row] = []
    for way, predictor in _ready(bench):
        for pattern in _patterns(bench):
            bench.say(f"{GROUP} {way.precision} streams of {pattern}")
            rows += _together(bench, predictor, way, pattern)
    return rows


def _ready(bench: Bench) -> Iterator[tuple[Way, Predictor]]:
    """Our ways that can stream, on the first number of threads."""
    for way in bench.ways:
        predictor = bench.predictor(way) if way.threads == bench.plan.threads[0] else None
        if predictor is not None and _streams(bench, predictor, way):
            yield way, predictor


def _patterns(bench: Bench) -> list[Pattern]:
    """The acoustic one, and the fullest."""
    heard = [pattern for pattern in bench.patterns if Modality.A in pattern]
    return list(dict.fromkeys([*heard[:1], *heard[-1:]]))


def _streams(bench: Bench, predictor: Predictor, way: Way) -> bool:
    try:
        predictor.stream()
    except IfmminError as error:
        bench.refused[f"stream {way.backend} {way.precision}", way.threads] = str(error)
        return False
    return True


class Updates:
    """One new acoustic frame, and an answer, again and again."""

    def __init__(
        self, bench: Bench, predictor: Predictor, pattern: Pattern, past: int, changes: str = ""
    ) -> None:
        self._stream = predictor.stream()
        self._changes = changes
        lengths = {m: past if m == Modality.A else ORDINARY[m] for m in pattern}
        for modality, frames in bench.features(lengths).items():
            self._stream.push({modality: frames})
        self._stream.predict()
        self._frames = bench.features({Modality.A: 256}, past)[Modality.A]
        self._next = 0

    def __call__(self) -> Any:
        """Push a frame and answer."""
        number = self._next % len(self._frames)
        self._next += 1
        self._stream.push(a=self._frames[number : number + 1])
        self._forget()
        return self._stream.predict()

    def _forget(self) -> None:
        """Let the answer depend on something new, whether the maximum moved or not."""
        channels = self._stream.session.channels
        if self._changes == CHANGED:
            channels[Modality.A].pooled = None
        elif self._changes == EVERYTHING:
            for channel in channels.values():
                channel.pooled = None


def _against_whole(
    bench: Bench, predictor: Predictor, way: Way, pattern: Pattern, past: int
) -> list[Row]:
    lengths = {m: past if m == Modality.A else ORDINARY[m] for m in pattern}
    features = bench.features(lengths)
    calls: dict[str, Callable[[], Any]] = {
        OURS: Updates(bench, predictor, pattern, past, CHANGED),
        EVERYTHING: Updates(bench, predictor, pattern, past, EVERYTHING),
        USUAL: Updates(bench, predictor, pattern, past),
        RERUN: lambda: predictor.predict(features),
    }
    return _rows(bench, predictor, way, pattern, past, _time(bench, calls))


def _aged(
    bench: Bench, predictor: Predictor, way: Way, pattern: Pattern, seconds: int
) -> list[Row]:
    """Beside a stream of the other age, so that both met the same machine."""
    calls = {
        str(age): Updates(bench, predictor, pattern, age * RATE, CHANGED) for age in LATE_SECONDS
    }
    chosen = _time(bench, calls)[str(seconds)]
    timings = {OURS: chosen}
    return _rows(bench, predictor, way, pattern, seconds * RATE, timings, part="age")


def _rows(
    bench: Bench,
    predictor: Predictor,
    way: Way,
    pattern: Pattern,
    past: int,
    timings: dict[str, Timing],
    part: str = "",
) -> list[Row]:
    found = []
    for name, timing in timings.items():
        usual = name == USUAL
        found.append(
            bench.row(
                "stream",
                Entrant(OURS if usual else name, predictor.predict, _same, way, {}),
                pattern,
                lengths={Modality.A.value: past},
                samples=tuple(timing.samples),
                part=USUAL if usual else part,
            )
        )
    return found


def many(bench: Bench, predictor: Predictor, pattern: Pattern) -> dict[str, Callable[[], Any]]:
    """One new acoustic frame for each of many streams, and all answers: together, one by one."""
    frames = bench.features({m: GROUP for m in pattern})
    group = predictor.streams(GROUP)
    single = [predictor.stream() for _ in range(GROUP)]
    for number in range(GROUP):
        for one in (group[number], single[number]):
            one.push(bench.features({m: ORDINARY[m] for m in pattern}, number))
            one.predict()

    def fresh(members: Sequence[Any]) -> None:
        for one in members:
            one.session.channels[Modality.A].pooled = None

    def together() -> Any:
        for number in range(GROUP):
            group[number].push(a=_row(frames, number))
        fresh(group)
        return group.update()

    def one_by_one() -> Any:
        for number, one in enumerate(single):
            one.push(a=_row(frames, number))
        fresh(single)
        return [one.predict() for one in single]

    return {OURS: together, SINGLE: one_by_one}


def _together(bench: Bench, predictor: Predictor, way: Way, pattern: Pattern) -> list[Row]:
    timings = _time(bench, many(bench, predictor, pattern))
    return [
        bench.row(
            "streams",
            Entrant(name, predictor.predict, _same, way, {}),
            pattern,
            streams=GROUP,
            unit="1/s",
            samples=tuple(GROUP / np.asarray(timing.samples)),
        )
        for name, timing in timings.items()
    ]


def _row(frames: Any, number: int) -> NDArray[np.float32]:
    found: NDArray[np.float32] = frames[Modality.A][number : number + 1]
    return found


def _time(bench: Bench, calls: Mapping[str, Callable[[], Any]]) -> dict[str, Timing]:
    return time_together(
        calls,
        repeats=bench.plan.rounds,
        seed=bench.plan.seed,
        warm_up=bench.plan.warm_up,
        seconds=bench.plan.seconds,
    )


def _same(features: Any, lengths: Any) -> Any:
    return features
