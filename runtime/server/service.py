"""Service: a recognizer with its models, its queue and its metrics, whatever carries requests."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..errors import IfmminError
from ..recognizer import Recognizer
from .metrics import Metrics, log
from .models import StreamModel, open_models, require_fitting
from .request import InferRequest, InferResponse, Limits, Model, RefusedError
from .scheduler import Scheduler

Result = TypeVar("Result")
_MOST_WORKERS = 8


class Service:
    """What HTTP, gRPC and WebSocket answer from. To be made, and used, on the event loop.

    recognizer: of the bundle. limits: of requests. workers: threads that answer; default: one for
    each core, at most 8. delay: seconds that a batch waits for more while others are answered.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        limits: Limits | None = None,
        *,
        workers: int | None = None,
        delay: float = 0.001,
    ) -> None:
        self.recognizer = recognizer
        """What it answers with."""
        self.limits = limits or Limits()
        """What one request, and all together, may ask for."""
        self.models = open_models(recognizer, self.limits)
        """By name."""
        self.draining = asyncio.Event()
        """Set when the server is about to stop: it is not ready for more, listeners end."""
        self.listeners = 0
        """WebSockets that listen; kept by those who serve them."""
        self.metrics = Metrics(self)
        """Of all requests."""
        self._scheduler = Scheduler(
            workers or min(os.cpu_count() or 1, _MOST_WORKERS), self.limits.queue, delay,
            self.metrics.count_batch,
        )  # fmt: skip

    @property
    def waiting(self) -> int:
        """Requests accepted and not answered."""
        return len(self._scheduler)

    @property
    def sequences(self) -> int:
        """Streams that are open."""
        return sum(len(model) for model in self.models.values() if isinstance(model, StreamModel))

    def model(self, name: str) -> Model:
        """A model by name. RefusedError where there is none."""
        found = self.models.get(name)
        if found is None:
            raise RefusedError(
                f"got model {name[:100]!r}, wanted one of {', '.join(self.models)}", 404
            )
        return found

    async def submit(self, request: InferRequest) -> InferResponse:
        """The answer. InputError and RefusedError for what cannot be answered."""
        model = self.model(request.model)
        require_fitting(model, request, self.limits)
        return await self._scheduler.submit(model, request)

    async def run(self, work: Callable[[], Result], lane: Hashable | None = None) -> Result:
        """`work()` in a worker's thread. lane: what has the same one is done in order."""
        return await self._scheduler.run(work, lane)

    async def stop(self) -> None:
        """Answer what was accepted, refuse what comes, and end."""
        self.draining.set()
        await self._scheduler.stop()


class Outcome:
    """How a request ended: a status of HTTP, and what to say."""

    def __init__(self) -> None:
        self.status, self.message = 200, ""


@contextmanager
def counted(service: Service, model: str, transport: str) -> Iterator[Outcome]:
    """Count a request, and turn whatever is raised into its outcome: never a traceback."""
    outcome, started = Outcome(), time.perf_counter()
    try:
        yield outcome
    except IfmminError as error:
        outcome.status = error.status if isinstance(error, RefusedError) else 400
        outcome.message = str(error)
    except Exception as error:  # a fault of ours: said in the log, not to clients
        outcome.status, outcome.message = 500, "the server failed; its log says why"
        log("failed", model=model, error=f"{type(error).__name__}: {error}"[:1000])
    finally:
        name = model if model in service.models else "-"
        service.metrics.count(name, transport, outcome.status, time.perf_counter() - started)
