"""A missing modality is a constant as far as its encoder settles, and that is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ifmmin.export.cli import main, parse_frames
from ifmmin.export.missing import TOLERANCE, measure_missing
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.checkpoint import save_checkpoint
from ifmmin.train.encoders import SequenceEncoder
from ifmmin.train.network import EmotionNetwork

ONE = ("--pattern", "v", "--shape", "latency")


def _recur(network: EmotionNetwork, strength: float) -> None:
    """Recurrent weights of a that keep its state moving, or let it rest."""
    encoder = network.encoder(Modality.A)
    assert isinstance(encoder, SequenceEncoder)
    with torch.no_grad():
        encoder.rnn.get_parameter("weight_hh_l0").mul_(strength)


def test_what_is_recorded_is_true(make_network: Any) -> None:
    network = make_network()
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


def test_statistics_and_words_settle_at_once(make_network: Any) -> None:
    network = make_network("statistics")
    for modality, spec in measure_missing(network).items():
        assert (spec.deviation, spec.settled_at) == (0.0, network.config.minimum_length(modality))
    assert measure_missing(make_network())[Modality.T].settled_at == 5


def test_a_sum_never_settles(make_network: Any) -> None:
    spec = measure_missing(make_network("sum"))[Modality.A]
    assert spec.settled_at is None
    assert spec.deviation > 1


def test_an_imported_checkpoint_that_never_settles_is_refused(
    make_network: Any, tmp_path: Path, capsys: Any
) -> None:
    path, out = tmp_path / "m.safetensors", tmp_path / "bundle"
    save_checkpoint(path, make_network("sum"), {"imported": {"sha256": "0"}})
    assert main([str(path), *ONE, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "never settles" in error
    assert "--missing-frames a=45" in error
    assert error.count("\n") == 1
    assert not out.exists()
    words = [str(path), *ONE, "--out", str(out), "--missing-frames"]
    assert main([*words, "a=12"]) == 2  # v is not settled either
    loose = ["--allow-loss", "logits=1e-3"]  # a sum over 2,000 frames rounds
    assert main([*words, "a=12,v=13", *loose]) == 0
    specs = Bundle(out).manifest.modalities
    assert [specs[m].missing.length for m in MODALITIES] == [12, 13, 9]
    assert specs[Modality.A].missing.settled_at is None
    # Graphs with another constant do not join them.
    assert main([*words, "a=20,v=13", *loose]) == 2
    assert "take 12 zero frames for a missing a" in capsys.readouterr().err


def test_what_was_said_at_import_counts(make_network: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    record = {"imported": {"missing_frames": {"a": 9, "v": 9}}}
    save_checkpoint(path, make_network("sum"), record)
    words = [str(path), *ONE, "--out", str(tmp_path / "b"), "--allow-loss", "logits=1e-3"]
    assert main(words) == 0


def test_a_network_trained_here_is_only_told_of(
    make_network: Any, tmp_path: Path, capsys: Any
) -> None:
    """It saw exactly this constant while it was trained."""
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, make_network("sum"), {})
    words = [str(path), *ONE, "--out", str(tmp_path / "b"), "--allow-loss", "logits=1e-3"]
    assert main(words) == 0
    assert "missing a has not settled at 9 frames" in capsys.readouterr().err


def test_too_few_frames_for_a_kernel(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    words = [str(checkpoint), *ONE, "--out", str(tmp_path / "b"), "--missing-frames", "t=4"]
    assert main(words) == 2
    assert "t=4: the network wants at least 5" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a", "a=", "a=0", "a=-3", "x=5", "a=5,a=6", "a=5;v=6"])
def test_frames_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError):
        parse_frames(text)
