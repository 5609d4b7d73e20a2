"""Probes on which graphs are compared with their network, and the runs that answer them.

Every length, answers spread; one utterance, mixed batches, streams in chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from ifmmin.runtime.backends import Runner
from ifmmin.runtime.bundle import Features
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Modality, Pattern
from ifmmin.runtime.stream.graphs import ModalityStream, StepInterface
from ifmmin.runtime.validate import pad_batch
from ifmmin.train.data.corpus import Utterance, collate
from ifmmin.train.evaluate import Embedded, score
from ifmmin.train.model.encoders import StatisticsEncoder, untransform
from ifmmin.train.model.network import EmotionNetwork

from ..specialise.network import exact
from .parity import Comparison, compare

GATE_SEED, FRESH_SEED = 0, 1
"""Of the probes that export judges by, and of those by which a bundle is verified."""
CALIBRATION_SEEDS = range(2, 7)
"""Of inputs that show what a network computes; they are no probes, so that none is judged by what
it set. Five, since the ranges of one miss what lies further out in the next."""
LONGEST = 2000
_LENGTHS = (0, 1, 2, 3, 7, 13, 50, 97, 200, 499, LONGEST)
"""Frames above the minimum, the last absolute: both ends and what lies between."""
_POOL = 120
_GOLDEN = 7
"""Golden inputs beside the shortest."""
_AT_ONCE = 20_000
"""Frames encoded in one batch."""


@dataclass(frozen=True)
class Probe:
    """An input and the network's answer to it in float64."""

    features: Features
    logits: NDArray[np.float64]
    """(C,)"""

    def __str__(self) -> str:
        return ", ".join(f"T_{m}={len(x)}" for m, x in self.features.items())


class ReferenceNetwork:
    """The network's answers in float64, every utterance encoded once for all patterns."""

    def __init__(self, network: EmotionNetwork) -> None:
        self.network = exact(network)

    def logits(self, inputs: Sequence[Features]) -> dict[Pattern, NDArray[np.float64]]:
        """Calibrated logits (N, C) of utterances with all modalities, under every pattern."""
        scores = score(self.network, self._embed(inputs))
        return {p: found.logits.astype(np.float64) for p, found in scores.items()}

    def _embed(self, inputs: Sequence[Features]) -> Embedded:
        sizes = [max(len(x) for x in features.values()) for features in inputs]
        order = np.argsort(sizes, kind="stable")
        h = []
        with torch.no_grad():
            for rows in _by_size(order, sizes):
                batch = collate([_utterance(inputs[i]) for i in rows], self.network.config)
                h.append(self.network.embeddings(batch.to(torch.float64)))
            absent = self.network.missing_embeddings()[None]
        back = torch.from_numpy(np.argsort(order, kind="stable"))
        return Embedded(
            h=torch.cat(h)[back],
            present=torch.ones(len(inputs), len(MODALITIES), dtype=torch.bool),
            absent=absent,
        )


class Probes:
    """Probes of a network for every pattern, drawn once."""

    def __init__(self, network: EmotionNetwork, *, seed: int = GATE_SEED) -> None:
        self.truth = ReferenceNetwork(network)
        self._inputs = self.draw(seed)

    def draw(self, seed: int) -> list[Features]:
        """Inputs of all modalities, one of each length, then ordinary ones.

        They lie around the standardisation's mean, with a direction of their own and correlation in
        time, since white noise hides padding faults.
        """
        rng = np.random.default_rng(seed)
        pool = [int(n) for n in rng.integers(0, 40, size=_POOL)]
        return [_draw(self.truth.network, rng, above=n) for n in (*_LENGTHS, *pool)]

    @cached_property
    def _logits(self) -> dict[Pattern, NDArray[np.float64]]:
        return self.truth.logits(self._inputs)

    def of(self, pattern: Pattern) -> list[Probe]:
        """One probe of each length, then ordinary ones, with the answers under a pattern."""
        rows = zip(self._inputs, self._logits[pattern], strict=True)
        return [Probe({m: features[m] for m in pattern}, logits) for features, logits in rows]

    def golden_inputs(self) -> list[Features]:
        """The shortest input, and ordinary ones whose answers spread."""
        fixed = len(_LENGTHS)
        logits = self._logits[ALL_PATTERNS[-1]][fixed:]
        return [self._inputs[0], *(self._inputs[fixed + i] for i in spread(logits, _GOLDEN))]

    def stream_inputs(self, count: int, longest: int) -> list[Features]:
        """Ordinary inputs, and the longest one cut to so many frames."""
        long = {m: x[:longest] for m, x in self._inputs[len(_LENGTHS) - 1].items()}
        return [*self._inputs[len(_LENGTHS) :][:count], long]

    def ordinary_inputs(self) -> list[Features]:
        """Those of no particular length."""
        return self._inputs[len(_LENGTHS) :]


