"""What building an engine adds to the very first start on a device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ifmmin.benchmarks.record import OURS, Row
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.plan import ORDINARY
from ifmmin.benchmarks.scenarios.starter import Starter
from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.modality import Pattern

BUILDERS = ("tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt")
"""Backends that build an engine once on a device and keep it. Not run on a GPU."""
PART = "build"
NOTE = (
    "the very first start only, measured once: loading with an empty cache of engines, less "
    "loading with one that was built before"
)
_PATIENCE = 3600.0


def builds(starter: Starter) -> bool:
    """Whether this contender builds an engine that later starts find."""
    entrant = starter.fresh.entrant
    return not starter.failure and entrant.name == OURS and entrant.way.backend in BUILDERS


def build_row(bench: Bench, starter: Starter, pattern: Pattern, cache: Path) -> Row:
    """One start with an empty cache, whose loading is told against the usual one."""
    entrant = starter.fresh.entrant
    bench.say(f"build the {entrant.way.backend} engine of {pattern} anew")
    words: Mapping[str, str] = {**starter.words, "cache": str(cache)}
    try:
        load = starter.fresh_start(words, _PATIENCE)["load"]
    except IfmminError as error:
        return bench.row("cold-start", entrant, pattern, part=PART, note=str(error))
    usual = float(np.median([start["load"] for start in starter.starts]))
    return bench.row(
        "cold-start",
        entrant,
        pattern,
        part=PART,
        lengths={m.value: ORDINARY[m] for m in pattern},
        samples=(max(0.0, load - usual),),
        note=NOTE,
    )
