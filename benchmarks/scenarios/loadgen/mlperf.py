"""MLPerf's own load generator, LoadGen, with a system of this process under test.

LoadGen cannot be told to stop, and an exception that went through it would leave its threads with
files that are closed. So a failure is kept, every query after it is completed at once and empty,
which ends all scenarios but the server's in moments; the server's ends when too many queries wait.
Nor does it bear the end of a thread that called it, whose logs it reads too late, so its threads
are kept for the next run.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import BackendUnavailable, EngineError, one_line

from .base import (
    PERCENTILE,
    PERCENTILES,
    Logits,
    Plan,
    Run,
    System,
    checked,
    located,
    percentile_name,
)
from .own import CHUNK, Worker

Query = tuple[Sequence[int], Sequence[int]]
"""LoadGen's ids of some samples, and their indices."""
_MARK = ":::MLLOG "
_SAMPLE = re.compile(rb'"name":"Sample".*"ph":"b".*"query_seq":(\d+).*"complete_ns":(\d+)')
_CONDITIONS = {
    "result_min_duration_met": "it did not last as long as it must",
    "result_min_queries_met": "it had fewer queries than it must",
    "result_perf_constraints_met": "the latency limit did not hold",
    "early_stopping_met": "its queries were too few to be sure of the percentile",
}
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
_PREFIX = "ifmmin-loadgen-"


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


class Detail:
    """The detailed log: values by their keys, and errors. Raises EngineError where it is empty."""

    def __init__(self, folder: Path) -> None:
        text = (folder / "mlperf_log_detail.txt").read_text(errors="replace")
        lines = [line.removeprefix(_MARK) for line in text.splitlines() if line.startswith(_MARK)]
        found = [json.loads(line) for line in lines]
        errors = [entry["value"] for entry in found if entry["metadata"]["is_error"]]
        self.values: dict[str, Any] = {entry["key"]: entry["value"] for entry in found}
        self.errors = [" ".join(str(error).split()) for error in errors]
        if not self.values:
            raise EngineError(
                "LoadGen wrote no log; see that the temporary folder can be written and has space"
            )

    def seconds(self, key: str) -> float:
        """A time that is written in nanoseconds."""
        return float(self.values[key]) / 1e9


def read_run(folder: Path, plan: Plan) -> Run:
    """A performance run's figures, and whether LoadGen takes it for valid."""
    detail = Detail(folder)
    if "result_validity" not in detail.values:
        said = "; ".join(detail.errors) or "nothing"
        raise EngineError(f"LoadGen ended without a result and said: {said}")
    complaints = [text for key, text in _CONDITIONS.items() if detail.values.get(key) is False]
    if detail.values["result_validity"] != "VALID" and not complaints:
        complaints.append(str(detail.values.get("result_invalid_reason", "LoadGen says so")))
    offline = plan.scenario == "offline"
    count = "generated_samples_per_query" if offline else "result_query_count"
    in_time = all(
        detail.values.get(key, True)
        for key in ("result_perf_constraints_met", "result_min_duration_met")
    )
    return Run(
        metrics=_metrics(detail, plan),
        queries=int(detail.values[count]),
        complaints=(*complaints, *detail.errors),
        latencies=_latencies(folder, detail, plan),
        in_time=in_time,
        certain=bool(detail.values.get("early_stopping_met", True)),
    )


def _metrics(detail: Detail, plan: Plan) -> dict[str, float]:
    if plan.scenario == "offline":
        return {"rate": float(detail.values["result_samples_per_second"])}
    multi = plan.scenario == "multi-stream"
    part, infix = ("_per_query", "_query") if multi else ("", "")
    metrics = {
        percentile_name(p): detail.seconds(f"result_{p * 100:.2f}_percentile{part}_latency_ns")
        for p in PERCENTILES
    }
    for name in ("mean", "min", "max"):
        metrics[name] = detail.seconds(f"result_{name}{infix}_latency_ns")
    return metrics


