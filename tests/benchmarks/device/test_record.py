"""The device of a record, how it is described, and the revision of the project."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import recorded_devices as devices
from recorded_devices import core_of_x86, cores_of_arm
from run_command import run_python

from ifmmin.benchmarks.device import DeviceRecord, describe, record_device
from ifmmin.benchmarks.device.gpu import Nvml
from ifmmin.benchmarks.device.info import find_revision
from ifmmin.benchmarks.device.machine import Cache, Cooling, Frequency, Machine, Revision
from ifmmin.runtime.doctor.probes import Answers

TOLD: Answers = {
    "cuda": {"version": "12.8"},
    "onnxruntime": {"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]},
}


def told() -> Answers:
    return TOLD


def take(machine: Machine, answers: Callable[[], Answers] = told) -> DeviceRecord:
    """Its record; a GPU of this very machine is none of its."""
    return record_device(machine, answers, devices.no_gpus)


def test_desktop(tmp_path: Path) -> None:
    machine = devices.desktop(tmp_path)
    record = take(machine)
    processor = record.processor
    assert record.failed == ()
    assert processor.model == "Intel(R) Core(TM) i5-14400"
    assert processor.flags == ("avx", "f16c", "fma", "avx2", "avx_vnni")
    assert (processor.logical, processor.kinds) == (4, {})
    assert processor.caches == (
        Cache(name="L1d", size=48 << 10, instances=2),
        Cache(name="L1i", size=32 << 10, instances=2),
        Cache(name="L2", size=1280 << 10, instances=2),
        Cache(name="L3", size=24 << 20, instances=1),
    )
    assert processor.frequencies[3] == Frequency(
        name="3", governor="schedutil", driver="intel_pstate", minimum=800, maximum=4700,
        hardware_maximum=5200, current=1200,
    )  # fmt: skip
    rows = dict(describe(record))
    assert rows["processor"].startswith("Intel(R) Core(TM) i5-14400, ")
    assert "4 logical CPUs" in rows["processor"]
    assert rows["caches"] == "L1d 48 KiB x 2, L1i 32 KiB x 2, L2 1280 KiB x 2, L3 24 MiB"
    assert rows["frequency"] == (
        "4 x schedutil, intel_pstate, 800 to 4700 MHz, the hardware can 5200, boost allowed"
    )
    assert all("\n" not in text for text in rows.values())
    assert (processor.boost, processor.quota, processor.hypervisor) == (True, None, "")
    assert processor.clock_source == "tsc"
    assert record.memory.total == 32_768_000 << 10
    zones = [(zone.zone, zone.celsius) for zone in record.temperatures]
    assert zones == [("acpitz", 27.8), ("x86_pkg_temp", 48.0)]
    # Of the package each core tells the same number, which counts once.
    throttling = record.throttling
    assert (throttling.core_events, throttling.package_events) == (0 + 1 + 2 + 3, 7)
    assert throttling.cooling == ()  # a screen that is dimmed slows nothing
    assert "processor's own counters" in throttling.watched
    assert rows["throttling"].startswith("6 times by cores since boot, 7 times by the package")
    devices.write_files(tmp_path, devices.cooling(0, "Processor", 3, 10))
    engaged = take(machine).throttling.cooling
    assert engaged == (Cooling(name="Processor", state=3, maximum=10),)


def test_power_sources(tmp_path: Path) -> None:
    rapl = ("rapl", ("rapl/package-0", "rapl/package-0/core", "rapl/package-0/dram"), True)
    record = record_device(devices.desktop(tmp_path), told, devices.rtx)
    sources = [msgspec.structs.astuple(source) for source in record.power]
    assert sources == [rapl, ("nvidia", ("gpu0",), True)]
    rows = dict(describe(record))
    assert rows["energy"].startswith("rapl (counts energy, rapl/package-0")
    assert "power limit 450 W" in rows["gpu"]
    assert rows["driver"] == "570.133.20, speaks CUDA 12.8"
    assert (record.nvidia.driver, record.nvidia.cuda) == ("570.133.20", "12.8")
    assert [gpu.name for gpu in record.nvidia.gpus] == ["NVIDIA GeForce RTX 4090"]

    def without_counter() -> Nvml:
        return Nvml(devices.nvml(PowerUsage=30_000))

    power = record_device(devices.desktop(tmp_path), told, without_counter).power
    assert [source.counts for source in power] == [True, False]
    silent = record_device(devices.desktop(tmp_path), told, lambda: Nvml(devices.nvml()))
    assert "GPU: it tells no power" in silent.no_power
    none = take(devices.desktop(tmp_path))
    assert ([source.name for source in none.power], none.no_power[-1]) == (["rapl"], "GPU: none")


def test_software_and_settings(tmp_path: Path) -> None:
    record = take(devices.desktop(tmp_path))
    software = record.software
    assert software.packages == {"numpy": "2.2.6", "onnxruntime-gpu": "1.31.1"}
    assert software.onnxruntime.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    # Only settings that change speed: an environment holds secrets too.
    assert software.settings == {"OMP_NUM_THREADS": "1"}
    assert dict(describe(record))["settings"] == "OMP_NUM_THREADS=1"


def test_orin_nano(tmp_path: Path) -> None:
    machine = devices.orin_nano(tmp_path)
    record = take(machine)
    assert record.jetson is not None
    module = record.jetson.module
    assert record.processor.kinds == {"Cortex-A78AE": 6}
    assert record.processor.flags == ("asimd", "asimdhp", "asimddp")
    assert (module.soc, module.l4t, module.jetpack) == ("tegra234", "36.4.3", "6.2.1+b38")
    assert module.power_mode == "MAXN_SUPER"
    assert record.jetson.pinned is True
    clocks = [(clock.name, clock.current) for clock in record.jetson.frequencies]
    assert clocks == [("17000000.gpu", 1020)]
    assert [zone.zone for zone in record.temperatures] == ["cpu-thermal", "tj-thermal"]
    assert record.throttling.over_current == {"oc1": 0, "oc3": 41}
    assert [device.name for device in record.throttling.cooling] == ["gpu-throttle-alert"]
    assert record.power[0].rails == ("ina/VDD_IN", "ina/VDD_CPU_GPU_CV", "ina/VDD_SOC")
    rows = dict(describe(record))
    assert "6 Cortex-A78AE" in rows["processor"]
    assert "power mode MAXN_SUPER, clocks pinned" in rows["jetson"]
    assert rows["temperature"] == "51 degrees Celsius in the hottest zone (tj-thermal)"
    assert "gpu-throttle-alert 1 of 2" in rows["throttling"]
    assert "41 times by over-current oc3" in rows["throttling"]
    # Clocks that move are not pinned, and a container may hide sensors.
    devices.write_files(tmp_path, {"/sys/class/devfreq/17000000.gpu/min_freq": "306000000\n"})
    (tmp_path / "sys/class/hwmon/hwmon1/name").unlink()
    changed = take(machine)
    assert changed.jetson is not None
    assert changed.jetson.pinned is False
    assert [source.name for source in changed.power] == ["tegrastats"]
    (tmp_path / "usr/bin/tegrastats").unlink()
    assert take(machine).power == ()


def test_thor(tmp_path: Path) -> None:
    record = take(devices.thor(tmp_path))
    assert record.jetson is not None
    assert record.processor.kinds == {"Neoverse-V3AE": 14}
    # The clock of its video engines is none of a benchmark's.
    assert [clock.name for clock in record.jetson.frequencies] == ["bwmgr", "gpu-gpc-0"]
    assert record.jetson.pinned is False
    assert record.power[0].rails[-1] == "ina/VIN"


def test_big_and_little_cores(tmp_path: Path) -> None:
    cpuinfo = cores_of_arm(4, "0x41", "0xd05") + cores_of_arm(4, "0x41", "0xd0b", first=4)
    machine = devices.RecordedMachine(tmp_path, {"/proc/cpuinfo": cpuinfo})
    assert take(machine).processor.kinds == {"Cortex-A55": 4, "Cortex-A76": 4}
    strange = cores_of_arm(1, "0x48", "0xd01")
    machine = devices.RecordedMachine(tmp_path, {"/proc/cpuinfo": strange})
    kinds = take(machine).processor.kinds
    assert kinds == {"part 0xd01 of implementer 0x48": 1}


def test_container_in_a_virtual_machine(tmp_path: Path) -> None:
    record = take(devices.container(tmp_path))
    assert (record.processor.hypervisor, record.processor.quota) == ("kvm", 1.5)
    assert record.throttling.quota_events == 12
    assert record.power == ()
    assert any("may not read" in reason for reason in record.no_power)
    # Only the processor may betray it.
    machine = devices.RecordedMachine(tmp_path, {"/proc/cpuinfo": core_of_x86(0, "hypervisor")})
    assert take(machine).processor.hypervisor == "unknown"
    machine = devices.RecordedMachine(tmp_path, {"/proc/cpuinfo": core_of_x86(0)})
    assert take(machine).processor.hypervisor == ""


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a\n", {"cpu.max": "max 100000\n"}, None),
        ("4:cpu,cpuacct:/docker/x\n", {
            "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "200000\n",
            "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n"}, 2.0),
        ("2:cpuset:/\n1:cpu:/\n",
         {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
    ids=["tighter above", "only above", "unlimited", "version 1", "version 1, unlimited"],
)  # fmt: skip
def test_quota(tmp_path: Path, group: str, files: dict[str, str], quota: float | None) -> None:
    places = {f"/sys/fs/cgroup/{path}": text for path, text in files.items()}
    machine = devices.RecordedMachine(tmp_path, {"/proc/self/cgroup": group, **places})
    assert take(machine).processor.quota == quota


def test_nothing_at_all(tmp_path: Path) -> None:
    record = take(devices.RecordedMachine(tmp_path, {}), dict)
    assert record.failed == ()
    assert (record.power, record.temperatures, record.jetson) == ((), (), None)
    rows = dict(describe(record))
    assert rows["energy"].startswith("not available: ")
    assert rows["temperature"].startswith("not available: ")
    assert rows["throttling"].startswith("not available: ")


def test_a_look_that_fails_breaks_no_other(tmp_path: Path) -> None:
    class Trapped(devices.RecordedMachine):
        def text(self, path: str) -> str:
            if path == "/proc/meminfo":
                raise RuntimeError("a strange\nmachine")
            return super().text(path)

    def nobody() -> Answers:
        raise OSError("no process")

    record = record_device(
        Trapped(tmp_path, {"/proc/cpuinfo": core_of_x86(0)}), nobody, devices.no_gpus
    )
    assert record.processor.model == "Intel(R) Core(TM) i5-14400"
    assert [fault.partition(":")[0] for fault in record.failed] == ["libraries", "memory"]
    assert "\n" not in "".join(record.failed)


@pytest.mark.parametrize("make", [devices.desktop, devices.orin_nano, devices.thor])
def test_record_as_json(tmp_path: Path, make: Callable[[Path], devices.RecordedMachine]) -> None:
    record = take(make(tmp_path))
    plain = msgspec.to_builtins(record)
    assert msgspec.convert(plain, DeviceRecord) == record
    assert msgspec.json.decode(msgspec.json.encode(plain), type=DeviceRecord) == record
    # A later version may have fields that this one does not know.
    assert msgspec.convert({**plain, "fan": 3}, DeviceRecord) == record


def test_this_machine() -> None:
    record = record_device()
    started = time.monotonic()
    again = record_device()
    # Libraries are asked once; the bound is ten times what it takes, for machines that are busy.
    assert time.monotonic() - started < 3
    assert record.failed == ()
    assert record.processor.logical >= record.processor.usable >= 1
    assert record.processor.load is not None
    assert record.memory.total >= record.memory.available > 0
    assert record.software.packages["numpy"]
    assert "CPUExecutionProvider" in record.software.onnxruntime.providers
    assert (again.processor.model, again.software) == (record.processor.model, record.software)
    rows = describe(record)
    assert len(dict(rows)) == len(rows)
    # The report is published: no path of a home, no name of a machine.
    text = msgspec.json.encode(record).decode()
    assert str(Path.home()) not in text or str(Path.home()) == "/"


def test_record_needs_neither_torch_nor_training() -> None:
    script = (
        "from ifmmin.benchmarks.device import record_device, describe;"
        "sys.exit(not describe(record_device()) or 'openvino' in sys.modules)"
    )
    assert run_python(script, without=("torch", "h5py", "onnx", "pynvml")).code == 0


def git(folder: Path, *words: str) -> None:
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *author, "-C", str(folder), *words], check=True, capture_output=True)


def commit(folder: Path, name: str) -> None:
    git(folder, "add", name)
    git(folder, "commit", "-qm", "one")


def test_revision(tmp_path: Path) -> None:
    code, machine = tmp_path / "code.py", Machine()
    code.write_text("1\n")
    assert find_revision(machine, code) is None
    git(tmp_path, "init", "-q")
    assert find_revision(machine, code) is None, "git does not have the file yet"
    commit(tmp_path, "code.py")
    clean = find_revision(machine, code)
    assert clean is not None
    assert (len(clean.commit), clean.changed) == (40, False)
    (tmp_path / "report.json").write_text("{}")
    assert find_revision(machine, code) == clean, "a new file changes nothing"
    code.write_text("2\n")
    assert find_revision(machine, code) == Revision(commit=clean.commit, changed=True)


def test_installed_copy_inside_a_checkout_has_no_revision(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "other.py").write_text("1\n")
    commit(tmp_path, "other.py")
    copy = tmp_path / "venv" / "revision.py"
    copy.parent.mkdir()
    copy.write_text("1\n")
    assert find_revision(Machine(), copy) is None
