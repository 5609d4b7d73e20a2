"""Answers that do not flicker: probabilities that follow slowly, a label that holds on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.stream.options import Smoothing


class Smoother:
    """Exponential smoothing of probabilities, and a label with hysteresis.

    Brown's simple exponential smoothing with a weight that follows from the time between answers,
    as for unevenly spaced series; a Schmitt trigger for the label.
    """

    def __init__(self, options: Smoothing) -> None:
        self._options = options
        self._probabilities: NDArray[np.float64] | None = None
        self._label = 0
        self._rival = 0
        self._leads = 0
        self._last: float | None = None

    def __call__(
        self, probabilities: NDArray[np.float32], now: float | None
    ) -> tuple[int, NDArray[np.float32]]:
        """The class to name and the smoothed probabilities (C,) of a new answer at a time."""
        new = probabilities.astype(np.float64)
        if self._probabilities is None:
            self._probabilities, self._label, self._last = new, int(new.argmax()), now
            return self._label, probabilities
        kept = self._kept(now)
        self._probabilities = kept * self._probabilities + (1.0 - kept) * new
        self._last = now
        self._choose(self._probabilities)
        return self._label, self._probabilities.astype(np.float32)

    def state(self) -> dict[str, Any]:
        """All that has to be kept to go on, as JSON."""
        kept = self._probabilities
        return {
            "probabilities": None if kept is None else kept.tolist(),
            "label": self._label,
            "rival": self._rival,
            "leads": self._leads,
            "last": self._last,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        kept = state["probabilities"]
        self._probabilities = None if kept is None else np.array(kept, dtype=np.float64)
        self._label, self._rival = int(state["label"]), int(state["rival"])
        self._leads, self._last = int(state["leads"]), state["last"]

    def _kept(self, now: float | None) -> float:
        """Share of the past in the new value."""
        if self._options.half_life == 0.0:
            return 0.0
        passed = 1.0 if now is None or self._last is None else now - self._last
        return float(0.5 ** (passed / self._options.half_life))

    def _choose(self, smoothed: NDArray[np.float64]) -> None:
        rival = int(smoothed.argmax())
        if rival == self._label:
            self._leads = 0
            return
        if smoothed[rival] - smoothed[self._label] <= self._options.margin:
            self._leads = 0
            return
        self._leads = self._leads + 1 if rival == self._rival else 1
        self._rival = rival
        if self._leads >= self._options.patience:
            self._label, self._leads = rival, 0
