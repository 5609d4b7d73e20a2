"""A pool of processes that loses one unit, and no more, when one of them is killed."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from ifmmin.train.sweeps.worker import Job, Outcome, run_job

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
