"""Probes on which graphs are compared with their network, and the runs that answer them.

Every length, answers spread; one utterance, mixed batches, streams in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from ifmmin.runtime.backends import Runner
from ifmmin.runtime.bundle import Features
from ifmmin.runtime.errors import one_line
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.prediction import largest_differences
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
_EXTREME = 0.1
"""Share of drawn utterances with a frame in which as many columns are the least or largest seen."""
_AT_ONCE = 20_000
"""Frames encoded in one batch."""


@dataclass(frozen=True)
class Probe:
    """An input and the network's answer to it in float64."""

    features: Features
    logits: NDArray[np.float64]
    """(C,)"""
    float32_loss: float
    """Largest difference of a logit between the network in float32 and in float64."""

    def __str__(self) -> str:
        return ", ".join(f"T_{m}={len(x)}" for m, x in self.features.items())


@dataclass(frozen=True)
class Reference:
    """The network's answers under one pattern."""

    logits: NDArray[np.float64]
    """(N, C), calibrated, in float64."""
    float32_losses: NDArray[np.float64]
    """(N,), largest difference of a logit between float32 and float64."""

    def probes(self, inputs: Sequence[Features], pattern: Pattern) -> list[Probe]:
        """The inputs (N) with their answers."""
        rows = zip(inputs, self.logits, self.float32_losses.tolist(), strict=True)
        return [Probe({m: x[m] for m in pattern}, logits, loss) for x, logits, loss in rows]


class ReferenceNetwork:
    """The network's answers, every utterance encoded once for all patterns."""

    def __init__(self, network: EmotionNetwork) -> None:
        self.network = exact(network)
        self._rounding = exact(network).float()

    def answers(self, inputs: Sequence[Features]) -> dict[Pattern, Reference]:
        """Of utterances with all modalities, under every pattern."""
        truth, rounded = (
            {p: found.logits.astype(np.float64) for p, found in score(n, _embed(n, inputs)).items()}
            for n in (self.network, self._rounding)
        )
        return {p: Reference(x, largest_differences(rounded[p], x)) for p, x in truth.items()}


def _embed(network: EmotionNetwork, inputs: Sequence[Features]) -> Embedded:
    sizes = [max(len(x) for x in features.values()) for features in inputs]
    order = np.argsort(sizes, kind="stable")
    h, dtype = [], network.temperatures.dtype
    with torch.no_grad():
        for rows in _by_size(order, sizes):
            batch = collate([_utterance(inputs[i]) for i in rows], network.config)
            h.append(network.embeddings(batch.to(dtype)))
        absent = network.missing_embeddings()[None]
    back = torch.from_numpy(np.argsort(order, kind="stable"))
    return Embedded(
        h=torch.cat(h)[back],
        present=torch.ones(len(inputs), len(network.modalities), dtype=torch.bool),
        absent=absent,
    )


class Probes:
    """Probes of a network for every pattern, drawn once."""

    def __init__(self, network: EmotionNetwork, *, seed: int = GATE_SEED) -> None:
        self.truth = ReferenceNetwork(network)
        self._inputs = self.draw(seed)

    def draw(self, seed: int) -> list[Features]:
        """Inputs of all modalities, one of each length, then ordinary ones."""
        rng = np.random.default_rng(seed)
        pool = [int(n) for n in rng.integers(0, 40, size=_POOL)]
        return [_draw(self.truth.network, rng, above=n) for n in (*_LENGTHS, *pool)]

    @cached_property
    def _answers(self) -> dict[Pattern, Reference]:
        return self.truth.answers(self._inputs)

    def of(self, pattern: Pattern) -> list[Probe]:
        """One probe of each length, then ordinary ones, with the answers under a pattern."""
        return self._answers[pattern].probes(self._inputs, pattern)

    def golden_inputs(self) -> list[Features]:
        """The shortest input, and ordinary ones whose answers spread."""
        fixed = len(_LENGTHS)
        whole = self.truth.network.config.patterns[-1]
        logits = self._answers[whole].logits[fixed:]
        return [self._inputs[0], *(self._inputs[fixed + i] for i in spread(logits, _GOLDEN))]

    def stream_inputs(self, count: int, longest: int) -> list[Features]:
        """Ordinary inputs, and the longest one cut to so many frames."""
        long = {m: x[:longest] for m, x in self._inputs[len(_LENGTHS) - 1].items()}
        return [*self._inputs[len(_LENGTHS) :][:count], long]

    def ordinary_inputs(self) -> list[Features]:
        """Those of no particular length."""
        return self._inputs[len(_LENGTHS) :]


def compare_probes(answers: Answers, probes: Sequence[Probe], loss: float = 0.0) -> Comparison:
    """What a graph answered against the answers that probes know.

    loss: what the network lost in float32 on other probes; the larger one counts.
    """
    truth = np.stack([probe.logits for probe in probes])
    losses = [probe.float32_loss for probe in probes]
    # A network that overflows in float32 gives no measure; its graphs will answer as it does.
    losses = [found for found in (loss, *losses) if np.isfinite(found)]
    return compare(
        answers.logits,
        truth,
        [str(probe) for probe in probes],
        float32_loss=max(losses, default=0.0),
        unanswered=answers.unanswered,
    )


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
    for modality in network.modalities:
        shortest = network.config.minimum_length(modality)
        frames = above if above == LONGEST else shortest + above
        features[modality] = draw_frames(network, modality, frames, rng)
    return features


