"""The network against an independent float64 computation from the formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ifmmin.runtime.modality import ALL_PATTERNS, Pattern
from ifmmin.train.batch import collate, pattern_mask
from ifmmin.train.corpus import Utterance

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


def _lstm_max(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    size = w[f"{name}.weight_hh_l0"].shape[1]
    h, c, best = np.zeros(size), np.zeros(size), np.full(size, -np.inf)
    for frame in x:
        gates = w[f"{name}.weight_ih_l0"] @ frame + w[f"{name}.bias_ih_l0"]
        gates = gates + w[f"{name}.weight_hh_l0"] @ h + w[f"{name}.bias_hh_l0"]
        i, f, g, o = np.split(gates, 4)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        best = np.maximum(best, h)
    return best


def _textcnn(w: Weights, x: np.ndarray) -> np.ndarray:
    pooled = []
    for index, kernel in enumerate((3, 4, 5)):
        weight, bias = w[f"encoders.t.weights.{index}"], w[f"encoders.t.biases.{index}"]
        windows = [
            _relu(np.einsum("ckd,kd->c", weight, x[i : i + kernel]) + bias)
            for i in range(len(x) - kernel + 1)
        ]
        pooled.append(np.max(windows, axis=0))
    return _relu(_linear(w, "encoders.t.output", np.concatenate(pooled)))


def _stack(w: Weights, name: str, x: np.ndarray, between: Any, *, end: bool = False) -> np.ndarray:
    count = len({key for key in w if key.startswith(f"{name}.linears.") and "weight" in key})
    for index in range(count):
        x = _linear(w, f"{name}.linears.{index}", x)
        if index < count - 1 or end:
            x = between(x)
    return x


def _formula(w: Weights, utterance: Utterance, pattern: Pattern, model: str, form: str) -> Any:
    h = {}
    for letter in "avt":
        if letter in pattern:
            raw = utterance.features[letter].astype(float)  # type: ignore[index]
            if letter == "t" and len(raw) < 5:
                raw = np.vstack([raw, np.zeros((5 - len(raw), raw.shape[1]))])
            x = (raw - w[f"normalisers.{letter}.mean"]) / w[f"normalisers.{letter}.std"]
        else:
            x = np.zeros((9, len(w[f"normalisers.{letter}.mean"])))
        h[letter] = _textcnn(w, x) if letter == "t" else _lstm_max(w, f"encoders.{letter}.rnn", x)
    s = {m: _stack(w, "invariant", x, _leaky, end=True) for m, x in h.items()}
    joined = np.concatenate([h[m] for m in "atv"])
    guide = np.concatenate([s[m] for m in "atv"])
    if model == "fusion":
        return _stack(w, "classifier", np.concatenate([joined, guide]), _relu)
    latents, output = [], joined
    for k in range(3):
        x = output + guide if form == "cascade" else joined + (k + 1) * guide
        latents.append(_stack(w, f"imagination.encoders.{k}", x, _leaky))
        if form == "cascade":
            output = _stack(w, f"imagination.decoders.{k}", latents[-1], _relu)
    return _stack(w, "classifier", np.concatenate(latents), _relu)


@pytest.mark.parametrize(
    ("model", "form"), [("if-mmin", "cascade"), ("if-mmin", "parallel"), ("fusion", "cascade")]
)
@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_equals_the_formulas(
    make_network: Any, make_utterance: Any, alone: Any, pattern: Pattern, model: str, form: str
) -> None:
    network = make_network(model, form).double()
    w = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    rng = np.random.default_rng(3)
    answers = set()
    for text in (1, 5, 9, 14):
        utterance = make_utterance(rng, FRAMES | {"t": text})
        given_part = Utterance("x", {m: utterance.features[m] for m in pattern}, 0)
        found = alone(network, given_part)
        np.testing.assert_allclose(
            found, _formula(w, utterance, pattern, model, form), rtol=0, atol=1e-11
        )
        answers.add(tuple(found.round(3)))
    assert len(answers) > 1


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_an_answer_is_the_same_alone_and_in_any_batch(
    make_network: Any, make_utterance: Any, data: st.DataObject
) -> None:
    network, make = make_network().double(), make_utterance
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    count = data.draw(st.integers(2, 6))
    utterances = []
    for _ in range(count):
        pattern = data.draw(st.sampled_from(ALL_PATTERNS))
        utterances.append(make(rng, {m.value: data.draw(st.integers(1, 30)) for m in pattern}))
    with torch.no_grad():
        batch = collate(utterances, network.config).to(torch.float64)
        singles = [collate([u], network.config).to(torch.float64) for u in utterances]
        together = network(batch).logits
        apart = torch.cat([network(single).logits for single in singles])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)


def test_masking_equals_leaving_out(make_network: Any, make_utterance: Any, alone: Any) -> None:
    network = make_network().double()
    utterance = make_utterance(np.random.default_rng(0), FRAMES)
    batch = collate([utterance] * 7, network.config).to(torch.float64)
    with torch.no_grad():
        found = network(batch.masked(pattern_mask(ALL_PATTERNS))).logits.numpy()
    for row, pattern in zip(found, ALL_PATTERNS, strict=True):
        rest = Utterance("x", {m: utterance.features[m] for m in pattern}, 0)
        np.testing.assert_allclose(row, alone(network, rest), atol=1e-12)
    assert np.ptp(found, axis=0).max() > 0.1


def test_padding_holds_nothing_that_is_read(make_network: Any, make_utterance: Any) -> None:
    network = make_network()
    rng = np.random.default_rng(1)
    batch = collate(
        [make_utterance(rng, FRAMES), make_utterance(rng, {"a": 30, "v": 40, "t": 20})],
        network.config,
    )
    with torch.no_grad():
        before = network(batch).logits
        for modality, x in batch.features.items():
            x[0, int(batch.lengths[modality][0]) :] = 99.0
        after = network(batch).logits
    torch.testing.assert_close(before, after, rtol=0, atol=0)
