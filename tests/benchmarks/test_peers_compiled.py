"""torch.compile: compiled before it is timed, once for all lengths, and never unseen."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ifmmin.benchmarks.peers.base import Source, find_peer
from ifmmin.benchmarks.peers.parity import LENGTHS, make_cases, open_proven, prove
from ifmmin.benchmarks.peers.torch import Compiled
from ifmmin.runtime.errors import BackendUnavailable, ParityError
from ifmmin.runtime.modality import ALL_PATTERNS, Modality
from ifmmin.train.network import EmotionNetwork

PEER = find_peer("compile")
LONGER = [lengths for lengths in LENGTHS if min(lengths.values()) > 1]
SINGLE = {Modality.A: 1, Modality.V: 1, Modality.T: 5}
"""One frame, and one window of text: PyTorch compiles for sizes of 1 apart."""


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the C++ compiler, which takes its time."""
    monkeypatch.setattr(Compiled, "backend", "aot_eager")
    torch._dynamo.reset()


@pytest.fixture
def network(make_network: Callable[..., EmotionNetwork]) -> EmotionNetwork:
    return make_network()


def require_compiler(source: Source) -> None:
    reason = PEER.available(source)
    if reason is not None:
        pytest.skip(reason)


def test_new_lengths_compile_nothing(traced: None, network: EmotionNetwork) -> None:
    contender = Compiled(network)
    graphs = contender.notes
    assert graphs[0].startswith("compiled into ")
    prove("compile", contender, make_cases(network, ALL_PATTERNS, LONGER), 1e-3)
    assert contender.notes == graphs
    prove("compile", contender, make_cases(network, ALL_PATTERNS, [SINGLE]), 1e-3)
    assert contender.notes != graphs


def test_no_program_for_single_frames_is_made_to_be_proven(
    traced: None, network: EmotionNetwork
) -> None:
    source = Source(network=network)
    require_compiler(source)
    graphs = Compiled(network).notes
    torch._dynamo.reset()
    assert open_proven(PEER, source).contender.notes == graphs


def test_what_compiles_late_is_told(traced: None, network: EmotionNetwork) -> None:
    contender = Compiled(network)
    (case,) = make_cases(network, ALL_PATTERNS[-1:], [SINGLE])
    inputs = super(Compiled, contender).prepare(case.features, case.lengths)
    contender(inputs)
    assert "more were compiled while it was timed" in contender.notes[1]
    before = contender.build_seconds
    assert len(contender.notes) == 2
    contender.prepare(case.features, case.lengths)
    assert contender.build_seconds > before
    assert len(contender.notes) == 1


def test_a_wrong_weight_is_found(
    traced: None, network: EmotionNetwork, make_network: Callable[..., EmotionNetwork]
) -> None:
    cases = make_cases(make_network(), ALL_PATTERNS, LENGTHS[:1])
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


def test_with_the_compiler(
    make_network: Callable[..., EmotionNetwork], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one, on the smallest of networks; it takes half a minute of compiling."""
    source = Source(network=make_network("augmented"))
    require_compiler(source)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    torch._dynamo.reset()
    proven = open_proven(PEER, source, patterns=ALL_PATTERNS[2:4], lengths=LENGTHS[:3])
    assert proven.comparison.max_difference < 1e-4
    assert proven.contender.build_seconds > 1
    assert len(proven.contender.notes) == 1
    left = {path.name for path in tmp_path.iterdir()}
    assert not {name for name in left if not name.startswith("torchinductor_")}, "PyTorch's headers"
