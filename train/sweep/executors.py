"""Executors of a sweep's units: processes on this machine, or Ray.

A unit is a process of its own: one that is killed costs its unit, and no more.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.scoring import last_line, start_ray

from ..data import load_corpus
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
            corpus = load_corpus(
                job.recipe.corpus, fold=job.unit.fold, features=job.features,
                targets=job.targets, modalities=job.recipe.modalities,
            )  # fmt: skip
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


_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PROGRAM = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from ifmmin.train.sweep.executors import work; work()"
)


def run_local(
    jobs: Sequence[Job], *, parallel: int, threads: int
) -> Generator[Outcome, None, None]:
    """Run each job in a process of its own of `threads` threads, up to `parallel` at a time;
    outcomes as they come.

    The processes are gone when the iterator is closed, and when this process dies in any way.
    """
    # Numeric libraries read their number of threads once, from the environment, at start.
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))
    running: set[subprocess.Popen[bytes]] = set()
    closed, lock = threading.Event(), threading.Lock()

    def run(job: Job) -> Outcome:
        with lock:
            if closed.is_set():
                raise CancelledError
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                bufsize=0, env=environment,
            )  # fmt: skip
            running.add(process)
        assert process.stdin is not None
        assert process.stdout is not None
        with process:
            with suppress(BrokenPipeError):  # it died at once; its exit code says how
                process.stdin.write(pickle.dumps(sys.path) + pickle.dumps(job))
            answer = process.stdout.read()
        running.remove(process)
        return pickle.loads(answer) if answer else Outcome(job.unit, _death(process.returncode))

    # A thread blocks Ctrl-C for the processes that it starts: this one hears it, and ends them.
    pool = ThreadPoolExecutor(
        parallel, initializer=signal.pthread_sigmask, initargs=(signal.SIG_BLOCK, {signal.SIGINT})
    )
    try:
        for future in as_completed([pool.submit(run, job) for job in jobs]):
            yield future.result()
    finally:
        with lock:
            closed.set()
        for process in tuple(running):
            process.kill()
        pool.shutdown(cancel_futures=True)


def _death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed, likely for want of memory; give fewer --jobs"
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    return f"its process ended {how} without an answer"


def work() -> None:
    """Body of a process: a job on standard input, its outcome on standard output."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what an adapter prints is no outcome
        job: Job = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_die_with_parent, daemon=True).start()
        pickle.dump(run_job(job), answers)


def _die_with_parent() -> None:
    os.read(0, 1)  # ends when the last writer is gone
    os._exit(1)


_TRIES_AFTER_A_LOST_NODE = 2


def run_ray(jobs: Sequence[Job], *, parallel: int, threads: int) -> Generator[Outcome, None, None]:
    """Run jobs on the cluster at RAY_ADDRESS, or on one started here with `parallel` x `threads`
    CPUs; outcomes as they come. Every node must see the sweep's directory and the corpus."""
    ray = start_ray(parallel * threads)
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
                    yield Outcome(job.unit, f"Ray lost it: {last_line(error)}", str(error))
    finally:
        ray.shutdown()


class Executor(Protocol):
    """Runs jobs, `parallel` at a time with `threads` threads each, and tells how each ended."""

    def __call__(
        self, jobs: Sequence[Job], *, parallel: int, threads: int
    ) -> Generator[Outcome, None, None]:
        """Outcomes as they come, in any order."""
        ...


EXECUTORS: dict[str, Executor] = {"local": run_local, "ray": run_ray}
