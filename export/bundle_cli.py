"""`ifmmin-bundle`: proves a bundle on this device, and says what is in it; torch-free."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ifmmin.export.describe import about, as_json, tables
from ifmmin.export.single_file import check_single_files
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.check import Check
from ifmmin.runtime.command import command, parser
from ifmmin.runtime.console import print_table, progress, say, write
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.selftest import check_bundle

EXIT_FAILED = 1
FORMATS = ("table", "json")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    cli = parser("ifmmin-bundle", "Prove a bundle on this device, or say what is in it.")
    actions = cli.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = actions.add_parser(
        "verify", help="check hashes, graphs and golden vectors; exit code 1 where one is wrong"
    )
    verify.add_argument("bundle", type=Path, help="directory written by ifmmin-export")
    verify.add_argument(
        "--checkpoint", type=Path, metavar="FILE",
        help="also compare every graph with this network again, on new inputs; needs torch",
    )  # fmt: skip
    inspect = actions.add_parser("inspect", help="print what is in a bundle")
    inspect.add_argument("bundle", type=Path, help="directory written by ifmmin-export")
    inspect.add_argument("--format", choices=FORMATS, default="table", dest="layout")
    options = cli.parse_args(arguments)
    bundle = Bundle(options.bundle)
    return _verify(bundle, options) if options.action == "verify" else _inspect(bundle, options)


def _inspect(bundle: Bundle, options: argparse.Namespace) -> int:
    if options.layout == "json":
        write(as_json(bundle.manifest))
        return 0
    for name, value in about(bundle.manifest).items():
        write(f"{name:<11} {value}")
    for title, headers, rows in tables(bundle.manifest):
        write("")
        print_table(headers, rows, title=title)
    return 0


def _verify(bundle: Bundle, options: argparse.Namespace) -> int:
    with progress("verify", len(bundle.manifest.graphs)) as advance:
        checks = [*check_bundle(bundle, advance=advance), *check_single_files(bundle)]
    sound = all(check.passed for check in checks)
    if options.checkpoint is not None and sound:
        checks += _again(bundle, options.checkpoint)
    print_table(["file", "checks passed", "largest difference", "allowed", "of a"], _rows(checks))
    for check in checks:
        if check.note:
            say(f"note: {check}")
    failed = [check for check in checks if not check.passed]
    for check in failed:
        say(f"failed: {check}")
    if options.checkpoint is not None and not sound:
        say("not compared with the checkpoint: the bundle itself is not sound")
    if failed:
        say(f"{len(failed)} of {len(checks)} checks failed; copy or export the bundle again")
        return EXIT_FAILED
    say(f"all {len(checks)} checks passed")
    return 0


def _again(bundle: Bundle, checkpoint: Path) -> list[Check]:
    """The comparison with the network; the only part that wants torch."""
    try:
        from ifmmin.export.reprove import comparable, reprove
    except ImportError as error:
        raise InputError(
            f"--checkpoint needs what trains and exports ({error}); "
            "run pip install 'ifmmin[export]', or leave it out"
        ) from error
    with progress("compare", len(comparable(bundle))) as advance:
        return reprove(bundle, checkpoint, advance=advance)


def _rows(checks: Sequence[Check]) -> list[list[str]]:
    """A row per file, in the order in which the files came up."""
    by_file: dict[str, list[Check]] = {}
    for check in checks:
        by_file.setdefault(check.file, []).append(check)
    return [_row(file, found) for file, found in by_file.items()]


def _row(file: str, checks: Sequence[Check]) -> list[str]:
    """The difference shown is the one that came closest to what is allowed."""
    passed = sum(check.passed for check in checks)
    compared = [
        (c.difference / c.allowed, c) for c in checks if c.difference is not None and c.allowed
    ]
    if not compared:
        return [file, f"{passed} of {len(checks)}", "", "", ""]
    _, closest = max(compared, key=lambda pair: pair[0])
    figures = [f"{closest.difference:.1e}", f"{closest.allowed:.1e}", closest.unit]
    return [file, f"{passed} of {len(checks)}", *figures]


if __name__ == "__main__":
    sys.exit(main())
