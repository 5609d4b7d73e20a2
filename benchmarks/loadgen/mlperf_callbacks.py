"""What LoadGen calls: a query is issued, no query will follow."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

from ifmmin.benchmarks.loadgen.serving import Worker
from ifmmin.benchmarks.loadgen.system import Logits, System, checked

CHUNK = 1024
"""Samples of an offline query that are handed to the system at once."""

Query = tuple[Sequence[int], Sequence[int]]
"""LoadGen's ids of some samples, and their indices."""


class Answering:
    """Answers in the thread that issues, or for a server in one of `threads`."""

    def __init__(self, lg: Any, system: System, threads: Executor) -> None:
        self._lg = lg
        self._threads = threads
        self._system = system
        self._worker: Worker[Query] | None = None
        self.failure: BaseException | None = None

    def served(self) -> Worker[Query]:
        """Answer in a thread, while others arrive; to be used as a context."""
        self._worker = Worker(self._answer, self._threads)
        return self._worker

    def issue(self, ids: Sequence[int], indices: Sequence[int]) -> None:
        """LoadGen's: answer a query, now or soon. Never raises."""
        if self._worker is not None:
            self._worker.put((ids, indices))
            return
        answered = 0
        try:
            while answered < len(ids) and self.failure is None:
                part = slice(answered, answered + CHUNK)
                self._answer((ids[part], indices[part]))
                answered += CHUNK
        except BaseException as failure:
            self.fail(failure)
        if answered < len(ids):
            self._complete(ids[answered:], None)

    def fail(self, failure: BaseException) -> None:
        """Answer no more; the first failure counts."""
        self.failure = self.failure or failure
        if self._worker is not None:
            self._worker.fail(failure)

    def flush(self) -> None:
        """LoadGen's: no query will follow, so give up those that nobody will answer."""
        if self._worker is not None:
            self._worker.close()
            self.failure = self.failure or self._worker.failure
            for ids, _ in self._worker.left:
                self._complete(ids, None)

    def _answer(self, query: Query) -> None:
        ids, indices = query
        self._complete(ids, checked(self._system, indices))

    def _complete(self, ids: Sequence[int], logits: Logits | None) -> None:
        """Tell LoadGen, which copies answers before this returns. None: there is no answer."""
        # Strides would not do: of a single row numpy's may be anything.
        start, step = (0, 0) if logits is None else (logits.ctypes.data, logits[0].nbytes)
        made = self._lg.QuerySampleResponse
        responses = [made(id_, start + row * step, step) for row, id_ in enumerate(ids)]
        self._lg.QuerySamplesComplete(responses)
