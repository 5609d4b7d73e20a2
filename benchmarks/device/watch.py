"""Watches the machine while a benchmark runs: temperatures, clocks, throttling, energy."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from ifmmin.benchmarks.device.energy import Energy
from ifmmin.benchmarks.device.sampling import Sampling
from ifmmin.benchmarks.device.watched import Watched, summarise

PERIOD = 0.25
"""Seconds between looks: seldom enough not to disturb, often enough for intervals of seconds."""
_FIRST_LOOK = 20.0
"""Seconds that the first sample may take: a driver may have to start for it."""
_COMMAND = (sys.executable, "-W", "ignore", "-m", "ifmmin.benchmarks.device.sampler")


class Watch:
    """Samples between `start` and `stop`; a `with` block does both. Once stopped it may start anew.

    Times are seconds of `time.monotonic`. A machine that tells nothing, or a sampler that does not
    start, is no error: what comes back says what is not available, and why.

    period: seconds between two looks. command: what samples; `--period` and the number follow.
    """

    def __init__(self, period: float = PERIOD, command: Sequence[str] = _COMMAND) -> None:
        if not period > 0:
            raise ValueError(f"got a period of {period} s, it must be above 0")
        self.period = period
        self._command = (*command, "--period", str(period))
        self._sampling: Sampling | None = None
        self._began = 0.0
        self._ended: float | None = None

    def start(self) -> None:
        """Begin. Returns with the first sample, or once it is clear that there will be none."""
        if self._sampling is not None and self._ended is None:
            raise ValueError("the watch runs already; stop it first")
        sampling = self._sampling = Sampling(self._command)
        sampling.wait(lambda: bool(sampling.samples), _FIRST_LOOK)
        self._began, self._ended = time.monotonic(), None

    def stop(self) -> Watched:
        """End, with what was seen since `start`. A second call gives the same again."""
        sampling = self._started()
        if self._ended is None:
            self._ended = time.monotonic()
            sampling.end()
        return self.between(self._began, self._ended)

    def between(self, began: float, ended: float) -> Watched:
        """What was seen in an interval of the past, while the watch goes on or after it.

        Waits for the sample that follows the interval, at most a little over one period.
        """
        sampling = self._started()
        if self._ended is None:
            follows = 2 * self.period + 1
            sampling.wait(lambda: any(s.at >= ended for s in sampling.samples[-1:]), follows)
        missing = (*([sampling.fault] if sampling.fault else []), *sampling.missing)
        return summarise(sampling.samples, began, ended, missing)

    def energy(self, began: float, ended: float) -> Energy:
        """Energy of an interval of the past; see `between`."""
        return self.between(began, ended).energy

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _started(self) -> Sampling:
        if self._sampling is None:
            raise ValueError("the watch was not started; call start() first")
        return self._sampling
