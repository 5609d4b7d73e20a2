"""The watch with its sampler in a process of its own, on a machine of files and on this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import recorded_devices as devices

from ifmmin.benchmarks.device import Watch
from ifmmin.benchmarks.device.monitor import Sampler

MODULE = (sys.executable, "-c", "from ifmmin.benchmarks.device.monitor import main; main()")
PERIOD = 0.05
DEAD = "import sys; sys.exit('no such sensor')"


def sampler_of(root: Path) -> tuple[str, ...]:
    return (*MODULE, "--root", str(root))


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
        calm = watch.between(began, time.monotonic())
        devices.write_files(tmp_path, devices.ina3221(1, {"VDD_IN": (5000, 4000)}))
        watch.between(began, time.monotonic())  # waits for a look at the new power
        began = time.monotonic()
        devices.write_files(tmp_path, {"/sys/class/hwmon/hwmon3/oc3_event_cnt": "44\n"})
        devices.write_files(tmp_path, {"/sys/class/thermal/cooling_device9/cur_state": "0\n"})
        until(0.6)
        hot = watch.between(began, time.monotonic())
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
        energy = watch.energy(began, time.monotonic())
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
def test_sampler_that_fails_fails_no_benchmark(
    scratch: Path, command: tuple[str, ...], reason: str
) -> None:
    started = time.monotonic()
    with Watch(PERIOD, command) as watch:
        pass
    seen = watch.stop()
    assert time.monotonic() - started < 10
    assert seen.samples == 0
    assert any(reason in missing for missing in seen.missing)
    assert reason in seen.energy.reason
    assert not list(scratch.iterdir())


def test_sampler_that_dies_midway(tmp_path: Path) -> None:
    devices.orin_nano(tmp_path)
    # It kills itself after some samples, as the kernel would for want of memory.
    script = (
        "import os, sys, threading; from ifmmin.benchmarks.device.monitor import main;"
        "threading.Timer(1.0, os.kill, (os.getpid(), 9)).start();"
        "sys.argv[1:1] = ['--root', os.environ['MADE']]; main()"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MADE", str(tmp_path))
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
        "print(watch._sampling._process.pid, flush=True); time.sleep(60)"
    )
    environ = {**os.environ, "TMPDIR": str(tmp_path)}  # nobody will be left to clear it away
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environ)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
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
    sampler = Sampler(devices.desktop(tmp_path), PERIOD, devices.rtx)
    try:
        sample = sampler.look()
        assert sample.watts == {"gpu0": 21.37}
        assert sample.mhz == {"cpu": 1200, "gpu0": 210}
        assert set(sample.joules) == {
            "gpu0", "rapl/package-0", "rapl/package-0/core", "rapl/package-0/dram",
        }  # fmt: skip
        assert sample.busy
        assert sample.idle
        assert [reason.partition(":")[0] for reason in sampler.missing] == [
            "power sensors of the board (INA3221)",
            "tegrastats",
        ]
    finally:
        sampler.close()


def test_tegrastats_stands_in_for_sensors(tmp_path: Path) -> None:
    machine = devices.orin_nano(tmp_path)
    (tmp_path / "sys/class/hwmon/hwmon1/name").unlink()
    sampler = Sampler(machine, PERIOD, devices.no_gpus)
    try:
        assert sampler.look().watts["tegrastats/VDD_IN"] == 4.712
    finally:
        sampler.close()


def test_a_look_is_cheap(tmp_path: Path) -> None:
    """A look must not be felt by what runs beside it; the bound is wide for busy machines."""
    sampler = Sampler(devices.orin_nano(tmp_path), PERIOD, devices.no_gpus)
    try:
        sampler.look()
        looks = []
        for _ in range(20):
            started = time.thread_time()
            sampler.look()
            looks.append(time.thread_time() - started)
        assert min(looks) < 0.02
    finally:
        sampler.close()
