"""Answers queries in a thread of its own, one after the other, as a server does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Generic, TypeVar

Q = TypeVar("Q")


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
