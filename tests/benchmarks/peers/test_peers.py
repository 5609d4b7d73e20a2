"""Every peer that can run here answers as the network does; one that does not is told why not."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_onnxruntime import CUDA, FakeOnnxRuntime, fake_driver
from fake_tensorrt import Machine, machine
from run_command import run_python
from small_networks import small_network
from torch._inductor import config

from ifmmin.benchmarks.peers import base
from ifmmin.benchmarks.peers.base import PEERS, OpenPeer, Peer, Source, find_peer
from ifmmin.benchmarks.peers.parity import LENGTHS, make_cases, open_proven, prove
from ifmmin.benchmarks.peers.torch import Compiled, Eager
from ifmmin.runtime.backends import onnxruntime_gpu
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import BackendUnavailable, CheckpointError, InputError, ParityError
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.train.model.network import EmotionNetwork

QUICK = [peer for peer in PEERS if peer.name != "compile"]
"""See test_peers_compiled for the other."""
REFERENCE_KINDS = ("if-mmin", "parallel", "mmin", "augmented", "short-s", "attention", "transforms")
"""Kinds of network whose encoders are the reference's."""

gpu = pytest.fixture(machine)


@pytest.fixture
def source() -> Source:
    return Source(network=small_network())


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
    assert proven.contender.threads == 1


@pytest.mark.parametrize("kind", REFERENCE_KINDS)
@pytest.mark.parametrize("name", ["eager", "monolith"])
def test_answers_of_every_kind_of_network(kind: str, name: str) -> None:
    source = Source(network=small_network(kind))
    proven = open_proven(find_peer(name), source, lengths=LENGTHS[:2])
    assert proven.comparison.max_difference < 1e-4


@pytest.mark.parametrize("peer", QUICK, ids=lambda peer: peer.name)
@pytest.mark.parametrize(
    "weight", ["encoders.a.rnn.weight_ih_l0", "encoders.t.weights.1", "classifier.linears.0.weight"]
)
def test_a_wrong_weight_is_found(source: Source, peer: Peer, weight: str) -> None:
    require(peer, source)
    cases = make_cases(source.network, ALL_PATTERNS, LENGTHS[:1])
    contender = peer.open(Source(network=nudged(small_network(), weight)))
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
def test_other_faults_are_found(source: Source, kind: type[OpenPeer]) -> None:
    cases = make_cases(source.network, [Pattern.parse("v")], LENGTHS)
    prove("eager", Eager(source.network), cases, 1e-3)
    with pytest.raises(ParityError, match="peer faulty is wrong"):
        prove("faulty", kind(source.network), cases, 1e-3)


def test_the_truth_is_the_reference_with_its_zeros() -> None:
    """The length of what is missing shows in the reference's answers, and none else does."""
    network, a = small_network(), Pattern.parse("a")
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


def reason(name: str, source: Source) -> str:
    """Why a peer cannot run; that opening it says the same is part of it."""
    found = find_peer(name).available(source)
    assert found is not None
    assert "\n" not in found
    with pytest.raises(BackendUnavailable) as caught:
        find_peer(name).open(source)
    assert str(caught.value) == f"peer {name} cannot run here: {found}"
    return found


def test_names() -> None:
    names = [peer.name for peer in PEERS]
    assert len(set(names)) == len(names)
    assert {"eager", "compile", "torchscript", "monolith", "openvino"} < set(names)
    with pytest.raises(InputError, match="unknown peer 'magic'; use one of eager, compile"):
        find_peer("magic")


def test_the_list_needs_no_torch() -> None:
    script = (
        "from pathlib import Path\n"
        "from ifmmin.benchmarks.peers.base import PEERS, Source\n"
        "reasons = {peer.available(Source(Path('m.safetensors'))) for peer in PEERS}\n"
        "assert len(reasons) == 1, reasons\n"
        "assert 'torch is not installed; run pip install' in reasons.pop()\n"
    )
    assert run_python(script, without=("torch", "onnx", "onnxruntime", "openvino")).code == 0


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_without_a_checkpoint(peer: Any) -> None:
    assert reason(peer.name, Source()).startswith("no checkpoint was given")
    with pytest.raises(CheckpointError, match="no checkpoint was given"):
        _ = Source().network


@pytest.mark.parametrize("package", ["torch", "onnx"])
def test_without_a_package(monkeypatch: pytest.MonkeyPatch, source: Source, package: str) -> None:
    absent = {package: None}
    monkeypatch.setattr(base, "find_spec", lambda name: absent.get(name, find_spec(name)))
    assert f"{package} is not installed" in reason("eager", source)


