"""The tables of README.md and docs/benchmarks.md, written from the record of a run.

    python -m ifmmin.benchmarks.publish            # from docs/benchmarks.json
    python -m ifmmin.benchmarks.publish --check    # exit code 1 where they differ

A figure that was typed by hand cannot be believed, and grows old unseen.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ifmmin.benchmarks.control import spread
from ifmmin.benchmarks.record import OURS, Report
from ifmmin.benchmarks.record_file import read_report
from ifmmin.benchmarks.report.columns import gain_text
from ifmmin.benchmarks.report.facts import device_facts
from ifmmin.benchmarks.report.markdown import render_markdown
from ifmmin.benchmarks.report.measured import Measured, measure
from ifmmin.benchmarks.report.scale import percent
from ifmmin.benchmarks.scenarios.plan import MONOLITH, ORDINARY
from ifmmin.runtime.atomic import atomic_file
from ifmmin.runtime.command import command, parser
from ifmmin.runtime.console import markdown_table, say
from ifmmin.runtime.errors import InputError

RECORD = Path("docs/benchmarks.json")
PAGE, README = Path("docs/benchmarks.md"), Path("README.md")
_CPU = "onnxruntime-cpu"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the tables; returns the exit code."""
    cli = parser("ifmmin.benchmarks.publish", "Write the tables of the documentation.")
    cli.add_argument("--record", type=Path, default=RECORD)
    cli.add_argument("--check", action="store_true", help="write nothing; 1 where they differ")
    options: argparse.Namespace = cli.parse_args(arguments)
    report = read_report(options.record)
    wanted = {PAGE: page_text(report), README: readme_text(report, README.read_text())}
    stale = [path for path, text in wanted.items() if _text(path) != text]
    if options.check:
        for path in stale:
            say(f"{path} differs from {options.record}; run python -m ifmmin.benchmarks.publish")
        return 1 if stale else 0
    for path in stale:
        with atomic_file(path) as part:
            part.write_text(wanted[path])
        say(f"wrote {path}")
    return 0


def page_text(report: Report) -> str:
    """All of docs/benchmarks.md."""
    head = (
        "<!-- Written by python -m ifmmin.benchmarks.publish from benchmarks.json; how to measure: "
        "benchmarking.md -->"
    )
    return f"{head}\n{render_markdown(report)}"


def readme_text(report: Report, readme: str) -> str:
    """The README with the table of a record between its marks; InputError without the marks."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(readme):
        raise InputError(f"{README} has no {BEGIN} ... {END}; put both where the table belongs")
    return pattern.sub(lambda _: f"{BEGIN}\n{readme_table(report)}\n{END}", readme, count=1)


def readme_table(report: Report) -> str:
    """A row per pattern: time and accuracy of ours in 32 and in 8 bits, the monolith, the gains.

    Of one thread and ONNX Runtime's CPU alone, which the monolith runs on too.
    """
    items = [
        item
        for item in measure(report, "latency")
        if (item.row.threads, item.row.backend, item.row.unit) == (1, _CPU, "s")
    ]
    plain, small = (_by_pattern(items, OURS, precision) for precision in ("fp32", "int8"))
    peers = _by_pattern(items, MONOLITH, "fp32")
    headers = ["pattern", "monolith us", "fp32 us", "gain", "UA"]
    headers += ["int8 us", "gain", "UA"] if small else []
    rows = [
        [
            pattern,
            _us(peers.get(pattern)),
            *_cells(plain.get(pattern)),
            *(_cells(small.get(pattern)) if small else []),
        ]
        for pattern in dict.fromkeys([*plain, *small])
    ]
    return f"{markdown_table(headers, rows)}\n\n{_caption(report)}"


def _by_pattern(items: Sequence[Measured], contender: str, precision: str) -> dict[str, Measured]:
    return {
        item.row.pattern: item
        for item in items
        if (item.row.contender, item.row.precision) == (contender, precision)
    }


def _cells(item: Measured | None) -> list[str]:
    """Time, gain on the monolith and accuracy."""
    if item is None:
        return ["", "", ""]
    accuracy = item.row.accuracy
    return [_us(item), gain_text(item), f"{accuracy.ua:.3f}" if accuracy else ""]


def _us(item: Measured | None) -> str:
    return f"{item.summary.p50 * 1e6:,.0f}" if item else ""


def _caption(report: Report) -> str:
    device = dict(device_facts(report)).get("processor", "")
    noise = spread(report.noise, "latency")
    told = "" if noise is None else (
        f" Two sessions of one graph differed by up to {percent(noise)} in this run; a gain within "
        "that is no difference."
    )  # fmt: skip
    counts = {item.row.accuracy.count for item in measure(report, "latency") if item.row.accuracy}
    where = f" UA: unweighted accuracy on {max(counts):,} utterances." if counts else ""
    frames = " + ".join(map(str, ORDINARY.values()))
    return (
        f"Median of one utterance of {frames} frames, in microseconds, on one thread of {device}. "
        "monolith: the same weights exported once, zeros for what is missing, in the same engine. "
        f"gain: monolith / ours, with its 95 % interval.{where}{told} "
        f"[All of the run](docs/benchmarks.md), of {report.started[:10]}."
    )


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
