"""Report of the doctor: as data, which `ifmmin-doctor --json` prints, and for people."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..bundle import read_manifest, shipped_licence
from ..console import draw, log_line, package_version
from .collect import eight_bits
from .facts import Facts, Gpu
from .probes import Answers, ask
from .rules import Finding, find_problems

SCHEMA = 1
"""Fields may be added within a version; removing one, or a change of meaning, makes a new one."""


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """Golden inputs of the bundle by one backend."""

    backend: str
    passed: bool
    graphs: int = 0
    """Graphs whose answers were compared."""
    difference: float | None = None
    """From the right answers: the one that is the largest share of what it may be."""
    unit: str = ""
    """What differs: `logit` or `probability`."""
    allowed: float | None = None
    seconds: float = 0.0
    """With the making of engines."""
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the command has to say."""

    schema: int
    ifmmin: str
    broken: bool
    """No backend runs, or a self-test failed: exit code 1."""
    findings: tuple[Finding, ...]
    selftests: tuple[SelfTest, ...]
    facts: Facts


def make_report(facts: Facts, selftests: Sequence[SelfTest] = ()) -> Report:
    """Judge what was found."""
    broken = not facts.python.frozen and not any(state.usable for state in facts.backends)
    return Report(
        schema=SCHEMA,
        ifmmin=package_version(),
        broken=broken or not all(test.passed for test in selftests),
        findings=find_problems(facts),
        selftests=tuple(selftests),
        facts=facts,
    )


def run_selftests(
    facts: Facts, bundle: Path, ask: Callable[..., Answers] = ask
) -> tuple[SelfTest, ...]:
    """Prove a bundle by every backend that runs here. Raises BundleError where there is none."""
    read_manifest(bundle)
    tests = []
    for state in facts.backends:
        if not state.usable:
            continue
        log_line(f"self-test by {state.name}...")
        question = f"bundle:{state.name}:{bundle}"
        # An engine may take minutes to build; Ctrl-C ends it.
        answer = ask([question], patience=None)[question]
        tests.append(_selftest(state.name, answer))
    return tuple(tests)


def _selftest(name: str, answer: dict[str, Any]) -> SelfTest:
    if "error" in answer:
        return SelfTest(backend=name, passed=False, failures=(str(answer["error"]),))
    return msgspec.convert({"backend": name, **answer}, SelfTest)


