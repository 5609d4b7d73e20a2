"""A sweep from beginning to end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ifmmin.runtime.console import log_line, progress
from ifmmin.runtime.errors import IfmminError

from ..metrics import shown
from .executors import Executor, Job
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
