"""Speech: where in a sound someone speaks, how loud, and the utterances of a long recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .sound import RATE, Mono, Sound

__all__ = ["CONTEXT", "HOP", "Detector", "Gate", "Stretch", "Utterance", "utterances"]

HOP = 512
"""Samples at 16 kHz of which each is speech or none, 32 ms."""
CONTEXT = 64
"""Samples before a hop that are heard with it."""
_UNITS = 128
_AT_ONCE = 64
"""Hops that are looked at in one call: more are hardly faster and take more memory."""


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

    def feed(self, hops: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (N,) of hops (N, 512) of sound at 16 kHz, which follow on those before."""
        context, h, c = (self.arrays[name] for name in ("context", "h", "c"))
        found = [np.zeros(0, np.float32)]
        for at in range(0, len(hops), _AT_ONCE):
            part = hops[at : at + _AT_ONCE]
            heard = np.empty((len(part), CONTEXT + HOP), np.float32)
            heard[0, :CONTEXT] = context
            heard[1:, :CONTEXT] = part[:-1, -CONTEXT:]
            heard[:, CONTEXT:] = part
            probabilities, h, c = self._session.run(None, {"hops": heard, "h": h, "c": c})
            context = part[-1, -CONTEXT:].copy()
            found.append(probabilities)
        self.arrays = {"context": context, "h": h, "c": c}
        return np.concatenate(found)


_MEMORY = 375
"""Hops of speech, twelve seconds, that the power remembers."""


class Stretch(NamedTuple):
    """Frames first .. last - 1 that are kept, and the power (mean square) of the speech there."""

    first: int
    last: int
    power: float