def draw_frames(
    network: EmotionNetwork, modality: Modality, frames: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Raw features (T, D) as training saw them, column by column.

    They have a level of their own and correlation in time, since white noise hides padding faults,
    and lie in the observed range or a little beyond. Where nothing was observed, they lie around
    the standardisation's mean.
    """
    normaliser, observed = network.normaliser(modality), network.observed(modality)
    config = network.config.architecture.transforms.get(modality)
    dim = network.config.frame_width(modality)
    steps = rng.standard_normal((frames, dim))
    # A word does not resemble the one before it.
    for frame in range(1, frames if modality is not Modality.T else 0):
        steps[frame] = 0.8 * steps[frame - 1] + 0.6 * steps[frame]
    scale = np.exp(rng.uniform(np.log(0.3), np.log(2.0)))
    level, within = _spread_of_frames(network, modality)
    standard = level * scale * rng.standard_normal(dim) + within * scale * steps
    source = observed if config is None and observed.known else normaliser
    raw = untransform(source.mean.numpy() + source.std.numpy() * standard, config)
    raw = observed.confine(raw, config)
    if observed.known and rng.random() < _EXTREME:
        # Tails are rare, but what overflows does so there.
        frame = raw[rng.integers(frames)]
        ends = np.stack([observed.minimum.numpy(), observed.maximum.numpy()])
        chosen = rng.random(len(frame)) < _EXTREME
        frame[chosen] = rng.choice(ends, axis=0)[chosen]
    return raw.astype(np.float32)


def _spread_of_frames(
    network: EmotionNetwork, modality: Modality
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Deviations (D,) of an utterance's level and within it, in standardised frames.

    States of tokens share a third of their variance with their sentence. A network that pools
    statistics knows them. Real features have tails: where a few utterances make all of a feature's
    variance, unit noise would lie far outside of anything it was made for.
    """
    encoder = network.encoder(modality)
    ones = np.ones(network.config.frame_width(modality))
    if not isinstance(encoder, StatisticsEncoder):
        return (0.57 * ones, 0.82 * ones) if modality is Modality.T else (ones, ones)
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


@dataclass(frozen=True)
class Answers:
    """What a graph answered to probes."""

    logits: NDArray[np.floating]
    """(N, C), not finite where it refused."""
    unanswered: str = ""
    """What it said of the first that it refused."""


def run_alone(run: Runner, probes: Sequence[Probe]) -> Answers:
    """A latency graph, one probe after the other."""
    return _ask(
        probes,
        [[i] for i in range(len(probes))],
        lambda chosen: run({m.value: x for m, x in chosen[0].features.items()})[0],
    )


def run_batches(
    run: Runner, probes: Sequence[Probe], sizes: Sequence[int] = BATCH_SIZES
) -> Answers:
    """A throughput graph, in batches of mixed lengths padded with garbage.

    The order is that of the probes; long and short ones share batches.
    """
    order = np.argsort([(7 * i) % len(probes) for i in range(len(probes))], kind="stable").tolist()
    batches, turn = [], 0
    while order:
        size = sizes[turn % len(sizes)]
        batches.append(order[:size])
        order, turn = order[size:], turn + 1
    return _ask(
        probes, batches, lambda chosen: run(pad_batch([p.features for p in chosen], _GARBAGE))[0]
    )


def _ask(
    probes: Sequence[Probe],
    batches: Sequence[list[int]],
    answer: Callable[[list[Probe]], NDArray[np.floating]],
) -> Answers:
    logits = np.full((len(probes), len(probes[0].logits)), np.inf, dtype=np.float32)
    unanswered = ""
    for rows in batches:
        chosen = [probes[i] for i in rows]
        try:
            logits[rows] = answer(chosen)
        except Exception as error:  # what ONNX Runtime raises has no other base
            unanswered = unanswered or f"{chosen[0]}: {one_line(error)}"
    return Answers(logits, unanswered)


class StreamProbes:
    """Utterances cut into chunks, with the network's answer after every chunk."""

    def __init__(self, truth: ReferenceNetwork, utterances: Sequence[Features]) -> None:
        self.utterances = utterances
        network = truth.network
        shortest = {m: network.config.minimum_length(m) for m in network.modalities}
        self.ends = [
            {m: _ends(len(x), shortest[m], i) for i, (m, x) in enumerate(features.items())}
            for features in utterances
        ]
        prefixes = []
        for features, ends in zip(utterances, self.ends, strict=True):
            for number in range(max(len(e) for e in ends.values())):
                prefixes.append({m: x[: _at(ends[m], number)] for m, x in features.items()})
        self.prefixes = prefixes
        self._truth = truth.answers(prefixes)

    def of(self, pattern: Pattern) -> list[Probe]:
        """After every chunk: the prefixes and the network's answers to them."""
        return self._truth[pattern].probes(self.prefixes, pattern)

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
) -> Answers:
    """A head graph, one stream at a time."""
    given = {m.value: summaries[m].astype(np.float32) for m in pattern}
    count = len(next(iter(given.values())))
    rows = [run({name: x[i : i + 1] for name, x in given.items()})[0] for i in range(count)]
    return Answers(np.concatenate(rows))


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
