"""Dead embeddings and collapsed invariant features are seen and told."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ifmmin.train.evaluate import embed
from ifmmin.train.health import active_shares, effective_dimensions, examine, warn
from ifmmin.train.network import EmotionNetwork


def _examine(network: EmotionNetwork, make: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    utterances = [make(rng, {"a": 7, "v": 6, "t": 8}) for _ in range(30)]
    return examine(network, embed(network, utterances))


def test_a_sound_network_gives_no_warning(
    make_network: Any, make_utterance: Any, capsys: Any
) -> None:
    report = _examine(make_network(), make_utterance)
    assert set(report) == {"a", "v", "t"}
    assert all(entry["active"] > 0.5 for entry in report.values())
    warn(report)
    assert capsys.readouterr().err == ""


def test_a_dead_text_encoder_is_told(make_network: Any, make_utterance: Any, capsys: Any) -> None:
    network = make_network()
    with torch.no_grad():
        network.get_parameter("encoders.t.output.bias").fill_(-100.0)
    report = _examine(network, make_utterance)
    assert report["t"]["active"] == 0.0
    assert report["a"]["active"] > 0.5
    warn(report)
    error = capsys.readouterr().err
    assert "textual embedding is dead: 0%" in error
    assert "acoustic" not in error


def test_collapsed_invariant_features_are_told(
    make_network: Any, make_utterance: Any, capsys: Any
) -> None:
    network = make_network()
    with torch.no_grad():
        network.get_parameter("invariant.linears.1.weight")[1:] = 0.0
    report = _examine(network, make_utterance)
    assert all(entry["invariant_dimensions"] <= 1.01 for entry in report.values())
    warn(report)
    assert "have collapsed to 1.0 effective dimensions" in capsys.readouterr().err


def test_shares_count_only_utterances_that_have_the_modality(
    make_network: Any, make_utterance: Any
) -> None:
    network, rng = make_network(), np.random.default_rng(0)
    utterances = [make_utterance(rng, {"a": 5}) for _ in range(5)]
    assert set(active_shares(embed(network, utterances))) == {"a"}


def test_effective_dimensions_of_known_covariances() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 6, generator=generator)
    assert abs(effective_dimensions(x) - 6) < 0.05
    x[:, 1:] = 0
    assert abs(effective_dimensions(x) - 1) < 1e-6
    assert effective_dimensions(torch.ones(5, 3)) == 0.0
