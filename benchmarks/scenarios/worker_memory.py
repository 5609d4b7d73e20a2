"""Body of the memory worker: what a fresh process holds after each stage of its work."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .worker_start import (
    RUNTIMES,
    ChildRuntime,
    Inputs,
    PredictorRuntime,
    Words,
    read_inputs,
    read_words,
)

PEAK, RSS, PSS, USS = "peak", "RSS", "PSS", "USS"
IMPORTS, ONE, ALL = "imports", "one pattern", "all patterns"
PRELOADED, STREAMS = "all patterns preloaded", "streams"
ANSWERS = 20
"""Of every pattern before memory is read, so that what the first calls allocate is there."""
Stage = tuple[str, list[float]]
"""Its name and the logits of its last answer."""


def resident_bytes() -> dict[str, int]:
    """Bytes by measure: RSS, pages in memory; PSS, shared ones divided among the processes that map
    them; USS, only those of this process, which its end would give back."""
    pages, status = (_table(Path("/proc/self") / name) for name in ("smaps_rollup", "status"))
    return {
        PEAK: max(status["VmHWM"], pages["Rss"]), RSS: pages["Rss"], PSS: pages["Pss"],
        USS: sum(pages.get(f"Private_{kind}", 0) for kind in ("Clean", "Dirty", "Hugetlb")),
    }  # fmt: skip


def _table(path: Path) -> dict[str, int]:
    """Bytes by name of lines like `VmHWM:  8564 kB`."""
    found = re.findall(r"^(\w+):\s*([0-9]+) kB$", path.read_text(), flags=re.MULTILINE)
    return {name: int(kib) << 10 for name, kib in found}


def main(began: float) -> None:
    """Work as told, stage by stage, and print what was resident after each.

    words: way and what it wants; patterns: what to answer, the first alone at first; work: `lazy`,
    `preload`, or a number of streams.
    """
    words = read_words()
    config = RUNTIMES[words["config"]](words)
    config.imports()
    found = [_reading(IMPORTS, [])]
    patterns, work = words["patterns"].split(","), words["work"]
    found += [_reading(*stage) for stage in _WORK.get(work, _stream)(config, words, patterns)]
    sys.stdout.write(json.dumps(found) + "\n")


def _reading(stage: str, logits: list[float]) -> dict[str, Any]:
    return {"stage": stage, "logits": logits, "bytes": resident_bytes()}


def _lazy(config: ChildRuntime, words: Words, patterns: Sequence[str]) -> Iterator[Stage]:
    """One pattern, then all of them."""
    config.load()
    yield ONE, _answer(config, words, patterns[:1])
    if len(patterns) > 1:
        yield ALL, _answer(config, words, patterns[1:])


def _preload(config: ChildRuntime, words: Words, patterns: Sequence[str]) -> Iterator[Stage]:
    """All patterns, by graphs that they share."""
    config.load()
    yield PRELOADED, _answer(config, words, patterns)


def _stream(config: ChildRuntime, words: Words, patterns: Sequence[str]) -> Iterator[Stage]:
    """As many streams as told, each of which hears an utterance again and again."""
    assert isinstance(config, PredictorRuntime)
    config.load()
    inputs, count, found = _inputs(words, patterns[0]), int(words["work"]), None
    streams = config.predictor.streams(count) if count > 1 else [config.predictor.stream()]
    for _ in range(ANSWERS):
        for stream in streams:
            stream.push(inputs)
        found = streams[0].predict() if isinstance(streams, list) else streams.update()[-1]
    assert found is not None
    yield STREAMS, found.logits.tolist()


def _answer(config: ChildRuntime, words: Words, patterns: Sequence[str]) -> list[float]:
    """Logits (C,) of the last pattern's last answer."""
    found: list[float] = []
    for pattern in patterns:
        inputs = _inputs(words, pattern)
        for _ in range(ANSWERS):
            found = config.answer(inputs).tolist()
    return found


def _inputs(words: Words, pattern: str) -> Inputs:
    """An utterance of a pattern, of which a peer is given all modalities."""
    return read_inputs(f"{words['inputs']}/{pattern}")


_WORK: dict[str, Callable[[ChildRuntime, Words, Sequence[str]], Iterator[Stage]]] = {
    "lazy": _lazy,
    "preload": _preload,
}
