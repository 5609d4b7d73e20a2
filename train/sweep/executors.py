"""Executors of a sweep's units: a pool of processes on this machine, or Ray.

A killed process costs one unit, and no more.
"""

from __future__ import annotations

import io
import multiprocessing as mp
import os
import signal
import threading
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch

from ifmmin.runtime.errors import BackendUnavailable, IfmminError

from ..data import load_corpus
from ..data.corpus import Corpus
from ..recipe import Recipe
from ..trainer import fit
from .plan import Unit


@dataclass(frozen=True)
class Job:
    """A unit with all that a process needs to run it."""

    unit: Unit
    recipe: Recipe
    out: Path
    """Directory of the run, absolute."""
    features: Path | None
    targets: Path | None
    threads: int


@dataclass(frozen=True)
class Outcome:
    """How a unit ended."""

    unit: Unit
    reason: str | None = None
    """Why it failed, in one line; none when it is finished."""
    trace: str = ""
    """The traceback of a fault that is not the user's."""


def run_job(job: Job) -> Outcome:
    """Run a unit and write its run to `job.out`; failures are told, not raised."""
    if job.out.is_dir():
        return Outcome(job.unit)
    torch.set_num_threads(job.threads)
    try:
        with redirect_stderr(io.StringIO()):  # the sweep shows its own progress
            corpus = _read_once(job)
            fit(
                job.recipe, corpus, fold=job.unit.fold, seed=job.unit.seed, out=job.out,
                plots=False,
            )  # fmt: skip
    except IfmminError as error:
        return Outcome(job.unit, " ".join(str(error).split()))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(job.unit, reason, traceback.format_exc())
    return Outcome(job.unit)


_last: tuple[tuple[bytes, int], Corpus] | None = None


def _read_once(job: Job) -> Corpus:
    """The unit's fold; the last one read stays in memory for the units that follow."""
    global _last
    key = (msgspec.json.encode(job.recipe.corpus), job.unit.fold)
    if _last is None or _last[0] != key:
        _last = None  # frees the memory before the next one is read
        corpus = load_corpus(
            job.recipe.corpus, fold=job.unit.fold, features=job.features, targets=job.targets
        )
        _last = (key, corpus)
    return _last[1]


_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_local(
    jobs: Sequence[Job], *, parallel: int, threads: int
) -> Generator[Outcome, None, None]:
    """Run jobs in up to `parallel` processes of `threads` threads; outcomes as they come.

    The processes are gone when the iterator is closed, and when this process dies in any way.
    """
    waiting = list(reversed(jobs))
    workers: list[_Worker] = []
    try:
        with _few_threads(threads):
            for _ in range(min(parallel, len(jobs))):
                workers.append(_Worker(waiting.pop()))
        while workers:
            ready = wait([worker.connection for worker in workers])
            for worker in [w for w in workers if w.connection in ready]:
                outcome = worker.outcome()
                if worker.alive and waiting:
                    worker.start(waiting.pop())
                else:
                    worker.stop()
                    workers.remove(worker)
                    if waiting:
                        with _few_threads(threads):
                            workers.append(_Worker(waiting.pop()))
                yield outcome
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process and the job that it has."""

    def __init__(self, job: Job) -> None:
        context = mp.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.alive = True
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        with _no_interrupt():
            self._process.start()
        theirs.close()
        self.start(job)

    def start(self, job: Job) -> None:
        """Give it its next job."""
        self._job = job
        try:
            self.connection.send(job)
        except OSError:
            self.alive = False  # died in between; `outcome` says how

    def outcome(self) -> Outcome:
        """What it says of its job, or how it died."""
        try:
            outcome: Outcome = self.connection.recv()
            return outcome
        except (EOFError, OSError):
            self.alive = False
            self._process.join()
            return Outcome(self._job.unit, _death(self._process.exitcode))

    def stop(self) -> None:
        """End it at once, whatever it does."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _death(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed, likely for want of memory; give fewer --jobs"
    how = f"by signal {signal.Signals(-code).name}" if code and code < 0 else f"with code {code}"
    return f"its process ended {how} without an answer"


def _work(connection: Connection) -> None:
    """Body of a process: a job in, an outcome out, until it is told to end."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(run_job(job))


def _die_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _few_threads(threads: int) -> Iterator[None]:
    """Numeric libraries read their number of threads once, from the environment, at start."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """A process that starts now never hears Ctrl-C: its parent does, and ends it."""
    resource_tracker.ensure_running()  # started later, it would unblock Ctrl-C for the first one
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


class Executor(Protocol):
    """Runs jobs, `parallel` at a time with `threads` threads each, and tells how each ended."""

    def __call__(
        self, jobs: Sequence[Job], *, parallel: int, threads: int
    ) -> Generator[Outcome, None, None]:
        """Outcomes as they come, in any order."""
        ...


EXECUTORS: dict[str, Executor] = {"local": run_local, "ray": run_ray}
