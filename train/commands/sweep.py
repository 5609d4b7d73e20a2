"""`ifmmin-train sweep`: train and compare entries over folds and seeds."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ifmmin.runtime.console import log_line, print_table
from ifmmin.runtime.errors import InputError

from ..sweep.executors import EXECUTORS
from ..sweep.plan import Plan, parse_numbers, resolve
from ..sweep.report import Findings
from ..sweep.results import COLUMNS, spreads
from ..sweep.run import sweep
from .options import add_recipe, add_roots

NAME, HELP = "sweep", "train and compare models over folds and seeds; call again to go on"


def add(action: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_recipe(action, required=False)
    action.add_argument(
        "--model", action="append", required=True, metavar="ENTRY", dest="models",
        help="MODEL, RECIPE:MODEL or NAME=RECIPE:MODEL; repeatable, or separated by commas",
    )  # fmt: skip
    action.add_argument("--folds", default="1", help="e.g. 1-5 or 1,3; default: 1")
    action.add_argument("--seeds", default="0", help="e.g. 0-2 or 0,7; default: 0")
    action.add_argument("--executor", choices=tuple(EXECUTORS), default="local")
    action.add_argument("--jobs", type=int, help="units at a time; default: cores / threads")
    action.add_argument("--threads", type=int, default=1, help="CPU threads a unit; default: 1")
    action.add_argument(
        "--out", type=Path, required=True, help="directory of the sweep; one that holds a sweep "
        "is gone on with, and may be given more folds, seeds and entries",
    )  # fmt: skip
    add_roots(action)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    for option in ("threads", "jobs"):
        value = getattr(options, option)
        if value is not None and value < 1:
            raise InputError(f"--{option} must be at least 1, got {value}")
    plan = Plan(
        entries=resolve(
            options.models, options.recipe, overrides=options.overrides, corpus=options.corpus
        ),
        folds=parse_numbers(options.folds, "--folds", least=1),
        seeds=parse_numbers(options.seeds, "--seeds", least=0),
        threads=options.threads,
    )
    found = sweep(
        plan,
        options.out,
        EXECUTORS[options.executor],
        parallel=options.jobs or max(1, _cores() // options.threads),
        features=options.features,
        targets=options.targets,
    )
    _print(found)
    log_line(f"wrote {options.out / 'results.md'}, CSV files and plots")


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _print(found: Findings) -> None:
    figure = found.figures[0]
    rows = []
    for name, results in found.results.items():
        by_column = spreads(results, figure)
        rows.append([name, *(f"{by_column[column].mean:.3f}" for column in COLUMNS)])
    print_table([figure.upper(), *COLUMNS], rows)
