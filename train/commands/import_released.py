"""`ifmmin-train import-released`: take over a checkpoint of the reference implementation."""

from __future__ import annotations

import argparse
from pathlib import Path

from ifmmin.runtime.console import log_line
from ifmmin.runtime.errors import InputError, OutputError
from ifmmin.runtime.modality import Modality

from ..checkpoint import save_checkpoint
from ..config import IMAGINATION_FORMS
from ..reference.checkpoint import import_released

NAME, HELP = "import-released", "make a checkpoint from one of the reference implementation"


def add(action: argparse.ArgumentParser) -> None:
    """Declare the options."""
    action.add_argument("directory", type=Path, help="checkpoints/NAME of the reference")
    action.add_argument("--fold", type=int, required=True)
    action.add_argument(
        "--imagination", choices=IMAGINATION_FORMS,
        help="form of IF-IM, which the files do not say; docs/import.md tells how to find out",
    )  # fmt: skip
    action.add_argument("--epoch", help="default: the only one there is")
    action.add_argument(
        "--missing-frames", metavar="a=45,v=50,t=22",
        help="zero frames that stand for a missing modality; default a=100, v=50, t=5",
    )  # fmt: skip
    action.add_argument(
        "--statistics", type=Path, metavar="FILE.h5",
        help="comparE_mean_std.h5, to put the fold's z-score of a into the checkpoint; without it "
        "inputs of a count as already standardised",
    )  # fmt: skip
    action.add_argument(
        "--labels", help="names of the outputs, with commas; default: IEMOCAP's, for four"
    )
    action.add_argument("--out", type=Path, required=True, help="the checkpoint, .safetensors")
    action.add_argument("--overwrite", action="store_true", help="replace a file at --out")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    if options.out.is_file() and not options.overwrite:
        raise OutputError(f"{options.out} exists; choose another --out or add --overwrite")
    found = import_released(
        options.directory,
        fold=options.fold,
        imagination=options.imagination,
        epoch=options.epoch,
        missing_frames=_missing_frames(options.missing_frames),
        statistics=options.statistics,
        labels=None if options.labels is None else _names(options.labels),
    )
    save_checkpoint(options.out, found.network, found.training)
    for note in found.notes:
        log_line(note)
    config = found.network.config
    epoch = found.training["imported"]["epoch"]
    log_line(f"{config.architecture.model}, epoch {epoch}, answers {', '.join(config.labels)}")
    log_line(f"wrote {options.out}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _missing_frames(text: str | None) -> dict[Modality, int]:
    """Read `a=45,v=50`; InputError for anything else."""
    found: dict[Modality, int] = {}
    for item in text.split(",") if text else ():
        letter, _, number = item.partition("=")
        if not number.isdecimal() or int(number) < 1:
            raise InputError(f"--missing-frames: got {item!r}, wanted for example a=45")
        modality = Modality.of(letter.strip())
        if modality in found:
            raise InputError(f"--missing-frames names {modality} twice")
        found[modality] = int(number)
    return found
