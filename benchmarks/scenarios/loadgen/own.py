"""Load generator in Python, by the rules of MLPerf's, where that cannot be had.

The same scenarios, percentiles and conditions of a run, and arrivals drawn from a seed. What it
leaves out is early stopping: LoadGen's percentiles are then corrected for how few queries there
were, ours are as counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import IfmminError

from .base import (
    PERCENTILE,
    Logits,
    Plan,
    Run,
    System,
    checked,
    latency_metrics,
    located,
    percentile_name,
)

Q = TypeVar("Q")
CHUNK = 1024
"""Samples of an offline query that are handed over at once."""
_SLACK = 1.1
"""Offline more samples are issued than the guess says, as LoadGen does."""


class Worker(Generic[Q]):
    """Hands queries to `answer` in a thread of its own, in order, while others arrive.

    After a failure it answers no more; `left` has what it did not answer. Use it as a context:
    leaving waits until everything that was put has been looked at. threads: gives the thread;
    default one that ends with the context.
    """

    def __init__(self, answer: Callable[[Q], None], threads: Executor | None = None) -> None:
        self.failure: BaseException | None = None
        self.failed = threading.Event()
        self.left: list[Q] = []
        self._answer = answer
        self._queue: SimpleQueue[Q | None] = SimpleQueue()
        self._threads = threads or ThreadPoolExecutor(1, "system under test")
        self._lent = threads is not None
        self._job = self._threads.submit(self._work)

    def __enter__(self) -> Worker[Q]:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[1] is not None:
            self.failed.set()  # nobody waits for the rest
        self.close()

    def put(self, query: Q) -> None:
        """Queue a query."""
        self._queue.put(query)

    def close(self) -> None:
        """Wait until the queue is worked off."""
        self._queue.put(None)
        self._job.result()
        if not self._lent:
            self._threads.shutdown()

    def fail(self, failure: BaseException) -> None:
        """Answer no more; the first failure counts."""
        if self.failure is None:
            self.failure = failure
        self.failed.set()

    def _work(self) -> None:
        while (query := self._queue.get()) is not None:
            if self.failed.is_set():
                self.left.append(query)
                continue
            try:
                self._answer(query)
            except BaseException as failure:  # also what would end the thread unseen
                self.left.append(query)
                self.fail(failure)


class PythonGenerator:
    """Runs scenarios in this process, with the clock `time.perf_counter_ns`."""

    name = "own"

    def perform(self, system: System, plan: Plan) -> Run:
        """A performance run. Raises what the system raises."""
        if plan.scenario == "server":
            return _serve(system, plan)
        if plan.scenario == "offline":
            return _work_off(system, plan)
        return _one_after_the_other(system, plan)

    def answers(self, system: System, plan: Plan) -> dict[int, list[NDArray[np.float32]]]:
        """The accuracy run, every sample once in queries of the scenario's size: per sample the
        logits (C,) that were answered. Raises what the system raises."""
        order = np.random.default_rng(plan.seed).permutation(system.count).tolist()
        size = CHUNK if plan.scenario == "offline" else plan.samples_per_query
        found: dict[int, list[NDArray[np.float32]]] = {}
        for first in range(0, len(order), size):
            indices = order[first : first + size]
            for index, logits in zip(indices, _ask(system, plan, indices), strict=True):
                found.setdefault(index, []).append(logits)
        return found


def _ask(system: System, plan: Plan, indices: list[int]) -> Logits:
    try:
        return checked(system, indices)
    except IfmminError as failure:
        raise located(failure, plan.scenario) from failure


def _one_after_the_other(system: System, plan: Plan) -> Run:
    """Single and multi stream: the next query once the last one is answered."""
    queries = _endless_queries(system.count, plan)
    latencies: list[int] = []
    started = issued = time.perf_counter_ns()
    while len(latencies) < plan.queries or issued - started < plan.seconds * 1e9:
        indices = next(queries)
        issued = time.perf_counter_ns()
        _ask(system, plan, indices)
        latencies.append(time.perf_counter_ns() - issued)
    seconds = np.array(latencies) / 1e9
    return Run(
        metrics=latency_metrics(seconds), queries=len(seconds), latencies=tuple(seconds.tolist())
    )


def _work_off(system: System, plan: Plan) -> Run:
    """Offline: one query of all samples, repeated as often as the duration asks for."""
    wanted = int(_SLACK * plan.seconds / plan.expected_seconds)
    count = max(plan.queries, wanted)
    order = np.random.default_rng(plan.seed).permutation(system.count)
    indices = np.resize(order, count).tolist()
    started = time.perf_counter_ns()
    for first in range(0, count, CHUNK):
        _ask(system, plan, indices[first : first + CHUNK])
    seconds = (time.perf_counter_ns() - started) / 1e9
    short = (
        f"it lasted {seconds:.3g} s of at least {plan.seconds:.3g} s: the samples that were "
        "guessed to fill them were answered sooner"
    )
    return Run(
        metrics={"rate": count / seconds},
        queries=count,
        complaints=(short,) if seconds < plan.seconds else (),
        latencies=(seconds,),
    )


def _serve(system: System, plan: Plan) -> Run:
    """Server: queries arrive by the clock; a latency counts from the arrival, waiting included."""
    arrivals, indices = draw_arrivals(system.count, plan)
    done, issued, answered = np.full(len(arrivals), np.nan), 0, 0

    def answer(query: int) -> None:
        nonlocal answered
        checked(system, [int(indices[query])])
        done[query] = time.perf_counter() - started
        answered += 1

    started = time.perf_counter()
    with Worker(answer) as worker:
        for query, arrival in enumerate(arrivals):
            wait = arrival - (time.perf_counter() - started)
            if (wait > 0 and worker.failed.wait(wait)) or worker.failed.is_set():
                break
            worker.put(query)
            issued += 1
            if issued - answered > plan.most_waiting:
                break
    if worker.failure is not None:
        raise located(worker.failure, plan.scenario)
    done = done[:issued]
    latencies = done - arrivals[:issued]
    metrics = latency_metrics(latencies)
    complaints = []
    in_time = metrics[percentile_name(PERCENTILE[plan.scenario])] <= plan.latency_limit
    if not in_time:
        complaints.append(f"the latency limit of {plan.latency_limit:g} s did not hold")
    if len(done) < len(arrivals):
        in_time = False
        complaints.append(f"it was given up with more than {plan.most_waiting} queries waiting")
    return Run(
        metrics=metrics,
        queries=len(done),
        complaints=tuple(complaints),
        latencies=tuple(latencies.tolist()),
        in_time=in_time,
    )


def draw_arrivals(count: int, plan: Plan) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Seconds of arrival of enough queries, by a Poisson process, and their samples."""
    rng = np.random.default_rng(plan.seed)
    arrivals = np.zeros(1)
    while len(arrivals) <= plan.queries or arrivals[-1] < plan.seconds:
        expected = int(plan.rate * (plan.seconds - arrivals[-1]))
        gaps = rng.exponential(1 / plan.rate, size=max(1024, expected))
        arrivals = np.concatenate([arrivals, arrivals[-1] + np.cumsum(gaps)])
    arrivals = arrivals[1:]
    needed = max(plan.queries, int(np.searchsorted(arrivals, plan.seconds)) + 1)
    return arrivals[:needed], rng.integers(count, size=needed)


def _endless_queries(count: int, plan: Plan) -> Iterator[list[int]]:
    """Samples drawn at random; those of one query are neighbours in a shuffled order."""
    rng = np.random.default_rng(plan.seed)
    order = rng.permutation(count)
    size = plan.samples_per_query
    while True:
        for first in rng.integers(count, size=256):
            yield order[(first + np.arange(size)) % count].tolist()
