"""From frames to hops: which of a modality's new frames belong to which stretch of time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Modality

_CLOSE = 1e-9
"""A time that close to a hop's end, in hops, lies behind it: sums of floats fall short."""


class Segment(NamedTuple):
    """Frames of one hop."""

    hop: int
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
        self, frames: NDArray[np.float32], before: int, at: float | None, hop: int
    ) -> list[Segment]:
        """New frames (N, D) cut where hops end.

        before: frames heard earlier. at: time of the newest one; without it time is counted in
        frames. hop: the one reached so far; what is older belongs to it, too.
        """
        if self._hop is None or not len(frames):
            return [Segment(0, frames)]
        hops = np.maximum.accumulate(np.maximum(self._hops(len(frames), before, at), hop))
        ends = [*(np.flatnonzero(np.diff(hops)) + 1), len(frames)]
        starts = [0, *ends[:-1]]
        return [Segment(int(hops[s]), frames[s:e]) for s, e in zip(starts, ends, strict=True)]

    def hop_at(self, now: float) -> int:
        """The hop of a moment; 0 where time is not divided."""
        return 0 if self._hop is None else int(np.floor((now - self.origin) / self._hop + _CLOSE))

    def _hops(self, count: int, before: int, at: float | None) -> NDArray[np.int64]:
        assert self._hop is not None
        if at is not None:
            back = np.arange(count - 1, -1, -1) / self._rate if self._rate else np.zeros(count)
            times = at - self.origin - back
        elif self._rate is not None:
            times = np.arange(before, before + count) / self._rate
        else:
            raise InputError(
                f"modality {self._modality} has no frame rate, and a window or half_life needs "
                "times; push it with at=SECONDS, or replace it as a whole with set_text"
            )
        return np.floor(times / self._hop + _CLOSE).astype(np.int64)
