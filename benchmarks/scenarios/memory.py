"""Memory of fresh processes after each stage of their work, and bytes of what they load."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from ifmmin.benchmarks.record import Row
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.bundle_size import bundle_sizes
from ifmmin.benchmarks.scenarios.child_memory import ALL, ANSWERS, IMPORTS, PRELOADED, STREAMS
from ifmmin.benchmarks.scenarios.fresh import refused_row
from ifmmin.benchmarks.scenarios.memory_jobs import Job, find_contenders, make_jobs
from ifmmin.runtime.errors import IfmminError

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


def memory(bench: Bench) -> list[Row]:
    """Rows of every contender by stage and measure; then bytes of files, as part `bundle`."""
    with TemporaryDirectory(prefix="ifmmin-bench-") as name:
        bench.say("memory of fresh processes")
        contenders = find_contenders(bench, Path(name))
        jobs = [
            job
            for number, contender in enumerate(contenders)
            for job in make_jobs(contender, Path(name) / str(number))
        ]
        _take_turns(bench, jobs)
        sizes = bundle_sizes(bench, contenders)
    # Imports are read in every process of a contender; one of them is told.
    found = {row.key: row for job in reversed(jobs) for row in _rows(bench, job)}
    return [*reversed(found.values()), *sizes]


def _take_turns(bench: Bench, jobs: Sequence[Job]) -> None:
    """Run all, round after round; who fails once is left out of the rest."""
    rng = np.random.default_rng(bench.plan.seed)
    ends = time.monotonic() + LONGEST_SECONDS
    for turn in range(min(bench.plan.rounds, ROUNDS)):
        if turn and time.monotonic() > ends:
            return
        for index in rng.permutation(len(jobs)):
            job = jobs[index]
            if not job.failure:
                try:
                    job.run()
                except IfmminError as error:
                    job.failure = str(error)


def _rows(bench: Bench, job: Job) -> list[Row]:
    if job.failure:
        return [_refused(bench, job)]
    rows = []
    for (stage, measure), samples in reversed(job.samples.items()):
        row = bench.row(
            "memory",
            job.fresh.entrant,
            job.pattern,
            part=f"{stage}, {measure}",
            streams=job.streams if stage == STREAMS else 1,
            unit="bytes",
            samples=tuple(samples),
            note=NOTE,
        )
        of_all: dict[str, Any] = {"pattern": "", "accuracy": None}
        changes = of_all if stage in _OF_NO_PATTERN else {}
        rows.append(msgspec.structs.replace(row, **changes))
    return rows


def _refused(bench: Bench, job: Job) -> Row:
    why = f"{job.words['work']}, patterns {job.words['patterns']}: {job.failure}"
    row = refused_row(bench, "memory", job.fresh, job.pattern, why)
    return msgspec.structs.replace(row, streams=job.streams, part=job.words["work"])
