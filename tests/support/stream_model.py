"""A slow model of a stream: it keeps every frame and answers from all of them, as one utterance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime import Predictor

LETTERS = ("a", "v", "t")
RATE = 10.0
"""Frames a second of the small networks."""


@dataclass
class Heard:
    """The frames of one modality with their times."""

    frames: list[NDArray[np.float32]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    dropped: bool = False
    newest: float | None = None


class StreamModel:
    """Frames in lists; the answer is `Predictor.predict` of those that count.

    window, hop: seconds; the frames that count began in a hop of the last `window` seconds.
    stale: per modality seconds of silence after which it is missing.
    """

    def __init__(
        self,
        predictor: Predictor,
        window: float | None = None,
        hop: float = 1.0,
        stale: dict[str, float] | None = None,
    ) -> None:
        self._predictor = predictor
        self._window, self._hop = window, hop
        self._stale = stale or {}
        self.reset()

    def reset(self) -> None:
        self.heard = {letter: Heard() for letter in LETTERS}
        self.now: float | None = None

    def push(self, letter: str, frames: NDArray[np.float32], at: float | None) -> None:
        """Frames (N, D), the newest of them at a time."""
        heard = self.heard[letter]
        for number, frame in enumerate(frames):
            behind = (len(frames) - 1 - number) / RATE
            count = len(heard.frames) / RATE
            heard.times.append(count if at is None else at - behind)
            heard.frames.append(frame)
        if at is not None:
            heard.newest = at
            self.now = at if self.now is None else max(at, self.now)

    def set_text(self, tokens: NDArray[np.float32], at: float | None) -> None:
        dropped = self.heard["t"].dropped
        self.heard["t"] = Heard(dropped=dropped)
        moment = self.now if at is None else at
        for token in tokens:
            self.heard["t"].frames.append(token)
            self.heard["t"].times.append(moment if moment is not None else 0.0)
        self.heard["t"].newest = moment
        if at is not None:
            self.now = at if self.now is None else max(at, self.now)

    def clear(self, letter: str) -> None:
        self.heard[letter] = Heard(dropped=self.heard[letter].dropped)

    def evidence(self) -> dict[str, NDArray[np.float32]]:
        """The frames that count now."""
        found = {}
        for letter, heard in self.heard.items():
            frames = self._within(heard)
            if len(frames) and not heard.dropped and not self._is_stale(letter, heard):
                found[letter] = np.stack(frames)
        return found

    def logits(self) -> Any:
        """The answer; None where nothing counts."""
        evidence = self.evidence()
        return self._predictor.predict(evidence).logits if evidence else None

    def _is_stale(self, letter: str, heard: Heard) -> bool:
        if letter not in self._stale or heard.newest is None or self.now is None:
            return False
        return self.now - heard.newest > self._stale[letter]

    def _within(self, heard: Heard) -> list[NDArray[np.float32]]:
        if self._window is None or not heard.frames:
            return heard.frames
        # A frame that comes late, or lies before the zero of time, belongs to the hop reached.
        hops = np.maximum.accumulate([max(0, self._hop_at(time)) for time in heard.times])
        now = hops[-1] if heard.newest is None or self.now is None else self._hop_at(self.now)
        first = now - round(self._window / self._hop) + 1
        return [frame for frame, hop in zip(heard.frames, hops, strict=True) if hop >= first]

    def _hop_at(self, time: float) -> int:
        return int(np.floor(time / self._hop + 1e-6))
