"""`ifmmin-bench`: a bundle beside its peers and beside the processor's limit; two runs compared."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ifmmin.runtime.atomic import atomic_file, require_writable
from ifmmin.runtime.command import command, parser
from ifmmin.runtime.console import say
from ifmmin.runtime.errors import InputError

if TYPE_CHECKING:
    from ifmmin.benchmarks.record import Report

_FILES = ("report.json", "report.md", "report.html")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    # All that follows looks at the machine with it, down to the structs of a record.
    if find_spec("psutil") is None:
        raise InputError("psutil is not installed; run pip install '.[bench]'")
    from ifmmin.benchmarks.cli_plan import COMPARE, REPORT

    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == [COMPARE]:
        return _compare(given[1:])
    if given[:1] == [REPORT]:
        return _render(given[1:])
    return _measure(given)


def _measure(given: Sequence[str]) -> int:
    from ifmmin.benchmarks.cli_plan import bench_parser, make_plan
    from ifmmin.benchmarks.run import run_benchmark

    options = bench_parser().parse_args(given)
    plan = make_plan(options)
    for name in _FILES:
        require_writable(options.out / name)
    report = run_benchmark(plan, shlex.join(["ifmmin-bench", *given]), say)
    _write(report, options.out)
    return 0


def _compare(given: Sequence[str]) -> int:
    from ifmmin.benchmarks.cli_plan import COMPARE
    from ifmmin.benchmarks.compare import THRESHOLD, compare
    from ifmmin.benchmarks.record import read_report

    cli = parser(
        f"ifmmin-bench {COMPARE}",
        "Tell what became slower between two runs: each row beside the reference workload of the "
        "same rounds, so that a slower machine is no slower code.",
    )
    cli.add_argument("before", type=Path, help="report.json of the run to compare with")
    cli.add_argument("after", type=Path, help="report.json of the new run")
    cli.add_argument("--fail-on-slower", action="store_true", help="exit with 1 if a row is slower")
    cli.add_argument(
        "--threshold", type=float, default=THRESHOLD, metavar="SHARE",
        help=f"smallest change that counts; default {THRESHOLD}",
    )  # fmt: skip
    cli.add_argument("--all", action="store_true", help="show the rows that did not change too")
    options = cli.parse_args(given)
    if not 0 <= options.threshold < math.inf:
        raise InputError(f"--threshold: got {options.threshold}, wanted 0 or more, such as 0.1")
    before, after = read_report(options.before), read_report(options.after)
    found = compare(before, after, threshold=options.threshold)
    found.show(every=options.all)
    return 1 if found.of("slower") and options.fail_on_slower else 0


def _render(given: Sequence[str]) -> int:
    from ifmmin.benchmarks.cli_plan import REPORT
    from ifmmin.benchmarks.record import read_report

    cli = parser(f"ifmmin-bench {REPORT}", "Write Markdown and HTML of a record again.")
    cli.add_argument("record", type=Path, help="report.json of an earlier run")
    cli.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = cli.parse_args(given)
    _write(read_report(options.record), options.out)
    return 0


def _write(report: Report, out: Path) -> None:
    from ifmmin.benchmarks.record import write_report
    from ifmmin.benchmarks.report import print_report, render_html, render_markdown

    record, markdown, page = (out / name for name in _FILES)
    write_report(report, record)
    for path, text in ((markdown, render_markdown(report)), (page, render_html(report))):
        with atomic_file(path) as part:
            part.write_text(text)
    print_report(report)
    say(f"wrote {record}, {markdown.name} and {page.name}")


if __name__ == "__main__":
    sys.exit(main())
