"""Inputs on which a graph is compared with its network: lengths from end to end, answers spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ifmmin.runtime.bundle import Features
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.train.batch import collate
from ifmmin.train.corpus import Utterance
from ifmmin.train.frames import untransform
from ifmmin.train.network import EmotionNetwork
from ifmmin.train.statistics import StatisticsEncoder

LONGEST = 2000
_POOL = 96
_SPREAD = 24
_LENGTHS = (0, 1, 2, 3, 7, 13, 50, 97, 200, 499, LONGEST)
"""Frames above the minimum, the last absolute: both ends and what lies between."""


@dataclass(frozen=True)
class Probe:
    """An input and the network's answer to it in float64."""

    features: Features
    logits: NDArray[np.float64]
    """(C,)"""


def draw_probes(network: EmotionNetwork, pattern: Pattern, *, seed: int = 0) -> list[Probe]:
    """Probes of a pattern: one of each length, then those of a pool that spread the answers.

    network: in float64 and eval mode. Inputs are drawn around the standardisation's mean, with a
    direction of their own and correlation in time, since white noise hides padding faults.
    """
    rng = np.random.default_rng([seed, len(pattern)])
    fixed = [_draw(network, pattern, rng, above=above) for above in _LENGTHS]
    pool = [_draw(network, pattern, rng, above=int(rng.integers(0, 40))) for _ in range(_POOL)]
    answers = answer(network, pool)
    chosen = [pool[i] for i in _spread(answers)]
    inputs = fixed + chosen
    return [Probe(x, y) for x, y in zip(inputs, answer(network, inputs), strict=True)]


def answer(network: EmotionNetwork, inputs: list[Features]) -> NDArray[np.float64]:
    """The network's logits (N, C), each utterance alone."""
    rows = []
    with torch.no_grad():
        for features in inputs:
            batch = collate([Utterance("probe", dict(features), 0)], network.config)
            rows.append(network.answer(batch.to(torch.float64))[0].numpy())
    return np.stack(rows)


def _draw(
    network: EmotionNetwork, pattern: Pattern, rng: np.random.Generator, *, above: int
) -> Features:
    features: Features = {}
    for modality in pattern:
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


def _spread(logits: NDArray[np.float64]) -> list[int]:
    """Indices that take the surest answers of every class in turn."""
    margins = logits - logits.mean(axis=1, keepdims=True)
    ranked = [list(np.argsort(-margins[:, c])) for c in range(logits.shape[1])]
    chosen: list[int] = []
    while len(chosen) < _SPREAD:
        for order in ranked:
            following = next(i for i in order if i not in chosen)
            chosen.append(int(following))
    return chosen[:_SPREAD]
