"""Whether graphs answer the golden vectors as their network did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from ifmmin.runtime.backends import Runner
from ifmmin.runtime.batch import pad_batch
from ifmmin.runtime.bundle import Bundle, Features
from ifmmin.runtime.check import Check
from ifmmin.runtime.errors import BundleError, IfmminError, one_line
from ifmmin.runtime.judge import judge
from ifmmin.runtime.manifest import GraphEntry, Manifest
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.step import ModalityStream

WHAT = "golden vectors"
_GARBAGE = 3e3
"""What lies past the ends in a batch: it must not matter."""
_CHUNKS = (1, 1, 2, 5, 1, 13, 3)
"""Frames that a stream gets at a time, in turn, after the first chunk."""

Values = list[NDArray[np.float32]]
"""Per golden input what a step pooled (1, P) or what a summary made of it (1, S)."""


@dataclass(frozen=True)
class GoldenVectors:
    """Inputs of all modalities, and the network's answers under every pattern."""

    inputs: list[Features]
    logits: dict[str, NDArray[np.float32]]
    """Per pattern (N, C)."""

    def of(self, pattern: Pattern) -> list[Features]:
        """The inputs of a pattern."""
        return [{m: features[m] for m in pattern} for features in self.inputs]


def read_golden(bundle: Bundle) -> tuple[GoldenVectors | None, Check]:
    """The golden vectors, None where the file is not what the manifest says."""
    file = bundle.manifest.golden.file
    try:
        inputs, tensors = bundle.golden_inputs(), bundle.golden_tensors()
        subjects = sorted({key.split("/")[1] for key in tensors if key.startswith("logits/")})
        every = range(len(inputs))
        logits = {s: np.stack([tensors[f"logits/{s}/{i}"] for i in every]) for s in subjects}
    except (IfmminError, SafetensorError, LookupError, ValueError) as error:
        return None, Check(file, "file", False, one_line(error))
    if not inputs:
        return None, Check(file, "file", False, "no inputs in it; export the bundle again")
    return GoldenVectors(inputs, logits), Check(file, "file", True, f"{len(inputs)} inputs")


class GoldenRun:
    """Runs the graphs of a bundle on golden vectors, one after the other.

    Steps have to come before summaries, and both before the heads that build on them.
    """

    def __init__(self, manifest: Manifest, vectors: GoldenVectors) -> None:
        self._manifest = manifest
        self._vectors = vectors
        self._values: dict[tuple[str, Modality, str], Values] = {}
        self._heads: list[tuple[GraphEntry, bool]] = []

    def check(self, entry: GraphEntry, run: Runner, *, whole: bool = False) -> Check | None:
        """The verdict; None for steps and summaries that ran, which their heads prove.

        whole: whatever the graph is, `run` takes an utterance, as a latency graph does.
        """
        try:
            verdict = self._check(entry, run, "latency" if whole else entry.shape)
        # An engine may raise anything of a graph that is not what it should be.
        except Exception as error:
            verdict = Check(entry.file, WHAT, False, f"it does not run: {one_line(error)}")
        if entry.shape == "head":
            self._heads.append((entry, verdict is not None and verdict.passed))
        return verdict

    def check_by_heads(self, entry: GraphEntry) -> Check:
        """The verdict on a step or summary once all heads have run: one right answer proves it."""
        heads = [
            (head.file, passed)
            for head, passed in self._heads
            if head.precision == entry.precision and entry.subject in (head.pattern or ())
        ]
        right = next((file for file, passed in heads if passed), None)
        if right is not None:
            return Check(entry.file, WHAT, True, f"{right} answers rightly from it")
        if not heads:
            return Check(entry.file, WHAT, True, "not proven: no head takes it", note=True)
        names = ", ".join(file for file, _ in heads)
        return Check(entry.file, WHAT, False, f"none of the heads answers rightly from it: {names}")

    def _check(self, entry: GraphEntry, run: Runner, form: str) -> Check | None:
        if entry.modality is not None:
            make = self._pooled if entry.shape == "step" else self._summarised
            values = make(entry, entry.modality, run)
            self._values[entry.shape, entry.modality, entry.precision] = values
            return None
        assert entry.pattern is not None
        truth = self._vectors.logits.get(entry.subject)
        if truth is None:
            return Check(entry.file, WHAT, False, f"the golden file has none of {entry.subject}")
        drives: dict[str, Callable[[GraphEntry, Pattern, Runner], NDArray[np.float32]]] = {
            "latency": self._alone,
            "throughput": self._batch,
            "head": self._stream,
        }
        return judge(entry, WHAT, drives[form](entry, entry.pattern, run), truth)

    def _alone(self, entry: GraphEntry, pattern: Pattern, run: Runner) -> NDArray[np.float32]:
        rows = [run({m.value: x for m, x in f.items()})[0] for f in self._vectors.of(pattern)]
        return np.stack(rows)

    def _batch(self, entry: GraphEntry, pattern: Pattern, run: Runner) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = run(pad_batch(self._vectors.of(pattern), _GARBAGE))[0]
        return logits

    def _stream(self, entry: GraphEntry, pattern: Pattern, run: Runner) -> NDArray[np.float32]:
        summaries = {m: self._of("summary", m, entry) for m in pattern}
        rows = [
            run({m.value: made[number] for m, made in summaries.items()})[0]
            for number in range(len(self._vectors.inputs))
        ]
        return np.concatenate(rows)

    def _pooled(self, entry: GraphEntry, modality: Modality, run: Runner) -> Values:
        shortest = self._manifest.modalities[modality].minimum_length
        found = []
        for features in self._vectors.inputs:
            stream, frames = ModalityStream(entry, run), features[modality]
            chunks = np.split(frames, _cuts(len(frames), shortest))
            found.append([stream.push(chunk[None]) for chunk in chunks][-1])
        return found

    def _summarised(self, entry: GraphEntry, modality: Modality, run: Runner) -> Values:
        return [run({"pooled": pooled})[0] for pooled in self._of("step", modality, entry)]

    def _of(self, shape: str, modality: Modality, entry: GraphEntry) -> Values:
        try:
            return self._values[shape, modality, entry.precision]
        except KeyError:
            raise BundleError(
                f"no {entry.precision} {shape} graph of {modality} ran before it"
            ) from None


def _cuts(length: int, shortest: int) -> list[int]:
    """Where a stream is cut: the first chunk has the minimum, the others take turns."""
    cuts, turn = [shortest], 0
    while cuts[-1] < length:
        cuts.append(cuts[-1] + _CHUNKS[turn % len(_CHUNKS)])
        turn += 1
    return [cut for cut in cuts if cut < length]
