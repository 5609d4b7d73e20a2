"""Memory of fresh processes after each stage of their work, and bytes of what they load."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.modality import Pattern

from ..record import CONTROL, OURS, Row
from ..timing import shuffled_turns
from .bench import Bench
from .plan import alone_and_fullest
from .worker_memory import ALL, ANSWERS, IMPORTS, ONE, PRELOADED, STREAMS
from .workers import ChildJob, ours, peers, refused_row, run_child

STREAM_COUNTS = (1, 64)
CHILD = "ifmmin.benchmarks.scenarios.worker_memory"
ByPattern = Mapping[Pattern, ChildJob]
"""A contender, by the patterns that it answers."""
PART = "bundle"
_WHY = {
    "predictor": "the graph of one utterance; all patterns: one file each",
    "session": "one graph for all patterns",
    "eager": "the checkpoint",
}
ROUNDS = 3
"""Memory hardly varies from one process to the next."""
LONGEST_SECONDS = 25.0
"""No round begins after so many, but the first."""
NOTE = (
    f"read after {ANSWERS} answers of each pattern; RSS is what is resident, PSS and USS leave out "
    "what is shared, here also with the benchmark's own process, which maps the same libraries; "
    "memory of a GPU is in none of them"
)
_OF_NO_PATTERN = (IMPORTS, ALL, PRELOADED)


class _Reading(msgspec.Struct):
    stage: str
    logits: list[float]
    """Of its last answer."""
    bytes: dict[str, int]
    """By measure."""


@dataclass
class Job:
    """A process, and what was read of it, round after round."""

    fresh: ChildJob
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
        told = run_child(CHILD, self.words, list[_Reading])
        for reading in told.output:
            if reading.stage in self.expected:
                self.fresh.require_right(reading.logits, self.expected[reading.stage])
        for reading in told.output:
            for measure, count in reading.bytes.items():
                self.samples.setdefault((reading.stage, measure), []).append(count)


def find_contenders(bench: Bench, folder: Path) -> list[ByPattern]:
    """Ours, the A/A control and the peers. folder: where the monolith is written."""
    found: dict[tuple[object, ...], dict[Pattern, ChildJob]] = {}
    threads = bench.plan.threads[0]
    for pattern in bench.patterns:
        for one in (*ours(bench, pattern, threads), *peers(bench, pattern, threads, folder)):
            found.setdefault((one.contender.name, one.contender.config), {})[pattern] = one
    return list(found.values())


def make_jobs(bench: Bench, contender: ByPattern, folder: Path) -> list[Job]:
    """The fullest pattern alone, then all from the smallest on; ours preloaded and as streams too.

    folder: where the inputs are written. The A/A control has the first alone.
    """
    for pattern, fresh in contender.items():
        fresh.write_inputs(folder / str(pattern))
    smallest, *fullest = alone_and_fullest(list(contender))
    between = (p for p in contender if p not in (smallest, *fullest))
    every, fullest = [smallest, *between, *fullest], fullest or [smallest]
    name = contender[every[0]].contender.name
    jobs = [_job(contender, "lazy", fullest, folder)]
    if name != CONTROL and len(every) > 1:
        jobs.append(_job(contender, "lazy", every, folder))
    if name == OURS:
        shared = _logits_of_stream(bench, contender[every[-1]], pushes=1)
        jobs.append(_job(contender, "preload", every, folder, shared))
        heard = _logits_of_stream(bench, contender[fullest[0]], pushes=ANSWERS)
        jobs += [_job(contender, str(n), fullest, folder, heard) for n in STREAM_COUNTS]
    return jobs


def _logits_of_stream(bench: Bench, fresh: ChildJob, pushes: int) -> NDArray[np.float32] | None:
    """What a stream answers, or who shares its graphs: in 8 bits they round otherwise than the
    graph of an utterance does. None where the bundle has no such graphs."""
    if not bench.bundle.stream_patterns:
        return None
    predictor = bench.predictor(fresh.contender.config, fresh.contender.name)
    assert predictor is not None
    with predictor.stream() as stream:
        for _ in range(pushes):
            stream.push(fresh.inputs)
        return stream.predict().logits


def _job(
    contender: ByPattern,
    work: str,
    patterns: Sequence[Pattern],
    folder: Path,
    heard: NDArray[np.float32] | None = None,
) -> Job:
    first, last = contender[patterns[0]], contender[patterns[-1]]
    names = ",".join(map(str, patterns))
    words = {**first.words, "inputs": str(folder), "patterns": names, "work": work}
    if work == "preload":
        words["preload"] = "yes"
    expected = {ONE: first.logits, ALL: last.logits, PRELOADED: last.logits}
    streams = int(work) if work.isdecimal() else 1
    if heard is not None:
        expected[STREAMS if work.isdecimal() else PRELOADED] = heard
    return Job(first, patterns[0], streams, words, expected)


def bundle_sizes(bench: Bench, contenders: Sequence[Mapping[Pattern, ChildJob]]) -> list[Row]:
    """Rows per contender and pattern, and of all patterns together where there are several.

    contenders: each by the patterns that it answers.
    """
    rows = []
    for contender in contenders:
        files = {pattern: _file(bench, pattern, one) for pattern, one in contender.items()}
        first = next(iter(contender.values()))
        if first.contender.name == CONTROL:
            continue
        more: dict[str, Any] = {"part": PART, "unit": "bytes", "note": _WHY[first.words["config"]]}
        for pattern, file in files.items():
            size = (float(file.stat().st_size),)
            rows.append(
                bench.row("memory", contender[pattern].contender, pattern, samples=size, **more)
            )
        if len(files) > 1:
            size = (float(sum(file.stat().st_size for file in set(files.values()))),)
            row = bench.row("memory", first.contender, next(iter(files)), samples=size, **more)
            rows.append(msgspec.structs.replace(row, pattern="", accuracy=None))
    return rows


def _file(bench: Bench, pattern: Pattern, fresh: ChildJob) -> Path:
    words, config = fresh.words, fresh.contender.config
    if words["config"] == "predictor":
        entry = bench.bundle.entry(pattern, config.precision, backend=config.backend)
        return bench.bundle.directory / entry.file
    return Path(words.get("file") or words["checkpoint"])


def memory(bench: Bench) -> list[Row]:
    """Rows of every contender by stage and measure; then bytes of files, as part `bundle`."""
    with TemporaryDirectory(prefix="ifmmin-bench-") as name:
        bench.log("memory of fresh processes")
        contenders = find_contenders(bench, Path(name))
        jobs = [
            job
            for number, contender in enumerate(contenders)
            for job in make_jobs(bench, contender, Path(name) / str(number))
        ]
        _take_turns(bench, jobs)
        sizes = bundle_sizes(bench, contenders)
    # Imports are read in every process of a contender; one of them is told.
    found = {row.key: row for job in reversed(jobs) for row in _rows(bench, job)}
    return [*reversed(found.values()), *sizes]


def _take_turns(bench: Bench, jobs: Sequence[Job]) -> None:
    """Run all, round after round; who fails once is left out of the rest."""
    ends, wanted = time.perf_counter() + LONGEST_SECONDS, min(bench.plan.rounds, ROUNDS)
    for _, index in shuffled_turns(len(jobs), wanted, seed=bench.plan.seed, ends=ends):
        if not jobs[index].failure:
            try:
                jobs[index].run()
            except IfmminError as error:
                jobs[index].failure = str(error)


def _rows(bench: Bench, job: Job) -> list[Row]:
    if job.failure:
        why = f"{job.words['work']}, patterns {job.words['patterns']}: {job.failure}"
        row = refused_row(bench, "memory", job.fresh, job.pattern, why)
        return [msgspec.structs.replace(row, streams=job.streams, part=job.words["work"])]
    rows = []
    for (stage, measure), samples in reversed(job.samples.items()):
        row = bench.row(
            "memory",
            job.fresh.contender,
            job.pattern,
            part=f"{stage}, {measure}",
            streams=job.streams if stage == STREAMS else 1,
            unit="bytes",
            samples=tuple(samples),
            note=NOTE,
        )
        of_all = stage in _OF_NO_PATTERN
        rows.append(msgspec.structs.replace(row, pattern="", accuracy=None) if of_all else row)
    return rows
