"""Reads what LoadGen writes: `mlperf_log_detail.txt`, `_accuracy.json` and `_trace.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.benchmarks.loadgen.result import PERCENTILES, Run, percentile_name
from ifmmin.benchmarks.loadgen.settings import Plan
from ifmmin.runtime.errors import EngineError

_MARK = ":::MLLOG "
_SAMPLE = re.compile(rb'"name":"Sample".*"ph":"b".*"query_seq":(\d+).*"complete_ns":(\d+)')
_CONDITIONS = {
    "result_min_duration_met": "it did not last as long as it must",
    "result_min_queries_met": "it had fewer queries than it must",
    "result_perf_constraints_met": "the latency limit did not hold",
    "early_stopping_met": "its queries were too few to be sure of the percentile",
}


class Detail:
    """The detailed log: values by their keys, and errors. Raises EngineError where it is empty."""

    def __init__(self, folder: Path) -> None:
        self.values: dict[str, Any] = {}
        self.errors: list[str] = []
        for line in (folder / "mlperf_log_detail.txt").read_text(errors="replace").splitlines():
            if line.startswith(_MARK):
                found = json.loads(line.removeprefix(_MARK))
                self.values[found["key"]] = found["value"]
                if found["metadata"]["is_error"]:
                    self.errors.append(" ".join(str(found["value"]).split()))
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
    in_time = all(
        detail.values.get(key, True)
        for key in ("result_perf_constraints_met", "result_min_duration_met")
    )
    return Run(
        metrics=_metrics(detail, plan),
        queries=_queries(detail, plan),
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
    if plan.scenario == "server":
        metrics["completed rate"] = float(detail.values["result_completed_samples_per_sec"])
        return metrics
    early = detail.values.get("early_stopping_latency_ms" if multi else "early_stopping_latency_ss")
    if early:  # 0 where there were too few queries
        metrics[f"early stopping {percentile_name(plan.percentile)}"] = float(early) / 1e9
    return metrics


def _queries(detail: Detail, plan: Plan) -> int:
    offline = plan.scenario == "offline"
    return int(detail.values["generated_samples_per_query" if offline else "result_query_count"])


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
