"""Streams: what an update costs as the past grows, beside asking for the whole again; many at once.

An update is one new frame of a modality and an answer. In most of them a running maximum has not
moved and nothing after the step has to be computed; here every update is made to compute all of
it, which is the most that one can cost. `usual` updates are beside them, as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ifmmin.runtime.backends.profile import PROFILED
from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.predictor import Predictor

from ..record import OURS, REFERENCE, Row
from ..timing import Call
from .bench import Bench
from .contenders import Contender, RunConfig, run_configs
from .plan import ORDINARY

GROUP = 64
"""Streams that are served at the same time."""
CHANGED, EVERYTHING = "changed", "everything"
"""The new frame's summary and the head are made anew, whether a maximum moved or not; or those of
all modalities, also of those that heard nothing."""
_NEW_FRAMES = 256
PASTS = (50, 400, 4000)
"""Acoustic frames before the update against which the whole is asked again."""
LATE_SECONDS = (10, 600)
"""Age of a stream whose updates should cost the same."""
RATE = 10
"""Acoustic frames a second of the released features, comParE's."""
RERUN, ANEW = "whole again", "all summaries"
"""Contenders: `predict` of all frames so far; summaries of all modalities made anew."""
ALONE, SINGLE = "pushed alone", "one by one"
"""Contenders: streams that are answered together, though each frame comes in a call of its own; and
the same streams, each updated on its own."""
USUAL, AGE, ANSWER = "usual", "age", "answer alone"
"""Parts: updates as they come, where what did not change is not computed again; those of a young
and of an old stream, in the same rounds; what follows the step, without a new frame."""
_FEWEST_ROUNDS = 60
"""That a budget leaves to an update: it is short."""
Ready = Sequence[tuple[RunConfig, Predictor]]
Calls = dict[tuple[str, str, int, RunConfig], Call | Sequence[Call]]
"""By contender, part, acoustic frames of the past, and way."""


class Updates:
    """One new acoustic frame, and an answer, again and again.

    past: acoustic frames that came before. changes: CHANGED, EVERYTHING, or nothing: as it comes.
    """

    def __init__(
        self, bench: Bench, predictor: Predictor, pattern: Pattern, past: int, changes: str = ""
    ) -> None:
        self._stream = predictor.stream()
        self._changes = changes
        lengths = {m: past if m == Modality.A else ORDINARY[m] for m in pattern}
        for modality, frames in bench.features(lengths).items():
            self._stream.push({modality: frames})
        self._stream.predict()
        self._frames = bench.features({Modality.A: _NEW_FRAMES}, past)[Modality.A]
        self._next = 0

    def __call__(self) -> Any:
        """Push a frame and answer."""
        number = self._next % len(self._frames)
        self._next += 1
        self._stream.push(a=self._frames[number : number + 1])
        return self.answer()

    def answer(self) -> Any:
        """Answer without a frame: the summaries that are made anew, and the head."""
        channels = self._stream.state.channels
        if self._changes == CHANGED:
            channels[Modality.A].pooled = None
        elif self._changes == EVERYTHING:
            for channel in channels.values():
                channel.pooled = None
        return self._stream.predict()


def many_streams(
    bench: Bench, predictor: Predictor, pattern: Pattern, name: str = OURS
) -> Callable[[], Any]:
    """One new acoustic frame for each of GROUP streams, and all answers, again and again.

    name: OURS: in batches; ALONE: frames come one by one, as from GROUP connections; SINGLE: each
    stream is updated on its own. Before there was an utterance of ordinary length.
    """
    group = None if name == SINGLE else predictor.streams(GROUP)
    members = [predictor.stream() for _ in range(GROUP)] if group is None else list(group)
    for number, one in enumerate(members):
        one.push(bench.ordinary(pattern, number))
        one.predict()
    frames = bench.features({Modality.A: GROUP})[Modality.A][:, None]

    def call() -> Any:
        if name == OURS and group is not None:
            group.push_all(a=frames)
        else:
            for one, frame in zip(members, frames, strict=True):
                one.push(a=frame)
        for one in members:  # summaries are made anew, whether a maximum moves or not
            one.state.channels[Modality.A].pooled = None
        return [one.predict() for one in members] if group is None else group.update()

    return call


def stream(bench: Bench) -> list[Row]:
    """One stream: updates against the whole again, as it ages, and the answer alone."""
    ready, patterns = _ready(bench), _patterns(bench)
    bench.pace.expect(len(patterns) * (len(PASTS) + 2))
    rows: list[Row] = []
    for pattern in patterns if ready else ():
        for what, calls in _groups(bench, ready, pattern):
            bench.log(f"update of a stream of {pattern} {what}")
            rows += _measure(bench, pattern, calls)
    return rows


