"""One run: scenarios one after the other, the device before, during and after, one record."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib import import_module
from typing import Any

from ifmmin.runtime.bundle import MANIFEST_NAME
from ifmmin.runtime.errors import IfmminError

from .device import Watch, record_device
from .record import BundleRecord, Report, Row, measured_noise
from .scenarios.bench import Bench, Log
from .scenarios.contenders import SESSIONS
from .scenarios.plan import Pace, Plan

SCENARIOS: Mapping[str, str] = {
    "latency": "latency:latency", "length": "latency:length", "throughput": "latency:throughput",
    "stream": "stream:stream", "streams": "stream:streams", "signal": "latency:signal",
    "cold-start": "start:cold_start", "idle": "start:idle", "memory": "memory:memory",
    "load": "load:load",
}  # fmt: skip
"""Module and function of each, in the order in which they run."""


def run_benchmark(plan: Plan, command: str, log: Log) -> Report:
    """Measure what a plan asks for; what cannot run here of many is left out and noted. Raises
    what stands in the way of all of it."""
    chosen = plan.scenarios or tuple(SCENARIOS)
    scenarios = {name: home for name, home in SCENARIOS.items() if name in chosen}
    device, started = record_device(), datetime.now(timezone.utc)
    began = time.monotonic()
    pace = Pace(plan.budget, plan.seconds, list(scenarios))
    bench = Bench(plan, log, pace)
    if plan.fold is not None:
        log("accuracy of every way to answer")
        with pace.phase("accuracy"):
            bench.accuracies = find_scenario("accuracy:measure_accuracies")(bench)
    rows: list[Row] = []
    with Watch() as watch:
        for name, home in scenarios.items():
            with pace.phase(name):
                rows += _measured(bench, name, home)
        watched = watch.stop()
    rows += (
        Row(scenario=scenario, contender=what, threads=threads, note=f"left out: {reason}")
        for (scenario, what, threads), reason in bench.refused.items()
    )
    return Report(
        title=f"{plan.bundle.name}: {bench.bundle.manifest.checkpoint.model}",
        started=started.isoformat().replace("+00:00", "Z"),
        seconds=time.monotonic() - began,
        revision=device.revision.commit if device.revision else None,
        command=command,
        settings=_settings(plan),
        device_before=device,
        device_after=record_device(),
        watched=watched,
        rates=bench.bounds.measured,
        phases=pace.phases,
        bundle=_bundle(bench),
        noise=measured_noise(rows),
        rows=tuple(rows),
    )


def find_scenario(home: str) -> Callable[[Bench], Any]:
    """The function at a home as `SCENARIOS` has it, whose module is imported when it is wanted."""
    module, name = home.split(":")
    found: Callable[[Bench], Any] = getattr(
        import_module(f"ifmmin.benchmarks.scenarios.{module}"), name
    )
    return found


def _measured(bench: Bench, name: str, home: str) -> list[Row]:
    """The rows of a scenario; none where it cannot run, which is noted: others took minutes."""
    bench.scenario = "single-stream" if name == "load" else name  # type: ignore[assignment]
    try:
        rows: list[Row] = find_scenario(home)(bench)
        return rows
    except IfmminError as error:
        bench.refuse("all", bench.plan.threads[0], error)
        return []


def _settings(plan: Plan) -> dict[str, Any]:
    return {
        "rounds": plan.rounds, "warm_up": plan.warm_up, "seconds_per_group": plan.seconds,
        "budget_seconds": plan.budget, "seed": plan.seed, "sessions": SESSIONS,
        "threads": list(plan.threads), "peers": list(plan.peers), "backends": list(plan.backends),
        "precisions": list(plan.precisions), "full_rules": plan.full_rules, **plan.settings,
    }  # fmt: skip


def _bundle(bench: Bench) -> BundleRecord:
    manifest = bench.bundle.manifest
    content = (bench.bundle.directory / MANIFEST_NAME).read_bytes()
    return BundleRecord(
        name=bench.bundle.directory.resolve().name,
        manifest_sha256=hashlib.sha256(content).hexdigest(),
        checkpoint_sha256=manifest.checkpoint.sha256,
        model=manifest.checkpoint.model,
        labels=manifest.labels,
        graphs={entry.file: entry.bytes for entry in manifest.graphs},
    )
