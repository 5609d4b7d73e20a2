"""MLPerf's own load generator, LoadGen, with a system of this process under test.

LoadGen cannot be told to stop, and an exception that went through it would leave its threads with
files that are closed. So a failure is kept, every query after it is completed at once and empty,
which ends all scenarios but the server's in moments; the server's ends when too many queries wait.
Nor does it bear the end of a thread that called it, whose logs it reads too late, so its threads
are kept for the next run.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ifmmin.benchmarks.loadgen.mlperf_callbacks import Answering
from ifmmin.benchmarks.loadgen.mlperf_log import read_answers, read_run
from ifmmin.benchmarks.loadgen.result import Run
from ifmmin.benchmarks.loadgen.settings import Plan
from ifmmin.benchmarks.loadgen.system import System, located
from ifmmin.runtime.check import one_line
from ifmmin.runtime.errors import BackendUnavailable, OutputError

MOST_TRACED = 100_000
"""Latencies that are kept one by one; LoadGen writes 700 bytes of trace for each."""
_CURE = "run pip install 'ifmmin[loadgen]', or take the generator own"
_SCENARIO = {
    "single-stream": "SingleStream", "multi-stream": "MultiStream", "offline": "Offline",
    "server": "Server",
}  # fmt: skip
_AT_ONCE = 1e6
"""Queries a second of the server's accuracy run, which waits for nothing."""
_alone = threading.Lock()
"""LoadGen has one state for the whole process."""
_threads = ThreadPoolExecutor(2, "loadgen")
"""One that issues and one that serves."""

Read = TypeVar("Read")


class LoadGen:
    """Runs scenarios by LoadGen. logs: folder that gets one folder of logs a run; None: nowhere.

    Raises BackendUnavailable where it is not installed.
    """

    def __init__(self, logs: Path | None = None) -> None:
        self._lg = _load()
        self._logs = logs
        self.name = f"loadgen {_version()}"

    def perform(self, system: System, plan: Plan) -> Run:
        """A performance run. Raises what the system raises."""
        return self._test(system, plan, accuracy=False, read=lambda to: read_run(to, plan))

    def answers(self, system: System, plan: Plan) -> dict[int, list[NDArray[np.float32]]]:
        """The accuracy run: every sample once; multi stream fills its last query with some again.

        Per sample the logits (C,) that were answered. Raises what the system raises.
        """
        return self._test(system, plan, accuracy=True, read=read_answers)

    def _test(
        self, system: System, plan: Plan, *, accuracy: bool, read: Callable[[Path], Read]
    ) -> Read:
        folder = tempfile.mkdtemp(prefix="ifmmin-loadgen-")
        try:
            self._run(system, plan, Path(folder), accuracy)
            found = read(Path(folder))
            self._keep(Path(folder), plan, "accuracy" if accuracy else "performance")
            return found
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, system: System, plan: Plan, folder: Path, accuracy: bool) -> None:
        lg = self._lg
        answering = Answering(lg, system, _threads)
        served = answering.served() if plan.scenario == "server" else nullcontext()
        with _alone, served:
            sut = lg.ConstructFastSUT(answering.issue, answering.flush)
            library = lg.ConstructQSL(system.count, system.count, _nothing, _nothing)
            try:
                test = _threads.submit(
                    lg.StartTestWithLogSettings,
                    sut,
                    library,
                    self._settings(plan, accuracy),
                    self._log_settings(plan, folder, accuracy),
                    # By default it would obey a file `audit.config` of the working directory.
                    str(folder / "audit.config"),
                )
                _wait(test, answering.fail)
            finally:
                lg.DestroyQSL(library)
                lg.DestroySUT(sut)
        if answering.failure is not None:
            raise located(answering.failure, plan.scenario)

    def _settings(self, plan: Plan, accuracy: bool) -> Any:
        lg = self._lg
        settings = lg.TestSettings()
        settings.scenario = getattr(lg.TestScenario, _SCENARIO[plan.scenario])
        settings.mode = lg.TestMode.AccuracyOnly if accuracy else lg.TestMode.PerformanceOnly
        settings.min_duration_ms = round(plan.seconds * 1e3)
        settings.min_query_count = plan.queries
        for name in ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed"):
            setattr(settings, name, plan.seed)
        settings.single_stream_expected_latency_ns = plan.expected_seconds * 1e9
        settings.single_stream_target_latency_percentile = plan.percentile
        settings.multi_stream_expected_latency_ns = plan.expected_seconds * 1e9
        settings.multi_stream_target_latency_percentile = plan.percentile
        settings.multi_stream_samples_per_query = plan.samples_per_query
        settings.offline_expected_qps = 1 / plan.expected_seconds
        settings.server_target_qps = _AT_ONCE if accuracy else plan.rate
        settings.server_target_latency_ns = round(plan.latency_limit * 1e9)
        settings.server_target_latency_percentile = plan.percentile
        settings.server_max_async_queries = plan.most_waiting
        return settings

    def _log_settings(self, plan: Plan, folder: Path, accuracy: bool) -> Any:
        settings = self._lg.LogSettings()
        settings.log_output.outdir = str(folder)
        settings.enable_trace = not accuracy and _latencies(plan) <= MOST_TRACED
        return settings

    def _keep(self, folder: Path, plan: Plan, what: str) -> None:
        """Copy the logs to where they were asked for, in a folder with the next free number."""
        if self._logs is None:
            return
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            number = sum(1 for _ in self._logs.iterdir()) + 1
            shutil.copytree(folder, self._logs / f"{number:02}-{plan.scenario}-{what}")
        except OSError as error:
            raise OutputError(
                f"LoadGen's logs cannot be kept in {self._logs} ({error.strerror}); name a folder "
                "that can be written and holds nothing else"
            ) from error


def _wait(test: Future[None], fail: Callable[[BaseException], None]) -> None:
    """Wait for the end of a test, which Ctrl-C brings about as a failure does."""
    while True:
        try:
            return test.result()
        except KeyboardInterrupt as interrupt:
            fail(interrupt)


def _latencies(plan: Plan) -> float:
    """How many latencies LoadGen would trace, by the guess."""
    if plan.scenario == "server":
        return plan.rate * plan.seconds
    if plan.scenario == "offline":
        return float("inf")  # its one query has one latency, which needs no trace
    return plan.samples_per_query * plan.seconds / plan.expected_seconds


def _load() -> Any:
    try:
        return import_module("mlperf_loadgen")
    except ModuleNotFoundError as error:
        raise BackendUnavailable(f"MLPerf's LoadGen is not installed; {_CURE}") from error
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            f"MLPerf's LoadGen does not load ({one_line(error)}); {_CURE}"
        ) from error


def _version() -> str:
    try:
        return version("mlcommons-loadgen")
    except PackageNotFoundError:
        return "of unknown version"


def _nothing(indices: Sequence[int]) -> None:
    """All samples lie in memory."""