def compare_probes(found: NDArray[np.floating], probes: Sequence[Probe]) -> Comparison:
    """Logits (N, C) of a graph against the answers that probes know."""
    truth = np.stack([probe.logits for probe in probes])
    return compare(found, truth, [str(probe) for probe in probes])


def spread(logits: NDArray[np.float64], count: int) -> list[int]:
    """Positions that take the surest answers of every class in turn."""
    margins = logits - logits.mean(axis=1, keepdims=True)
    ranked = [list(np.argsort(-margins[:, c])) for c in range(logits.shape[1])]
    chosen: list[int] = []
    while len(chosen) < min(count, len(logits)):
        for order in ranked:
            following = next((i for i in order if i not in chosen), None)
            if following is not None:
                chosen.append(int(following))
    return chosen[:count]


def _by_size(order: NDArray[np.intp], sizes: Sequence[int]) -> list[list[int]]:
    """Positions in groups of at most _AT_ONCE padded frames, at least one each."""
    groups: list[list[int]] = [[]]
    for i in order:
        if groups[-1] and (len(groups[-1]) + 1) * sizes[i] > _AT_ONCE:
            groups.append([])
        groups[-1].append(int(i))
    return groups


def _utterance(features: Features) -> Utterance:
    return Utterance("probe", dict(features), 0)


def _draw(network: EmotionNetwork, rng: np.random.Generator, *, above: int) -> Features:
    features: Features = {}
    for modality in MODALITIES:
        shortest = network.config.minimum_length(modality)
        frames = above if above == LONGEST else shortest + above
        features[modality] = _sequence(network, modality, frames, rng)
    return features


