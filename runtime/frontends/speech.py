"""Speech: where in a sound someone speaks, how loud, and the utterances of a long recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONTEXT", "HOP", "Detector", "Gate", "Stretch"]

HOP = 512
"""Samples at 16 kHz of which each is speech or none, 32 ms."""
CONTEXT = 64
"""Samples before a hop that are heard with it."""
_UNITS = 128


class Detector:
    """silero-vad (MIT): the probability of speech in each hop, from all that was heard before."""

    def __init__(self, session: Any) -> None:
        """session: an ONNX Runtime session of `ifmmin.export.frontends.ge2e.detector_graph`."""
        self._session = session
        self.arrays: dict[str, NDArray[np.float32]] = {
            "context": np.zeros(CONTEXT, np.float32),
            "h": np.zeros((1, 1, _UNITS), np.float32),
            "c": np.zeros((1, 1, _UNITS), np.float32),
        }
        """Its state."""

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (N,) of N * 512 samples at 16 kHz, which follow on those before."""
        if not len(samples):
            return np.zeros(0, np.float32)
        heard = np.concatenate([self.arrays["context"], samples])
        hops = np.lib.stride_tricks.sliding_window_view(heard, HOP + CONTEXT)[::HOP]
        given = {"hops": np.ascontiguousarray(hops), "h": self.arrays["h"], "c": self.arrays["c"]}
        probabilities, h, c = self._session.run(None, given)
        self.arrays = {"context": heard[-CONTEXT:], "h": h, "c": c}
        found: NDArray[np.float32] = probabilities
        return found


class Stretch(NamedTuple):
    """Frames first .. last - 1 that are kept, and the power (mean square) of the speech there."""

    first: int
    last: int
    power: float


@dataclass
class Gate:
    """Chooses the frames of speech as its hops become known, and measures its power.

    A frame is kept if its middle lies in a hop of speech or at most `margin` samples before or
    after one; so are those of a pause of which at most `pause` samples would be left out.
    """

    step: int
    """Samples from one frame to the next."""
    middle: int
    """Of a frame, in samples."""
    margin: int
    pause: int
    settle: int | None
    """Hops of speech after which the power is taken for known; each stretch then has that of all
    speech until there. None: the end of the sound, one power for all."""
    hops: int = 0
    """Heard so far."""
    until: int = -1
    """Sample up to which frames are kept; -1 before any speech."""
    next: int = 0
    """First frame that is not kept yet."""
    speech: int = 0
    """Hops of speech so far."""
    power: float = 0.0
    """Sum of their powers."""

    def __post_init__(self) -> None:
        self.held: list[tuple[int, int]] = []
        """Frames that are kept, of a power not known yet."""

    def feed(
        self, speech: NDArray[np.bool_], powers: NDArray[np.float64], last: bool = False
    ) -> list[Stretch]:
        """Hops (N,) that follow on those before -> the stretches that they decide."""
        made = []
        for place in np.flatnonzero(speech).tolist():
            at = (self.hops + place) * HOP
            start, stop = at - self.margin, at + HOP + self.margin
            if self.until >= 0 and start - self.until <= self.pause:
                start = self.until
            first, end = max(self.next, self._frame(start)), self._frame(stop)
            if self.held and self.held[-1][1] == first:
                first = self.held.pop()[0]
            self.held.append((first, end))
            self.next, self.until = end, stop
            self.speech += 1
            self.power += float(powers[place])
            if self.settle is not None and self.speech >= self.settle:
                made += self._release()
        self.hops += len(speech)
        return [*made, *self._release()] if last else made

    def oldest(self) -> int:
        """The first frame that may be kept yet."""
        if self.held:
            return self.held[0][0]
        start = self.hops * HOP - self.margin
        if self.until >= 0 and start - self.until <= self.pause:
            return self.next
        return max(self.next, self._frame(start))

    def _release(self) -> list[Stretch]:
        power = self.power / max(1, self.speech)
        made = [Stretch(first, last, power) for first, last in self.held]
        self.held.clear()
        return made

    def _frame(self, sample: int) -> int:
        """The first frame whose middle is not before a sample."""
        return max(0, -(-(sample - self.middle) // self.step))
