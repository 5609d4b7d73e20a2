"""`ifmmin-doctor`: what is on this machine, what runs, what is wrong and how to mend it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..console import add_schema, command, parser, write
from .collect import collect
from .probes import Host
from .report import Report, make_report, run_selftests, show, to_json

EXIT_BROKEN = 1


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 1 where no backend runs or a self-test fails, else 0."""
    cli = parser("ifmmin-doctor", "Say what this machine can run, and how to mend what it cannot.")
    cli.add_argument(
        "bundle", nargs="?", type=Path, help="also run its golden inputs by every backend"
    )
    cli.add_argument("--json", action="store_true", help="print the report as JSON")
    add_schema(cli, Report, "what --json prints")
    options = cli.parse_args(arguments)

    facts = collect(Host())
    tests = () if options.bundle is None else run_selftests(facts, options.bundle)
    report = make_report(facts, tests)
    if options.json:
        write(to_json(report))
    else:
        show(report)
    return EXIT_BROKEN if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