def _sequence(
    network: EmotionNetwork, modality: Modality, frames: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    normaliser = network.normaliser(modality)
    dim = network.config.frame_width(modality)
    steps = rng.standard_normal((frames, dim))
    for frame in range(1, frames):
        steps[frame] = 0.8 * steps[frame - 1] + 0.6 * steps[frame]
    scale = np.exp(rng.uniform(np.log(0.3), np.log(2.0)))
    level, within = _spread_of_frames(network, modality)
    standard = level * scale * rng.standard_normal(dim) + within * scale * steps
    mean, std = normaliser.mean.numpy(), normaliser.std.numpy()
    config = network.config.architecture.transforms.get(modality)
    return untransform(mean + std * standard, config).astype(np.float32)


def _spread_of_frames(
    network: EmotionNetwork, modality: Modality
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Deviations (D,) of an utterance's level and within it, in standardised frames.

    A network that pools statistics knows them. Real features have tails: where a few utterances
    make all of a feature's variance, unit noise would lie far outside of anything it was made for.
    """
    encoder = network.encoder(modality)
    ones = np.ones(network.config.frame_width(modality))
    if not isinstance(encoder, StatisticsEncoder):
        return ones, ones
    names = encoder.config.functionals
    offset = dict(zip(names, encoder.offset.numpy().reshape(len(names), -1), strict=True))
    scale = dict(zip(names, encoder.scale.numpy().reshape(len(names), -1), strict=True))
    level = scale.get("mean", ones)
    return level, offset.get("std", level)


BATCH_SIZES = (1, 3, 8, 13)
"""Sizes of the batches in which probes are run, in turn."""
_GARBAGE = 3e3
"""What lies past an end: it must not matter."""
CHUNKS = (1, 1, 2, 5, 1, 13, 3)
"""Frames that a stream gets at a time, in turn, beginning elsewhere for each modality."""
_CHUNKS_LONG = 397


def run_alone(run: Runner, probes: Sequence[Probe]) -> NDArray[np.floating]:
    """Logits (N, C) of a latency graph."""
    rows = []
    for probe in probes:
        try:
            rows.append(run({m.value: x for m, x in probe.features.items()})[0])
        except Exception:  # what ONNX Runtime raises has no other base
            rows.append(np.full(len(probe.logits), np.inf, dtype=np.float32))
    return np.stack(rows)


def run_batches(
    run: Runner, probes: Sequence[Probe], sizes: Sequence[int] = BATCH_SIZES
) -> NDArray[np.floating]:
    """Logits (N, C) of a throughput graph, in batches of mixed lengths padded with garbage.

    The order is that of the probes; long and short ones share batches.
    """
    order = np.argsort([(7 * i) % len(probes) for i in range(len(probes))], kind="stable")
    found = np.zeros((len(probes), len(probes[0].logits)), dtype=np.float32)
    start = turn = 0
    while start < len(order):
        rows = order[start : start + sizes[turn % len(sizes)]]
        try:
            found[rows] = run(pad_batch([probes[i].features for i in rows], _GARBAGE))[0]
        except Exception:  # what ONNX Runtime raises has no other base
            found[rows] = np.inf
        start, turn = start + len(rows), turn + 1
    return found


class StreamProbes:
    """Utterances cut into chunks, with the network's answer after every chunk."""

    def __init__(self, truth: ReferenceNetwork, utterances: Sequence[Features]) -> None:
        self.utterances = utterances
        network = truth.network
        shortest = {m: network.config.minimum_length(m) for m in MODALITIES}
        self.ends = [
            {m: _ends(len(x), shortest[m], i) for i, (m, x) in enumerate(features.items())}
            for features in utterances
        ]
        prefixes = []
        for features, ends in zip(utterances, self.ends, strict=True):
            for number in range(max(len(e) for e in ends.values())):
                prefixes.append({m: x[: _at(ends[m], number)] for m, x in features.items()})
        self.prefixes = prefixes
        self._truth = truth.logits(prefixes)

    def of(self, pattern: Pattern) -> list[Probe]:
        """After every chunk: the prefixes and the network's answers to them."""
        rows = zip(self.prefixes, self._truth[pattern], strict=True)
        return [Probe({m: features[m] for m in pattern}, logits) for features, logits in rows]

    def pooled(
        self, modality: Modality, step: StepInterface, run: Runner
    ) -> list[NDArray[np.floating]]:
        """What a step pools of a modality, (1, P), after every chunk.

        step, run: a step graph's interface and its loaded form.
        """
        rows = []
        for features, ends in zip(self.utterances, self.ends, strict=True):
            frames, stream, start, made = features[modality], ModalityStream(step, run), 0, []
            for end in ends[modality]:
                made.append(stream.push(frames[None, start:end]))
                start = end
            for number in range(max(len(e) for e in ends.values())):
                rows.append(made[min(number, len(made) - 1)])
        return rows


def run_summary(run: Runner, pooled: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """Summaries (N, S) of N times what a step pooled (1, P), one at a time."""
    return np.concatenate([run({"pooled": x})[0] for x in pooled])


def run_head(
    run: Runner, pattern: Pattern, summaries: Mapping[Modality, NDArray[np.floating]]
) -> NDArray[np.floating]:
    """Logits (N, C) of a head graph, one stream at a time."""
    given = {m.value: summaries[m].astype(np.float32) for m in pattern}
    count = len(next(iter(given.values())))
    rows = [run({name: x[i : i + 1] for name, x in given.items()})[0] for i in range(count)]
    return np.concatenate(rows)


def _at(ends: Sequence[int], number: int) -> int:
    return ends[min(number, len(ends) - 1)]


def _ends(length: int, shortest: int, offset: int) -> list[int]:
    """Frames heard after each chunk; the first chunk has at least the minimum."""
    ends, turn = [min(length, shortest + offset)], offset
    while ends[-1] < length:
        chunk = _CHUNKS_LONG if length > 10 * _CHUNKS_LONG // 4 else CHUNKS[turn % len(CHUNKS)]
        ends.append(min(length, ends[-1] + chunk))
        turn += 1
    return ends
