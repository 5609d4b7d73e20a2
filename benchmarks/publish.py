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
from ifmmin.benchmarks.record import OURS, Report, read_report
from ifmmin.benchmarks.report.facts import device_facts
from ifmmin.benchmarks.report.markdown import render_markdown
from ifmmin.benchmarks.report.measured import Measured, measure
from ifmmin.benchmarks.report.scale import percent
from ifmmin.benchmarks.scenarios.plan import MONOLITH
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
    """A row per pattern: accuracy, our times, the limit, the monolith's, the gain."""
    items = [item for item in measure(report, "latency") if item.row.threads == 1]
    ours = _by_pattern(items, OURS, "fp32")
    peers = _by_pattern(items, MONOLITH)
    small = _by_pattern(items, OURS, "int8")
    headers = ["pattern", "WA", "UA", "p50 us", "p99 us", "of limit", "monolith p50", "gain"]
    headers += ["int8 p50 us", "int8 UA"] if small else []
    rows = []
    for pattern, item in ours.items():
        peer = peers.get(pattern)
        row = [
            pattern,
            *_accuracy(item),
            _us(item),
            f"{item.summary.p99 * 1e6:.0f}",
            "" if item.of_bound is None else f"{item.of_bound:.2f}x",
            "" if peer is None else _us(peer),
            _gain(item),
        ]
        if small:
            row += _small(small.get(pattern))
        rows.append(row)
    return f"{markdown_table(headers, rows)}\n\n{_caption(report)}"


def _by_pattern(
    items: Sequence[Measured], contender: str, precision: str | None = None
) -> dict[str, Measured]:
    return {
        item.row.pattern: item
        for item in items
        if item.row.contender == contender
        and (precision is None or (item.row.precision, item.row.backend) == (precision, _CPU))
    }


def _accuracy(item: Measured) -> list[str]:
    found = item.row.accuracy
    return ["", ""] if found is None else [f"{found.wa:.3f}", f"{found.ua:.3f}"]


def _us(item: Measured) -> str:
    return f"{item.summary.p50 * 1e6:.0f}"


def _small(item: Measured | None) -> list[str]:
    return ["", ""] if item is None else [_us(item), _accuracy(item)[1]]


def _gain(item: Measured) -> str:
    if item.gain is None:
        return ""
    return "no difference" if item.within_noise else f"{item.gain.value:.2f}x"


def _caption(report: Report) -> str:
    device = dict(device_facts(report)).get("processor", "")
    noise = spread(report.noise, "latency")
    told = "" if noise is None else (
        f" Two sessions of one graph differed by up to {percent(noise)} in this run; what lies "
        "within is no difference."
    )  # fmt: skip
    return (
        "One utterance on one thread of " + device + ": 50 + 50 + 22 frames. of limit: times the "
        "least that this processor could take for the graph's arithmetic and weights. monolith: "
        f"the same weights exported once, zeros for what is missing.{told}"
    )


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