def test_the_checkpoint_of_the_bundle(checkpoint: Path, bundle: Path) -> None:
    opened = Bundle(bundle)
    own = Source.of_bundle(opened, bundle.parent / "model.safetensors")
    assert find_peer("eager").available(own) is None
    with pytest.raises(CheckpointError, match=r"was made from .*; give that checkpoint"):
        Source.of_bundle(opened, checkpoint)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Source.of_bundle(opened, bundle.parent / "none")
    assert "no checkpoint" in reason("eager", Source.of_bundle(opened, None))


def test_failures_to_open(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="threads: got 0, wanted 1 or more"):
        find_peer("eager").open(source, 0)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        find_peer("eager").available(Source(tmp_path / "none"))
    found = reason("monolith", Source(network=small_network("statistics")))
    assert "pools statistics" in found
    found = reason("monolith", Source(network=small_network("two")))
    assert found == "the network has no v; peers run those of a, v and t"
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert reason("compile", source).startswith("no C++ compiler no-such-compiler")


COMPILE = find_peer("compile")
LONGER = [lengths for lengths in LENGTHS if min(lengths.values()) > 1]
SINGLE = {Modality.A: 1, Modality.V: 1, Modality.T: 5}
"""One frame, and one window of text: PyTorch compiles for sizes of 1 apart."""


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the C++ compiler, which takes its time."""
    monkeypatch.setattr(Compiled, "backend", "aot_eager")
    torch._dynamo.reset()


@pytest.fixture
def network(source: Source) -> EmotionNetwork:
    return source.network


def test_new_lengths_compile_nothing(traced: None, network: EmotionNetwork) -> None:
    contender = Compiled(network)
    graphs = contender.notes
    assert graphs[0].startswith("compiled into ")
    prove("compile", contender, make_cases(network, ALL_PATTERNS, LONGER), 1e-3)
    assert contender.notes == graphs
    prove("compile", contender, make_cases(network, ALL_PATTERNS, [SINGLE]), 1e-3)
    assert contender.notes != graphs


def test_no_program_for_single_frames_is_made_to_be_proven(traced: None, source: Source) -> None:
    require(COMPILE, source)
    graphs = Compiled(source.network).notes
    torch._dynamo.reset()
    assert open_proven(COMPILE, source).contender.notes == graphs


def test_what_compiles_late_is_told(traced: None, network: EmotionNetwork) -> None:
    contender = Compiled(network)
    (case,) = make_cases(network, ALL_PATTERNS[-1:], [SINGLE])
    inputs = super(Compiled, contender).prepare(case.features, case.lengths)
    contender(inputs)
    assert "more were compiled while it was timed" in contender.notes[1]
    assert len(contender.notes) == 2
    contender.prepare(case.features, case.lengths)
    assert len(contender.notes) == 1


def test_a_wrong_weight_is_found_when_compiled(traced: None, network: EmotionNetwork) -> None:
    cases = make_cases(small_network(), ALL_PATTERNS, LENGTHS[:1])
    with torch.no_grad():
        network.get_parameter("encoders.v.rnn.weight_hh_l0").mul_(1.05)
    with pytest.raises(ParityError, match="peer compile is wrong"):
        prove("compile", Compiled(network), cases, 1e-3)


def test_a_compiler_that_fails(network: EmotionNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("Python.h: no such file\nand 300 lines more")

    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: fail)
    before = dict(os.environ)
    with pytest.raises(
        BackendUnavailable, match=r"torch.compile fails here \(.*Python.h"
    ) as caught:
        Compiled(network)
    assert "\n" not in str(caught.value)
    assert dict(os.environ) == before


def test_with_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, on the smallest of networks, told last of all to optimise nothing.

    What the processor says of its instructions is believed: each would be tried by a program.
    """
    source = Source(network=small_network("augmented"))
    require(COMPILE, source)
    hasty = tmp_path / "hasty"
    hasty.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX", "g++")} "$@" -O0\n')
    hasty.chmod(0o755)
    monkeypatch.setattr(config.cpp, "cxx", (str(hasty),))
    monkeypatch.setattr(config.cpp, "vec_isa_ok", True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    torch._dynamo.reset()
    proven = open_proven(COMPILE, source, patterns=ALL_PATTERNS[3:4], lengths=LENGTHS[:2])
    assert proven.comparison.max_difference < 1e-4
    assert len(proven.contender.notes) == 1
    left = {path.name for path in tmp_path.iterdir() if path != hasty}
    assert not {name for name in left if not name.startswith("torchinductor_")}, "PyTorch's headers"
