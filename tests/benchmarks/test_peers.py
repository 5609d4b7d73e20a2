"""Every peer that can run here answers as the network does, and one that does not is not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import Machine, machine
from fake_onnxruntime import CUDA, FakeOnnxRuntime, fake_driver

from ifmmin.benchmarks.peers.base import PEERS, Contender, Peer, Source, find_peer
from ifmmin.benchmarks.peers.parity import LENGTHS, make_cases, open_proven, prove
from ifmmin.benchmarks.peers.torch import Eager
from ifmmin.runtime.backends import onnxruntime_gpu
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.train.network import EmotionNetwork

QUICK = [peer for peer in PEERS if peer.name != "compile"]
"""See test_peers_compiled for the other."""
REFERENCE_KINDS = ("if-mmin", "parallel", "mmin", "augmented", "short-s", "attention", "transforms")
"""Kinds of network whose encoders are the reference's."""

gpu = pytest.fixture(machine)


@pytest.fixture
def source(make_network: Callable[..., EmotionNetwork]) -> Source:
    return Source(network=make_network())


def require(peer: Peer, source: Source) -> None:
    reason = peer.available(source)
    if reason is not None:
        pytest.skip(f"peer {peer.name}: {reason}")


def nudged(network: EmotionNetwork, name: str) -> EmotionNetwork:
    """The network with one weight in ten of a layer moved by a fifth."""
    state = {key: value.clone() for key, value in network.state_dict().items()}
    state[name].view(-1)[::10] *= 1.2
    network.load_state_dict(state)
    return network


@pytest.mark.parametrize("peer", QUICK, ids=lambda peer: peer.name)
def test_answers_are_those_of_the_network(peer: Peer, source: Source) -> None:
    require(peer, source)
    proven = open_proven(peer, source)
    assert proven.comparison.probes == len(ALL_PATTERNS) * len(LENGTHS)
    assert proven.comparison.classes > 2, "a comparison in which one class always wins is weak"
    if peer.tolerance < 0.01:
        assert proven.comparison.max_difference < 1e-4
    assert "of the network, 100% of 28 answers agree" in proven.note
    assert proven.contender.build_seconds > 0
    assert proven.contender.threads == 1


@pytest.mark.parametrize("kind", REFERENCE_KINDS)
@pytest.mark.parametrize("name", ["eager", "monolith"])
def test_answers_of_every_kind_of_network(
    make_network: Callable[..., EmotionNetwork], kind: str, name: str
) -> None:
    source = Source(network=make_network(kind))
    proven = open_proven(find_peer(name), source, lengths=LENGTHS[:2])
    assert proven.comparison.max_difference < 1e-4


@pytest.mark.parametrize("peer", QUICK, ids=lambda peer: peer.name)
@pytest.mark.parametrize(
    "weight", ["encoders.a.rnn.weight_ih_l0", "encoders.t.weights.1", "classifier.linears.0.weight"]
)
def test_a_wrong_weight_is_found(
    make_network: Callable[..., EmotionNetwork], source: Source, peer: Peer, weight: str
) -> None:
    require(peer, source)
    cases = make_cases(source.network, ALL_PATTERNS, LENGTHS[:1])
    contender = peer.open(Source(network=nudged(make_network(), weight)))
    with pytest.raises(ParityError) as caught:
        prove(peer.name, contender, cases, peer.tolerance)
    message = str(caught.value)
    assert message.startswith(f"peer {peer.name} is wrong and was not timed: ")
    assert f"allowed {peer.tolerance:.0e}" in message
    assert "\n" not in message


class ShortZeros(Eager):
    """Feeds five zeros whatever it was told, as one does who exports without thinking."""

    def prepare(self, features: Any, lengths: Any) -> Any:
        return super().prepare(features, dict.fromkeys(lengths, 5))


class NoNumber(Eager):
    def __call__(self, inputs: Any) -> Any:
        return super().__call__(inputs) * np.float32(np.nan)


@pytest.mark.parametrize("kind", [ShortZeros, NoNumber])
def test_other_faults_are_found(source: Source, kind: type[Contender]) -> None:
    cases = make_cases(source.network, [Pattern.parse("v")], LENGTHS)
    prove("eager", Eager(source.network), cases, 1e-3)
    with pytest.raises(ParityError, match="peer faulty is wrong"):
        prove("faulty", kind(source.network), cases, 1e-3)


def test_the_truth_is_the_reference_with_its_zeros(
    make_network: Callable[..., EmotionNetwork],
) -> None:
    """The length of what is missing shows in the reference's answers, and none else does."""
    network, a = make_network(), Pattern.parse("a")
    lengths = [dict(zip(Modality, frames, strict=True)) for frames in ((9, 9, 9), (9, 3, 9))]
    first, second = make_cases(network, [a], lengths)
    (again,) = make_cases(network, [a], lengths[:1])
    assert np.array_equal(first.logits, again.logits)
    assert not np.allclose(first.logits, second.logits, atol=1e-3)


def test_a_peer_leaves_the_network_alone(source: Source) -> None:
    before = {name: value.clone() for name, value in source.network.state_dict().items()}
    peer = find_peer("torchscript")
    open_proven(peer, source, lengths=LENGTHS[:1])
    assert all(torch.equal(before[k], v) for k, v in source.network.state_dict().items())
    assert all(parameter.requires_grad for parameter in source.network.parameters())
    assert not source.network.reference_batches


def test_threads_are_those_asked_for(source: Source) -> None:
    cases = make_cases(source.network, ALL_PATTERNS[:1], LENGTHS[:1])
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            prove("eager", find_peer("eager").open(source, threads), cases, 1e-3)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_native_tensorrt_on_a_made_up_gpu(
    gpu: Machine, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    proven = open_proven(find_peer("tensorrt"), source, lengths=LENGTHS[:2])
    assert gpu.trt.builds == 1
    assert proven.comparison.max_difference < 1e-4
    assert proven.contender.placement["TensorRT"] > 7
    assert any("built here" in note for note in proven.contender.notes)


def test_a_gpu_session_that_answers_zeros_is_not_timed(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeOnnxRuntime(tmp_path, {CUDA: ["LSTM", "Gemm"]}).install()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr(onnxruntime_gpu, "load_driver", fake_driver)
    peer = find_peer("onnxruntime-cuda")
    assert peer.available(source) is None
    contender = peer.open(source)
    assert contender.placement == {CUDA: 2}
    with pytest.raises(ParityError, match="peer onnxruntime-cuda is wrong"):
        prove(peer.name, contender, make_cases(source.network, ALL_PATTERNS, LENGTHS), 1e-3)
