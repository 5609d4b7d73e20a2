"""A specialised network says what the network says, in float64."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ifmmin.export.specialise import specialise, stream_encoder, stream_head, stream_summary
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.train.corpus import Utterance
from ifmmin.train.network import FUSION_ORDER, EmotionNetwork

DIMS = {Modality.A: 5, Modality.V: 7, Modality.T: 11}
LENGTHS = (5, 6, 17, 60)


def _utterances(pattern: Pattern) -> list[dict[Modality, Any]]:
    rng = np.random.default_rng(5)
    return [
        {m: rng.standard_normal((frames, DIMS[m])).astype(np.float32) for m in pattern}
        for frames in LENGTHS
    ]


def _difference(network: EmotionNetwork, pattern: Pattern, small: nn.Module, alone: Any) -> float:
    worst = 0.0
    for x in _utterances(pattern):
        truth = alone(network, Utterance("x", dict(x), 0))
        with torch.no_grad():
            found = small(*(torch.from_numpy(x[m]).double() for m in pattern)).numpy()
        worst = max(worst, float(np.abs(found - truth).max()))
    return worst


@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_equal_in_float64_and_not_when_nudged(
    make_network: Any, alone: Any, pattern: Pattern, kind: str
) -> None:
    network = make_network(kind).double()
    for recurrence in ("lstm", "scan"):
        small = specialise(network, pattern, recurrence=recurrence)
        assert _difference(network, pattern, small, alone) < 1e-12
    nudged = copy.deepcopy(small)
    with torch.no_grad():
        names = dict(nudged.named_parameters())
        last = [name for name in names if name.startswith("head.rest.classifier.linears")][-1]
        names[last][1] += 1e-6
    assert _difference(network, pattern, nudged, alone) > 1e-9


@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_batches_equal_in_float64(
    make_network: Any, alone: Any, pattern: Pattern, kind: str
) -> None:
    """Whatever lies past an end, and beside whom."""
    network = make_network(kind).double()
    small = specialise(network, pattern)
    utterances = _utterances(pattern)
    features, lengths = [], []
    for modality in pattern:
        arrays = [torch.from_numpy(x[modality]).double() for x in utterances]
        padded = torch.full((len(arrays), max(LENGTHS), DIMS[modality]), 1e4).double()
        for row, array in enumerate(arrays):
            padded[row, : len(array)] = array
        features.append(padded)
        lengths.append(torch.tensor([len(x) for x in arrays]))
    with torch.no_grad():
        found = small.batch(features, lengths).numpy()
    truth = np.stack([alone(network, Utterance("x", dict(x), 0)) for x in utterances])
    assert np.abs(found - truth).max() < 1e-12


@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_streams_equal_in_float64_at_every_frame(
    make_network: Any, alone: Any, pattern: Pattern, kind: str
) -> None:
    network = make_network(kind).double()
    features = {m: torch.from_numpy(x).double() for m, x in _utterances(pattern)[2].items()}
    frames = len(next(iter(features.values())))
    steps = {m: stream_encoder(network, m) for m in pattern}
    summaries = {m: stream_summary(network, m) for m in pattern}
    head = stream_head(network, pattern)
    kept = {m: [_initial(state) for state in steps[m].states] for m in pattern}
    for end in range(5, frames + 1):
        start = 0 if end == 5 else end - 1
        said = {}
        for m in pattern:
            with torch.no_grad():
                pooled, kept[m] = steps[m].step(features[m][None, start:end], kept[m])
                said[m] = summaries[m](pooled)
        with torch.no_grad():
            found = head([said[m] for m in FUSION_ORDER if m in pattern])[0].numpy()
        heard = {m: x[:end].float().numpy() for m, x in features.items()}
        assert np.abs(found - alone(network, Utterance("x", heard, 0))).max() < 1e-11


def _initial(state: Any) -> torch.Tensor:
    return torch.full((1, *(state.initial_size or state.size)), state.initial).double()


def test_nothing_of_absent_modalities_is_left(make_network: Any) -> None:
    network = make_network()
    small = specialise(network, Pattern.parse("a"))
    assert list(small.encoders) == ["a"]
    assert not any(
        "transition" in name or "dropout" in name for name, _ in small.named_parameters()
    )
    count = sum(p.numel() for p in small.parameters())
    assert count < 0.7 * sum(p.numel() for p in network.parameters())
