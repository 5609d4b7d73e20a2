"""GPU day: all that a machine with an NVIDIA GPU can say of this version, in one command.

    make gpu

Each step runs in a process of its own, which a driver may take with it or keep for ever, and hands
its rows over as they are made. What cannot run is a row with the reason. A step that ended is not
run again on the same machine, versions and code, so that a day which was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ifmmin.runtime.cli.app import command, entry_point, new_app, require_known
from ifmmin.runtime.console import log_line, markdown_table, package_version
from ifmmin.runtime.doctor.collect import collect, version
from ifmmin.runtime.doctor.facts import Facts, Nvidia
from ifmmin.runtime.doctor.probes import Host, run_for
from ifmmin.runtime.doctor.rules import Finding, find_problems
from ifmmin.runtime.errors import BackendUnavailable, IfmminError
from ifmmin.runtime.files import JSON_ERRORS, atomic_file, read_regular, require_writable
from ifmmin.runtime.process import device_name, installed_versions

from ..device.info import find_revision
from ..device.machine import Machine
from ..peers.base import PEERS
from ..record import Report, read_report
from .steps import CHECKOUT, GPU_BACKENDS, STEPS, Place, Row, Step

SCHEMA = 1
"""Fields may be added within a version; removing one, or a change of meaning, makes a new one."""
SECONDS = 24 * 60.0
"""Of a day; the last minute is for its report."""
OLDEST_CUDA = (12,)
"""That a driver must speak: wheels are for it, and so are recorded graphs."""
_COMMAND = (sys.executable, "-W", "ignore", "-m", "ifmmin.benchmarks.gpu.day", "step")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A step that was run, or tried."""

    name: str
    key: str
    """Machine, versions and code: in another place it is run again."""
    seconds: float
    whole: bool
    """It came to its end, and nothing failed; else it is run again the next time."""
    rows: tuple[Row, ...]


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """The record."""

    schema: int = SCHEMA
    ifmmin: str
    revision: str | None
    """Of the code, by git; None outside of a checkout."""
    machine: Facts
    findings: tuple[Finding, ...]
    steps: tuple[Part, ...]
    benchmarks: dict[str, Report]
    """By the name of the step: every sample, the device and the settings."""

    @property
    def failed(self) -> bool:
        """Something answered wrongly, or went wrong in a way that is ours to mend."""
        return any(row.outcome == "failed" for part in self.steps for row in part.rows)


def run_day(
    place: Place,
    checkpoint: Path | None = None,
    run: Sequence[str] = _COMMAND,
    seconds: float = SECONDS,
) -> Day:
    """Run what is left of a day, and write its record and report.

    checkpoint: to export, with all of a, v and t; None: one is trained. run: the command of a
    step, whose name, directory and backends follow. seconds: of all steps; those left then are
    rows. Raises BackendUnavailable for a driver that is too old for everything.
    """
    log_line("machine")
    facts, ends = collect(Host()), time.monotonic() + seconds
    require_recent(facts.nvidia)
    require_writable(place.out / "record.json")
    if checkpoint is not None:
        with atomic_file(place.checkpoint) as part:
            part.write_bytes(read_regular(checkpoint, IfmminError))
    key, revision = _key(facts, place), find_revision(Machine())
    reasons = {state.name: state.reason for state in facts.backends if not state.usable}
    parts = []
    for step in STEPS:
        found = _known(place, step.name, key)
        if found is None:
            left = max(0.0, min(step.seconds, ends - time.monotonic()))
            log_line(f"{step.name}, at most {left:.0f} s")
            found = _run(place, step, key, reasons, run, left)
            with atomic_file(place.part(step.name)) as part:
                part.write_bytes(msgspec.json.encode(found))
        parts.append(found)
        log_line(f"{step.name}: {_counted([found])}, {found.seconds:.0f} s")
    day = Day(
        ifmmin=package_version(),
        revision=revision.commit if revision else None,
        machine=facts,
        findings=find_problems(facts),
        steps=tuple(parts),
        benchmarks={
            step.name: read_report(path)
            for step in STEPS if (path := place.benchmark(step.name)).is_file()
        },
    )  # fmt: skip
    for name, content in {
        "record.json": msgspec.json.format(msgspec.json.encode(day), indent=1),
        "report.md": to_markdown(day).encode(),
    }.items():
        with atomic_file(place.out / name) as part:
            part.write_bytes(content)
    return day


def require_recent(nvidia: Nvidia) -> None:
    """BackendUnavailable where the driver is older than everything that would ask it."""
    if nvidia.cuda and version(nvidia.cuda) < OLDEST_CUDA:
        raise BackendUnavailable(
            f"the NVIDIA driver {nvidia.driver} here is for CUDA {nvidia.cuda}, at least 12.0 was "
            "wanted; update it to 525.60 or newer, on a Jetson to JetPack 6.1"
        )


def _key(facts: Facts, place: Place) -> str:
    """What figures depend on."""
    checkpoint = place.checkpoint.read_bytes() if place.checkpoint.is_file() else b""
    code = hashlib.sha256()
    for path in sorted(path for name in ("runtime", "export", "benchmarks")
                       for path in (CHECKOUT / name).rglob("*.py")):  # fmt: skip
        code.update(path.read_bytes())
    content = hashlib.sha256(checkpoint).hexdigest()
    told = [device_name(), installed_versions(), facts.nvidia.driver, code.hexdigest(), content]
    return json.dumps([*told, place.quick])


def _known(place: Place, name: str, key: str) -> Part | None:
    """A step that ended here before."""
    try:
        found = msgspec.json.decode(read_regular(place.part(name), IfmminError), type=Part)
    except (OSError, IfmminError, *JSON_ERRORS):
        return None
    return found if found.whole and found.key == key else None


