"""What surrounds the numbers: the run, the device, the settings, and what to beware of."""

from __future__ import annotations

from collections.abc import Iterator

from ifmmin.benchmarks.control import spread
from ifmmin.benchmarks.device.describe import describe
from ifmmin.benchmarks.record import OURS, Report
from ifmmin.benchmarks.report.measured import Measured, compared_with, fastest, measure
from ifmmin.benchmarks.report.scale import TIMES, Scale, number, percent

Facts = list[tuple[str, str]]
_NOISY = 0.10
"""Spread of the A/A control from which on a run is told to be noisy."""
_WARMER = 10.0
"""Degrees of warming that are told."""


def run_facts(report: Report) -> Facts:
    """When, what and how long."""
    bundle = report.bundle
    size = Scale.of("bytes", [total := float(sum(bundle.graphs.values()))]).text(total)
    return [
        ("started", report.started),
        ("took", f"{report.seconds:,.0f} s"),
        ("command", report.command),
        ("code", report.revision or "not a checkout"),
        ("bundle", f"{bundle.name}: {bundle.model}, {len(bundle.graphs)} graphs, {size}"),
        ("labels", ", ".join(bundle.labels)),
        ("manifest", f"sha256 {bundle.manifest_sha256}"),
        ("checkpoint", f"sha256 {bundle.checkpoint_sha256}"),
    ]


def setting_facts(report: Report) -> Facts:
    """Rounds, warm-up, seed and what else was chosen."""
    return [(name.replace("_", " "), _plain(value)) for name, value in report.settings.items()]


def device_facts(report: Report) -> Facts:
    """The device before the run, and what was different after it."""
    before, after = describe(report.device_before), dict(describe(report.device_after))
    facts = []
    for name, text in before:
        later = after.get(name, "not available")
        facts.append((name, text if later == text else f"before: {text}; after: {later}"))
    return facts


def placement_facts(report: Report) -> Facts:
    """Where each backend ran its graphs, by what it says itself."""
    found: dict[tuple[str, str], None] = {}
    for row in report.rows:
        if row.placement:
            who = " ".join(word for word in (row.contender, row.backend) if word)
            found[(who, _plain(row.placement))] = None
    return list(found)


def headline(report: Report) -> str:
    """The run in one sentence; empty where no latency was measured."""
    items = [item for item in measure(report, "latency") if item.row.unit == "s"]
    ours = fastest((item for item in items if item.row.contender == OURS), "pattern")
    if not ours:
        return ""
    by_time = sorted(ours, key=lambda item: item.summary.p50)
    scale = Scale.of("s", [by_time[-1].summary.p50])
    ends = [f"{scale.text(item.summary.p50)} ({_how(item)})" for item in by_time]
    times = ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"
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


def _how(item: Measured) -> str:
    row = item.row
    threads = f"{row.threads} threads" if row.threads > 1 else "1 thread"
    return ", ".join(word for word in (row.pattern, row.precision, row.backend, threads) if word)


def _plain(value: object) -> str:
    """A setting in words."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
