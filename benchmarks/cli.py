"""Command `ifmmin-bench`: a bundle beside its peers and the processor's limit; runs compared."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ifmmin.runtime.backends import BACKENDS
from ifmmin.runtime.bundle import PRECISIONS
from ifmmin.runtime.cli.app import (
    BundleOption,
    command,
    entry_point,
    new_app,
    require_bundle,
    require_known,
)
from ifmmin.runtime.console import log_line
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.files import atomic_file, require_writable
from ifmmin.runtime.modality import Pattern

from .compare import THRESHOLD
from .compare import compare as compare_reports
from .peers.base import PEERS, find_peer
from .record import Report, read_report, write_report
from .run import SCENARIOS
from .scenarios.plan import FEWEST_ROUNDS, MONOLITH, Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

QUICK_ROUNDS, QUICK_SECONDS = 40, 2.0
_FILES = ("report.json", "report.md", "report.html")
_CORPUS = "Corpus: accuracy beside every time"
_SPENT = "Time spent"

OutOption = Annotated[Path, typer.Option("--out", "-o", help="Directory of the report.")]
app = new_app(
    "Measure a bundle on this device, beside its peers and beside what the processor can do.",
    "ifmmin-bench run -b bundle --quick",
    "ifmmin-bench compare before/report.json after/report.json",
    schema=Report,
)


# fmt: off
@command(
    app,
    "ifmmin-bench run -b bundle --quick -o bench",
    "ifmmin-bench run -b bundle --checkpoint run/model.safetensors --all-peers --budget 300",
)
def run(
    context: typer.Context,
    bundle: BundleOption = None,
    out: OutOption = Path("bench"),
    checkpoint: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Of the bundle; peers need it.")] = None,
    scenario: Annotated[list[str] | None, typer.Option(
        metavar="NAME", help=f"Repeat for more; default all: {', '.join(SCENARIOS)}.")] = None,
    pattern: Annotated[list[str] | None, typer.Option(
        metavar="a_t", help="Repeat for more; default: all.")] = None,
    backend: Annotated[list[str] | None, typer.Option(
        metavar="NAME", help=f"Repeat for more; default onnxruntime-cpu, of {', '.join(BACKENDS)}."
    )] = None,
    precision: Annotated[list[str] | None, typer.Option(
        metavar="|".join(PRECISIONS), help="Repeat for more; default: fp32.")] = None,
    threads: Annotated[list[int] | None, typer.Option(
        metavar="N",
        help="Repeat for more; default 1. The first has every scenario and all peers, further "
        "ones latency beside the monolith.")] = None,
    peer: Annotated[list[str] | None, typer.Option(
        metavar="NAME", help="Repeat for more; default: monolith.")] = None,
    all_peers: Annotated[bool, typer.Option(
        "--all-peers", help="Every peer that can run here.")] = False,
    rounds: Annotated[int, typer.Option(
        rich_help_panel=_SPENT, help="Turns of every contender.")] = Plan.rounds,
    seconds: Annotated[float, typer.Option(
        rich_help_panel=_SPENT, help="Longest time of a group, seconds.")] = Plan.seconds,
    budget: Annotated[float | None, typer.Option(
        rich_help_panel=_SPENT, metavar="SECONDS",
        help=f"The whole run takes about so long: rounds are cut for it, not below "
        f"{FEWEST_ROUNDS} of a latency; no scenario, contender or length is left out.")] = None,
    quick: Annotated[bool, typer.Option(
        "--quick", rich_help_panel=_SPENT, help="A look, not a measurement.")] = False,
    full_rules: Annotated[bool, typer.Option(
        "--full-rules", rich_help_panel=_SPENT, help="MLPerf's durations for the load generator."
    )] = False,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    evaluate: Annotated[bool, typer.Option(
        "--evaluate", rich_help_panel=_CORPUS,
        help="Measure on the test part of the corpus of the bundle's recipe.")] = False,
    fold: Annotated[int, typer.Option(rich_help_panel=_CORPUS, help="Of the corpus.")] = 1,
    features: Annotated[Path | None, typer.Option(
        rich_help_panel=_CORPUS, help="Root of the feature files.")] = None,
    targets: Annotated[Path | None, typer.Option(
        rich_help_panel=_CORPUS, help="Root of the label files.")] = None,
) -> None:
    """Measure a bundle and write report.json, report.md and report.html."""
    from .run import run_benchmark

    require_known("--scenario", scenario, SCENARIOS)
    require_known("--backend", backend, BACKENDS)
    require_known("--precision", precision, PRECISIONS)
    if rounds < 1:
        raise InputError(f"--rounds: got {rounds}, wanted at least 1")
    if not seconds > 0:
        raise InputError(f"--seconds: got {seconds}, wanted more than 0")
    if budget is not None and not budget > 0:
        raise InputError(f"--budget: got {budget}, wanted more than 0 seconds")
    if threads and min(threads) < 1:
        raise InputError(f"--threads: got {min(threads)}, wanted at least 1")
    plan = Plan(
        bundle=require_bundle(bundle),
        checkpoint=checkpoint,
        scenarios=tuple(scenario or ()),
        patterns=tuple(Pattern.parse(text) for text in pattern or ()),
        backends=tuple(backend or Plan.backends),
        precisions=tuple(precision or Plan.precisions),
        threads=tuple(threads or (1,)),
        peers=_peers(peer, checkpoint, every=all_peers),
        rounds=min(rounds, QUICK_ROUNDS) if quick else rounds,
        seconds=min(seconds, QUICK_SECONDS) if quick else seconds,
        budget=budget,
        seed=seed,
        full_rules=full_rules,
        settings={"quick": True} if quick else {},
        fold=fold if evaluate else None,
        features=features,
        targets=targets,
    )
    for name in _FILES:
        require_writable(out / name)
    _write(run_benchmark(plan, shlex.join(context.obj), log_line), out)
# fmt: on


def _peers(given: Sequence[str] | None, checkpoint: Path | None, *, every: bool) -> tuple[str, ...]:
    if every:
        return tuple(peer.name for peer in PEERS)
    if given:
        return tuple(find_peer(name).name for name in given)
    return (MONOLITH,) if checkpoint else ()


# fmt: off
@command(
    app,
    "ifmmin-bench compare before/report.json after/report.json",
    "ifmmin-bench compare before/report.json after/report.json --fail-on-slower",
)
def compare(
    before: Annotated[Path, typer.Argument(
        metavar="BEFORE", help="report.json of the run to compare with.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="report.json of the new run.")],
    fail_on_slower: Annotated[bool, typer.Option(
        "--fail-on-slower", help="Exit with 1 if a row is slower.")] = False,
    threshold: Annotated[float, typer.Option(
        metavar="SHARE", help="Smallest change that counts.")] = THRESHOLD,
    every: Annotated[bool, typer.Option(
        "--all", help="Show the rows that did not change too.")] = False,
) -> int:
    """Tell what became slower between two runs.

    Each row stands beside the reference workload of the same rounds, so that a slower machine is no
    slower code.
    """
    if not 0 <= threshold < math.inf:
        raise InputError(f"--threshold: got {threshold}, wanted 0 or more, such as 0.1")
    found = compare_reports(read_report(before), read_report(after), threshold=threshold)
    found.show(every=every)
    return 1 if found.of("slower") and fail_on_slower else 0
# fmt: on


# fmt: off
@command(app, "ifmmin-bench report bench/report.json -o again")
def report(
    record: Annotated[Path, typer.Argument(
        metavar="RECORD", help="report.json of an earlier run.")],
    out: OutOption = Path("bench"),
) -> None:
    """Write Markdown and HTML of a record again."""
    _write(read_report(record), out)
# fmt: on


main = entry_point(app, "ifmmin-bench")


def _write(report: Report, out: Path) -> None:
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
