"""Interface of peers: other ways to run the same weights.

A `Peer` says what it is and whether it can run here, without importing torch; `open` makes a
`OpenPeer` of it, which holds the weights and answers. Shapes: T frames, D features, C classes.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import BackendUnavailable, CheckpointError, InputError
from ifmmin.runtime.modality import Modality

if TYPE_CHECKING:
    from ifmmin.train.model.network import EmotionNetwork

Features = Mapping[Modality, NDArray[np.float32]]
"""Per present modality raw features (T, D)."""
Lengths = Mapping[Modality, int]
"""Per modality how many zero frames stand for it where it is missing."""

FLOAT32_TOLERANCE = 1e-3
"""Largest difference of a logit to the network that a float32 peer may show."""
_TF32_TOLERANCE = 0.05
"""TensorRT inside of ONNX Runtime may drop 13 bits of every factor, and has no option against."""


class OpenPeer(ABC):
    """A peer that holds the weights. Not for use from two threads at once.

    Answers are those of the whole network, fed zeros for what is missing, before calibration.
    backend: the runtime's name of what executes it, for peers that any of its backends can run.
    """

    fewest_frames = 1
    """Of any modality where it is proven; more than 1 where fewer are another program."""
    placement: Mapping[str, int] = {}
    """Number of nodes by what executes them, where the engine tells."""

    def __init__(self, network: EmotionNetwork, threads: int = 1, backend: str = "") -> None:
        self.network = network
        self.threads = threads

    @classmethod
    def lacks(cls, backend: str = "") -> str | None:
        """Why it cannot run on this machine, in one line; None where it can."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its figures should know."""
        return ()

    @abstractmethod
    def prepare(self, features: Features, lengths: Lengths) -> Any:
        """The inputs of a call, standardised, with zeros for what is missing; not to be timed."""

    @abstractmethod
    def __call__(self, inputs: Any) -> NDArray[np.float32]:
        """Logits (C,) of prepared inputs: the call that is timed."""


class Source:
    """Where the weights come from: a checkpoint, read when it is needed, or a network."""

    def __init__(
        self, checkpoint: Path | None = None, *, network: EmotionNetwork | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self._given = network

    @classmethod
    def of_bundle(cls, bundle: Bundle, checkpoint: Path | None) -> Source:
        """The checkpoint that a bundle was made from; CheckpointError for any other."""
        if checkpoint is not None:
            try:
                found = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
            except OSError as error:
                raise CheckpointError(
                    f"{checkpoint} cannot be read ({error.strerror}); give the checkpoint of the "
                    "bundle"
                ) from error
            wanted = bundle.manifest.checkpoint.sha256
            if found != wanted:
                raise CheckpointError(
                    f"{checkpoint} has sha256 {found[:12]}..., the bundle {bundle.directory} was "
                    f"made from {wanted[:12]}...; give that checkpoint, or export this one"
                )
        return cls(checkpoint)

    @property
    def lacks(self) -> str | None:
        """Why no peer can be made of it, in one line; None where one can. Raises CheckpointError
        for a file that is no checkpoint."""
        if self._given is None and self.checkpoint is None:
            return "no checkpoint was given; peers are made from the one that the bundle came from"
        for package in ("torch", "onnx"):
            if find_spec(package) is None:
                return f"{package} is not installed; run pip install 'ifmmin[export]'"
        from .torch import unsupported

        return unsupported(self.network)

    @cached_property
    def network(self) -> EmotionNetwork:
        """The network in eval mode."""
        if self._given is not None:
            return self._given
        if self.checkpoint is None:
            raise CheckpointError("no checkpoint was given; peers are made from one")
        from ifmmin.train.checkpoint import load_checkpoint

        return load_checkpoint(self.checkpoint)[0]


@dataclass(frozen=True)
class Peer:
    """A way to run the whole network; importing it imports no engine."""

    name: str
    home: str
    """Module and class of its contender, `torch:Eager`."""
    backend: str
    """What executes it, by the runtime's names where the runtime knows it too."""
    tolerance: float = FLOAT32_TOLERANCE
    """Largest difference of a logit to the network that it may show and be timed; where the
    network's largest logit is above 20, that times its twentieth."""

    def available(self, source: Source) -> str | None:
        """Why it cannot be opened here, in one line; None where it can."""
        return source.lacks or self._kind().lacks(self.backend)

    def open(self, source: Source, threads: int = 1) -> OpenPeer:
        """Make it ready. Raises BackendUnavailable where it cannot run."""
        if threads < 1:
            raise InputError(f"threads: got {threads}, wanted 1 or more")
        reason = self.available(source)
        if reason is not None:
            raise BackendUnavailable(f"peer {self.name} cannot run here: {reason}")
        return self._kind()(source.network, threads, self.backend)

    def _kind(self) -> type[OpenPeer]:
        module, name = self.home.split(":")
        kind: type[OpenPeer] = getattr(import_module(f"ifmmin.benchmarks.peers.{module}"), name)
        return kind


PEERS: tuple[Peer, ...] = (
    Peer("eager", "torch:Eager", "torch"),
    Peer("compile", "torch:Compiled", "torch"),
    Peer("torchscript", "torch:TorchScript", "torch"),
    Peer("monolith", "onnx:Monolith", "onnxruntime-cpu"),
    Peer("openvino", "onnx:Monolith", "openvino"),
    Peer("onnxruntime-cuda", "onnx:Monolith", "onnxruntime-cuda"),
    Peer("onnxruntime-tensorrt", "onnx:Monolith", "onnxruntime-tensorrt", _TF32_TOLERANCE),
    Peer("tensorrt", "onnx:Monolith", "tensorrt"),
)
"""What one would use instead, from the plainest on."""


def find_peer(name: str) -> Peer:
    """The peer called `name`; InputError lists them."""
    peers = {peer.name: peer for peer in PEERS}
    if name not in peers:
        raise InputError(f"unknown peer {name!r}; use one of {', '.join(peers)}")
    return peers[name]
