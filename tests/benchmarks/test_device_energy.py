"""Energy and what else a watch makes of its samples; all of it computed beside known answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifmmin.benchmarks.device.energy import FEWEST, Sample, energy_between, whole_device
from ifmmin.benchmarks.device.monitor import Opening, Span, read_lines, summarise, write_line

BOARD = "ina/VDD_IN"
PACKAGE = "rapl/package-0"


def power_samples(watts: Callable[[float], float], count: int = 41) -> list[Sample]:
    """A look every quarter of a second, from -1 s on."""
    times = [index * 0.25 - 1 for index in range(count)]
    return [Sample(at=at, watts={BOARD: watts(at)}) for at in times]


def counter_samples(joules: Callable[[float], float], rail: str = PACKAGE) -> list[Sample]:
    times = [index * 0.25 - 1 for index in range(41)]
    return [Sample(at=at, joules={rail: joules(at)}) for at in times]


def test_constant_power() -> None:
    energy = energy_between(power_samples(lambda at: 12.5), 0.1, 4.1)
    assert energy.joules == pytest.approx(50.0)
    assert energy.watts == pytest.approx(12.5)
    assert (energy.covers, energy.counted, energy.reason) == ("VDD_IN", False, "")
    assert energy.samples == 16
    assert energy.gap == pytest.approx(0.25)


@given(
    st.floats(0, 100), st.floats(0, 20), st.floats(-0.99, 3.0), st.floats(1.25, 5.0)
)  # of a ramp the trapezoidal rule is exact
def test_power_that_rises(base: float, slope: float, began: float, seconds: float) -> None:
    ended = began + seconds
    energy = energy_between(power_samples(lambda at: base + slope * (at + 1)), began, ended)
    exact = base * seconds + slope * ((ended + 1) ** 2 - (began + 1) ** 2) / 2
    assert energy.joules == pytest.approx(exact, rel=1e-9, abs=1e-9)


def test_power_outside_of_the_interval_does_not_count() -> None:
    steady = energy_between(power_samples(lambda at: 5.0), 1.0, 3.0).joules
    wild = energy_between(power_samples(lambda at: 5.0 if 0.9 < at < 3.1 else 500.0), 1.0, 3.0)
    assert wild.joules == steady == pytest.approx(10.0)


def test_power_between_samples_is_a_straight_line() -> None:
    """Of a wave much slower than the samples, little is lost; of a faster one nothing is known."""
    slow = energy_between(power_samples(lambda at: 10 + 3 * math.sin(at)), 0.0, 6.0).joules
    assert slow == pytest.approx(60 + 3 * (1 - math.cos(6)), rel=2e-3)


def test_counter() -> None:
    energy = energy_between(counter_samples(lambda at: 30 * (at + 1)), 0.1, 4.1)
    assert energy.joules == pytest.approx(120.0)
    assert (energy.covers, energy.counted) == ("package-0", True)


def test_counter_of_a_gpu_beats_its_power() -> None:
    samples = [
        Sample(at=at / 4, joules={PACKAGE: at * 1.0, "gpu0": at * 10.0}, watts={"gpu0": 900.0})
        for at in range(40)
    ]
    energy = energy_between(samples, 1.0, 9.0)
    assert energy.rails == pytest.approx({"gpu0": 320.0, PACKAGE: 32.0})
    assert energy.joules == pytest.approx(352.0)
    assert (energy.covers, energy.counted) == ("package-0, gpu0", True)


def test_gpu_whose_power_is_sampled_is_not_counted() -> None:
    samples = [
        Sample(at=at / 4, joules={PACKAGE: at * 1.0}, watts={"gpu0": 100.0}) for at in range(40)
    ]
    energy = energy_between(samples, 1.0, 9.0)
    assert energy.joules == pytest.approx(32.0 + 800.0)
    assert not energy.counted


@pytest.mark.parametrize(
    ("began", "ended", "reason"),
    [
        (0.0, 0.6, f"it takes {FEWEST}"),
        (3.0, 1.0, f"it takes {FEWEST}"),
        (-2.0, 3.0, "do not reach"),
        (5.0, 12.0, "do not reach"),
    ],
    ids=["too short", "backwards", "before the first", "after the last"],
)
def test_intervals_that_cannot_be_told(began: float, ended: float, reason: str) -> None:
    energy = energy_between(power_samples(lambda at: 5.0), began, ended)
    assert energy.joules is None
    assert energy.watts is None
    assert reason in energy.reason


def test_no_sensor_says_why() -> None:
    samples = [Sample(at=at / 4) for at in range(40)]
    energy = energy_between(samples, 1.0, 3.0, ("rapl: not for you", "GPU: none"))
    assert (energy.joules, energy.reason) == (None, "rapl: not for you; GPU: none")
    assert energy_between([], 1.0, 3.0).joules is None


def test_rail_with_a_hole_is_not_told() -> None:
    samples = power_samples(lambda at: 5.0)
    samples[10] = Sample(at=samples[10].at)
    assert energy_between(samples, 0.0, 3.0).joules is None
    # Where the hole lies outside, nothing is amiss.
    assert energy_between(samples, 2.0, 4.0).joules == pytest.approx(10.0)


def test_hole_in_time_is_shown() -> None:
    samples = [sample for sample in power_samples(lambda at: 5.0) if not 1.1 < sample.at < 3.9]
    assert energy_between(samples, 0.0, 6.0).gap == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("rails", "total", "covers"),
    [
        ({"VDD_IN": 9, "VDD_CPU_GPU_CV": 3, "VDD_SOC": 2}, 9, ["VDD_IN"]),
        (
            {"VDD_GPU_SOC": 4, "VDD_CPU_CV": 2, "VIN_SYS_5V0": 5, "VDDQ_VDD2_1V8AO": 1},
            11,
            ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"],
        ),
        ({"VDD_GPU": 1, "VDD_CPU_SOC_MSS": 5, "VIN_SYS_5V0": 6, "VIN": 22}, 22, ["VIN"]),
        (
            {"VDD_GPU": 1, "VDD_CPU_SOC_MSS": 5, "VIN_SYS_5V0": 6},
            12,
            ["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"],
        ),
        ({"VDD_SOMETHING": 3}, None, []),
    ],
    ids=["Orin Nano", "AGX Orin", "Thor", "Thor without its carrier", "unknown board"],
)
@pytest.mark.parametrize("source", ["ina", "tegrastats"])
def test_rails_that_are_the_whole_board(
    source: str, rails: dict[str, float], total: float | None, covers: list[str]
) -> None:
    # A GPU that tells its own power hangs on the board's rails.
    named = {f"{source}/{name}": value for name, value in rails.items()} | {"gpu0": 100.0}
    found, names, reason = whole_device(named)
    assert (found, list(names)) == (total, [f"{source}/{name}" for name in covers])
    assert bool(reason) == (total is None)


def test_zones_within_a_package_do_not_count_twice() -> None:
    rails = {PACKAGE: 50.0, f"{PACKAGE}/core": 40.0, f"{PACKAGE}/dram": 5.0, "rapl/psys": 90.0}
    assert whole_device(rails)[:2] == (55.0, (PACKAGE, f"{PACKAGE}/dram"))


def test_gpu_alone_is_not_the_device() -> None:
    total, covers, reason = whole_device({"gpu0": 300.0})
    assert (total, covers) == (None, ())
    assert "processor" in reason


def test_summary() -> None:
    samples = [
        Sample(
            at=float(at),
            celsius={"tj": 50.0 + at},
            mhz={"cpu": 2000 if at != 5 else 1500},
            counts={"core throttling": 3 if at < 6 else 9, "package throttling": 4},
            limits=("gpu0: power cap",) if at == 5 else (),
            busy=10.0 + at * 2,
            stolen=at * 0.5,
            idle=100.0 + at * 1.5,
        )
        for at in range(10)
    ]
    seen = summarise(samples, 2.0, 7.0, ("rapl: none",))
    assert seen.samples == 6
    assert seen.celsius == {"tj": Span(low=52.0, median=54.5, high=57.0)}
    assert seen.mhz["cpu"] == Span(low=1500, median=2000, high=2000)
    assert seen.throttled == ("core throttling (6 times)", "gpu0: power cap")
    assert seen.busy == pytest.approx(0.5)
    assert seen.stolen == pytest.approx(0.125)
    assert (seen.energy.joules, seen.missing) == (None, ("rapl: none",))


def test_throttling_of_another_time_is_not_told() -> None:
    samples = [
        Sample(at=float(at), counts={"core throttling": at}, limits=("fan",) if at > 8 else ())
        for at in range(10)
    ]
    calm = [Sample(at=float(at), counts={"core throttling": 8}) for at in range(10)]
    assert summarise(calm, 2.0, 7.0).throttled == ()
    assert summarise(samples, 2.0, 7.0).throttled == ("core throttling (5 times)",)


def test_event_between_samples_is_told() -> None:
    """A counter rises for good: an interval without a single sample in it still shows it."""
    samples = [Sample(at=0.0, counts={"x": 1}), Sample(at=1.0, counts={"x": 2})]
    assert summarise(samples, 0.4, 0.6).throttled == ("x (1 times)",)


def test_summary_of_nothing() -> None:
    seen = summarise([], 0.0, 1.0, ("the sampler does not start",))
    assert (seen.samples, seen.busy, seen.throttled) == (0, None, ())
    assert seen.energy.reason == "the sampler does not start"


def test_lines_in_the_writing() -> None:
    lines: list[Opening | Sample] = [
        Opening(missing=("a",)),
        Sample(at=1.5, watts={"x": 2.0}),
        Sample(at=2.0),
    ]
    content = b"".join(map(write_line, lines))
    assert read_lines(content) == (lines, len(content))
    found, size = read_lines(content[:-3])
    assert (found, content[size:]) == (lines[:2], write_line(lines[2]))
    assert read_lines(b"") == ([], 0)