@dataclass
class Gate:
    """Chooses the frames of speech as its hops become known, and follows its power.

    A frame is kept if its middle lies in a hop of speech or at most `margin` samples before or
    after one. It has the power of all speech until the hop for which it is kept, or until the hop
    by which the power is taken for known.
    """

    step: int
    """Samples from one frame to the next."""
    middle: int
    """Of a frame, in samples."""
    margin: int
    settle: int
    """Hops of speech after which the power is taken for known."""
    hops: int = 0
    """Heard so far."""
    began: int = -1
    """Sample from which frames are kept; -1 before any speech."""
    until: int = -1
    """Sample up to which they are; -1 likewise."""
    next: int = 0
    """First frame that is not kept yet."""
    speech: int = 0
    """Hops of speech so far."""
    power: float = 0.0
    """Their mean; of about the last twelve seconds."""

    def __post_init__(self) -> None:
        self.held: list[tuple[int, int]] = []
        """Frames that are kept, of a power not known yet."""

    def feed(
        self, speech: NDArray[np.bool_], powers: NDArray[np.float64], last: bool = False
    ) -> list[Stretch]:
        """Hops (N,) that follow on those before -> the stretches that they decide."""
        made = []
        for place in np.flatnonzero(speech).tolist():
            start = (self.hops + place) * HOP - self.margin
            if self.until < 0:
                self.began = max(0, start)
            self.until = start + HOP + 2 * self.margin
            first, end = max(self.next, self._frame(start)), self._frame(self.until)
            self.held.append((first, end))
            self.next = end
            self.speech += 1
            self.power += (float(powers[place]) - self.power) / min(self.speech, _MEMORY)
            if self.speech >= self.settle:
                made += self._release()
        self.hops += len(speech)
        return [*made, *self._release()] if last else made

    def oldest(self) -> int:
        """The first frame that may be kept yet."""
        if self.held:
            return self.held[0][0]
        return max(self.next, self._frame(self.hops * HOP - self.margin))

    def coherent(self) -> bool:
        """Whether its numbers can be those of some sound."""
        heard = self.hops * HOP + self.margin
        return (
            -1 <= self.began <= self.until <= heard
            and 0 <= self.next <= self._frame(heard)
            and 0 <= self.speech <= self.hops
            and self.power >= 0
        )

    def _release(self) -> list[Stretch]:
        made = [Stretch(first, last, self.power) for first, last in self.held]
        self.held.clear()
        return made

    def _frame(self, sample: int) -> int:
        """The first frame whose middle is not before a sample."""
        return max(0, -(-(sample - self.middle) // self.step))


LONGEST = 12.0
"""Seconds of an utterance at most."""
_MOST = round((LONGEST - 0.3) * RATE / HOP)
"""Hops of an utterance, margins apart."""
_PAUSE = round(0.5 * RATE / HOP)
"""Hops of silence that end an utterance."""
_LEAST = round(0.3 * RATE / HOP)
"""Hops of speech without which there is no utterance."""
_MARGIN = RATE // 10


class Utterance(NamedTuple):
    """A part of a recording in which someone speaks."""

    start: float
    end: float
    """In seconds of the recording."""
    sound: Sound


def utterances(
    pieces: Iterable[Sound], detector: Detector, threshold: float
) -> Iterator[Utterance]:
    """The utterances of a recording that comes in pieces, each as soon as its end is known.

    One ends at a pause of half a second; one that would grow longer than twelve is cut at its
    longest pause. No more of the recording is held than the utterance that is being heard.
    """
    mono, cutter = Mono(), _Cutter(detector, threshold)
    for piece in pieces:
        yield from cutter.feed(mono.feed(piece))
    yield from cutter.feed(mono.end(), last=True)


class _Cutter:
    """Cuts a long recording."""

    def __init__(self, detector: Detector, threshold: float) -> None:
        self._detector, self._threshold = detector, threshold
        self._samples = np.zeros(0, np.float32)
        self._offset = 0
        """Of the first sample held, in the recording."""
        self._hop = 0
        """The next, in the recording."""
        self._start = 0
        """The sample before which all belongs to former utterances."""
        self._speech: list[int] = []
        """Hops of speech of the utterance that is being heard."""

    def feed(self, samples: NDArray[np.float32], last: bool = False) -> Iterator[Utterance]:
        self._samples = np.concatenate([self._samples, samples])
        fresh = self._samples[self._hop * HOP - self._offset :]
        fresh = fresh[: len(fresh) - len(fresh) % HOP]
        for found in (self._detector.feed(fresh.reshape(-1, HOP)) > self._threshold).tolist():
            if found:
                self._speech.append(self._hop)
            self._hop += 1
            if self._speech and self._hop - self._speech[-1] > _PAUSE:
                yield from self._end(len(self._speech))
            elif (
                self._speech and (self._hop - self._speech[0]) * HOP >= LONGEST * RATE - 2 * _MARGIN
            ):
                yield from self._end(self._longest_pause())
        if last and self._speech:
            yield from self._end(len(self._speech))
        self._forget((self._speech[0] if self._speech else self._hop) * HOP - _MARGIN)

    def _longest_pause(self) -> int:
        """Which hop of speech the utterance's longest pause stands before; the end if none."""
        pauses = np.diff(self._speech)
        return int(pauses.argmax()) + 1 if pauses.max(initial=1) > 1 else len(self._speech)

    def _end(self, count: int) -> Iterator[Utterance]:
        """The first `count` hops of speech are an utterance."""
        spoken, self._speech = self._speech[:count], self._speech[count:]
        following = self._speech[0] if self._speech else self._hop
        middle = (spoken[-1] + 1 + following) * HOP // 2
        start = max(self._start, spoken[0] * HOP - _MARGIN)
        end = min(middle, (spoken[-1] + 1) * HOP + _MARGIN)
        self._start = end
        if len(spoken) >= _LEAST:
            held = self._samples[start - self._offset : end - self._offset].copy()
            yield Utterance(start / RATE, end / RATE, Sound(held, RATE))

    def _forget(self, before: int) -> None:
        used = before - self._offset
        if used > 0:
            self._samples, self._offset = self._samples[used:].copy(), before
