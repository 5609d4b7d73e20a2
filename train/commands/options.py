"""Options that several actions share."""

from __future__ import annotations

import argparse
from pathlib import Path

from ifmmin.runtime.errors import InputError

from ..recipe import recipe_names


def add_roots(action: argparse.ArgumentParser) -> None:
    """Where a corpus is."""
    action.add_argument("--features", type=Path, help="root of the feature files")
    action.add_argument("--targets", type=Path, help="root of the label files")


def add_recipe(action: argparse.ArgumentParser, *, required: bool = True) -> None:
    """What to train."""
    action.add_argument(
        "--recipe", required=required, help=f"a YAML file or one of {', '.join(recipe_names())}"
    )
    action.add_argument(
        "--corpus", metavar="RECIPE", help="take the corpus section of this recipe instead"
    )
    action.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change a field of the recipe, e.g. --set stage2.epochs=10",
    )  # fmt: skip


def add_threads(action: argparse.ArgumentParser) -> None:
    """How many cores to use."""
    action.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")


def use_threads(threads: int | None) -> None:
    """Set torch's threads; results are the same for the same number."""
    import torch

    if threads is None:
        return
    if threads < 1:
        raise InputError(f"--threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)
