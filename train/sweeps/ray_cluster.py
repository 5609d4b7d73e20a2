"""The executor for those who outgrow one machine: every unit is a Ray task."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import Any

from ifmmin.runtime.errors import BackendUnavailable
from ifmmin.train.sweeps.worker import Job, Outcome, run_job

_TRIES_AFTER_A_LOST_NODE = 2


def run_ray(jobs: Sequence[Job], *, parallel: int, threads: int) -> Generator[Outcome, None, None]:
    """Run jobs on the cluster at RAY_ADDRESS, or on one started here with `parallel` x `threads`
    CPUs; outcomes as they come. Every node must see the sweep's directory and the corpus."""
    ray = _start(parallel * threads)
    try:
        task = ray.remote(run_job).options(
            num_cpus=threads, max_retries=_TRIES_AFTER_A_LOST_NODE, retry_exceptions=False
        )
        pending = {task.remote(job): job for job in jobs}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            for reference in done:
                job = pending.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield Outcome(job.unit, f"Ray lost it: {_last_line(error)}", str(error))
    finally:
        ray.shutdown()


def _start(cpus: int) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise BackendUnavailable(
            f"--executor ray cannot run here ({error}); pip install 'ifmmin[ray]'"
        ) from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if not os.environ.get("RAY_ADDRESS"):
        options |= {"num_cpus": cpus, "include_dashboard": False, "address": "local"}
    try:
        ray.init(**options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise BackendUnavailable(
            f"Ray did not start: {_last_line(error)}; is RAY_ADDRESS right? "
            "--executor local needs none"
        ) from error
    return ray


def _last_line(error: Exception) -> str:
    """What an error says; Ray puts the cause behind the traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
