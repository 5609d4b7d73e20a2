"""A machine that is watched while it is measured, and the energy that it takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import recorded_devices as devices
from hypothesis import given
from hypothesis import strategies as st

from ifmmin.benchmarks.device import Watch
from ifmmin.benchmarks.device.energy import FEWEST, Sample, energy_between, whole_device
from ifmmin.benchmarks.device.monitor import (
    Opening,
    Sampler,
    Span,
    read_lines,
    summarise,
    write_line,
)

MODULE = (sys.executable, "-c", "from ifmmin.benchmarks.device.monitor import main; main()")
PERIOD = 0.05
DEAD = "import sys; sys.exit('no such sensor')"


def sampler_of(root: Path) -> tuple[str, ...]:
    return (*MODULE, str(root))


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the watch puts its files, away from other tests' watches."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def until(seconds: float) -> None:
    """Let time pass, awake: a benchmark works too."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_jetson_whose_power_rises(tmp_path: Path) -> None:
    devices.orin_nano(tmp_path)
    with Watch(PERIOD, sampler_of(tmp_path)) as watch:
        began = time.monotonic()
        until(0.6)
        ended = time.monotonic()
        until(0.3)  # a look at the power before it rises, and one after
        devices.write_files(tmp_path, devices.ina3221(1, {"VDD_IN": (5000, 4000)}))
        until(0.3)
        again = time.monotonic()
        devices.write_files(tmp_path, {"/sys/class/hwmon/hwmon3/oc3_event_cnt": "44\n"})
        devices.write_files(tmp_path, {"/sys/class/thermal/cooling_device9/cur_state": "0\n"})
        until(0.6)
        hot_ended = time.monotonic()
    calm, hot = watch.between(began, ended), watch.between(again, hot_ended)
    assert calm.energy.watts == pytest.approx(5.008 * 1.2)
    assert hot.energy.watts == pytest.approx(20.0)
    assert (calm.energy.covers, calm.energy.counted) == ("VDD_IN", False)
    assert calm.throttled == ("gpu-throttle-alert",)
    assert hot.throttled[0] == "over-current oc3 (3 times)"
    assert calm.celsius["tj-thermal"].high == 51.343
    assert calm.mhz["17000000.gpu"].median == 1020


def test_counters_of_a_desktop(tmp_path: Path) -> None:
    devices.desktop(tmp_path)
    with Watch(PERIOD, sampler_of(tmp_path)) as watch:
        began = time.monotonic()
        until(0.4)
        devices.write_files(tmp_path, devices.rapl("0", "package-0", 127_000_000))
        until(0.4)
        ended = time.monotonic()
    energy = watch.between(began, ended).energy
    # Seven joules of the package; memory took none. A card of this very machine adds its own.
    assert energy.rails["rapl/package-0"] == pytest.approx(7.0)
    assert energy.rails["rapl/package-0/dram"] == 0.0
    assert energy.covers.startswith("package-0, dram")


def test_this_machine(scratch: Path) -> None:
    watch = Watch(PERIOD)
    watch.start()
    until(0.6)
    seen = watch.stop()
    assert seen == watch.stop(), "a second stop tells the same"
    assert seen.seconds >= 0.6
    assert seen.samples >= 4
    assert seen.busy is None or 0 < seen.busy <= 1
    # Either there is a figure, or a reason why there is none.
    assert (seen.energy.joules is None) == bool(seen.energy.reason)
    assert all(mhz.low > 0 for mhz in seen.mhz.values())
    assert not list(scratch.iterdir())


def test_watch_starts_anew(tmp_path: Path) -> None:
    devices.orin_nano(tmp_path)
    watch = Watch(PERIOD, sampler_of(tmp_path))
    with watch:
        until(0.3)
    first = watch.stop()
    with watch:
        until(0.3)
    assert watch.stop().energy.joules is not None
    assert watch.stop() != first


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("/no/such/program",), "does not start"),
        ((sys.executable, "-c", DEAD), "no such sensor"),
        ((sys.executable, "-c", "print('no JSON')"), "cannot be read"),
        ((sys.executable, "-c", "raise SystemExit(7)"), "code 7"),
    ],
    ids=["absent", "complains", "speaks another language", "silent"],
)
def test_a_failed_sampler_is_told(scratch: Path, command: tuple[str, ...], reason: str) -> None:
    started = time.monotonic()
    with Watch(PERIOD, command) as watch:
        pass
    seen = watch.stop()
    assert time.monotonic() - started < 10
    assert seen.samples == 0
    assert any(reason in missing for missing in seen.missing)
    assert reason in seen.energy.reason
    assert not list(scratch.iterdir())


