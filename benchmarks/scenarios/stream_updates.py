"""Calls on streams: an update of one, the answer alone, updates of many at once or one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.plan import ORDINARY
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.runtime.stream.stream import Stream

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
    members, frames = _begun(bench, list(group), pattern)

    def call() -> Any:
        group.push_all(a=frames)
        _forget(members)
        return group.update()

    return call


def pushed_alone(bench: Bench, predictor: Predictor, pattern: Pattern) -> Callable[[], Any]:
    """The same where frames come one by one, as from GROUP connections."""
    group = predictor.streams(GROUP)
    members, frames = _begun(bench, list(group), pattern)

    def call() -> Any:
        _push_each(members, frames)
        _forget(members)
        return group.update()

    return call


def one_by_one(bench: Bench, predictor: Predictor, pattern: Pattern) -> Callable[[], Any]:
    """The same, each stream on its own."""
    members, frames = _begun(bench, [predictor.stream() for _ in range(GROUP)], pattern)

    def call() -> Any:
        _push_each(members, frames)
        _forget(members)
        return [one.predict() for one in members]

    return call


def _begun(
    bench: Bench, members: list[Stream], pattern: Pattern
) -> tuple[list[Stream], NDArray[np.float32]]:
    """Streams with a past of ordinary length, and a frame for each of them, (GROUP, 1, D)."""
    for number, one in enumerate(members):
        one.push(bench.features({m: ORDINARY[m] for m in pattern}, number))
        one.predict()
    return members, bench.features({Modality.A: GROUP})[Modality.A][:, None]


def _push_each(members: Sequence[Stream], frames: NDArray[np.float32]) -> None:
    for one, frame in zip(members, frames, strict=True):
        one.push(a=frame)


def _forget(members: Sequence[Stream]) -> None:
    """Let summaries be made anew, whether a maximum moves or not."""
    for one in members:
        one.session.channels[Modality.A].pooled = None
