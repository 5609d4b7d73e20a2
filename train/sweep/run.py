"""A sweep from beginning to end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ifmmin.runtime.console import log_line, progress
from ifmmin.runtime.errors import IfmminError

from ..checkpoint import load_checkpoint
from ..data import load_corpus
from ..data.corpus import Corpus
from ..metrics import shown
from ..trainer import CHECKPOINT_NAME
from .curves import Asked, Curves, Masked, answer_masked, measure_curves, write_curves
from .executors import Executor, Job
from .gains import settings
from .plan import Plan, SweepFolder, Unit
from .report import Findings, write_report
from .results import columns_of, read_results, values


def sweep(
    asked: Plan,
    out: Path,
    executor: Executor,
    *,
    parallel: int,
    features: Path | None = None,
    targets: Path | None = None,
) -> Findings:
    """Run what of `asked` is not finished in `out`, and write the report on all that is.

    Raises IfmminError when units failed, after the others ran and the report was written.
    """
    folder = SweepFolder(out)
    features, targets = (path.absolute() if path else None for path in (features, targets))
    with folder.locked():
        folder.remove_torn()
        plan = folder.extend(asked)
        jobs = [
            Job(
                unit, asked.entries[unit.entry], folder.path(unit), features, targets, asked.threads
            )
            for unit in asked.units()
            if not folder.finished(unit)
        ]
        done = len(asked.units()) - len(jobs)
        if done:
            log_line(f"{done} of {len(asked.units())} units are finished already")
        failed = _run(jobs, folder, executor, parallel, asked.threads) if jobs else []
        found = write_report(folder, plan)
    if found is None or failed:
        more = "" if found is None else f"; {out / 'results.md'} is made from the others"
        raise IfmminError(
            f"{len(failed)} of {len(asked.units())} units failed, as told above{more}; mend the "
            "cause and call again, finished units stay"
        )
    return found


def measure_missing(
    asked: Plan,
    out: Path,
    missing: Asked,
    *,
    features: Path | None = None,
    targets: Path | None = None,
) -> Curves:
    """Measure the finished units of `asked` in `out` at missing rates, and write the curves there.

    Each network answers the test part of its fold, all under the same masks. Entries of one setting
    are compared.
    """
    folder = SweepFolder(out)
    answered: dict[str, dict[tuple[int, int], dict[str, Masked]]] = {}
    corpora: dict[str, Corpus] = {}
    with folder.locked(), progress("missing", len(asked.units())) as advance:
        for unit in asked.units():  # fold by fold, so that one fold's corpora are held at a time
            recipe = asked.entries[unit.entry]
            key = repr((unit.fold, recipe.corpus, recipe.modalities))
            if key not in corpora:
                corpora = {k: c for k, c in corpora.items() if k.startswith(f"({unit.fold}, ")}
                corpora[key] = load_corpus(
                    recipe.corpus, fold=unit.fold, features=features, targets=targets,
                    modalities=recipe.modalities,
                )  # fmt: skip
            network, _ = load_checkpoint(folder.path(unit) / CHECKPOINT_NAME)
            network.reference_batches = recipe.reference_batches
            found = answer_masked(network, corpora[key].parts["test"], missing)
            answered.setdefault(unit.entry, {})[unit.fold, unit.seed] = found
            advance(str(unit))
        lead = next(iter(asked.entries.values())).select
        parts = [
            measure_curves({name: answered[name] for name in setting.entries.values()}, missing)
            for setting in settings(asked)
        ]
        curves = Curves(
            missing,
            [curve for part in parts for curve in part.curves],
            [difference for part in parts for difference in part.differences],
        )
        write_curves(folder.root, curves, lead)
    return curves


def _run(
    jobs: Sequence[Job], folder: SweepFolder, executor: Executor, parallel: int, threads: int
) -> list[Unit]:
    """Run the jobs; returns the units that failed."""
    failed = []
    try:
        with (
            closing(executor(jobs, parallel=parallel, threads=threads)) as outcomes,
            progress("sweep", len(jobs)) as advance,
        ):
            for outcome in outcomes:
                folder.note(outcome.unit, outcome.reason, outcome.trace)
                if outcome.reason is None:
                    advance(f"{outcome.unit}: {_headline(folder, outcome.unit)}")
                else:
                    failed.append(outcome.unit)
                    advance(f"{outcome.unit}: failed")
                    log_line(f"failed: {outcome.unit}: {outcome.reason}")
    finally:
        folder.remove_torn()
    return failed


def _headline(folder: SweepFolder, unit: Unit) -> str:
    results = read_results(folder, [unit])
    name = columns_of(results[0].patterns)[-1]
    return f"UA {shown(values(results, 'ua')[0, -1])} ({name})"
