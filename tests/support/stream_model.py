"""A slow model of a stream: it keeps every frame and says which of them count.

Times are whole milliseconds, so that a hop's end is exact wherever zero lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LETTERS = ("a", "v", "t")
DURATION = 100
"""From one frame of the small networks to the next."""


@dataclass
class Heard:
    """The frames of one modality with their hops."""

    frames: list[NDArray[np.float32]] = field(default_factory=list)
    hops: list[int] = field(default_factory=list)
    came: int = 0
    """Frames, also those that could not be heard."""
    reached: int | None = None
    """The hop up to which its own time went on; None before anything was heard."""
    timed: bool = False
    newest: int | None = None
    late: int = 0
    dropped: bool = False


class StreamModel:
    """Frames in lists; a stream must answer as `Predictor.predict` does to those that count.

    window, hop: milliseconds; the frames that count began in a hop of the last `window`. stale: per
    modality milliseconds of silence after which it is missing. late: as in `StreamOptions`.
    """

    def __init__(
        self,
        window: int | None = None,
        hop: int = 1000,
        stale: Mapping[str, float] | None = None,
        late: str = "refuse",
    ) -> None:
        self._window, self._hop = window, hop
        self._stale = stale or {}
        self._late = late
        self.reset()

    def reset(self) -> None:
        self.heard = {letter: Heard() for letter in LETTERS}
        self.now: int | None = None

    def reach(self, at: int | None) -> None:
        if at is not None:
            self.now = at if self.now is None else max(at, self.now)

    def refuses(self, given: Mapping[str, NDArray[np.float32]], at: int | None) -> bool:
        """Whether frames of any modality are late, and that is an error."""
        late = [
            self._is_late(self.heard[letter], _last(frames, usable(frames), at))
            for letter, frames in given.items()
        ]
        return self._late == "refuse" and any(late)

    def push(self, letter: str, frames: NDArray[np.float32], at: int | None) -> None:
        """Frames (N, D), the newest of them at a time; those with a NaN are not heard."""
        heard, good = self.heard[letter], usable(frames)
        self.reach(at)
        last = _last(frames, good, at)
        if self._is_late(heard, last):
            if self._late == "skip":
                heard.late += len(good)
                return
            last = heard.newest
        before, heard.came = heard.came, heard.came + len(frames)
        for number in good:
            steps = before + number if last is None else number - good[-1]
            self._hear(letter, frames[number], ((last or 0) + steps * DURATION) // self._hop)
        if good:
            heard.timed, heard.newest = at is not None, last
        if heard.reached is not None and not heard.timed:
            heard.reached = max(heard.reached, (heard.came - 1) * DURATION // self._hop)

    def set_text(self, tokens: NDArray[np.float32], at: int | None) -> None:
        """All tokens (N, D) anew, all of one moment."""
        old, good = self.heard["t"], usable(tokens)
        late = self._is_late(old, at)
        moment = old.newest if late else self.now if at is None else at
        self.reach(at)
        if late and self._late == "skip":
            old.late += len(good)
            return
        self.clear("t")
        heard = self.heard["t"]
        if good:
            heard.came, heard.timed, heard.newest = len(tokens), moment is not None, moment
            for number in good:
                self._hear("t", tokens[number], 0 if moment is None else moment // self._hop)

    def refuses_text(self, at: int | None) -> bool:
        """Whether tokens are late, and that is an error."""
        return self._late == "refuse" and self._is_late(self.heard["t"], at)

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

    def _hear(self, letter: str, frame: NDArray[np.float32], hop: int) -> None:
        """A frame, which belongs to the hop reached where it is older."""
        heard = self.heard[letter]
        heard.reached = hop if heard.reached is None else max(hop, heard.reached)
        heard.frames.append(frame)
        heard.hops.append(heard.reached)

    def _is_late(self, heard: Heard, at: int | None) -> bool:
        return at is not None and heard.newest is not None and at < heard.newest

    def _is_stale(self, letter: str, heard: Heard) -> bool:
        if letter not in self._stale or heard.newest is None or self.now is None:
            return False
        return self.now - heard.newest > self._stale[letter]

    def _within(self, heard: Heard) -> list[NDArray[np.float32]]:
        if self._window is None or heard.reached is None:
            return heard.frames
        now = heard.reached
        if heard.timed and self.now is not None:
            now = self.now // self._hop
        first = now - self._window // self._hop + 1
        return [frame for frame, hop in zip(heard.frames, heard.hops, strict=True) if hop >= first]


def usable(frames: NDArray[np.float32]) -> list[int]:
    """The numbers of the frames without a NaN."""
    return [number for number, frame in enumerate(frames) if not np.isnan(frame).any()]


def _last(frames: NDArray[np.float32], good: list[int], at: int | None) -> int | None:
    """The time of the last frame that can be heard; None where there is none."""
    return None if at is None or not good else at - (len(frames) - 1 - good[-1]) * DURATION
