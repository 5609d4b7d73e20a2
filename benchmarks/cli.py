"""`ifmmin-bench`: a bundle beside its peers and beside the processor's limit; two runs compared."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ifmmin.benchmarks.record import Report, read_report, write_report
from ifmmin.benchmarks.run import SCENARIOS, run_benchmark
from ifmmin.benchmarks.scenarios.plan import MONOLITH, Plan
from ifmmin.runtime.atomic import atomic_file, require_writable
from ifmmin.runtime.backends import BACKENDS
from ifmmin.runtime.command import command, parser
from ifmmin.runtime.console import say
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.manifest import PRECISIONS
from ifmmin.runtime.modality import Modality, Pattern

COMPARE, REPORT = "compare", "report"
QUICK_ROUNDS, QUICK_SECONDS = 40, 2.0
_FILES = ("report.json", "report.md", "report.html")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == [COMPARE]:
        from ifmmin.benchmarks.compare_cli import compare_reports

        return compare_reports(given[1:])
    if given[:1] == [REPORT]:
        return _render(given[1:])
    return _measure(given)


def _measure(given: Sequence[str]) -> int:
    options = _parser().parse_args(given)
    plan = _plan(options)
    for name in _FILES:
        require_writable(options.out / name)
    report = run_benchmark(plan, shlex.join(["ifmmin-bench", *given]), say)
    _write(report, options.out)
    return 0


def _render(given: Sequence[str]) -> int:
    cli = parser(f"ifmmin-bench {REPORT}", "Write Markdown and HTML of a record again.")
    cli.add_argument("record", type=Path, help="report.json of an earlier run")
    cli.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = cli.parse_args(given)
    _write(read_report(options.record), options.out)
    return 0


def _write(report: Report, out: Path) -> None:
    from ifmmin.benchmarks.report import print_report, render_html, render_markdown

    record, markdown, page = (out / name for name in _FILES)
    write_report(report, record)
    for path, text in ((markdown, render_markdown(report)), (page, render_html(report))):
        with atomic_file(path) as part:
            part.write_text(text)
    print_report(report)
    say(f"wrote {record}, {markdown.name} and {page.name}")


def _parser() -> argparse.ArgumentParser:
    cli = parser(
        "ifmmin-bench",
        "Measure a bundle on this device, beside its peers and beside what the processor can do. "
        f"Also: ifmmin-bench {COMPARE} BEFORE.json AFTER.json, ifmmin-bench {REPORT} RECORD.json",
    )
    cli.add_argument("bundle", type=Path, help="directory written by ifmmin-export")
    cli.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the report")
    cli.add_argument("--checkpoint", type=Path, metavar="FILE", help="of the bundle; peers need it")
    many: dict[str, Any] = {"action": "append", "default": None}
    cli.add_argument("--scenario", choices=list(SCENARIOS), help="repeatable; default: all", **many)
    cli.add_argument("--pattern", metavar="a_t", help="repeatable; default: all", **many)
    cli.add_argument(
        "--backend", choices=list(BACKENDS), help="repeatable; default: onnxruntime-cpu", **many
    )
    cli.add_argument("--precision", choices=PRECISIONS, help="repeatable; default: fp32", **many)
    cli.add_argument("--threads", type=int, metavar="N", help="repeatable; default: 1", **many)
    cli.add_argument("--peer", metavar="NAME", help="repeatable; default: monolith", **many)
    cli.add_argument("--all-peers", action="store_true", help="every peer that can run here")
    cli.add_argument("--rounds", type=int, default=Plan.rounds, metavar="N")
    cli.add_argument("--seconds", type=float, default=Plan.seconds, help="longest time of a group")
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--quick", action="store_true", help="few rounds: a look, not a measurement")
    cli.add_argument(
        "--lengths", type=Path, metavar="FILE", help="lines of JSON: frames of a recorded utterance"
    )
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


def _plan(options: argparse.Namespace) -> Plan:
    if options.rounds < 1:
        raise InputError(f"--rounds: got {options.rounds}, wanted at least 1")
    if not options.seconds > 0:
        raise InputError(f"--seconds: got {options.seconds}, wanted more than 0")
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
        seed=options.seed,
        lengths=read_lengths(options.lengths) if options.lengths else (),
        full_rules=options.full_rules,
        settings={"quick": True} if options.quick else {},
        **_corpus(options.evaluate_on),
    )


def _peers(options: argparse.Namespace) -> tuple[str, ...]:
    from ifmmin.benchmarks.peers.choose import PEERS, find_peer

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


def read_lengths(path: Path) -> tuple[Mapping[Modality, int], ...]:
    """Frames of recorded utterances: lines like `{"a": 45, "v": 50, "t": 22}`.

    Raises InputError naming the line.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = {Modality.of(letter): int(count) for letter, count in json.loads(line).items()}
        except (ValueError, AttributeError, TypeError, InputError):
            one = {}
        if set(one) != set(Modality) or min(one.values()) < 1:
            raise InputError(
                f"{path} line {number}: got {line.strip()[:60]!r}, wanted frames of every "
                'modality, for example {"a": 45, "v": 50, "t": 22}'
            )
        found.append(one)
    if not found:
        raise InputError(f'{path} has no lengths; wanted lines like {{"a": 45, "v": 50, "t": 22}}')
    return tuple(found)


if __name__ == "__main__":
    sys.exit(main())
