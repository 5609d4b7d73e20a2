"""Metrics and log lines of the server: what it says of itself, and never what it heard.

Metrics are those of Prometheus, log lines are JSON objects on standard error.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..console import package_version

if TYPE_CHECKING:
    from .service import Service

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


def log(event: str, **fields: Any) -> None:
    """One line about something that happened."""
    line = {"time": round(time.time(), 3), "event": event} | fields
    sys.stderr.write(msgspec.json.encode(line).decode() + "\n")


class LogLines(logging.Handler):
    """What libraries complain of, as such lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line; of a traceback its last."""
        error = record.exc_info[1] if record.exc_info else None
        more = {"error": f"{type(error).__name__}: {error}"[:500]} if error else {}
        log("library", name=record.name, message=record.getMessage()[:500], **more)


class Metrics:
    """Counters and durations of one service."""

    def __init__(self, service: Service) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "ifmmin_requests_total", "Requests by model, transport and HTTP status",
            ("model", "transport", "code"), registry=registry,
        )  # fmt: skip
        self._durations = Histogram(
            "ifmmin_request_duration_seconds", "From the request that was read to its answer",
            ("model",), buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._batches = Histogram(
            "ifmmin_batch_size", "Requests that were answered by one call",
            buckets=(1, 2, 4, 8, 16, 32), registry=registry,
        )  # fmt: skip
        self._waits = Histogram(
            "ifmmin_batch_duration_seconds", "From a batch's first request to its answer",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        for name, about, read in (
            ("ifmmin_queue_depth", "Requests accepted and not answered", lambda: service.waiting),
            ("ifmmin_sequences_active", "Streams that are open", lambda: service.sequences),
            ("ifmmin_listeners_active", "WebSockets that listen", lambda: service.listeners),
        ):
            Gauge(name, about, registry=registry).set_function(read)
        build = Gauge(
            "ifmmin_build_info", "Version and bundle", ("version", "bundle"), registry=registry
        )
        build.labels(package_version(), service.recognizer.predictor.bundle.directory.name).set(1)

    def count(self, model: str, transport: str, code: int, seconds: float) -> None:
        """One request. model: one that there is, or `-`."""
        self._requests.labels(model, transport, code).inc()
        self._durations.labels(model).observe(seconds)

    def count_batch(self, size: int, seconds: float) -> None:
        """One call of a model."""
        self._batches.observe(size)
        self._waits.observe(seconds)

    def to_text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
