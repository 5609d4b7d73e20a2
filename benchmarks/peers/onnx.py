"""Monolith, the peer to beat: the whole network exported to ONNX, zeros for what is missing.

The runtime's own backends run it, so that what differs from ours is the graph and nothing else.
Its inputs are already standardised; that work is not counted against it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifmmin.export.graph import OPSET, trace
from ifmmin.export.writer import modality_specs
from ifmmin.runtime.backends import BackendOptions, make_backend
from ifmmin.runtime.bundle import (
    BACKENDS,
    SCHEMA_VERSION,
    Bundle,
    EngineEntry,
    Golden,
    GraphEntry,
    Manifest,
    MissingSpec,
    Origin,
)
from ifmmin.runtime.bundle.graph_file import TensorSpec
from ifmmin.runtime.errors import BackendUnavailable
from ifmmin.runtime.modality import MODALITIES, Pattern
from ifmmin.train.model.network import EmotionNetwork

from .base import Features, Lengths, OpenPeer
from .torch import Standardised, example_inputs, standardise, whole

FILE = "monolith.onnx"


class Monolith(OpenPeer):
    """One ONNX graph of the whole network, all three inputs always given.

    backend: the runtime's name of what executes it. Those of GPUs were not run on one.
    """

    def __init__(
        self, network: EmotionNetwork, threads: int = 1, backend: str = "onnxruntime-cpu"
    ) -> None:
        super().__init__(network, threads)
        bundle = MonolithBundle(network)
        made = make_backend(backend, BackendOptions(threads=threads))
        loaded = made.open(bundle, bundle.manifest.graphs[0])
        self._run = loaded.run
        self._said = loaded.notes
        self.placement = loaded.placement

    @classmethod
    def lacks(cls, backend: str = "onnxruntime-cpu") -> str | None:
        """What the runtime's backend misses."""
        try:
            make_backend(backend)
        except BackendUnavailable as error:
            return str(error)
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the backend says."""
        return self._said

    def prepare(self, features: Features, lengths: Lengths) -> Standardised:
        """Standardised arrays (T, D) of all three modalities."""
        return standardise(self.network, features, lengths)

    def __call__(self, inputs: Standardised) -> NDArray[np.float32]:
        """Logits (C,) of prepared inputs."""
        logits: NDArray[np.float32] = self._run({m.value: x for m, x in inputs.items()})[0][0]
        return logits


class MonolithBundle(Bundle):
    """A bundle of one graph in memory: the monolith, as the runtime's backends want it."""

    def __init__(self, network: EmotionNetwork) -> None:
        self.directory = Path(FILE)
        self._content = export_monolith(network)
        # No graph of it stands for a missing modality by a constant, so nothing was measured.
        missing = {
            m: MissingSpec(length=feature.missing_length, deviation=0, settled_at=None, tolerance=0)
            for m, feature in network.config.features.items()
        }
        self.manifest = Manifest(
            schema=SCHEMA_VERSION,
            labels=network.config.labels,
            modalities=modality_specs(network, missing),
            graphs=(_entry(network, self._content),),
            backends=BACKENDS,
            golden=Golden(file="none", sha256=""),
            checkpoint=Origin(sha256="", model=network.config.architecture.model, training={}),
            tools={},
        )

    def graph(self, entry: GraphEntry | EngineEntry) -> bytes:
        """The one graph."""
        return self._content


def export_monolith(network: EmotionNetwork) -> bytes:
    """The ONNX graph: (T, D) for a, v and t -> `logits` (1, C), T free for each."""
    names = [m.value for m in MODALITIES]
    axes = {name: {0: f"T_{name}"} for name in names}
    model = trace(whole(network), example_inputs(network), names, ["logits"], axes)
    content: bytes = model.SerializeToString()
    return content


def _entry(network: EmotionNetwork, content: bytes) -> GraphEntry:
    inputs = tuple(
        TensorSpec(name=m.value, dtype="float32", shape=(f"T_{m}", network.config.frame_width(m)))
        for m in MODALITIES
    )
    logits = TensorSpec(name="logits", dtype="float32", shape=(1, len(network.config.labels)))
    return GraphEntry(
        shape="latency",
        subject=str(Pattern.of(MODALITIES)),
        precision="fp32",
        recurrence="lstm",
        file=FILE,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        opset=OPSET,
        inputs=inputs,
        outputs=(logits,),
        parity={},
    )
