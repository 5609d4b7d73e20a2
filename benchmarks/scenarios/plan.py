"""What a run of the benchmark is to measure, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ifmmin.benchmarks.timing import WARM_UP
from ifmmin.runtime.modality import Modality, Pattern

ORDINARY: Mapping[Modality, int] = {Modality.A: 50, Modality.V: 50, Modality.T: 22}
"""Frames of an ordinary IEMOCAP utterance; T_a = 50 is the length of the published goals."""
ACOUSTIC_LENGTHS = (10, 50, 100, 400)
BATCHES = (1, 8, 32, 128)
MONOLITH = "monolith"
"""The peer that others are told against: the network, exported once, in ONNX Runtime."""


@dataclass(frozen=True)
class Plan:
    """A run. Everything that changes a figure is here and goes into the record."""

    bundle: Path
    checkpoint: Path | None = None
    """The one that the bundle was made from; without it no peers run."""
    scenarios: tuple[str, ...] = ()
    """Empty: all."""
    patterns: tuple[Pattern, ...] = ()
    """Empty: those of the bundle."""
    backends: tuple[str, ...] = ("onnxruntime-cpu",)
    precisions: tuple[str, ...] = ("fp32",)
    threads: tuple[int, ...] = (1,)
    """The first has every scenario and all peers, further ones latency beside the monolith."""
    peers: tuple[str, ...] = (MONOLITH,)
    rounds: int = 200
    """Of every group of calls that take turns."""
    warm_up: int = WARM_UP
    """Calls of each before the first round."""
    seconds: float = 20.0
    """A group stops there, with the rounds that it has."""
    budget: float | None = None
    """Seconds that all of the run may take; groups get fewer rounds for it. None: no end."""
    seed: int = 0
    fold: int | None = None
    """Whose test part the accuracy is of; None: it is not measured."""
    features: Path | None = None
    """Corpus of the accuracy, with `targets`; None: the recipe's needs no files."""
    targets: Path | None = None
    full_rules: bool = False
    """MLPerf's durations for scenarios of the load generator."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """More to write down."""
