"""The network against an independent float64 computation from the formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_networks import CASES, KINDS, logits_alone, patterns, small_network, small_utterance

from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.train.config import Architecture, ModelConfig
from ifmmin.train.data.corpus import Utterance, collate, pattern_mask

Weights = dict[str, np.ndarray]
FRAMES = {"a": 13, "v": 6, "t": 8}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def _relu(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(x, 0))


def _leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.01 * x)


def _linear(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return np.asarray(w[f"{name}.weight"] @ x + w[f"{name}.bias"])


def _lstm(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    size = w[f"{name}.weight_hh_l0"].shape[1]
    h, c, outputs = np.zeros(size), np.zeros(size), []
    for frame in x:
        gates = w[f"{name}.weight_ih_l0"] @ frame + w[f"{name}.bias_ih_l0"]
        gates = gates + w[f"{name}.weight_hh_l0"] @ h + w[f"{name}.bias_hh_l0"]
        i, f, g, o = np.split(gates, 4)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def _pooled_lstm(w: Weights, name: str, x: np.ndarray, pooling: str) -> np.ndarray:
    outputs = _lstm(w, f"{name}.rnn", x)
    if pooling == "attention":
        hidden = np.array([np.tanh(_linear(w, f"{name}.attention", r)) for r in outputs])
        scores = np.exp(hidden @ w[f"{name}.attention_vector.weight"][0])
        return np.asarray((scores / scores.sum()) @ outputs)
    pools = {"maximum": outputs.max(0), "last": outputs[-1], "sum": outputs.sum(0)}
    return np.asarray(pools[pooling])


def _functional(name: str, x: np.ndarray, raw: np.ndarray) -> np.ndarray:
    if name.startswith("weighted"):
        weights = np.maximum(raw[:, 1], 0) + 1e-3
        mean = np.average(x, axis=0, weights=weights)
        if name == "weighted_mean":
            return np.asarray(mean)
        return np.asarray(np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights)))
    if name == "delta":
        return np.asarray(np.abs(np.diff(x, axis=0)).sum(0) / len(x))
    if name == "crest":
        return np.asarray((x.max(0) - x.mean(0)) / (x.std(0) + 0.1))
    return np.asarray(getattr(x, name)(0))


def _textcnn(w: Weights, x: np.ndarray) -> np.ndarray:
    pooled = []
    for index, kernel in enumerate((3, 4, 5)):
        weight, bias = w[f"encoders.t.weights.{index}"], w[f"encoders.t.biases.{index}"]
        windows = [
            _relu(np.einsum("ckd,kd->c", weight, x[i : i + kernel]) + bias)
            for i in range(len(x) - kernel + 1)
        ]
        pooled.append(np.max(windows, axis=0))
    return np.concatenate(pooled)


def _stack(w: Weights, name: str, x: np.ndarray, between: Any, *, end: bool = False) -> np.ndarray:
    count = len({key for key in w if key.startswith(f"{name}.linears.") and "weight" in key})
    for index in range(count):
        x = _linear(w, f"{name}.linears.{index}", x)
        if index < count - 1 or end:
            x = between(x)
    return x


def _pooled(w: Weights, m: Modality, x: np.ndarray | None, config: ModelConfig) -> np.ndarray:
    """From raw frames, or nothing, to what is pooled of them."""
    shape, name = config.architecture, f"encoders.{m}"
    transform = shape.transforms.get(m)
    raw = np.zeros((0, 2))
    if x is not None:
        raw = x = x.astype(float)
        if m == "t" and shape.statistics is None and len(x) < 5:
            x = np.vstack([x, np.zeros((5 - len(x), x.shape[1]))])
        if transform is not None and transform.unit:
            # A frame of zeros has no direction and stays.
            x = np.asarray(x / np.maximum(np.sqrt((x**2).sum(1, keepdims=True)), 1e-12))
        if transform is not None:
            x = np.concatenate([np.sign(x) * np.abs(x) ** p for p in transform.powers], axis=1)
        x = (x - w[f"normalisers.{m}.mean"]) / w[f"normalisers.{m}.std"]
    if shape.statistics is not None:
        config_m = shape.statistics[m]
        if x is None:
            s = np.zeros(len(w[f"{name}.offset"]))
        else:
            s = np.concatenate([_functional(f, x, raw) for f in config_m.functionals])
            s = (s - w[f"{name}.offset"]) / w[f"{name}.scale"]
            s = np.clip(s, -(config_m.limit or np.inf), config_m.limit or np.inf)
        return s
    if x is None:
        x = np.zeros((9, len(w[f"normalisers.{m}.mean"])))
    return _textcnn(w, x) if m == "t" else _pooled_lstm(w, name, x, shape.pooling)


def _embedding(w: Weights, m: Modality, pooled: np.ndarray, shape: Architecture) -> np.ndarray:
    if shape.statistics is not None and shape.model != "linear":
        return np.asarray(np.tanh(_linear(w, f"encoders.{m}.output", pooled)))
    words = shape.statistics is None and m == "t"
    return _relu(_linear(w, "encoders.t.output", pooled)) if words else pooled


def _formula(w: Weights, utterance: Utterance, pattern: Pattern, config: ModelConfig) -> Any:
    shape = config.architecture
    raw = {m: utterance.features[m] if m in pattern else None for m in config.modalities}
    h = {m: _embedding(w, m, _pooled(w, m, raw[m], config), shape) for m in raw}
    index = config.patterns.index(pattern)
    if shape.model == "linear":
        logits = np.zeros(4)
        for i, m in enumerate(config.modalities):
            if m in pattern:
                logits = logits + w["weight"][index, :, i, : len(h[m])] @ h[m]
        return (logits + w["bias"][index]) / w["temperatures"][index]
    return _classify(w, h, shape) / w["temperatures"][index]


def _classify(w: Weights, h: dict[Modality, np.ndarray], shape: Architecture) -> np.ndarray:
    between = {"leaky_relu": _leaky, "sigmoid": _sigmoid, "tanh": np.tanh}
    order = [Modality(letter) for letter in "atv" if letter in h]
    joined = np.concatenate([h[m] for m in order])
    guide = np.zeros_like(joined)
    if shape.model in ("if-mmin", "fusion"):
        act, end = between[shape.invariant_activation], shape.invariant_end_active
        guide = np.concatenate([_stack(w, "invariant", h[m], act, end=end) for m in order])
    if shape.model == "fusion":
        return _stack(w, "classifier", np.concatenate([joined, guide]), _relu)
    if shape.model == "augmented":
        return _stack(w, "classifier", joined, _relu)
    latents, output, x = [], joined, joined
    for k in range(3):
        if shape.model == "mmin":
            x = joined if k == 0 else x + output
        else:
            x = output + guide if shape.imagination == "cascade" else joined + (k + 1) * guide
        latents.append(_stack(w, f"imagination.encoders.{k}", x, _leaky))
        if shape.imagination == "cascade":
            output = _stack(w, f"imagination.decoders.{k}", latents[-1], _relu)
    return _stack(w, "classifier", np.concatenate(latents), _relu)


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [*CASES, *((kind, p) for kind in ("linear", "two-linear") for p in patterns(kind))],
    ids=str,
)
def test_equals_the_formulas(pattern: Pattern, kind: str) -> None:
    network = small_network(kind).double()
    w = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    rng = np.random.default_rng(3)
    answers = set()
    for text in (1, 5, 9, 14):
        utterance = small_utterance(rng, FRAMES | {"t": text})
        given_part = Utterance("x", {m: utterance.features[m] for m in pattern}, 0)
        found = logits_alone(network, given_part)
        wanted = _formula(w, utterance, pattern, network.config)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-11)
        answers.add(tuple(found.round(3)))
    assert len(answers) > 1


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_an_answer_is_the_same_alone_and_in_any_batch(kind: str, data: st.DataObject) -> None:
    network = small_network(kind).double()
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    count = data.draw(st.integers(2, 6))
    utterances = []
    for _ in range(count):
        pattern = data.draw(st.sampled_from(patterns(kind)))
        frames = {m.value: data.draw(st.integers(1, 30)) for m in pattern}
        utterances.append(small_utterance(rng, frames))
    with torch.no_grad():
        batch = collate(utterances, network.config).to(torch.float64)
        singles = [collate([u], network.config).to(torch.float64) for u in utterances]
        together = network.answer(batch)
        apart = torch.cat([network.answer(single) for single in singles])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-9)


def test_masking_equals_leaving_out() -> None:
    network = small_network().double()
    utterance = small_utterance(np.random.default_rng(0), FRAMES)
    batch = collate([utterance] * 7, network.config).to(torch.float64)
    with torch.no_grad():
        found = network.answer(batch.masked(pattern_mask(ALL_PATTERNS))).numpy()
    for row, pattern in zip(found, ALL_PATTERNS, strict=True):
        rest = Utterance("x", {m: utterance.features[m] for m in pattern}, 0)
        np.testing.assert_allclose(row, logits_alone(network, rest), atol=1e-12)
    assert np.ptp(found, axis=0).max() > 0.1


def test_padding_holds_nothing_that_is_read() -> None:
    network = small_network()
    rng = np.random.default_rng(1)
    some = [small_utterance(rng, frames) for frames in (FRAMES, {"a": 30, "v": 40, "t": 20})]
    batch = collate(some, network.config)
    with torch.no_grad():
        before = network(batch).logits
        for modality, x in batch.features.items():
            x[0, int(batch.lengths[modality][0]) :] = 99.0
        after = network(batch).logits
    torch.testing.assert_close(before, after, rtol=0, atol=0)