def to_json(report: Report) -> str:
    """The report as JSON. What is not a number in it is null."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_GIB = 1 << 30
_WIDE = 200
"""Columns where no terminal says how many; lines in a file shall be found by grep."""
Rows = Iterator[tuple[str, str]]


def show(report: Report) -> None:
    """Print the report on standard output."""
    width = None if sys.stdout.isatty() else _WIDE
    facts = report.facts
    sections = {"machine": _machine(facts), "gpu": _gpu(facts), "software": _software(facts)}
    parts: list[RenderableType] = [Text(f"ifmmin {report.ifmmin}"), Text(shipped_licence())]
    for title, rows in sections.items():
        parts += [_heading(title), _grid(rows)]
    parts += [_heading("backends"), _grid(_backends(facts), {"runs": "green"})]
    if report.selftests:
        parts += [_heading("self-test"), *map(_shown, report.selftests)]
    parts += [_heading("findings"), *_findings(report)]
    draw(Group(*parts), width)


def _heading(title: str) -> RenderableType:
    return Rule(Text(title, style="bold"), align="left")


def _grid(rows: Rows, styles: dict[str, str] | None = None) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(name), Text(value, style=(styles or {}).get(value, "")))
    return grid


def _machine(facts: Facts) -> Rows:
    system, cpu, memory = facts.system, facts.cpu, facts.memory
    boxed = "in a container" if system.container else ""
    yield "system", _join(system.name, system.machine, system.kernel, system.libc, boxed)
    quota = "" if cpu.quota is None else f"a quota of {cpu.quota:g} CPUs"
    yield "processor", _join(cpu.model, f"{cpu.cores} cores", f"{cpu.usable} usable", quota)
    yield "instructions", _join(" ".join(cpu.flags), eight_bits(cpu))
    if cpu.governor:
        limits = f"{cpu.minimum_mhz or '?'} to {cpu.maximum_mhz or '?'} MHz"
        yield "governor", _join(cpu.governor, cpu.driver, limits)
    sizes = (memory.total, memory.available, memory.swap)
    total, available, swap = (f"{size / _GIB:.1f} GiB" for size in sizes)
    yield "memory", f"{total}, {available} available, {swap} swap"
    if facts.temperatures:
        hottest = max(facts.temperatures, key=lambda zone: zone.celsius)
        yield "hottest zone", f"{hottest.celsius:.0f} degrees Celsius ({hottest.zone})"
    if facts.jetson:
        jetson = facts.jetson
        yield "jetson", _join(jetson.model, jetson.soc, f"Jetson Linux {jetson.l4t or 'unknown'}")
        yield "jetpack", jetson.jetpack or "the package nvidia-jetpack is not installed"
        pinned = sum(clock.pinned for clock in jetson.clocks)
        clocks = f"{pinned} of {len(jetson.clocks)} clocks pinned" if jetson.clocks else ""
        yield "power mode", _join(jetson.power_mode or "unknown", clocks)


def _gpu(facts: Facts) -> Rows:
    nvidia = facts.nvidia
    for gpu in nvidia.gpus:
        yield "gpu", _one_gpu(gpu)
    if not nvidia.gpus:
        yield "gpu", "none that a driver knows" if nvidia.pci_devices else "no NVIDIA GPU"
    cuda = f"speaks CUDA {nvidia.cuda}" if nvidia.cuda else ""
    yield "driver", _join(nvidia.driver or ("" if cuda else "none"), cuda, nvidia.cuda_error)
    for library in facts.libraries:
        found = "" if library.loader else "not on the loader's path"
        yield library.name, _join(library.version, library.path, found)


def _one_gpu(gpu: Gpu) -> str:
    capability = f"compute capability {gpu.compute_capability}" if gpu.compute_capability else ""
    memory = f"{gpu.memory / _GIB:.0f} GiB" if gpu.memory else ""
    heat = f"{gpu.temperature} degrees Celsius" if gpu.temperature is not None else ""
    clock = f"{gpu.clock_mhz} of {gpu.maximum_clock_mhz} MHz" if gpu.maximum_clock_mhz else ""
    return _join(gpu.name, capability, memory, heat, clock)


def _software(facts: Facts) -> Rows:
    python, runtime = facts.python, facts.onnxruntime
    kind = "virtual environment" if python.virtual else ""
    sees = "" if python.system_packages else "without the system's packages"
    yield "python", _join(python.version, kind, sees)
    for package in facts.packages:
        yield package.name, package.version
    if runtime.package or runtime.error:
        cuda = f"for CUDA {runtime.cuda}" if runtime.cuda else ""
        linked = f"links TensorRT {runtime.tensorrt}" if runtime.tensorrt else ""
        names = f"compiled in: {', '.join(runtime.providers)}" if runtime.providers else ""
        yield "ONNX Runtime", _join(runtime.package, cuda, linked, names, runtime.error)
    if facts.library_path:
        yield "LD_LIBRARY_PATH", ":".join(folder.path for folder in facts.library_path)


def _backends(facts: Facts) -> Rows:
    for state in facts.backends:
        yield state.name, "runs" if state.usable else state.reason


def _shown(test: SelfTest) -> RenderableType:
    verdict = Text("pass", style="green") if test.graphs else Text("not run", style="yellow")
    if not test.passed:
        verdict = Text("FAIL", style="bold red")
    line = Text.assemble(f"{test.backend}: ", verdict, f", {test.graphs} graphs compared")
    if test.difference is not None and test.allowed is not None:
        worst = f", worst difference of a {test.unit} {test.difference:.1e}"
        line.append(f"{worst}, allowed {test.allowed:.1e}")
    line.append(f", {test.seconds:.1f} s")
    more = [Padding(Text(text), (0, 0, 0, 2)) for text in (*test.failures, *test.notes)]
    return Group(line, *more)


def _findings(report: Report) -> list[RenderableType]:
    if not report.findings:
        return [Text("none")]
    lines: list[RenderableType] = []
    for found in report.findings:
        severity = Text(f"{found.severity}: ", style=_STYLES[found.severity])
        lines.append(Text.assemble(severity, found.found))
        lines.append(Padding(Text(f"-> {found.cure}  [{found.rule}]"), (0, 0, 0, 2)))
    return lines


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
