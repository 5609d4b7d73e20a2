"""From frames to hops: which of a modality's new frames belong to which stretch of time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Modality

_CLOSE = 1e-6
"""A time that close to a hop's end, in hops, lies behind it: sums of floats fall short."""
_ROUNDING = 4 * float(np.finfo(np.float64).eps)
"""What a time and its distance from the origin may be wrong by, as a share of their size: seconds
since 1970 are 2e-7 apart."""


class Segment(NamedTuple):
    """Frames of one hop."""

    hop: int
    """The one that begins at hop times seconds; 0 where time is not divided."""
    frames: NDArray[np.float32]
    """(N, D)"""


class Timeline:
    """The hops of one modality. hop: seconds; None where time is not divided.

    rate: frames a second; None where frames have no fixed rate, such as words.
    """

    def __init__(self, modality: Modality, hop: float | None, rate: float | None) -> None:
        self._modality = modality
        self._hop = hop
        self._rate = rate
        self.origin = 0.0
        """The time at which hop 0 begins, for frames that come with times."""

    def cut(
        self,
        frames: NDArray[np.float32],
        before: int,
        at: float | None,
        reached: int | None,
        kept: NDArray[np.intp] | None = None,
    ) -> list[Segment]:
        """New frames (N, D), at least one, cut where hops end; where time is divided.

        before: frames that came earlier. at: time of the newest one; without it time is counted in
        frames. reached: the hop of the newest one so far, to which what is older belongs, too; None
        before the first. kept: (N,), which they are of all frames that came now; None: all.
        """
        numbers = before + (np.arange(len(frames)) if kept is None else kept)
        hops = np.maximum.accumulate(self._hops(numbers, at))
        if reached is not None:
            hops = np.maximum(hops, reached)
        ends = [*(np.flatnonzero(np.diff(hops)) + 1), len(frames)]
        starts = [0, *ends[:-1]]
        return [Segment(int(hops[s]), frames[s:e]) for s, e in zip(starts, ends, strict=True)]

    def hop_at(self, now: float) -> int:
        """The hop of a moment; 0 where time is not divided."""
        if self._hop is None:
            return 0
        since = np.float64(now - self.origin)
        return int(_hop(since, rounding(now, self.origin), self._hop))

    def hop_of(self, number: int) -> int | None:
        """The hop of a frame by its number from 0; None where that says nothing of its time."""
        if self._hop is None or self._rate is None:
            return None
        return int(_hop(np.float64(number / self._rate), 0.0, self._hop))

    def ahead(self, at: float | None, frames: int) -> float | None:
        """The time of what came so many frames ahead of a moment."""
        return at if at is None or self._rate is None else at - frames / self._rate

    def _hops(self, numbers: NDArray[np.intp], at: float | None) -> NDArray[np.int64]:
        assert self._hop is not None
        if at is not None:
            back = (numbers[-1] - numbers) / self._rate if self._rate else np.zeros(len(numbers))
            since = at - self.origin - back
            return _hop(since, rounding(at, self.origin), self._hop).astype(np.int64)
        if self._rate is not None:
            return _hop(numbers / self._rate, 0.0, self._hop).astype(np.int64)
        raise InputError(
            f"modality {self._modality} has no frame rate, and a window needs "
            "times; push it with at=SECONDS, or replace it as a whole with set_text"
        )


def rounding(one: float, other: float) -> float:
    """What the distance of two times may be wrong by, in seconds."""
    return _ROUNDING * (abs(one) + abs(other))


def _hop(since: NDArray[np.float64] | np.float64, wrong: float, hop: float) -> NDArray[np.float64]:
    """The hop of seconds since the origin, and what they may be wrong by."""
    return np.asarray(np.floor((since + wrong + _ROUNDING * np.abs(since)) / hop + _CLOSE))
