"""Front-ends so simple that a test can do their work again: one for sound, one for words."""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.frontends.base import Features, State
from ifmmin.runtime.frontends.sound import as_sound
from ifmmin.runtime.frontends.spec import FrontEndSpec

SOUND, WORDS = "fake_frontends:Levels", "fake_frontends:Words"
LOG, WAIT = "FAKE_FRONTEND_LOG", "FAKE_FRONTEND_WAIT"
"""Environment: a file that gets a line per signal, and seconds that one takes."""


class _Whole:
    """What needs no streams."""

    kind, dim = "levels", 4
    frame_rate: float | None = 10.0

    def describe(self) -> FrontEndSpec:
        """What it is."""
        return FrontEndSpec(
            kind=self.kind, version=1, dim=self.dim, frame_rate=self.frame_rate, features="fake"
        )

    def whole(self, signal: Any) -> Features:
        """Features (T, D) of a signal."""
        if os.environ.get(LOG):
            with Path(os.environ[LOG]).open("a") as file:
                file.write(f"{signal}\n")
            time.sleep(float(os.environ.get(WAIT, "0")))
        return self.features(signal)

    def features(self, signal: Any) -> Features:
        """The work."""
        raise NotImplementedError

    def stream(self, signal: Any, *, last: bool = False) -> Features:
        """Not of this one."""
        raise NotImplementedError

    def reset(self, state: State | None = None) -> None:
        """Nothing is kept."""

    def state(self) -> State:
        """Nothing is kept."""
        return {}


class Levels(_Whole):
    """Logarithms of mean, deviation, least and largest of every tenth of a second with sound."""

    def features(self, signal: Any) -> Features:
        """(T, 4)."""
        sound = as_sound(signal)
        size = sound.rate // 10
        count = len(sound.samples) // size
        x = sound.samples[: count * size].reshape(count, size)
        rows = np.stack([f(x, axis=1) for f in (np.mean, np.std, np.min, np.max)], axis=1)
        rows = np.sign(rows) * np.log1p(1e3 * np.abs(rows))
        return np.asarray(rows[np.abs(x).max(axis=1, initial=0) > 1e-6], np.float32)


class Words(_Whole):
    """Eight numbers a word, which depend on it alone."""

    kind, dim = "words", 8
    frame_rate = None

    def features(self, signal: Any) -> Features:
        """(T, 8)."""
        if signal == "raise":
            raise ValueError("no such word")
        if signal == "refuse":
            raise InputError("this is not said")
        if signal == "not a number":
            return np.full((3, self.dim), np.nan, np.float32)
        if signal == "narrow":
            return np.ones((3, self.dim - 1), np.float32)
        rows = [
            np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self.dim)
            for word in signal.split()
        ]
        return np.array(rows, np.float32).reshape(-1, self.dim)


def nothing() -> None:
    """No front-end."""
