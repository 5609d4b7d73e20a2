"""Cold start in fresh processes, and the first call after a pause, in shuffled turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.modality import Pattern

from ..record import CONTROL, OURS, Row
from ..timing import FEWEST, shuffled_turns
from .bench import Bench
from .contenders import Contender, RunConfig
from .plan import MONOLITH, ORDINARY, alone_and_fullest, ordinary_lengths
from .workers import PATIENCE, ChildJob, bare, ours, peers, reference, refused_row, run_child

_CHILD = "ifmmin.benchmarks.scenarios.worker_start"
BUILDERS = ("tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt")
"""Backends that build an engine once on a device and keep it. Not run on a GPU."""
BUILD_PART = "build"
BUILD_NOTE = (
    "the very first start only, measured once: loading with an empty cache of engines, less "
    "loading with one that was built before"
)
_BUILD_PATIENCE = 3600.0
"""Seconds that a start gets which builds an engine."""
ROUNDS = 10
NOTE = (
    "page cache warm: all files had been read before, and engines built; a first start after boot "
    "also reads the disk. The part process is the interpreter, up to its first line"
)


class _Output(msgspec.Struct):
    moments: dict[str, float]
    """When each part was done, in order."""
    logits: list[float]


@dataclass
class Starter:
    """Starts processes until one fails."""

    fresh: ChildJob
    words: Mapping[str, str]
    starts: list[dict[str, float]] = field(default_factory=list)
    """Seconds by part of each start; the part without a name is the whole."""
    failure: str = ""
    """Why it is left out."""

    def start(self) -> None:
        """Once more."""
        try:
            self.starts.append(self.fresh_start(self.words))
        except IfmminError as error:
            self.failure = str(error)

    def fresh_start(self, words: Mapping[str, str], patience: float = PATIENCE) -> dict[str, float]:
        """Seconds by part. Raises ChildFailed, or ParityError for a wrong answer."""
        told = run_child(_CHILD, words, _Output, patience)
        self.fresh.require_right(told.output.logits)
        ends = [told.started, *told.output.moments.values()]
        spans = [max(0.0, later - earlier) for earlier, later in pairwise(ends)]
        return {**dict(zip(told.output.moments, spans, strict=True)), "": ends[-1] - ends[0]}


def build_row(bench: Bench, starter: Starter, pattern: Pattern, cache: Path) -> Row:
    """One start with an empty cache, whose loading is told against the usual one."""
    contender = starter.fresh.contender
    bench.log(f"build the {contender.config.backend} engine of {pattern} anew")
    try:
        words = {**starter.words, "cache": str(cache)}
        load = starter.fresh_start(words, _BUILD_PATIENCE)["load"]
    except IfmminError as error:
        return bench.row("cold-start", contender, pattern, part=BUILD_PART, note=str(error))
    usual = float(np.median([start["load"] for start in starter.starts]))
    return bench.row(
        "cold-start",
        contender,
        pattern,
        part=BUILD_PART,
        lengths=ordinary_lengths(pattern),
        samples=(max(0.0, load - usual),),
        note=BUILD_NOTE,
    )


def cold_start(bench: Bench) -> list[Row]:
    """Rows of every part and of the whole, for the acoustic pattern and the fullest."""
    rows: list[Row] = []
    patterns = alone_and_fullest(bench.patterns)
    bench.pace.expect(len(patterns))
    with TemporaryDirectory(prefix="ifmmin-bench-") as name:
        for pattern in patterns:
            bench.log(f"cold start of {pattern}")
            starters = _starters(bench, pattern, Path(name))
            _take_turns(bench, starters)
            for starter in starters:
                rows += _start_rows(bench, starter, pattern)
            for number, starter in enumerate(starters):
                who = starter.fresh.contender
                if not starter.failure and who.name == OURS and who.config.backend in BUILDERS:
                    cache = Path(name) / f"engines.{pattern}.{number}"
                    rows.append(build_row(bench, starter, pattern, cache))
    return rows


def _starters(bench: Bench, pattern: Pattern, folder: Path) -> list[Starter]:
    threads = bench.plan.threads[0]
    found = ours(bench, pattern, threads)
    plain = RunConfig("onnxruntime-cpu", "fp32", threads)
    ways = [one for one in found if one.contender.name == OURS and one.contender.config == plain]
    found += [bare(bench, pattern, one) for one in ways]
    found += peers(bench, pattern, threads, folder)
    found += reference(bench, pattern, threads, folder) if found else []
    starters = []
    for number, one in enumerate(found):
        inputs = folder / f"{pattern}.{number}"
        one.write_inputs(inputs)
        starters.append(Starter(one, {**one.words, "inputs": str(inputs)}))
    return starters


def _take_turns(bench: Bench, starters: Sequence[Starter]) -> None:
    """Start all, round after round; who fails once is left out of the rest."""
    for starter in starters:
        starter.start()  # modules are compiled and files come into the page cache
        starter.starts.clear()
    limit, wanted = bench.pace.limit(FEWEST), min(bench.plan.rounds, ROUNDS)
    ends = time.perf_counter() + limit.seconds
    for _, index in shuffled_turns(
        len(starters), wanted, seed=bench.plan.seed, ends=ends, fewest=limit.fewest
    ):
        if not starters[index].failure:
            starters[index].start()
    bench.pace.measured(max((len(one.starts) for one in starters), default=0), wanted)


def _start_rows(bench: Bench, starter: Starter, pattern: Pattern) -> list[Row]:
    fresh = starter.fresh
    if starter.failure:
        return [refused_row(bench, "cold-start", fresh, pattern, starter.failure)]
    note = "; ".join(filter(None, (NOTE, fresh.contender.note)))
    return [
        bench.row(
            "cold-start",
            fresh.contender,
            pattern,
            part=part,
            lengths=ordinary_lengths(pattern),
            samples=tuple(start[part] for start in starter.starts),
            note=note,
        )
        for part in starter.starts[0]
    ]


PAUSE = 10.0
"""Seconds without a call."""
PAUSES = 4
APART = 0.1
"""Seconds between the first calls of different contenders after a pause."""
BUSY = "busy"
"""Part: calls without a pause."""
_BUSY_ROUNDS = 50


@dataclass
class _Caller:
    contender: Contender
    pattern: Pattern
    call: Callable[[], Any]
    first_calls: list[float] = field(default_factory=list)
    """Seconds, one a pause."""
    woke: list[int] = field(default_factory=list)
    """Pauses after which it was the first of all, from 1."""
    busy: Sequence[float] = ()


def idle(bench: Bench, *, pause: float = PAUSE, pauses: int = PAUSES) -> list[Row]:
    """Rows `after 10 s` and `busy` of every contender, for the acoustic pattern and the fullest.

    pause: seconds. The plan's rounds do not apply: a round is a pause.
    """
    callers = [
        _Caller(one, pattern, one.prepared(bench.ordinary(pattern), ORDINARY))
        for pattern in alone_and_fullest(bench.patterns)
        for one in bench.contenders(pattern, bench.plan.threads[0])
    ]
    # Not all may come to be the first: ours and the peer to beat do.
    callers.sort(
        key=lambda c: (c.contender.name not in (OURS, MONOLITH), c.contender.name == CONTROL)
    )
    if not callers:
        return []
    for pattern in dict.fromkeys(caller.pattern for caller in callers):
        group = [caller for caller in callers if caller.pattern == pattern]
        timings = bench.time({i: c.call for i, c in enumerate(group)}, rounds=_BUSY_ROUNDS)
        for i, caller in enumerate(group):
            caller.busy = tuple(timings[i])
    bench.log(f"first calls after {pauses} pauses of {pause:g} s")
    rng = np.random.default_rng(bench.plan.seed)
    for number in range(pauses):
        time.sleep(pause)
        first = number % len(callers)
        callers[first].woke.append(number + 1)
        for index in (first, *(i for i in rng.permutation(len(callers)) if i != first)):
            started = time.perf_counter()
            callers[index].call()
            callers[index].first_calls.append(time.perf_counter() - started)
            time.sleep(APART)
    return [row for caller in callers for row in _idle_rows(bench, caller, f"after {pause:g} s")]


def _idle_rows(bench: Bench, caller: _Caller, part: str) -> list[Row]:
    woke = ", ".join(map(str, caller.woke))
    waited = (
        f"all contenders of both patterns waited together, then each was called once, {APART:g} s "
        f"apart; this one was {f'the first after pause {woke}' if woke else 'never the first'}"
    )
    return [
        bench.row(
            "idle",
            caller.contender,
            caller.pattern,
            lengths=ordinary_lengths(caller.pattern),
            part=name,
            samples=tuple(samples),
            note="; ".join(filter(None, (note, caller.contender.note))),
        )
        for name, samples, note in (
            (part, caller.first_calls, waited),
            (BUSY, caller.busy, "calls without a pause, in turns"),
        )
    ]
