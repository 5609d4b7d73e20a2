"""From nothing to the first answer: fresh processes, one after the other, in shuffled turns.

What a process does before Python's first line counts: the clock runs from the moment at which the
process is asked for, and is read again inside of it, when its answer is there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ifmmin.benchmarks.record import OURS, Row
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.choice import alone_and_fullest
from ifmmin.benchmarks.scenarios.engine_build import build_row, builds
from ifmmin.benchmarks.scenarios.fresh import Fresh, bare, ours, peers, reference, refused_row
from ifmmin.benchmarks.scenarios.plan import ORDINARY
from ifmmin.benchmarks.scenarios.starter import Starter
from ifmmin.benchmarks.statistics import FEWEST
from ifmmin.runtime.modality import Pattern

ROUNDS = 10
NOTE = (
    "page cache warm: all files had been read before, and engines built; a first start after boot "
    "also reads the disk. The part process is the interpreter, up to its first line"
)


def cold_start(bench: Bench) -> list[Row]:
    """Rows of every part and of the whole, for the acoustic pattern and the fullest."""
    rows: list[Row] = []
    patterns = alone_and_fullest(bench.patterns)
    bench.pace.expect(len(patterns))
    with TemporaryDirectory(prefix="ifmmin-bench-") as name:
        for pattern in patterns:
            bench.say(f"cold start of {pattern}")
            starters = _starters(bench, pattern, Path(name))
            _take_turns(bench, starters)
            for starter in starters:
                rows += _rows(bench, starter, pattern)
            rows += [
                build_row(bench, starter, pattern, Path(name) / f"engines.{pattern}.{number}")
                for number, starter in enumerate(starters)
                if builds(starter)
            ]
    return rows


def _starters(bench: Bench, pattern: Pattern, folder: Path) -> list[Starter]:
    threads = bench.plan.threads[0]
    found = ours(bench, pattern, threads)
    found += [bare(bench, pattern, one) for one in found if _is_plain(one)]
    found += peers(bench, pattern, threads, folder)
    found += reference(bench, pattern, threads, folder) if found else []
    starters = []
    for number, one in enumerate(found):
        inputs = folder / f"{pattern}.{number}"
        one.write_inputs(inputs)
        starters.append(Starter(one, {**one.words, "inputs": str(inputs)}))
    return starters


def _is_plain(fresh: Fresh) -> bool:
    """What a bare session would load: our graph in full precision for ONNX Runtime's CPU."""
    way = fresh.entrant.way
    return (fresh.entrant.name, way.backend, way.precision) == (OURS, "onnxruntime-cpu", "fp32")


def _take_turns(bench: Bench, starters: Sequence[Starter]) -> None:
    """Start all, round after round; who fails once is left out of the rest."""
    rng = np.random.default_rng(bench.plan.seed)
    for starter in starters:
        starter.start()  # modules are compiled and files come into the page cache
        starter.starts.clear()
    limit, wanted, turn = bench.pace.limit(FEWEST), min(bench.plan.rounds, ROUNDS), 0
    ends = time.monotonic() + limit.seconds
    while turn < wanted and (turn < limit.fewest or time.monotonic() <= ends):
        for index in rng.permutation(len(starters)):
            if not starters[index].failure:
                starters[index].start()
        turn += 1
    bench.pace.measured(turn, wanted)


def _rows(bench: Bench, starter: Starter, pattern: Pattern) -> list[Row]:
    fresh = starter.fresh
    if starter.failure:
        return [refused_row(bench, "cold-start", fresh, pattern, starter.failure)]
    note = "; ".join(filter(None, (NOTE, fresh.entrant.note)))
    return [
        bench.row(
            "cold-start",
            fresh.entrant,
            pattern,
            part=part,
            lengths={m.value: ORDINARY[m] for m in pattern},
            samples=tuple(start[part] for start in starter.starts),
            note=note,
        )
        for part in starter.starts[0]
    ]