def streams(bench: Bench) -> list[Row]:
    """Many streams: all of them in batches, against each on its own."""
    ready, patterns = _ready(bench), _patterns(bench)
    bench.pace.expect(len(patterns))
    rows: list[Row] = []
    for pattern in patterns if ready else ():
        bench.log(f"{GROUP} streams of {pattern}")
        calls: dict[tuple[str, RunConfig], Call | Sequence[Call]] = {
            (name, config): many_streams(bench, predictor, pattern, name)
            for config, predictor in ready
            for name in (OURS, ALONE, SINGLE)
        }
        calls |= {
            (REFERENCE, config): turns for config, turns in _reference(bench, pattern).items()
        }
        for (name, config), seconds in bench.time(calls).items():
            rates = (1 if name == REFERENCE else GROUP) / seconds
            who, more = _contender(name, config), {"streams": GROUP, "samples": tuple(rates)}
            rows.append(bench.row("streams", who, pattern, unit="1/s", **more))
    return rows


def _ready(bench: Bench) -> Ready:
    """Our ways that can stream, on the first number of threads; others are noted."""
    found = []
    for config in run_configs(bench.plan):
        predictor = bench.predictor(config) if config.threads == bench.plan.threads[0] else None
        if predictor is not None:
            try:
                predictor.stream()
                found.append((config, predictor))
            except IfmminError as error:
                bench.refuse(f"stream {config.backend} {config.precision}", config.threads, error)
    return found


def _patterns(bench: Bench) -> list[Pattern]:
    """The acoustic one, and the fullest."""
    heard = [pattern for pattern in bench.patterns if Modality.A in pattern]
    return list(dict.fromkeys([*heard[:1], *heard[-1:]]))


def _groups(bench: Bench, ready: Ready, pattern: Pattern) -> Iterator[tuple[str, Calls]]:
    """What takes turns, and calls: against the whole again, as a stream ages, answers alone."""

    def update(predictor: Predictor, past: int, changes: str = CHANGED) -> Updates:
        return Updates(bench, predictor, pattern, past, changes)

    for past in PASTS:
        lengths = {m: past if m == Modality.A else ORDINARY[m] for m in pattern}
        features, calls = bench.features(lengths), Calls()
        for config, predictor in ready:
            calls[OURS, "", past, config] = update(predictor, past)
            calls[OURS, USUAL, past, config] = update(predictor, past, "")
            longest = bench.bundle.manifest.modalities[Modality.A].verified_length
            if config.backend in PROFILED and past > longest:
                reason = f"its engines take utterances of {longest} frames, {past} were wanted"
                bench.refuse(f"{RERUN}, {config.backend}", config.threads, reason)
                continue
            calls[RERUN, "", past, config] = partial(predictor.predict, features)
        yield f"after {past} frames", calls
    yield (
        "as it ages",
        {
            (OURS, AGE, seconds * RATE, config): update(predictor, seconds * RATE)
            for config, predictor in ready
            for seconds in LATE_SECONDS
        },
    )
    # What is saved where only what changed is computed again, and by a head in 8 bits.
    past = ORDINARY[Modality.A]
    yield (
        "without a new frame",
        {
            (name, ANSWER, past, config): update(predictor, past, changes).answer
            for config, predictor in ready
            for name, changes in ((OURS, CHANGED), (ANEW, EVERYTHING))
        },
    )


def _reference(bench: Bench, pattern: Pattern) -> dict[RunConfig, Sequence[Call]]:
    """Calls of the reference workload on an ordinary utterance; empty where it cannot run."""
    found = bench.reference(pattern, bench.plan.threads[0])
    return {one.config: one.in_turns(bench.ordinary(pattern), ORDINARY) for one in found}


def _contender(name: str, config: RunConfig) -> Contender:
    """What a row says of who was timed."""
    return Contender(name, lambda: None, config, peer=name == REFERENCE)


def _measure(bench: Bench, pattern: Pattern, calls: Calls) -> list[Row]:
    """A row a call; all took turns, the reference workload once for every condition."""
    for config, turns in _reference(bench, pattern).items():
        calls |= {(REFERENCE, part, past, config): turns for _, part, past, _ in calls}
    rows = []
    for (name, part, past, config), found in bench.time(calls, fewest=_FEWEST_ROUNDS).items():
        told = {"lengths": {Modality.A.value: past}, "samples": tuple(found), "part": part}
        rows.append(bench.row("stream", _contender(name, config), pattern, **told))
    return rows
