"""Where a peer cannot run, one line says why; nothing is imported to find out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from small_bundles import small_bundle

from ifmmin.benchmarks.peers import base
from ifmmin.benchmarks.peers.base import PEERS, Source, find_peer
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import BackendUnavailable, CheckpointError, InputError
from ifmmin.train.network import EmotionNetwork

Make = Callable[..., EmotionNetwork]


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
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'openvino'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from ifmmin.benchmarks.peers.base import Source\n"
        "from ifmmin.benchmarks.peers.base import PEERS\n"
        "reasons = {peer.available(Source(Path('m.safetensors'))) for peer in PEERS}\n"
        "assert len(reasons) == 1, reasons\n"
        "assert 'torch is not installed; run pip install' in reasons.pop()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_without_a_checkpoint(peer: Any) -> None:
    assert reason(peer.name, Source()).startswith("no checkpoint was given")
    with pytest.raises(CheckpointError, match="no checkpoint was given"):
        _ = Source().network


@pytest.mark.parametrize("package", ["torch", "onnx"])
def test_without_a_package(
    make_network: Make, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    absent = {package: None}
    monkeypatch.setattr(base, "find_spec", lambda name: absent.get(name, find_spec(name)))
    assert f"{package} is not installed" in reason("eager", Source(network=make_network()))


def test_networks_without_zeros(make_network: Make) -> None:
    found = reason("monolith", Source(network=make_network("statistics")))
    assert "pools statistics" in found


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        find_peer("eager").available(Source(tmp_path / "none"))


def test_the_checkpoint_of_the_bundle(
    make_network: Make, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = small_bundle(make_network, tmp_path_factory)
    bundle = Bundle(folder)
    own = Source.of_bundle(bundle, folder.parent / "model.safetensors")
    assert find_peer("eager").available(own) is None
    with pytest.raises(CheckpointError, match=r"was made from .*; give that checkpoint"):
        Source.of_bundle(bundle, checkpoint)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Source.of_bundle(bundle, folder.parent / "none")
    assert "no checkpoint" in reason("eager", Source.of_bundle(bundle, None))


def test_threads(make_network: Make) -> None:
    with pytest.raises(InputError, match="threads: got 0, wanted 1 or more"):
        find_peer("eager").open(Source(network=make_network()), 0)


def test_no_compiler(make_network: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = reason("compile", Source(network=make_network()))
    assert found.startswith("no C++ compiler no-such-compiler")
