"""Published figures: docs/benchmarks.md and the table of README.md, from the record of a run.

A figure that was typed by hand cannot be believed, and grows old unseen.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated

import typer

from ifmmin.runtime.cli.app import command, entry_point, new_app
from ifmmin.runtime.console import log_line, markdown_table
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.files import atomic_file

from ..record import CONTROL, OURS, Report, read_report, spread
from ..scenarios.plan import MONOLITH, ORDINARY
from ..scenarios.worker_memory import IMPORTS, RSS
from .facts import caveats, device_facts, headline
from .sections import gain_text, names_of, pivot, stage_and_measure
from .summary import TIMES, Measured, Scale, measure, number, percent

RECORD = Path("bench/report.json")
PAGE, README = Path("docs/benchmarks.md"), Path("README.md")
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
_BLOCK = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
_CPU = "onnxruntime-cpu"
_pattern: Callable[[Measured], str] = attrgetter("row.pattern")


app = new_app()


@command(
    app,
    "python -m ifmmin.benchmarks.report.publish",
    "python -m ifmmin.benchmarks.report.publish --check bench/report.json",
)
def publish(
    record: Annotated[
        Path | None,
        typer.Argument(metavar="RECORD", help=f"report.json of a run; default: {RECORD}."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 where they differ.")
    ] = False,
) -> int:
    """Write the figures of README.md and docs/benchmarks.md from the record of a run.

    With --check and no record the two are compared with each other.
    """
    readme = _text(README)
    block = _block(readme)
    if check and record is None:
        if _block(_text(PAGE)) == block:
            return 0
        log_line(
            f"{PAGE} and {README} differ; run make bench and "
            "python -m ifmmin.benchmarks.report.publish"
        )
        return 1
    record = record or RECORD
    report = read_report(record)
    wanted = {PAGE: page_text(report), README: readme.replace(block, marked_table(report), 1)}
    stale = [path for path, text in wanted.items() if not path.is_file() or _text(path) != text]
    for path in stale:
        if check:
            log_line(
                f"{path} differs from {record}; "
                f"run python -m ifmmin.benchmarks.report.publish {record}"
            )
            continue
        with atomic_file(path) as part:
            part.write_text(wanted[path])
        log_line(f"wrote {path}")
    return 1 if check and stale else 0


main = entry_point(app, "python -m ifmmin.benchmarks.report.publish")


def marked_table(report: Report) -> str:
    """The table between its marks, as README and page have it: time and gain per pattern."""
    ours = _ours(report)
    rows = [
        [pattern, *(_time_and_gain(found.get(pattern)) for found in ours.values())]
        for pattern in dict.fromkeys(pattern for found in ours.values() for pattern in found)
    ]
    headers = ["pattern", *(f"{precision}, ms" for precision in ours)]
    caption = textwrap.fill(_caption(report), 120, break_on_hyphens=False)
    return f"{BEGIN}\n{markdown_table(headers, rows)}\n\n{caption}\n{END}"


def page_text(report: Report) -> str:
    """All of docs/benchmarks.md: what a person reads; the record has every sample."""
    blocks = [
        "<!-- Written by python -m ifmmin.benchmarks.report.publish. -->",
        "# Benchmarks",
        f"{headline(report)} [How it is measured](benchmarking.md); `bench/report.html`, which "
        "`make bench` writes, has every row with its samples and intervals.",
        marked_table(report),
        *_parts(report),
        "## Device",
        "\n".join(f"- {name}: {text}" for name, text in device_facts(report)),
        "## Beware",
        "\n".join(f"- {caveat}" for caveat in caveats(report)),
    ]
    return "\n\n".join(blocks) + "\n"


def _parts(report: Report) -> Iterator[str]:
    """Titles, sentences and tables of all that was measured."""
    yield from _gains(report)
    latencies, starts = _timed(report, "latency"), _timed(report, "cold-start")
    yield from _part(
        "## Beside what one would use instead",
        "Medians of the same utterance on one thread; answers are proven before.",
        latencies, _pattern, "backend",
    )  # fmt: skip
    yield from _part(
        "## Streams",
        "An answer after one new frame, by the frames that came before: as it usually comes, with "
        "everything computed that could change, and the whole asked again.",
        [item for item in _timed(report, "stream") if item.row.part in ("", "usual")],
        lambda item: f"{sum(item.row.lengths.values()):,} frames", "pattern", "part",
    )  # fmt: skip
    yield from _part(
        "", "Many at once, all their updates together:",
        [item for item in measure(report, "streams") if item.row.contender != CONTROL],
        lambda item: f"{item.row.pattern}, {item.row.streams} streams,",
    )  # fmt: skip
    yield from _part(
        "## Cold start", "Fresh processes up to their first answer.",
        starts, lambda item: item.row.part or "whole", "pattern",
    )  # fmt: skip
    held = [i for i in measure(report, "memory") if stage_and_measure(i.row.part)[1] == RSS]
    held = [i for i in held if i.row.streams == 1 and i.row.contender != CONTROL]
    yield from _part(
        "## Memory", "Resident memory of a process that did so much.",
        sorted(held, key=lambda item: _stage(item) != IMPORTS), _stage,
    )  # fmt: skip
    yield from _part(
        "## Limits",
        "Measured time by the least that the processor's rates allow for a graph's arithmetic and "
        "weights: what better kernels could gain.",
        [item for item in latencies if item.of_bound is not None], _pattern,
        show=lambda item: f"{number(item.of_bound or 0)}{TIMES}",
    )  # fmt: skip


def _stage(item: Measured) -> str:
    return stage_and_measure(item.row.part)[0]


def _part(
    title: str,
    about: str,
    items: Sequence[Measured],
    across: Callable[[Measured], str],
    *down: str,
    show: Callable[[Measured], str] | None = None,
) -> Iterator[str]:
    """A table with a row per contender, precision and `down`, and a column per `across`.

    show: what a cell says of its item; the median where None. Nothing where nothing was measured.
    """
    if not items:
        return
    scale = Scale.of(items[0].row.unit, [item.summary.p50 for item in items])
    shown = show or (lambda item: scale.number(item.summary.p50))
    unit = "" if show else f" {scale.unit}"
    names = names_of("contender", "precision", *down)

    def cell(column: str) -> Callable[[Measured], str]:
        return lambda item: shown(item) if across(item) == column else ""

    values = {f"{column}{unit}": cell(column) for column in dict.fromkeys(map(across, items))}
    headers = [*(column.header for column in names), *values]
    rows = [[row.get(h, "") for h in headers] for row in pivot(items, names, values)]
    yield from filter(None, (title, about))
    yield markdown_table(headers, rows)


def _gains(report: Report) -> Iterator[str]:
    ours, peers = _ours(report), _of_one_thread(report, MONOLITH, "fp32")
    if not peers:
        return
    headers = ["pattern", "monolith us"]
    for precision in ours:
        headers += [f"{precision} us", "gain", "UA"]
    rows = [
        [pattern, _us(item), *(cell for o in ours.values() for cell in _cells(o.get(pattern)))]
        for pattern, item in peers.items()
    ]
    timed = measure(report, "latency")
    counts = {item.row.accuracy.count for item in timed if item.row.accuracy}
    where = f" UA: unweighted accuracy on {max(counts):,} utterances." if counts else ""
    yield "## Gain and accuracy"
    yield f"gain: time of the monolith divided by ours, with its 95 % interval.{where}"
    yield markdown_table(headers, rows)


def _timed(report: Report, scenario: str) -> list[Measured]:
    """What was measured on one thread, without the A/A control."""
    return [
        item
        for item in measure(report, scenario)
        if (item.row.threads, item.row.unit) == (1, "s") and item.row.contender != CONTROL
    ]


def _of_one_thread(report: Report, contender: str, precision: str) -> dict[str, Measured]:
    """Latencies per pattern, in ONNX Runtime on the CPU, which the monolith runs on too."""
    return {
        item.row.pattern: item
        for item in _timed(report, "latency")
        if (item.row.contender, item.row.precision, item.row.backend)
        == (contender, precision, _CPU)
    }


def _ours(report: Report) -> dict[str, dict[str, Measured]]:
    """Our latencies per precision that was measured, and pattern."""
    found = {name: _of_one_thread(report, OURS, name) for name in ("fp32", "int8")}
    return {name: items for name, items in found.items() if items}


def _time_and_gain(item: Measured | None) -> str:
    if item is None:
        return ""
    gain = gain_text(item).partition(" (")[0]
    return number(item.summary.p50 * 1e3) + (f" ({gain})" if gain else "")


def _cells(item: Measured | None) -> list[str]:
    """Microseconds, gain on the monolith and accuracy."""
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
    frames = ", ".join(f"{count} ({modality})" for modality, count in ORDINARY.items())
    return (
        f"Median time of one utterance of {frames} frames, on one thread of {device}; in brackets "
        "how many times faster than the monolith: the same weights exported once, with zeros for "
        f"what is missing, in the same engine.{told} Run of {report.started[:10]}."
    )


def _block(text: str) -> str:
    """The marks and what is between them; InputError where they are not there."""
    found = _BLOCK.search(text)
    if not found:
        raise InputError(
            f"{README} and {PAGE} want {BEGIN} ... {END}, and one has not; put both where the "
            f"table belongs in {README}, and write {PAGE} by "
            "python -m ifmmin.benchmarks.report.publish"
        )
    return found.group()


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
