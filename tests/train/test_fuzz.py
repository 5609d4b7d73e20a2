"""Mutated checkpoints, ours and released ones: the very network, or one clear error."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hypothesis import given
from mutations import Change, bounded, fuzzed, mutated, mutations
from safetensors.torch import load
from small_networks import small_network

from ifmmin.runtime.errors import CheckpointError
from ifmmin.train.checkpoint import load_checkpoint, save_checkpoint
from ifmmin.train.reference.weights import read_weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(path, small_network("if-mmin", 0), {"fold": 1})
    return path.read_bytes()


@fuzzed(150)
@given(changes=mutations())
def test_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: bytes, changes: list[Change]
) -> None:
    _same_or_refused(tmp_path_factory.getbasetemp(), checkpoint, mutated(checkpoint, changes))


@fuzzed(150)
@given(changes=mutations((0.0, 0.03)))
def test_checkpoint_header(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: bytes, changes: list[Change]
) -> None:
    _same_or_refused(tmp_path_factory.getbasetemp(), checkpoint, mutated(checkpoint, changes))


def _one_line(error: Exception) -> None:
    assert str(error)
    assert "\n" not in str(error)


def _same_or_refused(folder: Path, sound: bytes, content: bytes) -> None:
    path = folder / "fuzzed.safetensors"
    path.write_bytes(content)
    with bounded():
        try:
            network, _ = load_checkpoint(path)
        except CheckpointError as error:
            _one_line(error)
        else:
            wanted = load(sound)
            for name, tensor in network.state_dict().items():
                assert torch.equal(tensor, wanted[name])


@fuzzed(300)
@given(changes=mutations())
def test_released_weights(changes: list[Change]) -> None:
    with bounded():
        try:
            weights = read_weights(Path("net.pth"), mutated(RELEASED, changes))
            found = {name: weights.take(name, 4, 4) for name in TENSORS}
            weights.finish()
        except CheckpointError as error:
            _one_line(error)
        else:
            assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def _saved(tensors: dict[str, torch.Tensor]) -> bytes:
    content = io.BytesIO()
    torch.save(tensors, content)
    return content.getvalue()


TENSORS = {f"layer{i}.weight": torch.arange(16.0).reshape(4, 4) + i for i in range(3)}
RELEASED = _saved(TENSORS)
