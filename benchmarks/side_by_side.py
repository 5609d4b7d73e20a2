"""Specialised graphs beside the monolith of the same weights, per pattern, in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ifmmin.benchmarks.peers.monolith import Monolith
from ifmmin.benchmarks.timing import Timing, time_together
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.network import EmotionNetwork

TYPICAL_FRAMES: Mapping[Modality, int] = {Modality.A: 45, Modality.V: 50, Modality.T: 22}
"""Lengths of an ordinary IEMOCAP utterance."""

_PEER_TOLERANCE = 1e-2
"""The monolith's zeros are as long as the utterance, so its constants differ a little."""


@dataclass(frozen=True)
class Comparison:
    """Timings of one pattern."""

    pattern: Pattern
    ours: Timing
    twin: Timing
    """The same graph in a session of its own: what differs from `ours` is noise."""
    monolith: Timing

    @property
    def ratio(self) -> float:
        """How many times longer the monolith takes, by the medians."""
        return self.monolith.p50 / self.ours.p50

    @property
    def noise(self) -> float:
        """Relative difference of the two equal sessions' medians."""
        return abs(self.twin.p50 / self.ours.p50 - 1.0)


def compare_latency(
    bundle: Path, network: EmotionNetwork, *, repeats: int = 300, threads: int = 1
) -> list[Comparison]:
    """Time `Predictor.predict` and a bare monolith call on an ordinary utterance per pattern.

    Ours includes validation and the softmax, the monolith's is the bare session. Raises ParityError
    if the two disagree, since a fast wrong answer is worth nothing.
    """
    # The same engine as the monolith's: what differs is the graph.
    engine = "onnxruntime-cpu"
    ours, twin = (Predictor(bundle, backend=engine, threads=threads) for _ in range(2))
    monolith = Monolith(network, threads)
    utterance = ordinary_utterance(network)
    found = []
    for pattern in ours.patterns:
        given = {m: utterance[m] for m in pattern}
        prepared = monolith.prepare(given, TYPICAL_FRAMES)
        temperature = float(network.temperatures[ALL_PATTERNS.index(pattern)])
        # The monolith is what a user gets by exporting the network: it knows no calibration.
        logits = ours.predict(given).logits * temperature
        _require_agreement(pattern, logits, monolith(prepared))
        # Pattern by pattern: a session that took part in every pattern would have warmer caches.
        calls: dict[str, Callable[[], object]] = {
            "ours": partial(ours.predict, given),
            "twin": partial(twin.predict, given),
            "monolith": partial(monolith, prepared),
        }
        found.append(Comparison(pattern, **time_together(calls, repeats=repeats, settled=True)))
    return found


def ordinary_utterance(network: EmotionNetwork) -> dict[Modality, np.ndarray]:
    """Raw features of TYPICAL_FRAMES frames, drawn around the network's own statistics."""
    rng = np.random.default_rng(0)
    utterance = {}
    for modality, frames in TYPICAL_FRAMES.items():
        normaliser = network.normaliser(modality)
        noise = rng.standard_normal((frames, len(normaliser.mean)))
        raw = normaliser.mean.numpy() + normaliser.std.numpy() * noise
        utterance[modality] = raw.astype(np.float32)
    return utterance


def _require_agreement(pattern: Pattern, ours: np.ndarray, theirs: np.ndarray) -> None:
    difference = float(np.abs(ours - theirs).max())
    if difference > _PEER_TOLERANCE:
        raise ParityError(
            f"pattern {pattern}: our logits and the monolith's differ by {difference:.1e}, "
            f"allowed {_PEER_TOLERANCE:.0e}; nothing was timed"
        )
