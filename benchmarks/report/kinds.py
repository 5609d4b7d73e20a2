"""How each scenario is shown: its title, what was done, and what its rows are told apart by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Kind:
    """How one scenario is shown."""

    name: str
    """Of the section."""
    scenarios: tuple[str, ...]
    title: str
    about: str
    names: tuple[str, ...]
    """Columns that say what a row is."""
    tails: tuple[int, ...] = (99,)
    """Percentiles to show beside the median."""
    accuracy: bool = False
    layout: Literal["rows", "mixed", "memory"] = "rows"
    """Mixed: units stand in the cells, since the rows have several. Memory: a column a measure."""


KINDS = (
    Kind(
        "latency",
        ("latency",),
        "Latency of one utterance",
        "One call at a time on an utterance of ordinary length. Contenders of a pattern take turns "
        "in an order that is shuffled anew every round, each in a session of its own; every timed "
        "call follows some of its own that are not timed, as where one network answers on and on.",
        ("pattern", "contender", "backend", "precision", "threads", "frames", "samples"),
        accuracy=True,
    ),
    Kind(
        "length",
        ("length",),
        "Latency against length",
        "The same call on longer and longer utterances.",
        ("pattern", "frames", "contender", "backend", "precision", "threads", "samples"),
    ),
    Kind(
        "throughput",
        ("throughput",),
        "Throughput by batch",
        "Utterances a second when several are answered by one call.",
        ("pattern", "batch", "contender", "backend", "precision", "threads", "frames", "samples"),
    ),
    Kind(
        "stream",
        ("stream",),
        "An update of a stream",
        "New frames come in and an answer is wanted; the table has the frames that came before.",
        ("pattern", "frames", "part", "contender", "backend", "precision", "threads", "samples"),
    ),
    Kind(
        "streams",
        ("streams",),
        "Many streams at once",
        "Updates while one process serves several streams.",
        ("pattern", "streams", "part", "contender", "backend", "precision", "threads", "samples"),
    ),
    Kind(
        "cold-start",
        ("cold-start",),
        "Cold start",
        "A fresh process up to its first answer. Medians of parts need not add up to the median of "
        "the whole.",
        ("pattern", "stage", "contender", "backend", "precision", "threads", "samples"),
        tails=(),
    ),
    Kind(
        "idle",
        ("idle",),
        "After a pause",
        "The first call after nothing was asked for a while: caches and clocks have cooled.",
        ("pattern", "part", "contender", "backend", "precision", "threads", "samples"),
        tails=(),
    ),
    Kind(
        "memory",
        ("memory",),
        "Memory",
        "Resident memory of a process that has answered.",
        ("pattern", "part", "contender", "backend", "precision", "threads", "samples"),
        tails=(),
        layout="memory",
    ),
    Kind(
        "load",
        ("single-stream", "multi-stream", "offline", "server"),
        "MLPerf's scenarios",
        "Single-stream: one query after the other, judged by its 90th percentile. Multi-stream: "
        "queries of 8 utterances, by the 99th. Offline: everything at once, in utterances a "
        "second. Server: the largest rate of random arrivals at which the limit on latency holds.",
        ("scenario", "pattern", "contender", "backend", "precision", "threads", "batch", "samples"),
        tails=(90, 99),
        layout="mixed",
    ),
)  # fmt: skip
