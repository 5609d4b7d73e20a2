"""Scheduler: a bounded queue, and the threads that answer what waits in it.

The event loop never computes. What is of one sequence is answered in the order in which it came;
requests that wait for the same graph are answered as one batch where that is faster.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .models import sequence_of
from .request import InferRequest, InferResponse, Model, RefusedError

Result = TypeVar("Result")

_BATCH = 32
"""Requests, at most, in one call."""
_QUICK = 0.0005
"""Seconds: what takes less is left to the thread that is at work, since to wake
another takes as long."""


@dataclass(eq=False)
class _Job:
    """What waits: a model's request, or work of another kind."""

    model: Model | None
    content: Any
    future: asyncio.Future[Any]
    lane: Hashable | None
    """Of what is answered one after the other."""
    since: float = field(default_factory=time.perf_counter)

    @property
    def name(self) -> str:
        """Of what takes about as long."""
        return self.model.name if self.model is not None else ""


class Scheduler:
    """Answers requests in worker threads. To be made, and called, on the event loop.

    workers: threads. capacity: jobs that may wait. delay: seconds that a batch waits for more of
    its kind while others are being answered. on_batch: told of every batch: the requests in it, and
    the seconds that its first one waited.
    """

    def __init__(
        self,
        workers: int,
        capacity: int,
        delay: float = 0.001,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        self._capacity, self._delay, self._on_batch = capacity, delay, on_batch
        self._loop = asyncio.get_running_loop()
        self._ready: deque[_Job] = deque()
        self._lock = threading.Lock()
        self._work_here = threading.Condition(self._lock)
        """For threads without work."""
        self._more = threading.Condition(self._lock)
        """For those that wait for more of a batch."""
        self._gathering = self._quick = 0
        """Threads that wait for more of a batch, and that are back soon."""
        self._usual: dict[str, float] = {}
        """Seconds that one keeps its thread, by model."""
        self._lanes: dict[Hashable, deque[_Job]] = {}
        self._open: set[_Job] = set()
        """Accepted and not answered."""
        self._stopped = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._threads = [
            threading.Thread(target=self._work, name=f"ifmmin-{n}", daemon=True)
            for n in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Jobs that were accepted and are not answered."""
        return len(self._open)

    async def submit(self, model: Model, request: InferRequest) -> InferResponse:
        """The model's answer. Raises what it raises; RefusedError where too many wait."""
        lane = (model.name, sequence_of(request)) if model.sequential else None
        answer: InferResponse = await self._accept(model, request, lane)
        return answer

    async def run(self, work: Callable[[], Result], lane: Hashable | None = None) -> Result:
        """`work()` in a worker's thread. lane: what has the same one is done in order."""
        result: Result = await self._accept(None, work, lane)
        return result

    async def stop(self) -> None:
        """Take nothing more, answer what was taken, and end the threads."""
        self._stopped = True
        await self._idle.wait()
        with self._lock:
            self._work_here.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _accept(
        self, model: Model | None, content: Any, lane: Hashable | None
    ) -> asyncio.Future[Any]:
        if self._stopped:
            raise RefusedError("the server stops", 503)
        if len(self._open) >= self._capacity:
            raise RefusedError(f"{len(self._open)} requests wait already; try again", 429)
        job = _Job(model, content, self._loop.create_future(), lane)
        self._open.add(job)
        self._idle.clear()
        if lane is None:
            self._put(job)
        elif lane in self._lanes:
            self._lanes[lane].append(job)
        else:
            self._lanes[lane] = deque()
            self._put(job)
        return job.future

    def _put(self, job: _Job) -> None:
        with self._lock:
            self._ready.append(job)
            if self._gathering:
                self._more.notify_all()
            elif not self._quick:
                self._work_here.notify()

    def _work(self) -> None:
        while jobs := self._take():
            model, name = jobs[0].model, jobs[0].name
            quick = self._is_quick(name)
            with self._lock:
                self._quick += quick
                if self._ready and not quick:
                    self._work_here.notify()
            began, started = time.perf_counter(), time.thread_time()
            results = _answer(jobs)
            # Of the wall's time a part is waiting for the interpreter's lock, or for a device.
            spent = max(time.thread_time() - started, (time.perf_counter() - began) / 4)
            with self._lock:
                self._quick -= quick
                usual = self._usual.get(name, 0.0)
                self._usual[name] = 0.8 * usual + 0.2 * spent / len(jobs)
            if self._on_batch is not None and model is not None:
                self._on_batch(len(jobs), time.perf_counter() - jobs[0].since)
            self._loop.call_soon_threadsafe(self._deliver, jobs, results)

    def _take(self) -> list[_Job]:
        """The next job, and those that are answered with it; none: the end."""
        with self._lock:
            while not self._ready:
                if self._stopped and not self._open:
                    return []
                self._work_here.wait()
            jobs = [self._ready.popleft()]
            model = jobs[0].model
            if model is not None and model.batches:
                self._fill(jobs)
            elif model is not None:
                share = 1 + len(self._ready) // len(self._threads)
                self._gather(jobs, _BATCH if self._is_quick(model.name) else share)
            return jobs

    def _is_quick(self, name: str) -> bool:
        return self._usual.get(name, 0.0) < _QUICK

    def _fill(self, jobs: list[_Job]) -> None:
        """Wait a little for a batch to become full; others are on their way if there are others."""
        until = time.perf_counter() + self._delay
        self._gathering += 1
        self._gather(jobs, _BATCH)
        while len(jobs) < min(_BATCH, len(self._open)):
            left = until - time.perf_counter()
            if left <= 0 or not self._more.wait(left):
                break
            self._gather(jobs, _BATCH)
        self._gathering -= 1

    def _gather(self, jobs: list[_Job], most: int) -> None:
        """Take from those that are ready what is of the same model."""
        others: list[_Job] = []
        while self._ready and len(jobs) < most:
            job = self._ready.popleft()
            (jobs if job.model is jobs[0].model else others).append(job)
        self._ready.extendleft(reversed(others))
        if others:
            self._work_here.notify()

    def _deliver(self, jobs: Sequence[_Job], results: Sequence[Any]) -> None:
        for job, result in zip(jobs, results, strict=True):
            self._open.discard(job)
            if job.lane is not None:
                self._go_on(job.lane)
            if job.future.cancelled():
                continue
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        if not self._open:
            self._idle.set()

    def _go_on(self, lane: Hashable) -> None:
        if waiting := self._lanes[lane]:
            self._put(waiting.popleft())
        else:
            del self._lanes[lane]


def _answer(jobs: Sequence[_Job]) -> list[Any]:
    """Results in order; whatever is raised is the result of all."""
    model = jobs[0].model
    try:
        if model is None:
            return [jobs[0].content()]
        return list(model.answer([job.content for job in jobs]))
    except BaseException as error:
        return [error] * len(jobs)