def _latencies(folder: Path, detail: Detail, plan: Plan) -> tuple[float, ...]:
    """Of every query, from the trace; a query is done when its last sample is."""
    if plan.scenario == "offline":
        return (detail.seconds("result_max_latency_ns"),)
    done: dict[int, int] = {}
    with (folder / "mlperf_log_trace.json").open("rb") as lines:
        for line in lines:
            if found := _SAMPLE.search(line):
                query, latency = int(found[1]), int(found[2])
                done[query] = max(latency, done.get(query, 0))
    return tuple(done[query] / 1e9 for query in sorted(done))


def read_answers(folder: Path) -> dict[int, list[NDArray[np.float32]]]:
    """The accuracy run's answers: per sample the logits (C,), one for every time it was asked."""
    found: dict[int, list[NDArray[np.float32]]] = {}
    for entry in json.loads((folder / "mlperf_log_accuracy.json").read_text() or "[]"):
        logits = np.frombuffer(bytes.fromhex(entry["data"]), dtype=np.float32)
        found.setdefault(int(entry["qsl_idx"]), []).append(logits)
    return found


class LoadGen:
    """Runs scenarios by LoadGen. Raises BackendUnavailable where it is not installed."""

    def __init__(self) -> None:
        self._lg = _load()
        try:
            self.name = f"loadgen {version('mlcommons-loadgen')}"
        except PackageNotFoundError:
            self.name = "loadgen of unknown version"

    def perform(self, system: System, plan: Plan) -> Run:
        """A performance run. Raises what the system raises."""
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
            self._run(system, plan, Path(folder), accuracy=False)
            return read_run(Path(folder), plan)

    def answers(self, system: System, plan: Plan) -> dict[int, list[NDArray[np.float32]]]:
        """The accuracy run: per sample the logits (C,) that were answered, twice of some with which
        multi stream fills its last query. Raises what the system raises."""
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
            self._run(system, plan, Path(folder), accuracy=True)
            return read_answers(Path(folder))

    def _run(self, system: System, plan: Plan, folder: Path, accuracy: bool) -> None:
        lg = self._lg
        answering = Answering(lg, system, _threads)
        served = answering.served() if plan.scenario == "server" else nullcontext()
        with _alone, served:
            logs = lg.LogSettings()
            logs.log_output.outdir = str(folder)
            logs.enable_trace = not accuracy and _traced(plan) <= MOST_TRACED
            sut = lg.ConstructFastSUT(answering.issue, answering.flush)
            library = lg.ConstructQSL(system.count, system.count, _nothing, _nothing)
            try:
                test = _threads.submit(
                    lg.StartTestWithLogSettings,
                    sut,
                    library,
                    self._settings(plan, accuracy),
                    logs,
                    # By default it would obey a file `audit.config` of the working directory.
                    str(folder / "audit.config"),
                )
                while True:
                    try:
                        test.result()
                        break
                    except KeyboardInterrupt as interrupt:  # ends it as a failure does
                        answering.fail(interrupt)
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
        settings.single_stream_target_latency_percentile = PERCENTILE[plan.scenario]
        settings.multi_stream_expected_latency_ns = plan.expected_seconds * 1e9
        settings.multi_stream_target_latency_percentile = PERCENTILE[plan.scenario]
        settings.multi_stream_samples_per_query = plan.samples_per_query
        settings.offline_expected_qps = 1 / plan.expected_seconds
        settings.server_target_qps = _AT_ONCE if accuracy else plan.rate
        settings.server_target_latency_ns = round(plan.latency_limit * 1e9)
        settings.server_target_latency_percentile = PERCENTILE[plan.scenario]
        settings.server_max_async_queries = plan.most_waiting
        return settings


def _traced(plan: Plan) -> float:
    """How many latencies LoadGen would trace, by the guess."""
    if plan.scenario == "offline":
        return float("inf")  # its one query has one latency, which needs no trace
    server, others = plan.rate, plan.samples_per_query / plan.expected_seconds
    return plan.seconds * (server if plan.scenario == "server" else others)


def _load() -> Any:
    try:
        return import_module("mlperf_loadgen")
    except ModuleNotFoundError as error:
        raise BackendUnavailable(f"MLPerf's LoadGen is not installed; {_CURE}") from error
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            f"MLPerf's LoadGen does not load ({one_line(error)}); {_CURE}"
        ) from error


def _nothing(indices: Sequence[int]) -> None:
    """All samples lie in memory."""
