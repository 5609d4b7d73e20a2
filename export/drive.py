"""Runs graphs the way they are used: one utterance, mixed batches, streams in chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ifmmin.export.probes import Probe, Truth
from ifmmin.runtime.backends import Runner
from ifmmin.runtime.batch import pad_batch
from ifmmin.runtime.bundle import Features
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern
from ifmmin.runtime.step import ModalityStream, StepInterface

BATCH_SIZES = (1, 3, 8, 13)
"""Sizes of the batches in which probes are run, in turn."""
_GARBAGE = 3e3
"""What lies past an end: it must not matter."""
CHUNKS = (1, 1, 2, 5, 1, 13, 3)
"""Frames that a stream gets at a time, in turn, beginning elsewhere for each modality."""
_CHUNKS_LONG = 397


def run_alone(run: Runner, probes: Sequence[Probe]) -> NDArray[np.floating]:
    """Logits (N, C) of a latency graph."""
    rows = []
    for probe in probes:
        try:
            rows.append(run({m.value: x for m, x in probe.features.items()})[0])
        except Exception:  # what ONNX Runtime raises has no other base
            rows.append(np.full(len(probe.logits), np.inf, dtype=np.float32))
    return np.stack(rows)


def run_batches(
    run: Runner, probes: Sequence[Probe], sizes: Sequence[int] = BATCH_SIZES
) -> NDArray[np.floating]:
    """Logits (N, C) of a throughput graph, in batches of mixed lengths padded with garbage.

    The order is that of the probes; long and short ones share batches.
    """
    order = np.argsort([(7 * i) % len(probes) for i in range(len(probes))], kind="stable")
    found = np.zeros((len(probes), len(probes[0].logits)), dtype=np.float32)
    start = turn = 0
    while start < len(order):
        rows = order[start : start + sizes[turn % len(sizes)]]
        try:
            found[rows] = run(pad_batch([probes[i].features for i in rows], _GARBAGE))[0]
        except Exception:  # what ONNX Runtime raises has no other base
            found[rows] = np.inf
        start, turn = start + len(rows), turn + 1
    return found


class StreamProbes:
    """Utterances cut into chunks, with the network's answer after every chunk."""

    def __init__(self, truth: Truth, utterances: Sequence[Features]) -> None:
        self.utterances = utterances
        network = truth.network
        shortest = {m: network.config.minimum_length(m) for m in MODALITIES}
        self.ends = [
            {m: _ends(len(x), shortest[m], i) for i, (m, x) in enumerate(features.items())}
            for features in utterances
        ]
        prefixes = []
        for features, ends in zip(utterances, self.ends, strict=True):
            for number in range(max(len(e) for e in ends.values())):
                prefixes.append({m: x[: _at(ends[m], number)] for m, x in features.items()})
        self.prefixes = prefixes
        self._truth = truth.logits(prefixes)

    def of(self, pattern: Pattern) -> list[Probe]:
        """After every chunk: the prefixes and the network's answers to them."""
        rows = zip(self.prefixes, self._truth[pattern], strict=True)
        return [Probe({m: features[m] for m in pattern}, logits) for features, logits in rows]

    def pooled(
        self, modality: Modality, step: StepInterface, run: Runner
    ) -> list[NDArray[np.floating]]:
        """What a step pools of a modality, (1, P), after every chunk.

        step, run: a step graph's interface and its loaded form.
        """
        rows = []
        for features, ends in zip(self.utterances, self.ends, strict=True):
            frames, stream, start, made = features[modality], ModalityStream(step, run), 0, []
            for end in ends[modality]:
                made.append(stream.push(frames[None, start:end]))
                start = end
            for number in range(max(len(e) for e in ends.values())):
                rows.append(made[min(number, len(made) - 1)])
        return rows


def run_summary(run: Runner, pooled: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """Summaries (N, S) of N times what a step pooled (1, P), one at a time."""
    return np.concatenate([run({"pooled": x})[0] for x in pooled])


def run_head(
    run: Runner, pattern: Pattern, summaries: Mapping[Modality, NDArray[np.floating]]
) -> NDArray[np.floating]:
    """Logits (N, C) of a head graph, one stream at a time."""
    given = {m.value: summaries[m].astype(np.float32) for m in pattern}
    count = len(next(iter(given.values())))
    rows = [run({name: x[i : i + 1] for name, x in given.items()})[0] for i in range(count)]
    return np.concatenate(rows)


def _at(ends: Sequence[int], number: int) -> int:
    return ends[min(number, len(ends) - 1)]


def _ends(length: int, shortest: int, offset: int) -> list[int]:
    """Frames heard after each chunk; the first chunk has at least the minimum."""
    ends, turn = [min(length, shortest + offset)], offset
    while ends[-1] < length:
        chunk = _CHUNKS_LONG if length > 10 * _CHUNKS_LONG // 4 else CHUNKS[turn % len(CHUNKS)]
        ends.append(min(length, ends[-1] + chunk))
        turn += 1
    return ends
