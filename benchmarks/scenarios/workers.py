"""Worker processes: what is started in one, what it has to answer there, and what it tells."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import IfmminError, ParityError, one_line
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.prediction import largest_differences

from ..record import REFERENCE, Row
from .bench import Bench
from .contenders import Contender, reference_bytes
from .plan import MONOLITH, ORDINARY

PATIENCE = 120.0
"""Seconds that a process gets; importing PyTorch from a slow card takes tens."""
_PROGRAM = "import time; began = time.monotonic(); from {module} import main; main(began)"
T = TypeVar("T")
BARE = "bare session"
"""Contender: our graph in a session of ONNX Runtime, without the runtime around it."""
EAGER = "eager"
"""The peer in PyTorch."""
MONOLITH_FILE = "monolith.onnx"
_TOLERANCE = 1e-3
"""Of a logit, to what the same contender answered in this process."""


class ChildFailed(IfmminError):  # noqa: N818 - what it should have measured is left out
    """A process that was to be measured did not do its work; the message says why."""


@dataclass(frozen=True)
class ChildResult(Generic[T]):
    """What came of a process."""

    started: float
    """When it was asked for, by the clock `time.monotonic`, which all processes share."""
    output: T


def run_child(
    module: str, words: Mapping[str, str], kind: type[T], patience: float = PATIENCE
) -> ChildResult[T]:
    """Run `main(began)` of a module in a process that has imported nothing yet.

    began: the clock at Python's first line. words: what it finds in `sys.argv`, as `key=value`.
    kind: what the last line of its output is, as JSON. The process has ended when this returns.
    Raises ChildFailed with the last line of its complaint.
    """
    program = _PROGRAM.format(module=module)
    command = [sys.executable, "-c", program, *(f"{k}={v}" for k, v in words.items())]
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience
        )
    except OSError as error:
        raise ChildFailed(f"no process can be started ({error.strerror})") from error
    except subprocess.TimeoutExpired as error:
        raise ChildFailed(f"it was not done in {patience:g} seconds") from error
    if done.returncode:
        raise ChildFailed(_complaint(done))
    try:
        return ChildResult(started, msgspec.json.decode(done.stdout.splitlines()[-1], type=kind))
    except (IndexError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ChildFailed(
            f"it printed something else than was asked ({one_line(error)})"
        ) from error


def _complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """The last line that it wrote, without the module of a class of ours."""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if lines:
        return lines[-1].removeprefix("ifmmin.runtime.errors.")[:300]
    if done.returncode < 0:
        return f"signal {-done.returncode} ended it"
    return f"it ended with status {done.returncode}"


@dataclass(frozen=True)
class ChildJob:
    """A contender, as a fresh process is told of it."""

    contender: Contender
    """What its rows say of it."""
    words: Mapping[str, str]
    """See `child_start`."""
    inputs: Mapping[str, NDArray[np.float32]]
    """What it is asked, by letter (T, D)."""
    logits: NDArray[np.float32]
    """What it has to answer (C,)."""

    def require_right(self, logits: list[float], wanted: NDArray[np.float32] | None = None) -> None:
        """ParityError where a process answered something else: fast and wrong is worth nothing.

        wanted: (C,); None: those of its inputs.
        """
        found = np.asarray(logits, dtype=np.float32)
        wanted = self.logits if wanted is None else wanted
        if found.shape != wanted.shape:
            raise ParityError(f"it answered {len(found)} logits, {len(wanted)} were wanted")
        difference = float(largest_differences(found, wanted))
        if difference > _TOLERANCE:
            raise ParityError(
                f"its answer is wrong: a logit is off by {difference:.1e}, allowed {_TOLERANCE:.0e}"
            )

    def write_inputs(self, folder: Path) -> None:
        """Put the inputs where the process finds them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self.inputs.items():
            np.save(folder / f"{name}.npy", array)


def ours(bench: Bench, pattern: Pattern, threads: int) -> list[ChildJob]:
    """Our own configurations and the A/A control of the first."""
    features = bench.ordinary(pattern)
    return [
        ChildJob(
            contender=contender,
            words={
                "config": "predictor",
                "bundle": str(bench.bundle.directory.resolve()),
                "backend": contender.config.backend,
                "precision": contender.config.precision,
                "threads": str(contender.config.threads),
            },
            inputs=_by_letter(features),
            logits=contender.call(features).logits,
        )
        for contender in bench.ours(pattern, threads)
    ]


def bare(bench: Bench, pattern: Pattern, of: ChildJob) -> ChildJob:
    """A session of the graph that one of our ways on ONNX Runtime's CPU loads."""
    config = of.contender.config
    entry = bench.bundle.entry(pattern, config.precision, backend=config.backend)
    return ChildJob(
        contender=replace(of.contender, name=BARE),
        words={
            "config": "session",
            "file": str((bench.bundle.directory / entry.file).resolve()),
            "threads": str(config.threads),
        },
        inputs=of.inputs,
        logits=of.logits,
    )


def reference(bench: Bench, pattern: Pattern, threads: int, folder: Path) -> list[ChildJob]:
    """The reference workload in a bare session, in a list; empty where it cannot run.

    folder: where it is written.
    """
    features = bench.ordinary(pattern)
    file, found = folder / f"{pattern}.{REFERENCE}.onnx", []
    for contender in bench.reference(pattern, threads):
        file.write_bytes(reference_bytes({m: x.shape[1] for m, x in features.items()}, pattern))
        words = {"config": "session", "file": str(file), "threads": str(threads)}
        logits = contender.call(features).reshape(-1)
        found.append(ChildJob(contender, words, _by_letter(features), logits))
    return found


def peers(bench: Bench, pattern: Pattern, threads: int, folder: Path) -> list[ChildJob]:
    """The monolith in a bare session and PyTorch's eager mode, on zeros for what is missing.

    Empty without a checkpoint, without PyTorch, and where the plan wants no peers. folder: where
    the monolith is written, once.
    """
    found, file = [], folder / MONOLITH_FILE
    ways = {
        MONOLITH: {"config": "session", "file": str(file)},
        EAGER: {"config": "eager", "checkpoint": str(bench.plan.checkpoint)},
    }
    for name, words in ways.items() if bench.plan.peers else ():
        contender = bench.peer(name, threads)
        if contender is None:
            continue
        from ..peers.onnx import export_monolith
        from ..peers.torch import standardise

        network, features = bench.source.network, bench.ordinary(pattern)
        if name == MONOLITH and not file.exists():
            file.write_bytes(export_monolith(network))
        inputs = _by_letter(standardise(network, features, ORDINARY))
        logits = contender.call(contender.ready(features, ORDINARY))
        found.append(ChildJob(contender, {**words, "threads": str(threads)}, inputs, logits))
    return found


def _by_letter(features: Mapping[Modality, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    return {m.value: x for m, x in features.items()}


def refused_row(bench: Bench, scenario: str, fresh: ChildJob, pattern: Pattern, why: str) -> Row:
    """The row of a contender that was not measured."""
    bench.log(f"{fresh.contender.name} is left out: {why}")
    return bench.row(scenario, fresh.contender, pattern, note=why)
