"""A slow model of a stream that forgets: one frame after the other, faded where a hop ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stream_model import StreamModel

from ifmmin.runtime import Modality, Pattern, Predictor
from ifmmin.runtime.frames import pad_frames
from ifmmin.runtime.parts import Parts
from ifmmin.runtime.step import ModalityStream


class Voice:
    """What one modality said, by its step graph.

    minimum: frames with which the graph begins; they do not fade before. share: of the past that a
    hop leaves.
    """

    def __init__(self, parts: Parts, letter: str, minimum: int, share: float) -> None:
        step = parts.encoder(Modality.of(letter)).step
        self._step = ModalityStream(step.entry, step.run)
        self._minimum, self._share = minimum, np.float32(share)
        self._early: list[NDArray[np.float32]] = []
        self._hop = 0
        self.pooled: Any = None
        """(1, P) of all frames so far."""

    def hear(self, frame: NDArray[np.float32], hop: int) -> None:
        """The next frame (D,), which fell into a hop."""
        if len(self._early) < self._minimum:
            self._early.append(frame)
            self._step.clear()
            begun = pad_frames(np.stack(self._early), self._minimum)
            self.pooled = self._step.push(begun[None])
        else:
            for _ in range(self._hop, hop):
                self._fade()
            self.pooled = self._step.push(frame[None, None])
        self._hop = hop

    def _fade(self) -> None:
        kept = self._step._kept
        # A text's maximum moves towards nothing heard, an LSTM's towards what it says now.
        floor = kept.get("hidden", np.float32(0.0))
        kept["maximum"] = floor + self._share * (kept["maximum"] - floor)


class FadingModel(StreamModel):
    """half_life, hop: milliseconds. The rest as for `StreamModel`."""

    def __init__(self, predictor: Predictor, half_life: int, hop: int, late: str) -> None:
        super().__init__(predictor, hop=hop, late=late)
        (self._parts, *_) = predictor._shelf.parts()
        self._share = 0.5 ** (hop / half_life)

    def logits(self, evidence: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """The answer (C,) of what was heard as it came."""
        made = {}
        for letter in evidence:
            summary = self._parts.encoder(Modality.of(letter)).summary
            (made[letter],) = summary.run({"pooled": self.heard[letter].said.pooled})
        (logits,) = self._parts.head(Pattern.of(map(Modality.of, evidence))).run(made)
        row: NDArray[np.float32] = logits[0]
        return row

    def _hear(self, letter: str, frame: NDArray[np.float32], hop: int) -> int:
        reached, heard = super()._hear(letter, frame, hop), self.heard[letter]
        if heard.said is None:
            minimum = 5 if letter == "t" else 1
            heard.said = Voice(self._parts, letter, minimum, self._share)
        heard.said.hear(frame, reached)
        return reached