def test_sampler_that_dies_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices.orin_nano(tmp_path)
    # It kills itself after some samples, as the kernel would for want of memory.
    script = (
        "import os, sys, threading; from ifmmin.benchmarks.device.monitor import main;"
        "threading.Timer(1.0, os.kill, (os.getpid(), 9)).start();"
        "sys.argv[1:1] = [os.environ['MADE']]; main()"
    )
    monkeypatch.setenv("MADE", str(tmp_path))
    with Watch(PERIOD, (sys.executable, "-c", script)) as watch:
        began = time.monotonic()
        until(2.0)
    seen = watch.between(began, time.monotonic())
    assert seen.samples > 0
    assert seen.energy.joules is None
    assert any("ended early" in missing for missing in watch.stop().missing)


def test_sampler_ends_with_the_benchmark(tmp_path: Path) -> None:
    """Also with one that is killed: its end of the pipe closes."""
    devices.orin_nano(tmp_path)
    script = (
        "import os, sys, time; from ifmmin.benchmarks.device import Watch;"
        f"watch = Watch({PERIOD}, {sampler_of(tmp_path)!r}); watch.start();"
        "print(flush=True); time.sleep(60)"
    )
    environ = {**os.environ, "TMPDIR": str(tmp_path)}  # nobody will be left to clear it away
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environ)
    assert parent.stdout is not None
    parent.stdout.readline()
    (child,) = map(int, Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split())
    assert Path(f"/proc/{child}").exists()
    # Ctrl-C reaches the whole group of a terminal; the sampler is none of it.
    assert os.getsid(child) == child
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    end = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and not _ended(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists() or _ended(child)


def _ended(process: int) -> bool:
    """Whether it waits for somebody to take note of its end."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_misuse_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        Watch(0.0)
    watch = Watch(PERIOD, (sys.executable, "-c", ""))
    with pytest.raises(ValueError, match="was not started"):
        watch.stop()
    with watch, pytest.raises(ValueError, match="runs already"):
        watch.start()


def test_probes_of_a_desktop(tmp_path: Path) -> None:
    with closing(Sampler(devices.desktop(tmp_path), PERIOD, devices.rtx)) as sampler:
        sample = sampler.look()
        assert sample.watts == {"gpu0": 21.37}
        assert sample.mhz == {"cpu": 1200, "gpu0": 210}
        assert set(sample.joules) == {
            "gpu0", "rapl/package-0", "rapl/package-0/core", "rapl/package-0/dram",
        }  # fmt: skip
        assert sample.busy
        assert sample.idle
        assert [reason.partition(":")[0] for reason in sampler.missing] == [
            "power sensors of the board (INA3221)", "tegrastats",
        ]  # fmt: skip


def test_tegrastats_stands_in_for_sensors(tmp_path: Path) -> None:
    machine = devices.orin_nano(tmp_path)
    (tmp_path / "sys/class/hwmon/hwmon1/name").unlink()
    with closing(Sampler(machine, PERIOD, devices.no_gpus)) as sampler:
        assert sampler.look().watts["tegrastats/VDD_IN"] == 4.712


def test_a_look_is_cheap(tmp_path: Path) -> None:
    """A look must not be felt by what runs beside it; the bound is wide for busy machines."""
    with closing(Sampler(devices.orin_nano(tmp_path), PERIOD, devices.no_gpus)) as sampler:
        sampler.look()
        looks = []
        for _ in range(20):
            started = time.thread_time()
            sampler.look()
            looks.append(time.thread_time() - started)
        assert min(looks) < 0.02


BOARD = "ina/VDD_IN"
PACKAGE = "rapl/package-0"


def power_samples(watts: Callable[[float], float]) -> list[Sample]:
    """A look every quarter of a second, from -1 s on."""
    times = [index * 0.25 - 1 for index in range(41)]
    return [Sample(at=at, watts={BOARD: watts(at)}) for at in times]


def test_constant_power() -> None:
    energy = energy_between(power_samples(lambda at: 12.5), 0.1, 4.1)
    assert energy.joules == pytest.approx(50.0)
    assert energy.watts == pytest.approx(12.5)
    assert (energy.covers, energy.counted, energy.reason) == ("VDD_IN", False, "")
    assert energy.samples == 16
    assert energy.gap == pytest.approx(0.25)
    # What lies outside of the interval does not count.
    steady = energy_between(power_samples(lambda at: 5.0), 1.0, 3.0).joules
    wild = energy_between(power_samples(lambda at: 5.0 if 0.9 < at < 3.1 else 500.0), 1.0, 3.0)
    assert wild.joules == steady == pytest.approx(10.0)


@given(
    st.floats(0, 100), st.floats(0, 20), st.floats(-0.99, 3.0), st.floats(1.25, 5.0)
)  # of a ramp the trapezoidal rule is exact
def test_power_that_rises(base: float, slope: float, began: float, seconds: float) -> None:
    ended = began + seconds
    energy = energy_between(power_samples(lambda at: base + slope * (at + 1)), began, ended)
    exact = base * seconds + slope * ((ended + 1) ** 2 - (began + 1) ** 2) / 2
    assert energy.joules == pytest.approx(exact, rel=1e-9, abs=1e-9)


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
        (0.0, 0.6, f"it takes {FEWEST}"), (3.0, 1.0, f"it takes {FEWEST}"),
        (-2.0, 3.0, "do not reach"), (5.0, 12.0, "do not reach"),
    ],
    ids=["too short", "backwards", "before the first", "after the last"],
)  # fmt: skip
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
    # A hole in time is shown.
    samples = [sample for sample in power_samples(lambda at: 5.0) if not 1.1 < sample.at < 3.9]
    assert energy_between(samples, 0.0, 6.0).gap == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("rails", "total", "covers"),
    [
        ({"VDD_IN": 9, "VDD_CPU_GPU_CV": 3, "VDD_SOC": 2}, 9, ["VDD_IN"]),
        ({"VDD_GPU_SOC": 4, "VDD_CPU_CV": 2, "VIN_SYS_5V0": 5, "VDDQ_VDD2_1V8AO": 1}, 11,
         ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]),
        ({"VDD_GPU": 1, "VDD_CPU_SOC_MSS": 5, "VIN_SYS_5V0": 6, "VIN": 22}, 22, ["VIN"]),
        ({"VDD_GPU": 1, "VDD_CPU_SOC_MSS": 5, "VIN_SYS_5V0": 6}, 12,
         ["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"]),
        ({"VDD_SOMETHING": 3}, None, []),
    ],
    ids=["Orin Nano", "AGX Orin", "Thor", "Thor without its carrier", "unknown board"],
)  # fmt: skip
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
    total, covers, reason = whole_device({"gpu0": 300.0})
    assert (total, covers, "processor" in reason) == (None, (), True)


def test_summary() -> None:
    samples = [
        Sample(
            at=float(at), celsius={"tj": 50.0 + at}, mhz={"cpu": 2000 if at != 5 else 1500},
            counts={"core throttling": 3 if at < 6 else 9, "package throttling": 4},
            limits={"gpu0: power cap"} if at == 5 else set(), busy=10.0 + at * 2,
            stolen=at * 0.5, idle=100.0 + at * 1.5,
        )
        for at in range(10)
    ]  # fmt: skip
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
        Sample(at=float(at), counts={"core throttling": at}, limits={"fan"} if at > 8 else set())
        for at in range(10)
    ]
    calm = [Sample(at=float(at), counts={"core throttling": 8}) for at in range(10)]
    assert summarise(calm, 2.0, 7.0).throttled == ()
    assert summarise(samples, 2.0, 7.0).throttled == ("core throttling (5 times)",)
    # A counter rises for good: an interval without a single sample in it still shows it.
    samples = [Sample(at=0.0, counts={"x": 1}), Sample(at=1.0, counts={"x": 2})]
    assert summarise(samples, 0.4, 0.6).throttled == ("x (1 times)",)
    nothing = summarise([], 0.0, 1.0, ("the sampler does not start",))
    assert (nothing.samples, nothing.busy, nothing.throttled) == (0, None, ())
    assert nothing.energy.reason == "the sampler does not start"


def test_lines_in_the_writing() -> None:
    samples = [Sample(at=1.5, watts={"x": 2.0}, limits={"y"}), Sample(at=2.0)]
    content = write_line(Opening(missing=("a",))) + b"".join(map(write_line, samples))
    assert read_lines(content) == (("a",), samples)
    assert read_lines(content[:-3]) == (("a",), samples[:1])
    assert read_lines(b"") == ((), [])
