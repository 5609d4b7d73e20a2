"""A unit: read its fold, train, write its run. The same function serves every executor."""

from __future__ import annotations

import io
import traceback
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from ifmmin.runtime.errors import IfmminError
from ifmmin.train.corpora import load_corpus
from ifmmin.train.corpus import Corpus
from ifmmin.train.recipe import Recipe
from ifmmin.train.run import fit
from ifmmin.train.sweeps.plan import Unit


@dataclass(frozen=True)
class Job:
    """A unit with all that a process needs to run it."""

    unit: Unit
    recipe: Recipe
    out: Path
    """Directory of the run, absolute."""
    features: Path | None
    targets: Path | None
    threads: int


@dataclass(frozen=True)
class Outcome:
    """How a unit ended."""

    unit: Unit
    reason: str | None = None
    """Why it failed, in one line; none when it is finished."""
    trace: str = ""
    """The traceback of a fault that is not the user's."""


def run_job(job: Job) -> Outcome:
    """Run a unit and write its run to `job.out`; failures are told, not raised."""
    if job.out.is_dir():
        return Outcome(job.unit)
    torch.set_num_threads(job.threads)
    try:
        with redirect_stderr(io.StringIO()):  # the sweep shows its own progress
            corpus = _read_once(job)
            fit(
                job.recipe, corpus, fold=job.unit.fold, seed=job.unit.seed, out=job.out,
                plots=False,
            )  # fmt: skip
    except IfmminError as error:
        return Outcome(job.unit, " ".join(str(error).split()))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(job.unit, reason, traceback.format_exc())
    return Outcome(job.unit)


_last: tuple[tuple[bytes, int], Corpus] | None = None


def _read_once(job: Job) -> Corpus:
    """The unit's fold; the last one read stays in memory for the units that follow."""
    global _last
    key = (msgspec.json.encode(job.recipe.corpus), job.unit.fold)
    if _last is None or _last[0] != key:
        _last = None  # frees the memory before the next one is read
        corpus = load_corpus(
            job.recipe.corpus, fold=job.unit.fold, features=job.features, targets=job.targets
        )
        _last = (key, corpus)
    return _last[1]
