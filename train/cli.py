"""`ifmmin-train`: train, measure, compare and import networks; see `ifmmin.train.commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ifmmin.runtime.console import command, parser

from .commands import evaluate, fit, import_released, inspect, sweep

ACTIONS = (fit, evaluate, sweep, inspect, import_released)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    cli = parser("ifmmin-train", "Train, measure and compare IF-MMIN and its baselines.")
    actions = cli.add_subparsers(dest="action", required=True)
    for module in ACTIONS:
        module.add(actions.add_parser(module.NAME, help=module.HELP, description=module.HELP))
    options = cli.parse_args(arguments)
    {module.NAME: module.run for module in ACTIONS}[options.action](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
