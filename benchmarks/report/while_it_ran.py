"""How the device was while scenarios ran, where the time went, and what the processor can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ifmmin.benchmarks.device.monitor import Span, Watched
from ifmmin.benchmarks.limits.rates import Rates
from ifmmin.benchmarks.record import Phase, Report
from ifmmin.benchmarks.report.scale import number, percent, span
from ifmmin.benchmarks.report.table import Table

Facts = list[tuple[str, str]]
_BILLION = 1e9


def watched_facts(report: Report) -> Facts:
    """What was seen between the first scenario and the last."""
    return list(_watched(report.watched)) if report.watched else []


def phase_table(report: Report) -> Table | None:
    """Where the time of the run went."""
    if not report.phases:
        return None
    wanted = report.settings.get("rounds")
    return Table(
        headers=("phase", "seconds", "groups", "rounds", "cut short"),
        rows=tuple(map(_phase_row, report.phases)),
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
    columns = [_rates_column(rates, report) for rates in report.rates]
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
    yield "energy", _energy(watched)
    yield "throttled", ", ".join(watched.throttled) or "nothing was seen"


def _spans(spans: Mapping[str, Span], unit: str) -> str:
    found = [
        f"{name} {span(number(s.low), number(s.high))} {unit}, median {number(s.median)}"
        for name, s in spans.items()
    ]
    return "; ".join(found) or "not available"


def _energy(watched: Watched) -> str:
    energy = watched.energy
    if energy.joules is None or energy.watts is None:
        return f"not available: {energy.reason}" if energy.reason else "not available"
    how = "counted" if energy.counted else "added up from samples of power"
    return (
        f"{number(energy.joules)} J of {energy.covers}, {number(energy.watts)} W on average, {how}"
    )


def _phase_row(phase: Phase) -> tuple[str, ...]:
    ends = [str(rounds) for rounds in dict.fromkeys(phase.rounds or ())]
    text = span(*ends) if len(ends) > 1 else "".join(ends)
    return (
        phase.name,
        number(phase.seconds),
        str(phase.groups) if phase.groups else "",
        text,
        str(phase.cut) if phase.groups else "",
    )


def _rates_column(rates: Rates, report: Report) -> dict[str, str]:
    levels = rates.by_level(report.device_before.processor.caches)
    return {
        "multiply-adds in float32, billion/s": number(rates.float32 / _BILLION),
        "multiply-adds in 8 bits, billion/s": (
            "not timed" if rates.int8 is None else number(rates.int8 / _BILLION)
        ),
        **{f"read from {name}, GB/s": number(rate / _BILLION) for name, rate in levels.items()},
        "the probe had of its processors": percent(_least_busy(rates)),
    }


def _least_busy(rates: Rates) -> float:
    shares: Sequence[float] = (rates.busy, *(reading.busy for reading in rates.read))
    return min(shares)
