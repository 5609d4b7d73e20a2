"""Who runs the units."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from ifmmin.train.sweeps.pool import run_local
from ifmmin.train.sweeps.ray_cluster import run_ray
from ifmmin.train.sweeps.worker import Job, Outcome


class Executor(Protocol):
    """Runs jobs, `parallel` at a time with `threads` threads each, and tells how each ended."""

    def __call__(
        self, jobs: Sequence[Job], *, parallel: int, threads: int
    ) -> Generator[Outcome, None, None]:
        """Outcomes as they come, in any order."""
        ...


EXECUTORS: dict[str, Executor] = {"local": run_local, "ray": run_ray}
