"""Which load generator runs."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ifmmin.benchmarks.loadgen.mlperf import LoadGen
from ifmmin.benchmarks.loadgen.own import Own
from ifmmin.benchmarks.loadgen.result import Run
from ifmmin.benchmarks.loadgen.settings import Plan
from ifmmin.benchmarks.loadgen.system import System
from ifmmin.runtime.errors import BackendUnavailable, InputError

GENERATORS = ("auto", "loadgen", "own")


class Generator(Protocol):
    """Makes load and measures what becomes of it."""

    name: str

    def perform(self, system: System, plan: Plan) -> Run:
        """A performance run. Raises what the system raises."""
        ...

    def answers(self, system: System, plan: Plan) -> dict[int, list[NDArray[np.float32]]]:
        """The accuracy run: per sample the logits (C,), for every time it was asked."""
        ...


def make_generator(name: str = "auto", logs: Path | None = None) -> Generator:
    """The generator called `name`; `auto` takes ours where LoadGen cannot be had.

    Raises BackendUnavailable where LoadGen was asked for and cannot be had, InputError for another
    name.
    """
    if name not in GENERATORS:
        raise InputError(f"generator: got {name!r}, wanted one of {', '.join(GENERATORS)}")
    if name == "own":
        return Own()
    try:
        return LoadGen(logs)
    except BackendUnavailable:
        if name == "loadgen":
            raise
        return Own()
