"""The scheduler: order within a lane, batches, a bound, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

pytest.importorskip("starlette", reason="starlette is not installed: the extra serve")

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.server.request import InferRequest, InferResponse, RefusedError
from ifmmin.runtime.server.scheduler import Scheduler

Result = TypeVar("Result")


@dataclass
class Model:
    """Answers with what it was asked, and remembers how."""

    batches: bool = False
    sequential: bool = False
    name: str = "a"
    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()
    gate: threading.Event = field(default_factory=threading.Event)
    calls: list[list[str]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def answer(self, requests: Sequence[InferRequest]) -> list[InferResponse | Exception]:
        self.gate.wait(10)
        self.threads.add(threading.get_ident())
        self.calls.append([one.id for one in requests])
        return [
            InputError(one.id) if one.id.startswith("bad") else InferResponse(self.name, (), one.id)
            for one in requests
        ]


def request(name: str, sequence: int = 0) -> InferRequest:
    return InferRequest("a", {}, name, {"sequence_id": sequence} if sequence else {})


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(work, 20))


def test_nothing_runs_on_the_event_loop() -> None:
    async def go() -> set[int]:
        model, scheduler = Model(), Scheduler(2, 10)
        model.gate.set()
        await scheduler.submit(model, request("1"))
        other = await scheduler.run(threading.get_ident)
        await scheduler.stop()
        return model.threads | {other}

    assert threading.get_ident() not in run(go())


def test_what_waits_is_answered_together() -> None:
    async def go() -> list[list[str]]:
        model, sizes = Model(batches=True), []
        scheduler = Scheduler(1, 100, on_batch=lambda size, seconds: sizes.append(size))
        jobs = [asyncio.ensure_future(scheduler.submit(model, request(str(n)))) for n in range(50)]
        await asyncio.sleep(0.05)
        model.gate.set()
        answers = await asyncio.gather(*jobs)
        assert [one.id for one in answers] == [str(n) for n in range(50)]
        assert sum(sizes) == 50
        await scheduler.stop()
        return model.calls

    calls = run(go())
    assert len(calls) <= 4
    assert max(map(len, calls)) == 32


def test_an_error_is_of_its_request_alone() -> None:
    async def go() -> list[Any]:
        model, scheduler = Model(batches=True), Scheduler(1, 100)
        jobs = [scheduler.submit(model, request(name)) for name in ("1", "bad", "2")]
        model.gate.set()
        found = await asyncio.gather(*jobs, return_exceptions=True)
        await scheduler.stop()
        return found

    first, bad, second = run(go())
    assert (first.id, second.id) == ("1", "2")
    assert isinstance(bad, InputError)


def test_a_sequence_keeps_its_order_whatever_is_cancelled() -> None:
    async def go() -> list[str]:
        model, scheduler = Model(sequential=True), Scheduler(4, 1000)
        jobs = [
            asyncio.ensure_future(scheduler.submit(model, request(f"{s}.{n}", s)))
            for n in range(40)
            for s in (1, 2, 3)
        ]
        await asyncio.sleep(0.01)
        for job in jobs[::7]:
            job.cancel()
        model.gate.set()
        await asyncio.gather(*jobs, return_exceptions=True)
        await scheduler.stop()
        return [name for call in model.calls for name in call]

    order = run(go())
    for sequence in "123":
        numbers = [int(n.split(".")[1]) for n in order if n.startswith(sequence)]
        assert numbers == sorted(numbers) == list(range(40))


def test_more_than_may_wait_is_refused_and_the_end_loses_nothing() -> None:
    async def go() -> None:
        model, scheduler = Model(), Scheduler(2, 5)
        jobs = [asyncio.ensure_future(scheduler.submit(model, request(str(n)))) for n in range(5)]
        await asyncio.sleep(0.01)
        with pytest.raises(RefusedError) as caught:
            await scheduler.submit(model, request("6"))
        assert caught.value.status == 429
        stopping = asyncio.ensure_future(scheduler.stop())
        await asyncio.sleep(0.01)
        with pytest.raises(RefusedError) as caught:
            await scheduler.submit(model, request("7"))
        assert caught.value.status == 503
        assert not stopping.done()
        model.gate.set()
        assert len(await asyncio.gather(*jobs)) == 5
        await stopping
        assert len(scheduler) == 0

    before = threading.active_count()
    run(go())
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_slow_work_leaves_room_for_other_threads() -> None:
    async def go() -> None:
        scheduler, gate = Scheduler(2, 10), threading.Event()

        def slow() -> bool:
            time.sleep(0.02)
            return gate.wait(10)

        for _ in range(3):
            gate.set()
            await scheduler.run(slow)
        gate.clear()
        first = asyncio.ensure_future(scheduler.run(slow))
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(scheduler.run(gate.set))
        assert await asyncio.wait_for(first, 5)
        await second
        await scheduler.stop()

    run(go())
