"""Surroundings of the numbers: the run, settings, the device all the while, and caveats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..device.describe import describe
from ..device.monitor import Span, Watched
from ..record import OURS, Report, spread
from .sections import Table
from .summary import TIMES, Scale, compared_with, fastest, measure, number, percent, span

Facts = list[tuple[str, str]]
_NOISY = 0.10
"""Spread of the A/A control from which on a run is told to be noisy."""
_WARMER = 10.0
"""Degrees of warming that are told."""
_BILLION = 1e9


def device_facts(report: Report) -> Facts:
    """The device before the run, and what was different after it."""
    before, after = describe(report.device_before), dict(describe(report.device_after))
    facts = []
    for name, text in before:
        later = after.get(name, "not available")
        facts.append((name, text if later == text else f"before: {text}; after: {later}"))
    return facts


def headline(report: Report) -> str:
    """The run in one sentence; empty where no latency was measured."""
    items = [item for item in measure(report, "latency") if item.row.unit == "s"]
    ours = fastest((item for item in items if item.row.contender == OURS), "pattern")
    if not ours:
        return ""
    by_time = sorted(ours, key=lambda item: item.summary.p50)
    scale = Scale.of("s", [by_time[-1].summary.p50])
    ends = []
    for item in (by_time[0], by_time[-1]):
        row, threads = item.row, f"{item.row.threads} thread{'s' if item.row.threads > 1 else ''}"
        how = ", ".join(filter(None, (row.pattern, row.precision, row.backend, threads)))
        ends.append(f"{scale.text(item.summary.p50)} ({how})")
    times = " to ".join(dict.fromkeys(ends))
    text = f"One utterance takes {times}, each pattern in its fastest way"
    gains = sorted(item.gain.value for item in ours if item.gain)
    if gains:
        ends = [f"{number(gain)}{TIMES}" for gain in (gains[0], gains[-1])]
        text += f"; gain on {compared_with(items)}, on as many threads: {' to '.join(ends)}"
    return f"{text}."


def caveats(report: Report) -> list[str]:
    """What the numbers do not say."""
    return [*_of_this_run(report), *_ALWAYS]


def _of_this_run(report: Report) -> Iterator[str]:
    spreads = {name: spread(report.noise, name) for name in report.noise}
    noisy = {name: found for name, found in spreads.items() if found and found > _NOISY}
    if noisy:
        told = ", ".join(f"{percent(found)} in {name}" for name, found in noisy.items())
        yield (
            f"The run was noisy: two sessions of one graph differed by up to {told}. Close other "
            "work and run it again before believing small differences."
        )
    cut, groups = (sum(getattr(p, name) for p in report.phases) for name in ("cut", "groups"))
    if cut:
        yield (
            f"Time was short: {cut} of {groups} groups of calls ended before all their rounds; the "
            "column samples says how many each row has."
        )
    if not report.noise:
        yield "No A/A control ran: what two equal sessions differ by on this device is not known."
    before, after = report.device_before, report.device_after
    if before.processor.hypervisor:
        yield (
            f"The device is a virtual machine ({before.processor.hypervisor}): its neighbours can "
            "slow it down without a trace here."
        )
    hot = [max((zone.celsius for zone in d.temperatures), default=None) for d in (before, after)]
    if hot[0] is not None and hot[1] is not None and hot[1] - hot[0] > _WARMER:
        yield f"The device warmed from {hot[0]:.0f} to {hot[1]:.0f} degrees Celsius meanwhile."
    if before.throttling != after.throttling:
        yield "The device was throttled during the run, or a counter of it moved: see the device."


_ALWAYS = (
    "Times hold for this device in the state that is told here; between runs only ratios of rows "
    "of one run carry over.",
    "A 95 % interval of a median is by order statistics and assumes independent rounds; what was "
    "drawn once a session, such as where its memory lies, is seen in the A/A control alone.",
    "Gains are ratios of medians with a 95 % bootstrap interval over rounds that were shared.",
    "A bound is the least that the device's measured rates allow for the graph's arithmetic and "
    "weights; a graph cannot be expected to reach it.",
)


def _plain(value: object) -> str:
    """A setting in words."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def phase_table(report: Report) -> Table | None:
    """Where the time of the run went."""
    if not report.phases:
        return None
    wanted, rows = report.settings.get("rounds"), []
    for phase in report.phases:
        rounds = span(*map(str, phase.rounds)) if phase.rounds else ""
        if phase.rounds and phase.rounds[0] == phase.rounds[1]:
            rounds = str(phase.rounds[0])
        counts = (str(phase.groups), rounds, str(phase.cut)) if phase.groups else ("", rounds, "")
        rows.append((phase.name, number(phase.seconds), *counts))
    return Table(
        headers=("phase", "seconds", "groups", "rounds", "cut short"),
        rows=tuple(rows),
        names=1,
        caption=(
            "Groups are calls that took turns. Cut short: groups that the budget, or the longest "
            f"time of a group, ended before all rounds (at most {wanted}; some scenarios have "
            "fewer by themselves)."
        ),
    )


