"""Calls on streams: an update of one, the answer alone, updates of many at once or one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.plan import ORDINARY
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.predictor import Predictor

GROUP = 64
"""Streams that are served at the same time."""
CHANGED = "changed"
"""The new frame's summary and the head are made anew, whether a maximum moved or not."""
EVERYTHING = "everything"
"""Summaries of all modalities are made anew, also of those that heard nothing."""
_NEW_FRAMES = 256


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
        channels = self._stream.session.channels
        if self._changes == CHANGED:
            channels[Modality.A].pooled = None
        elif self._changes == EVERYTHING:
            for channel in channels.values():
                channel.pooled = None
        return self._stream.predict()


def together(bench: Bench, predictor: Predictor, pattern: Pattern) -> Callable[[], Any]:
    """One new acoustic frame for each of GROUP streams, and all answers, in batches."""
    group = predictor.streams(GROUP)
    members = [group[number] for number in range(GROUP)]
    push = _pusher(bench, members, pattern)

    def call() -> Any:
        push()
        return group.update()

    return call


def one_by_one(bench: Bench, predictor: Predictor, pattern: Pattern) -> Callable[[], Any]:
    """The same, each stream on its own."""
    members = [predictor.stream() for _ in range(GROUP)]
    push = _pusher(bench, members, pattern)

    def call() -> Any:
        push()
        return [one.predict() for one in members]

    return call


def _pusher(bench: Bench, members: Sequence[Any], pattern: Pattern) -> Callable[[], None]:
    """Lets each member hear a frame of its own, after a past of ordinary length."""
    frames = bench.features({Modality.A: GROUP})[Modality.A]
    for number, one in enumerate(members):
        one.push(bench.features({m: ORDINARY[m] for m in pattern}, number))
        one.predict()

    def push() -> None:
        for number, one in enumerate(members):
            one.push(a=frames[number : number + 1])
            one.session.channels[Modality.A].pooled = None

    return push