def _run(
    place: Place, step: Step, key: str, reasons: Mapping[str, str], run: Sequence[str],
    seconds: float,
) -> Part:  # fmt: skip
    """Run a step. reasons: by backend, why it cannot run here."""
    began = time.monotonic()
    rows = [
        Row(what=what, outcome="not run", detail=reasons[backend])
        for what, backend in _subjects(step) if backend in reasons
    ]  # fmt: skip
    usable = [name for name in step.backends or GPU_BACKENDS if name not in reasons]
    whole, wanted = True, bool(usable) or not step.backends
    if wanted and not seconds:
        whole, reason = False, "the time of a day was over; run make gpu again, which goes on here"
        rows.append(Row(what=step.name, outcome="not run", detail=reason))
    elif wanted:
        place.part(step.name).parent.mkdir(parents=True, exist_ok=True)
        quick = ["--quick"] if place.quick else []
        output, code = run_for(seconds, [*run, *quick, step.name, str(place.out), *usable])
        rows += _rows(output)
        whole = code == 0 and not any(row.outcome == "failed" for row in rows)
        if code is None:
            reason = f"ended after {seconds:.0f} s; run make gpu again: engines that are built stay"
            rows.append(Row(what=f"rest of {step.name}", outcome="not run", detail=reason))
        elif code:
            what = f"signal {-code}" if code < 0 else f"exit code {code}"
            reason = f"its process ended with {what}; run it alone: {' '.join([*run, step.name])}"
            rows.append(Row(what=step.name, outcome="failed", detail=reason))
    return Part(name=step.name, key=key, seconds=time.monotonic() - began, whole=whole,
                rows=tuple(rows))  # fmt: skip


def _subjects(step: Step) -> Iterator[tuple[str, str]]:
    """What a step has of backends and peers, with the backend of each."""
    yield from ((name, name) for name in step.backends)
    if step.name == "latency":
        yield from ((f"peer {p.name}", p.backend) for p in PEERS if p.backend in step.backends)


def _rows(output: bytes) -> Iterator[Row]:
    for line in output.splitlines():
        try:
            yield msgspec.json.decode(line, type=Row)
        except JSON_ERRORS:  # it was ended in the middle of a line
            return


def to_markdown(day: Day) -> str:
    """The report."""
    nvidia = day.machine.nvidia
    gpus = ", ".join(gpu.name for gpu in nvidia.gpus) or "no GPU"
    driver = f"driver {nvidia.driver}, CUDA {nvidia.cuda}" if nvidia.cuda else "no driver"
    software = ", ".join(f"{one.name} {one.version}" for one in day.machine.packages)
    lines = [
        f"# {gpus}: {_counted(day.steps)}", "",
        f"{day.machine.cpu.model}, {driver}; ifmmin {day.ifmmin} at {day.revision}; {software}.",
    ]  # fmt: skip
    if nvidia.cuda_error:
        lines += ["", f"The driver does not start: {nvidia.cuda_error}."]
    if day.findings:
        table = [[one.severity, one.found, one.cure] for one in day.findings]
        lines += ["", markdown_table(["finding", "what", "cure"], table)]
    for part in day.steps:
        table = [
            [row.what, row.outcome, ", ".join(f"{n} {x:.4g}" for n, x in row.figures.items()),
             row.detail]
            for row in part.rows
        ]  # fmt: skip
        lines += ["", f"## {part.name}, {part.seconds:.0f} s", ""]
        lines.append(markdown_table(["what", "outcome", "figures", "detail"], table))
    return "\n".join(lines) + "\n"


def _counted(parts: Sequence[Part]) -> str:
    counts = Counter(row.outcome for part in parts for row in part.rows)
    return ", ".join(f"{counts[name]} {name}" for name in ("passed", "failed", "not run"))


QuickOption = Annotated[bool, typer.Option("--quick", help="A look, not a measurement.")]
app = new_app("A day with a GPU.")


# fmt: off
@command(app, "python -m ifmmin.benchmarks.gpu.day run -o gpu", name="run")
def run(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the day.")] = Path("gpu"),
    checkpoint: Annotated[Path | None, typer.Option(
        metavar="FILE", help="To export, of a, v and t; default: a short training's.")] = None,
    quick: QuickOption = False,
) -> int:
    """Run what is left of a day. Exit code 1 where something failed."""
    day = run_day(Place(out, quick), checkpoint)
    log_line(f"{_counted(day.steps)}; wrote {out / 'report.md'} and record.json")
    return int(day.failed)


@command(app, "python -m ifmmin.benchmarks.gpu.day step auto gpu", name="step")
def step(
    name: Annotated[str, typer.Argument(metavar="STEP")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the day.")],
    backends: Annotated[list[str] | None, typer.Argument(metavar="BACKEND...")] = None,
    quick: QuickOption = False,
) -> None:
    """Run one step, a line of JSON for each of its rows."""
    require_known("STEP", [name], [one.name for one in STEPS])
    require_known("BACKEND", backends, GPU_BACKENDS)
    # Libraries print on standard output as they like; rows get a channel of their own.
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    made = next(one.make for one in STEPS if one.name == name)
    try:
        for row in made(Place(out.resolve(), quick), backends or ()):
            channel.write(msgspec.json.encode(row) + b"\n")
    # Whatever it is becomes a row: the others took minutes.
    except Exception as error:
        kind = "" if isinstance(error, IfmminError) else f"{type(error).__name__}: "
        refused = Row(what=name, outcome="failed", detail=f"{kind}{' '.join(str(error).split())}")
        channel.write(msgspec.json.encode(refused) + b"\n")
# fmt: on

main = entry_point(app, "python -m ifmmin.benchmarks.gpu.day")

if __name__ == "__main__":
    sys.exit(main())
