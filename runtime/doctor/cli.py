"""Command `ifmmin-doctor`: what is on this machine, what runs, what is wrong and its cure."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..cli.app import BundleOption, command, entry_point, new_app, require_bundle, schema_option
from ..console import write
from .collect import collect
from .probes import Host
from .report import Report, make_report, run_selftests, show, to_json

EXIT_BROKEN = 1

app = new_app()


@command(app, "ifmmin-doctor", "ifmmin-doctor -b bundle --json")
def doctor(
    bundle: BundleOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    schema: Annotated[bool, schema_option(Report)] = False,
) -> int:
    """Say what this machine can run, and how to mend what it cannot.

    Every backend that runs here proves the bundle, with its golden inputs. Exit code 1 where no
    backend runs or a self-test fails.
    """
    facts = collect(Host())
    report = make_report(facts, run_selftests(facts, require_bundle(bundle)))
    if as_json:
        write(to_json(report))
    else:
        show(report)
    return EXIT_BROKEN if report.broken else 0


main = entry_point(app, "ifmmin-doctor")

if __name__ == "__main__":
    sys.exit(main())
