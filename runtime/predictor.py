"""Answers from a bundle: the pattern is found from what is present, its graph does the rest."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends import Runner, choose
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Pattern
from ifmmin.runtime.validate import Utterance, conform


@dataclass(frozen=True)
class Prediction:
    """The answer for one utterance."""

    label: str
    probabilities: NDArray[np.float32]
    """(C,), in the order of the bundle's labels."""
    logits: NDArray[np.float32]
    """(C,)"""
    pattern: Pattern
    backend: str
    seconds: float
    """From the validated input to the logits."""


class Predictor:
    """Predicts with the graphs of a bundle, loading each at its first use.

    bundle: directory written by ifmmin-export. backend: `auto` or a backend's name. threads:
    threads inside one call. May be shared between threads; each graph answers one call at a time.
    Raises BundleError, BackendUnavailable or InputError, each saying what to do.
    """

    def __init__(self, bundle: str | Path, *, backend: str = "auto", threads: int = 1) -> None:
        if threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        self.bundle = Bundle(bundle)
        self._backend = choose(backend, threads)
        self._runners: dict[Pattern, Runner] = {}
        self._lock = threading.Lock()

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of probabilities and logits."""
        return self.bundle.manifest.labels

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns that the bundle can answer."""
        return self.bundle.patterns

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self._backend.name

    def predict(self, utterance: Utterance, *, pattern: Pattern | None = None) -> Prediction:
        """Predict the emotion of one utterance.

        utterance: per modality an array (T, D) of raw features; None and empty mean missing.
        pattern: use only these modalities; they must be present. None: use what is present.
        """
        features = conform(utterance, self.bundle.manifest.modalities)
        if pattern is not None:
            absent = [m.value for m in pattern if m not in features]
            if absent:
                raise InputError(f"pattern {pattern} needs modality {absent[0]}, which is missing")
            features = {m: features[m] for m in pattern}
        used = pattern or Pattern.of(features)
        with self._lock:
            runner = self._runner(used)
            inputs = {modality.value: array for modality, array in features.items()}
            started = time.perf_counter()
            (logits,) = runner(inputs)
            seconds = time.perf_counter() - started
        probabilities = _softmax(logits)
        return Prediction(
            label=self.labels[int(probabilities.argmax())],
            probabilities=probabilities,
            logits=logits,
            pattern=used,
            backend=self.backend,
            seconds=seconds,
        )

    def _runner(self, pattern: Pattern) -> Runner:
        if pattern not in self._runners:
            self._runners[pattern] = self._backend.load(
                self.bundle.graph(self.bundle.entry(pattern))
            )
        return self._runners[pattern]


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponentials = np.exp(logits - logits.max())
    result: NDArray[np.float32] = exponentials / exponentials.sum()
    return result
