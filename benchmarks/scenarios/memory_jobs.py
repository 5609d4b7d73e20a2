"""Fresh processes whose memory is read, and what each has to answer on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.benchmarks.record import OURS, TWIN
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.child_memory import ALL, ANSWERS, ONE, PRELOADED, STREAMS
from ifmmin.benchmarks.scenarios.children import run_child
from ifmmin.benchmarks.scenarios.choice import alone_and_fullest
from ifmmin.benchmarks.scenarios.fresh import Fresh, ours, peers
from ifmmin.runtime.modality import Modality, Pattern

STREAM_COUNTS = (1, 64)
_CHILD = "ifmmin.benchmarks.scenarios.child_memory"

ByPattern = Mapping[Pattern, Fresh]
"""A contender, by the patterns that it answers."""


class _Reading(msgspec.Struct):
    stage: str
    logits: list[float]
    """Of its last answer."""
    bytes: dict[str, int]
    """By measure."""


@dataclass
class Job:
    """A process, and what was read of it, round after round."""

    fresh: Fresh
    """Of the first pattern."""
    pattern: Pattern
    streams: int
    words: Mapping[str, str]
    expected: Mapping[str, NDArray[np.float32]]
    """By stage the logits of its last answer."""
    samples: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """Bytes by stage and measure."""
    failure: str = ""
    """Why it is left out."""

    def run(self) -> None:
        """Start the process once. Raises ChildFailed, and ParityError for a wrong answer."""
        told = run_child(_CHILD, self.words, list[_Reading])
        for reading in told.output:
            if reading.stage in self.expected:
                self.fresh.require_right(reading.logits, self.expected[reading.stage])
        for reading in told.output:
            for measure, count in reading.bytes.items():
                self.samples.setdefault((reading.stage, measure), []).append(count)


def find_contenders(bench: Bench, folder: Path) -> list[ByPattern]:
    """Ours, the twin and the peers. folder: where the monolith is written."""
    found: dict[tuple[object, ...], dict[Pattern, Fresh]] = {}
    threads = bench.plan.threads[0]
    for pattern in bench.patterns:
        for one in (*ours(bench, pattern, threads), *peers(bench, pattern, threads, folder)):
            found.setdefault((one.entrant.name, one.entrant.way), {})[pattern] = one
    return list(found.values())


def make_jobs(contender: ByPattern, folder: Path) -> list[Job]:
    """The fullest pattern alone, then all from the smallest on; ours preloaded and as streams too.

    folder: where the inputs are written. The twin has the first alone.
    """
    for pattern, fresh in contender.items():
        fresh.write_inputs(folder / str(pattern))
    fullest = alone_and_fullest(list(contender))[-1:]
    every = _every(list(contender))
    name = contender[every[0]].entrant.name
    jobs = [_job(contender, "lazy", fullest, folder)]
    if name != TWIN and len(every) > 1:
        jobs.append(_job(contender, "lazy", every, folder))
    if name == OURS:
        jobs.append(_job(contender, "preload", every, folder))
        jobs += [_job(contender, str(count), fullest, folder) for count in STREAM_COUNTS]
    return jobs


def _every(patterns: Sequence[Pattern]) -> list[Pattern]:
    """All patterns, the smallest first, the fullest last."""
    smallest, *fullest = alone_and_fullest(patterns)
    return [smallest, *(p for p in patterns if p not in (smallest, *fullest)), *fullest]


def _job(contender: ByPattern, work: str, patterns: Sequence[Pattern], folder: Path) -> Job:
    first, last = contender[patterns[0]], contender[patterns[-1]]
    words = {
        **first.words,
        "inputs": str(folder),
        "patterns": ",".join(map(str, patterns)),
        "work": work,
    }
    if work == "preload":
        words["preload"] = "yes"
    expected = {ONE: first.logits, ALL: last.logits, PRELOADED: last.logits}
    streams = int(work) if work.isdecimal() else 1
    if work.isdecimal():
        heard = {Modality.of(m): np.concatenate([x] * ANSWERS) for m, x in first.inputs.items()}
        expected[STREAMS] = first.entrant.call(heard).logits
    return Job(first, patterns[0], streams, words, expected)
