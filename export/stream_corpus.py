"""What streams say of a corpus: its utterances heard to their end, by the graphs of streams."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import onnx
from numpy.typing import NDArray

from ifmmin.export.evaluate_on import Evaluator
from ifmmin.export.graph import to_model
from ifmmin.export.limits import Evaluation
from ifmmin.export.precision import Precision
from ifmmin.export.shapes import plan_head, plan_step, plan_summary
from ifmmin.export.workshop import Workshop
from ifmmin.runtime.backends import Runner
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.runtime.step import ModalityStream

Said = Mapping[int, NDArray[np.floating]]
"""Summaries (S,) of one modality, by the position of the utterance."""


class StreamCorpus:
    """Measures summaries and heads of one precision on a corpus."""

    def __init__(self, shop: Workshop, precision: Precision, evaluator: Evaluator) -> None:
        self._shop = shop
        self._precision = precision
        self._evaluator = evaluator
        self._pooled = cache(self._pool)
        self._plain_said = cache(self._say_plainly)
        self._plain_head = cache(self._load_head)
        self.said: dict[Modality, Said] = {}
        """What the graphs that will be written say."""

    def say(self, modality: Modality, summary: Runner) -> Said:
        """Summaries of every utterance that has a modality."""
        return {row: summary({"pooled": x})[0][0] for row, x in self._pooled(modality).items()}

    def head(self, model: onnx.ModelProto, pattern: Pattern) -> Evaluation:
        """Of a head, on what its modalities have `said`."""
        return self._evaluator.head(self._load(model), pattern, self.said)

    def loss_of(self, modality: Modality, said: Said) -> float:
        """Most UA that some pattern loses where only this modality speaks so.

        All patterns count, so that it does not depend on which are exported.
        """
        found = [
            self._evaluator.head(
                self._plain_head(pattern),
                pattern,
                {m: said if m == modality else self._plain_said(m) for m in pattern},
            )
            for pattern in ALL_PATTERNS
            if modality in pattern and self._evaluator.covers(pattern)
        ]
        return max((evaluation.ua_loss for evaluation in found), default=0.0)

    def _pool(self, modality: Modality) -> Said:
        """What the step graph pools (1, P) of every utterance that has a modality."""
        plan = plan_step(self._shop.network, modality, self._precision)
        run = self._load(to_model(plan))
        return {
            row: ModalityStream(plan, run).push(frames[None])
            for row, frames in self._evaluator.heard(modality).items()
        }

    def _say_plainly(self, modality: Modality) -> Said:
        """By a summary of which nothing is in 8 bits."""
        plan = plan_summary(self._shop.network, modality, self._precision)
        return self.say(modality, self._load(to_model(plan)))

    def _load_head(self, pattern: Pattern) -> Runner:
        return self._load(to_model(plan_head(self._shop.network, pattern, self._precision)))

    def _load(self, model: onnx.ModelProto) -> Runner:
        return self._shop.load(model, self._precision.name)
