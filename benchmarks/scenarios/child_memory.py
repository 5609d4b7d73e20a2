"""What a fresh process holds after each stage of its work; run by `memory`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ifmmin.benchmarks.scenarios.child_ways import (
    WAYS,
    ChildWay,
    Inputs,
    PredictorWay,
    Words,
    read_inputs,
    read_words,
)
from ifmmin.benchmarks.scenarios.resident import resident_bytes

IMPORTS, ONE, ALL = "imports", "one pattern", "all patterns"
PRELOADED, STREAMS = "all patterns preloaded", "streams"
ANSWERS = 20
"""Of every pattern before memory is read, so that what the first calls allocate is there."""

Stage = tuple[str, list[float]]
"""Its name and the logits of its last answer."""


def main(began: float) -> None:
    """Work as told, stage by stage, and print what was resident after each.

    words: way and what it wants; patterns: what to answer, the first alone at first; work: `lazy`,
    `preload`, or a number of streams.
    """
    words = read_words()
    way = WAYS[words["way"]](words)
    way.imports()
    found = [_reading(IMPORTS, [])]
    patterns, work = words["patterns"].split(","), words["work"]
    found += [_reading(*stage) for stage in _WORK.get(work, _stream)(way, words, patterns)]
    sys.stdout.write(json.dumps(found) + "\n")


def _reading(stage: str, logits: list[float]) -> dict[str, Any]:
    return {"stage": stage, "logits": logits, "bytes": resident_bytes()}


def _lazy(way: ChildWay, words: Words, patterns: Sequence[str]) -> Iterator[Stage]:
    """One pattern, then all of them."""
    way.load()
    yield ONE, _answer(way, words, patterns[:1])
    if len(patterns) > 1:
        yield ALL, _answer(way, words, patterns[1:])


def _preload(way: ChildWay, words: Words, patterns: Sequence[str]) -> Iterator[Stage]:
    """All patterns, by graphs that they share."""
    way.load()
    yield PRELOADED, _answer(way, words, patterns)


def _stream(way: ChildWay, words: Words, patterns: Sequence[str]) -> Iterator[Stage]:
    """As many streams as told, each of which hears an utterance again and again."""
    assert isinstance(way, PredictorWay)
    way.load()
    inputs, count = _inputs(words, patterns[0]), int(words["work"])
    if count == 1:
        yield STREAMS, _one_stream(way, inputs)
    else:
        yield STREAMS, _group(way, inputs, count)


def _one_stream(way: PredictorWay, inputs: Inputs) -> list[float]:
    stream, found = way.predictor.stream(), []
    for _ in range(ANSWERS):
        stream.push(inputs)
        found = stream.predict().logits.tolist()
    return found


def _group(way: PredictorWay, inputs: Inputs, count: int) -> list[float]:
    group, found = way.predictor.streams(count), []
    for _ in range(ANSWERS):
        for index in range(count):
            group.push(index, inputs)
        last = group.update()[-1]
        assert last is not None
        found = last.logits.tolist()
    return found


def _answer(way: ChildWay, words: Words, patterns: Sequence[str]) -> list[float]:
    """Logits (C,) of the last pattern's last answer."""
    found: list[float] = []
    for pattern in patterns:
        inputs = _inputs(words, pattern)
        for _ in range(ANSWERS):
            found = way.answer(inputs).tolist()
    return found


def _inputs(words: Words, pattern: str) -> Inputs:
    """An utterance of a pattern, of which a peer is given all modalities."""
    return read_inputs(f"{words['inputs']}/{pattern}")


_WORK: dict[str, Callable[[ChildWay, Words, Sequence[str]], Iterator[Stage]]] = {
    "lazy": _lazy,
    "preload": _preload,
}
