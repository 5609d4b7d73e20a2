"""How often something happens, lately."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

_SECONDS = 2.0


class Rate:
    """Counts what happened in the last two seconds. May be used from many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def count(self) -> None:
        """It happened."""
        with self._lock:
            self._times.append(self._clock())

    def per_second(self) -> float:
        """Times a second."""
        with self._lock:
            since = self._clock() - _SECONDS
            while self._times and self._times[0] <= since:
                self._times.popleft()
            return len(self._times) / _SECONDS
