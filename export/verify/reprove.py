"""Comparison of a bundle's graphs with their checkpoint, on inputs that export never saw."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends import Runner
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.bundle import Bundle, GraphEntry
from ifmmin.runtime.bundle.verify import FLOAT32_LOSS, CheckResult, load_as_exported, recorded
from ifmmin.runtime.console import Advance
from ifmmin.runtime.errors import BundleError, CheckpointError
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.train.checkpoint import load_checkpoint
from ifmmin.train.data.corpus import Utterance
from ifmmin.train.model.network import EmotionNetwork

from ..context import checkpoint_sha256
from .missing import with_missing_frames
from .parity import Comparison, find_violations, fresh_limits
from .probes import (
    FRESH_SEED,
    Probes,
    StreamProbes,
    compare_probes,
    run_alone,
    run_batches,
    run_head,
    run_summary,
)

WHAT = "fresh probes"
SHAPES = ("latency", "throughput", "head")
"""What gives logits; steps and summaries are proven by heads."""
_STREAMS, _LONG = 10, 900
"""Utterances that are cut into chunks, and frames of one that is longer."""


def comparable(bundle: Bundle) -> list[GraphEntry]:
    """The graphs that `reprove` compares."""
    return [entry for entry in bundle.manifest.graphs if entry.shape in SHAPES]


def reprove(bundle: Bundle, checkpoint: Path, *, advance: Advance) -> list[CheckResult]:
    """Compare every latency, throughput and head graph with the network in float64.

    advance: called once per graph. Raises CheckpointError where the file is not the checkpoint of
    the bundle, and BundleError where a graph is damaged.
    """
    network = _network(bundle, checkpoint)
    proof = _Proof(bundle, network)
    checks = []
    for entry in comparable(bundle):
        checks.append(proof.check(entry))
        advance(entry.file)
    return checks


def _network(bundle: Bundle, checkpoint: Path) -> EmotionNetwork:
    """The network as it was exported."""
    found = checkpoint_sha256(checkpoint)
    wanted = bundle.manifest.checkpoint.sha256
    if found != wanted:
        raise CheckpointError(
            f"{checkpoint} is not the checkpoint of {bundle.directory}: its sha256 is "
            f"{found[:12]}..., the bundle was made from {wanted[:12]}...; give that one"
        )
    network, _ = load_checkpoint(checkpoint)
    # The bundle may have been exported with other canonical lengths than the checkpoint's.
    lengths = {m: spec.missing.length for m, spec in bundle.manifest.modalities.items()}
    with_missing_frames(network, lengths)
    # What it was shown at export, and did not know itself, the golden inputs were drawn from.
    golden = [Utterance("golden", dict(features), 0) for features in bundle.golden_inputs()]
    for modality in network.modalities:
        if not network.observed(modality).known:
            network.observed(modality).watch(golden, modality)
    return network


class _Proof:
    def __init__(self, bundle: Bundle, network: EmotionNetwork) -> None:
        self._bundle = bundle
        self._engine = OnnxRuntimeCpu()
        self._probes = Probes(network, seed=FRESH_SEED)
        self._summaries: dict[tuple[Modality, str], NDArray[np.floating]] = {}

    @cached_property
    def _streams(self) -> StreamProbes:
        return StreamProbes(self._probes.truth, self._probes.stream_inputs(_STREAMS, _LONG))

    def check(self, entry: GraphEntry) -> CheckResult:
        assert entry.pattern is not None
        comparison = self._compare(entry, entry.pattern)
        limits = fresh_limits(entry)
        found = find_violations(entry.file, comparison, None, limits)
        detail = "; ".join(
            v.reason or f"{v.figure} {v.got:.2g}, allowed {v.allowed:.2g}" for v in found
        )
        by_logits = limits.logits is not None
        return CheckResult(
            file=entry.file,
            what=WHAT,
            passed=not found,
            detail=detail or str(comparison),
            difference=comparison.max_difference if by_logits else comparison.probability_max,
            unit="logit" if by_logits else "probability",
            allowed=limits.logits if by_logits else limits.probabilities,
        )

    def _compare(self, entry: GraphEntry, pattern: Pattern) -> Comparison:
        loss = recorded(entry, FLOAT32_LOSS)
        if entry.shape == "head":
            made = {m: self._summarised(m, entry.precision) for m in pattern}
            found = run_head(self._load(entry), pattern, made)
            return compare_probes(found, self._streams.of(pattern), loss)
        drive = run_alone if entry.shape == "latency" else run_batches
        probes = self._probes.of(pattern)
        return compare_probes(drive(self._load(entry), probes), probes, loss)

    def _summarised(self, modality: Modality, precision: str) -> NDArray[np.floating]:
        """Summaries (N, S) of a modality after every chunk."""
        key = (modality, precision)
        if key not in self._summaries:
            step, summary = (self._one(shape, *key) for shape in ("step", "summary"))
            pooled = self._streams.pooled(modality, step, self._load(step))
            self._summaries[key] = run_summary(self._load(summary), pooled)
        return self._summaries[key]

    def _one(self, shape: str, modality: Modality, precision: str) -> GraphEntry:
        found = self._bundle.find(shape, modality, precision)
        if not found:
            raise BundleError(
                f"{self._bundle.directory} has heads but no {precision} {shape} graph of "
                f"{modality}; export it again"
            )
        return found[0]

    def _load(self, entry: GraphEntry) -> Runner:
        content = self._bundle.graph(entry)
        return load_as_exported(self._engine, self._bundle.manifest, entry, content)
