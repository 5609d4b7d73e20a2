"""Command `ifmmin-bench`: a bundle beside its peers and the processor's limit; runs compared."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ifmmin.runtime.atomic import atomic_file, require_writable
from ifmmin.runtime.backends import BACKENDS
from ifmmin.runtime.bundle import PRECISIONS
from ifmmin.runtime.console import add_schema, command, log_line, parser
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Pattern

from .record import Report
from .run import SCENARIOS
from .scenarios.plan import FEWEST_ROUNDS, MONOLITH, Plan

if TYPE_CHECKING:
    from .record import Report

COMPARE, REPORT = "compare", "report"
"""Words that stand for the bundle where no benchmark is to be run."""
QUICK_ROUNDS, QUICK_SECONDS = 40, 2.0


def bench_parser() -> argparse.ArgumentParser:
    """Options of a run."""
    cli = parser(
        "ifmmin-bench",
        "Measure a bundle on this device, beside its peers and beside what the processor can do. "
        f"Also: ifmmin-bench {COMPARE} BEFORE.json AFTER.json, ifmmin-bench {REPORT} RECORD.json",
    )
    cli.add_argument("bundle", type=Path, help="directory written by ifmmin-export")
    cli.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the report")
    cli.add_argument("--checkpoint", type=Path, metavar="FILE", help="of the bundle; peers need it")
    add_schema(cli, Report, "report.json")
    many: dict[str, Any] = {"action": "append", "default": None}
    cli.add_argument("--scenario", choices=list(SCENARIOS), help="repeatable; default: all", **many)
    cli.add_argument("--pattern", metavar="a_t", help="repeatable; default: all", **many)
    cli.add_argument(
        "--backend", choices=list(BACKENDS), help="repeatable; default: onnxruntime-cpu", **many
    )
    cli.add_argument("--precision", choices=PRECISIONS, help="repeatable; default: fp32", **many)
    cli.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="repeatable; default: 1; the first has every scenario and all peers, further ones "
        "latency beside the monolith",
        **many,
    )
    cli.add_argument("--peer", metavar="NAME", help="repeatable; default: monolith", **many)
    cli.add_argument("--all-peers", action="store_true", help="every peer that can run here")
    cli.add_argument("--rounds", type=int, default=Plan.rounds, metavar="N")
    cli.add_argument("--seconds", type=float, default=Plan.seconds, help="longest time of a group")
    cli.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help=f"the whole run takes about so long: rounds are cut for it, not below {FEWEST_ROUNDS} "
        "of a latency; no scenario, contender or length is left out",
    )
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--quick", action="store_true", help="few rounds: a look, not a measurement")
    cli.add_argument(
        "--evaluate-on",
        nargs="+",
        metavar="FEATURES TARGETS FOLD",
        help="corpus of the bundle's recipe: accuracy beside every time; FOLD alone where it needs "
        "no files",
    )
    cli.add_argument(
        "--full-rules", action="store_true", help="MLPerf's durations for the load generator"
    )
    return cli


def make_plan(options: argparse.Namespace) -> Plan:
    """What to measure. Raises InputError for a value that no run can have."""
    if options.rounds < 1:
        raise InputError(f"--rounds: got {options.rounds}, wanted at least 1")
    if not options.seconds > 0:
        raise InputError(f"--seconds: got {options.seconds}, wanted more than 0")
    if options.budget is not None and not options.budget > 0:
        raise InputError(f"--budget: got {options.budget}, wanted more than 0 seconds")
    threads = tuple(options.threads or (1,))
    if min(threads) < 1:
        raise InputError(f"--threads: got {min(threads)}, wanted at least 1")
    return Plan(
        bundle=options.bundle,
        checkpoint=options.checkpoint,
        scenarios=tuple(options.scenario or ()),
        patterns=tuple(Pattern.parse(text) for text in options.pattern or ()),
        backends=tuple(options.backend or Plan.backends),
        precisions=tuple(options.precision or Plan.precisions),
        threads=threads,
        peers=_peers(options),
        rounds=min(options.rounds, QUICK_ROUNDS) if options.quick else options.rounds,
        seconds=min(options.seconds, QUICK_SECONDS) if options.quick else options.seconds,
        budget=options.budget,
        seed=options.seed,
        full_rules=options.full_rules,
        settings={"quick": True} if options.quick else {},
        **_corpus(options.evaluate_on),
    )


def _peers(options: argparse.Namespace) -> tuple[str, ...]:
    from .peers.base import PEERS, find_peer

    if options.all_peers:
        return tuple(peer.name for peer in PEERS)
    if options.peer:
        return tuple(find_peer(name).name for name in options.peer)
    return (MONOLITH,) if options.checkpoint else ()


def _corpus(given: Sequence[str] | None) -> dict[str, Any]:
    if given is None:
        return {}
    *paths, fold = given
    if len(paths) not in (0, 2) or not fold.isdecimal():
        raise InputError(
            f"--evaluate-on: got {' '.join(given)!r}, wanted FEATURES TARGETS FOLD, or FOLD alone "
            "where the corpus needs no files"
        )
    places = dict(zip(("features", "targets"), map(Path, paths), strict=False))
    return {"fold": int(fold), **places}


_FILES = ("report.json", "report.md", "report.html")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    # All that follows looks at the machine with it, down to the structs of a record.
    if find_spec("psutil") is None:
        raise InputError("psutil is not installed; run pip install '.[bench]'")

    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == [COMPARE]:
        return _compare(given[1:])
    if given[:1] == [REPORT]:
        return _render(given[1:])
    return _measure(given)


def _measure(given: Sequence[str]) -> int:
    from .run import run_benchmark

    options = bench_parser().parse_args(given)
    plan = make_plan(options)
    for name in _FILES:
        require_writable(options.out / name)
    report = run_benchmark(plan, shlex.join(["ifmmin-bench", *given]), log_line)
    _write(report, options.out)
    return 0


def _compare(given: Sequence[str]) -> int:
    from .compare import THRESHOLD, compare
    from .record import read_report

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
    from .record import read_report

    cli = parser(f"ifmmin-bench {REPORT}", "Write Markdown and HTML of a record again.")
    cli.add_argument("record", type=Path, help="report.json of an earlier run")
    cli.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = cli.parse_args(given)
    _write(read_report(options.record), options.out)
    return 0


def _write(report: Report, out: Path) -> None:
    from .record import write_report
    from .report import print_report, render_html, render_markdown

    record, markdown, page = (out / name for name in _FILES)
    write_report(report, record)
    for path, text in ((markdown, render_markdown(report)), (page, render_html(report))):
        with atomic_file(path) as part:
            part.write_text(text)
    print_report(report)
    log_line(f"wrote {record}, {markdown.name} and {page.name}")


if __name__ == "__main__":
    sys.exit(main())
