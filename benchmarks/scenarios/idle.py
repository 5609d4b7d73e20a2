"""The first call after a pause, when clocks have sunk and caches are gone, against a busy loop.

Pauses are long and contenders are several, so that all wait together: after each pause every one is
called once, a moment apart, so that the core can go back to sleep. Who is first alone meets a
machine that was left alone for the whole pause; therefore each pause another contender is first,
our own and the peer to beat before the others, and the order of the rest is drawn anew. Behind a
governor that is slow to sink, or on a GPU, those who come later are better off than the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ifmmin.benchmarks.record import OURS, TWIN, Row
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.choice import alone_and_fullest
from ifmmin.benchmarks.scenarios.entrant import Entrant
from ifmmin.benchmarks.scenarios.plan import MONOLITH, ORDINARY
from ifmmin.runtime.modality import Pattern

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
    entrant: Entrant
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
    callers = [c for pattern in alone_and_fullest(bench.patterns) for c in _callers(bench, pattern)]
    # Not all may come to be the first: ours and the peer to beat do.
    callers.sort(key=lambda c: (c.entrant.name not in (OURS, MONOLITH), c.entrant.name == TWIN))
    if not callers:
        return []
    for pattern in dict.fromkeys(caller.pattern for caller in callers):
        _keep_busy(bench, [caller for caller in callers if caller.pattern == pattern])
    bench.say(f"first calls after {pauses} pauses of {pause:g} s")
    rng = np.random.default_rng(bench.plan.seed)
    for number in range(pauses):
        time.sleep(pause)
        _wake(callers, number, rng)
    part = f"after {pause:g} s"
    return [row for caller in callers for row in _idle_rows(bench, caller, part)]


def _callers(bench: Bench, pattern: Pattern) -> list[_Caller]:
    features = bench.features({m: ORDINARY[m] for m in pattern})
    entrants = bench.entrants(pattern, bench.plan.threads[0])
    return [_Caller(one, pattern, one.prepared(features, ORDINARY)) for one in entrants]


def _keep_busy(bench: Bench, callers: Sequence[_Caller]) -> None:
    calls = {number: caller.call for number, caller in enumerate(callers)}
    timings = bench.time(calls, rounds=_BUSY_ROUNDS)
    for number, caller in enumerate(callers):
        caller.busy = tuple(timings[number].samples)


def _wake(callers: Sequence[_Caller], number: int, rng: np.random.Generator) -> None:
    """Call each once. number: of the pause, which says who is first."""
    first = number % len(callers)
    others = [index for index in rng.permutation(len(callers)) if index != first]
    callers[first].woke.append(number + 1)
    for index in (first, *others):
        caller = callers[index]
        started = time.perf_counter()
        caller.call()
        caller.first_calls.append(time.perf_counter() - started)
        time.sleep(APART)


def _idle_rows(bench: Bench, caller: _Caller, part: str) -> list[Row]:
    woke = ", ".join(map(str, caller.woke))
    waited = (
        f"all contenders of both patterns waited together, then each was called once, {APART:g} s "
        f"apart; this one was {f'the first after pause {woke}' if woke else 'never the first'}"
    )
    return [
        bench.row(
            "idle",
            caller.entrant,
            caller.pattern,
            lengths={m.value: ORDINARY[m] for m in caller.pattern},
            part=name,
            samples=tuple(samples),
            note="; ".join(filter(None, (note, caller.entrant.note))),
        )
        for name, samples, note in (
            (part, caller.first_calls, waited),
            (BUSY, caller.busy, "calls without a pause, in turns"),
        )
    ]
