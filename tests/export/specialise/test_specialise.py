"""A specialised network says what the network says; what is missing is a constant in it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_command import call, mistake
from small_networks import CASES, logits_alone, small_network
from torch import nn

from ifmmin.export.cli import main
from ifmmin.export.specialise.network import specialise, stream_encoder, stream_head, stream_summary
from ifmmin.export.verify.missing import TOLERANCE, measure_missing
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.cli.options import frames_by_modality
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.checkpoint import save_checkpoint
from ifmmin.train.data.corpus import Utterance
from ifmmin.train.model.encoders import SequenceEncoder
from ifmmin.train.model.network import FUSION_ORDER, EmotionNetwork

DIMS = {Modality.A: 5, Modality.V: 7, Modality.T: 11}
LENGTHS = (5, 6, 17, 60)


def _utterances(pattern: Pattern) -> list[dict[Modality, Any]]:
    rng = np.random.default_rng(5)
    return [
        {m: rng.standard_normal((frames, DIMS[m])).astype(np.float32) for m in pattern}
        for frames in LENGTHS
    ]


def _difference(network: EmotionNetwork, pattern: Pattern, small: nn.Module) -> float:
    worst = 0.0
    for x in _utterances(pattern):
        truth = logits_alone(network, Utterance("x", dict(x), 0))
        with torch.no_grad():
            found = small(*(torch.from_numpy(x[m]).double() for m in pattern)).numpy()
        worst = max(worst, float(np.abs(found - truth).max()))
    return worst


@pytest.mark.parametrize(("kind", "pattern"), CASES, ids=str)
def test_equal_in_float64_and_not_when_nudged(pattern: Pattern, kind: str) -> None:
    network = small_network(kind).double()
    for recurrence in ("lstm", "scan"):
        small = specialise(network, pattern, recurrence=recurrence)
        assert _difference(network, pattern, small) < 1e-12
    nudged = copy.deepcopy(small)
    with torch.no_grad():
        names = dict(nudged.named_parameters())
        last = [name for name in names if name.startswith("head.rest.classifier.linears")][-1]
        names[last][1] += 1e-6
    assert _difference(network, pattern, nudged) > 1e-9


@pytest.mark.parametrize(("kind", "pattern"), CASES, ids=str)
def test_batches_equal_in_float64(pattern: Pattern, kind: str) -> None:
    """Whatever lies past an end, and beside whom."""
    network = small_network(kind).double()
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
    truth = np.stack([logits_alone(network, Utterance("x", dict(x), 0)) for x in utterances])
    assert np.abs(found - truth).max() < 1e-12


@pytest.mark.parametrize(("kind", "pattern"), CASES, ids=str)
def test_streams_equal_in_float64_at_every_frame(pattern: Pattern, kind: str) -> None:
    network = small_network(kind).double()
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
        assert np.abs(found - logits_alone(network, Utterance("x", heard, 0))).max() < 1e-11


def _initial(state: Any) -> torch.Tensor:
    return torch.full((1, *(state.initial_size or state.size)), state.initial).double()


def test_nothing_of_absent_modalities_is_left() -> None:
    network = small_network()
    small = specialise(network, Pattern.parse("a"))
    assert list(small.encoders) == ["a"]
    assert not any(
        "transition" in name or "dropout" in name for name, _ in small.named_parameters()
    )
    count = sum(p.numel() for p in small.parameters())
    assert count < 0.7 * sum(p.numel() for p in network.parameters())


ONE = ("--pattern", "v", "--shape", "latency")


def _recur(network: EmotionNetwork, strength: float) -> None:
    """Recurrent weights of a that keep its state moving, or let it rest."""
    encoder = network.encoder(Modality.A)
    assert isinstance(encoder, SequenceEncoder)
    with torch.no_grad():
        encoder.rnn.get_parameter("weight_hh_l0").mul_(strength)


def test_what_is_recorded_is_true() -> None:
    network = small_network()
    _recur(network, 0.1)
    for modality, spec in measure_missing(network).items():
        assert spec.length == 9
        assert spec.settled_at is not None
        whole = network.double()
        with torch.no_grad():
            embeddings = [
                whole.embed(whole.missing_pooled(modality, n), modality).numpy()
                for n in range(network.config.minimum_length(modality), 60)
            ]
        last = embeddings[-1]
        first = spec.settled_at - network.config.minimum_length(modality)
        assert all(np.abs(e - last).max() <= TOLERANCE for e in embeddings[first:])
        if first:
            assert np.abs(embeddings[first - 1] - last).max() > TOLERANCE
        own = embeddings[9 - network.config.minimum_length(modality)]
        worst = max(np.abs(e - own).max() for e in embeddings[9:])
        assert spec.deviation == pytest.approx(worst, abs=1e-6)


def test_statistics_and_words_settle_at_once_and_a_sum_never() -> None:
    network = small_network("statistics")
    for modality, spec in measure_missing(network).items():
        assert (spec.deviation, spec.settled_at) == (0.0, network.config.minimum_length(modality))
    assert measure_missing(small_network())[Modality.T].settled_at == 5
    spec = measure_missing(small_network("sum"))[Modality.A]
    assert spec.settled_at is None
    assert spec.deviation > 1


def test_an_imported_checkpoint_that_never_settles_is_refused(tmp_path: Path) -> None:
    path, out = tmp_path / "m.safetensors", tmp_path / "bundle"
    save_checkpoint(path, small_network("sum"), {"imported": {"sha256": "0"}})
    words = [str(path), *ONE, "--out", str(out), "--missing-frames"]
    error = mistake(main, *words[:-1])
    assert "never settles" in error
    assert "--missing-frames a=45" in error
    assert not out.exists()
    mistake(main, *words, "a=12")  # v is not settled either
    assert main([*words, "a=12,v=13"]) == 0
    specs = Bundle(out).manifest.modalities
    assert [specs[m].missing.length for m in MODALITIES] == [12, 13, 9]
    assert specs[Modality.A].missing.settled_at is None
    # Graphs with another constant do not join them.
    again = mistake(main, *words, "a=20,v=13")
    assert "take 12 zero frames for a missing a" in again


@pytest.mark.parametrize("record", [{}, {"imported": {"missing_frames": {"a": 9, "v": 9}}}])
def test_what_was_trained_here_or_said_at_import_counts(tmp_path: Path, record: Any) -> None:
    """A network saw exactly this constant while it was trained, and that is only told."""
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, small_network("sum"), record)
    words = [path, *ONE, "--out", tmp_path / "b"]
    ran = call(main, *words)
    assert ran.code == 0
    assert "missing a has not settled at 9 frames" in ran.err


def test_too_few_frames_for_a_kernel(checkpoint: Path, tmp_path: Path) -> None:
    words = [checkpoint, *ONE, "--out", tmp_path / "b", "--missing-frames", "t=4"]
    assert "t=4: the network wants at least 5" in mistake(main, *words)


@pytest.mark.parametrize("text", ["a", "a=", "a=0", "a=-3", "x=5", "a=5,a=6", "a=5;v=6"])
def test_frames_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError):
        frames_by_modality("--missing-frames", text)


@pytest.fixture(scope="module")
def predictor(make_bundle: Any) -> Predictor:
    return Predictor(make_bundle(("t",), shapes=("latency",)), backend="onnxruntime-cpu")


@pytest.mark.parametrize("tokens", range(1, 8))
def test_short_text_is_padded_as_the_network_does(predictor: Predictor, tokens: int) -> None:
    x = np.random.default_rng(tokens).standard_normal((tokens, 11)).astype(np.float32)
    truth = logits_alone(small_network().double(), Utterance("x", {Modality.T: x}, 0))
    np.testing.assert_allclose(predictor.predict({"t": x}).logits, truth, atol=1e-4)