def rates_table(report: Report) -> Table | None:
    """The rates that bounds are made of, a column a number of threads."""
    if not report.rates:
        return None
    caches, columns = report.device_before.processor.caches, []
    for rates in report.rates:
        int8 = "not timed" if rates.int8 is None else number(rates.int8 / _BILLION)
        levels = rates.by_level(caches).items()
        columns.append(
            {
                "multiply-adds in float32, billion/s": number(rates.float32 / _BILLION),
                "multiply-adds in 8 bits, billion/s": int8,
                **{f"read from {name}, GB/s": number(rate / _BILLION) for name, rate in levels},
                "the probe had of its processors": percent(
                    min(rates.busy, *(reading.busy for reading in rates.read))
                ),
            }
        )
    names = list(dict.fromkeys(name for column in columns for name in column))
    threads = [f"{r.threads} thread{'s' if r.threads > 1 else ''}" for r in report.rates]
    kernels = dict.fromkeys(rates.int8_kernel for rates in report.rates)
    probes = dict.fromkeys(rates.probe for rates in report.rates)
    return Table(
        headers=("rate", *threads),
        rows=tuple((name, *(column.get(name, "") for column in columns)) for name in names),
        names=1,
        caption=f"Measured by {' and '.join(probes)}; 8 bits: {'; '.join(kernels)}.",
    )


def _watched(watched: Watched) -> Iterator[tuple[str, str]]:
    yield "watched for", f"{watched.seconds:,.0f} s, {watched.samples:,} looks"
    if watched.busy is not None and watched.stolen is not None:
        stolen = percent(watched.stolen)
        yield (
            "processors",
            f"{percent(watched.busy)} of their time at work, for this benchmark or others; "
            f"{stolen} taken by other virtual machines",
        )
    yield "temperature", _spans(watched.celsius, "degrees Celsius")
    yield "clock", _spans(watched.mhz, "MHz")
    yield "power", _spans(watched.watts, "W")
    energy = watched.energy
    if energy.joules is None or energy.watts is None:
        yield "energy", ": ".join(filter(None, ("not available", energy.reason)))
    else:
        how = "counted" if energy.counted else "added up from samples of power"
        watts = f"{number(energy.watts)} W on average"
        yield "energy", f"{number(energy.joules)} J of {energy.covers}, {watts}, {how}"
    yield "throttled", ", ".join(watched.throttled) or "nothing was seen"


def _spans(spans: Mapping[str, Span], unit: str) -> str:
    found = [
        f"{name} {span(number(s.low), number(s.high))} {unit}, median {number(s.median)}"
        for name, s in spans.items()
    ]
    return "; ".join(found) or "not available"


@dataclass(frozen=True)
class Block:
    """Facts or a table under a title."""

    title: str
    content: Facts | Table


def surroundings(report: Report) -> Sequence[Block]:
    """The run, where its time went, settings, the device; what is empty is left out."""
    placed = [
        (f"{row.contender} {row.backend}".strip(), _plain(row.placement))
        for row in report.rows
        if row.placement
    ]
    bundle = report.bundle
    size = Scale.of("bytes", [total := float(sum(bundle.graphs.values()))]).text(total)
    run = {
        "started": report.started, "took": f"{report.seconds:,.0f} s", "command": report.command,
        "code": report.revision or "not a checkout",
        "bundle": f"{bundle.name}: {bundle.model}, {len(bundle.graphs)} graphs, {size}",
        "labels": ", ".join(bundle.labels), "manifest": f"sha256 {bundle.manifest_sha256}",
        "checkpoint": f"sha256 {bundle.checkpoint_sha256}",
    }  # fmt: skip
    blocks: dict[str, Facts | Table | None] = {
        "Run": list(run.items()),
        "Where the time of the run went": phase_table(report),
        "Settings": [(k.replace("_", " "), _plain(v)) for k, v in report.settings.items()],
        "Device": device_facts(report),
        "Device while scenarios ran": list(_watched(report.watched)) if report.watched else [],
        "What the processor can do": rates_table(report),
        "Where graphs ran": list(dict.fromkeys(placed)),
    }
    return [Block(title, content) for title, content in blocks.items() if content]
