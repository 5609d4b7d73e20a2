"""Parity of a peer with the network, found before it is timed: a fast wrong answer is no peer.

The truth is the network in float64 with zeros as long as the peer was given them, so what a peer
may differ by is rounding, whatever a missing modality means to the network otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ifmmin.export.specialise.network import exact
from ifmmin.export.verify.parity import Comparison, compare
from ifmmin.export.verify.probes import draw_frames
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Pattern
from ifmmin.runtime.prediction import allowed_differences, largest_differences
from ifmmin.train.data.corpus import Utterance, collate
from ifmmin.train.model.network import EmotionNetwork

from .base import Features, Lengths, OpenPeer, Peer, Source

LENGTHS: tuple[Lengths, ...] = tuple(
    dict(zip(MODALITIES, frames, strict=True))
    for frames in ((45, 50, 22), (3, 2, 1), (7, 90, 30), (130, 20, 61))
)
"""Frames of a, v and t: an ordinary utterance, a short one, two uneven ones."""
_LARGE_LOGIT = 20.0
"""Beyond it float32 rounds by more than the tolerance of smaller ones."""


@dataclass(frozen=True)
class Case:
    """An input with the network's answer."""

    pattern: Pattern
    features: Features
    lengths: Lengths
    logits: NDArray[np.float64]
    """(C,), before calibration."""

    def __str__(self) -> str:
        frames = ", ".join(f"T_{m}={n}" for m, n in self.lengths.items())
        return f"{self.pattern} with {frames}"


@dataclass(frozen=True)
class Proven:
    """A contender that answers rightly, and how far its answers are off."""

    contender: OpenPeer
    comparison: Comparison

    @property
    def note(self) -> str:
        """One line for beside its times."""
        found = self.comparison
        return (
            f"logits within {found.max_difference:.0e} and probabilities within "
            f"{found.probability_max:.0e} of the network, {found.agreement:.0%} of {found.probes} "
            "answers agree"
        )


def open_proven(
    peer: Peer,
    source: Source,
    threads: int = 1,
    *,
    patterns: Iterable[Pattern] = ALL_PATTERNS,
    lengths: Iterable[Lengths] = LENGTHS,
) -> Proven:
    """A peer whose answers are the network's. Raises BackendUnavailable where it cannot run,
    ParityError with figures where it is wrong."""
    contender = peer.open(source, threads)
    fewest = contender.fewest_frames
    lengths = [{m: max(fewest, n) for m, n in frames.items()} for frames in lengths]
    cases = make_cases(source.network, patterns, lengths)
    return Proven(contender, prove(peer.name, contender, cases, peer.tolerance))


def prove(name: str, contender: OpenPeer, cases: list[Case], tolerance: float) -> Comparison:
    """The comparison over all cases; ParityError with figures where a logit is too far off."""
    prepared = [contender.prepare(case.features, case.lengths) for case in cases]
    found = np.stack([contender(inputs) for inputs in prepared])
    truth = np.stack([case.logits for case in cases])
    comparison = compare(found, truth, [str(case) for case in cases])
    allowed = allowed_differences(truth, tolerance, tolerance / _LARGE_LOGIT)
    if (largest_differences(found, truth) > allowed).any():
        raise ParityError(
            f"peer {name} is wrong and was not timed: the largest difference of a logit is "
            f"{comparison.max_difference:.1e} at {comparison.worst}, allowed {tolerance:.0e}; "
            f"{comparison.agreement:.0%} of {comparison.probes} answers agree; leave this peer out"
        )
    return comparison


def make_cases(
    network: EmotionNetwork, patterns: Iterable[Pattern], lengths: Iterable[Lengths], seed: int = 0
) -> list[Case]:
    """Drawn utterances of all patterns and lengths, with the network's answers."""
    rng = np.random.default_rng(seed)
    whole = exact(network)
    whole.reference_batches = True
    patterns = tuple(patterns)
    cases = []
    for frames in lengths:
        drawn = {m: draw_frames(network, m, n, rng) for m, n in frames.items()}
        for pattern in patterns:
            features = {m: drawn[m] for m in pattern}
            cases.append(Case(pattern, features, frames, _truth(whole, features, frames)))
    return cases


def _truth(whole: EmotionNetwork, features: Features, lengths: Lengths) -> NDArray[np.float64]:
    """Logits (C,) of the network, fed zeros of these lengths for what is missing."""
    batch = collate([Utterance("case", dict(features), 0)], whole.config)
    padded = {
        m: x if int(batch.lengths[m]) else x.new_zeros(1, max(x.shape[1], lengths[m]), x.shape[2])
        for m, x in batch.features.items()
    }
    with torch.no_grad():
        logits = whole(replace(batch, features=padded).to(torch.float64)).logits
    answer: NDArray[np.float64] = logits[0].numpy()
    return answer
