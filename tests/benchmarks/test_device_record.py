"""The record of a device, on machines that are made of recorded texts and on this very one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import recorded_devices as devices
from recorded_telemetry import GPU_TABLE_JETSON, core_of_x86, cores_of_arm

from ifmmin.benchmarks.device import DeviceRecord, describe, record_device
from ifmmin.benchmarks.device.facts import Cache, Cooling, Frequency
from ifmmin.runtime.doctor.ask import Answers

ROOT = Path(__file__).resolve().parents[2]
TOLD: Answers = {
    "cuda": {"version": "12.8"},
    "onnxruntime": {"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]},
}


def told() -> Answers:
    return TOLD


def test_desktop(tmp_path: Path) -> None:
    record = record_device(devices.desktop(tmp_path), told)
    processor = record.processor
    assert record.failed == ()
    assert processor.model == "Intel(R) Core(TM) i5-14400"
    assert processor.flags == ("avx", "f16c", "fma", "avx2", "avx_vnni")
    assert (processor.logical, processor.physical, processor.kinds) == (4, 2, {})
    assert processor.caches == (
        Cache(name="L1d", size=48 << 10, instances=2),
        Cache(name="L1i", size=32 << 10, instances=2),
        Cache(name="L2", size=1280 << 10, instances=2),
        Cache(name="L3", size=24 << 20, instances=1),
    )
    assert processor.frequencies[3] == Frequency(
        name="3",
        governor="schedutil",
        driver="intel_pstate",
        minimum=800,
        maximum=4700,
        hardware_maximum=5200,
        current=1200,
    )
    assert (processor.boost, processor.quota, processor.hypervisor) == (True, None, "")
    assert (processor.clock_source, processor.load) == ("tsc", 0.31)
    assert record.memory.total == 32_768_000 << 10
    assert [(zone.zone, zone.celsius) for zone in record.temperatures] == [
        ("acpitz", 27.8),
        ("x86_pkg_temp", 48.0),
    ]


def test_throttling_of_a_desktop(tmp_path: Path) -> None:
    machine = devices.desktop(tmp_path)
    throttling = record_device(machine, told).throttling
    # Of the package each core tells the same number, which counts once.
    assert (throttling.core_events, throttling.package_events) == (0 + 1 + 2 + 3, 7)
    assert throttling.cooling == ()  # a screen that is dimmed slows nothing
    assert "processor's own counters" in throttling.watched
    devices.write_files(tmp_path, devices.cooling(0, "Processor", 3, 10))
    engaged = record_device(machine, told).throttling.cooling
    assert engaged == (Cooling(name="Processor", state=3, maximum=10),)


def test_gpu_of_a_desktop(tmp_path: Path) -> None:
    nvidia = record_device(devices.desktop(tmp_path), told).nvidia
    (gpu,) = nvidia.gpus
    assert (nvidia.driver, nvidia.cuda) == ("570.133.20", "12.8")
    assert (gpu.name, gpu.compute_capability) == ("NVIDIA GeForce RTX 4090", "8.9")
    assert (gpu.sm_mhz, gpu.sm_mhz_maximum, gpu.watts, gpu.watts_limit) == (210, 3105, 21.37, 450.0)
    assert (gpu.state, gpu.persistent, gpu.mig, gpu.pcie) == ("P8", False, "", "gen 4 x16")


def test_power_sources(tmp_path: Path) -> None:
    machine = devices.desktop(tmp_path)
    record = record_device(machine, told)
    assert [(source.name, source.rails, source.counts) for source in record.power] == [
        ("rapl", ("rapl/package-0", "rapl/package-0/core", "rapl/package-0/dram"), True),
        ("nvidia", ("gpu0",), False),
    ]
    assert any("install nvidia-ml-py" in reason for reason in record.no_power)
    machine.packages["nvidia-ml-py"] = "12.575.51"
    assert record_device(machine, told).power[1].counts


def test_software_and_settings(tmp_path: Path) -> None:
    software = record_device(devices.desktop(tmp_path), told).software
    assert software.packages == {"numpy": "2.2.6", "onnxruntime-gpu": "1.31.1"}
    assert software.onnxruntime.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    # Only settings that change speed: an environment holds secrets too.
    assert software.settings == {"OMP_NUM_THREADS": "1"}


def test_orin_nano(tmp_path: Path) -> None:
    record = record_device(devices.orin_nano(tmp_path), told)
    assert record.jetson is not None
    module = record.jetson.module
    assert record.processor.kinds == {"Cortex-A78AE": 6}
    assert record.processor.flags == ("asimd", "asimdhp", "asimddp")
    assert (module.soc, module.l4t, module.jetpack) == ("tegra234", "36.4.3", "6.2.1+b38")
    assert module.power_mode == "MAXN_SUPER"
    assert record.jetson.pinned is True
    assert [(clock.name, clock.current) for clock in record.jetson.frequencies] == [
        ("17000000.gpu", 1020)
    ]
    assert [zone.zone for zone in record.temperatures] == ["cpu-thermal", "tj-thermal"]
    assert record.throttling.over_current == {"oc1": 0, "oc3": 41}
    assert [device.name for device in record.throttling.cooling] == ["gpu-throttle-alert"]
    assert record.power[0].rails == ("ina/VDD_IN", "ina/VDD_CPU_GPU_CV", "ina/VDD_SOC")


def test_clocks_that_move_are_not_pinned(tmp_path: Path) -> None:
    machine = devices.orin_nano(tmp_path)
    devices.write_files(tmp_path, {"/sys/class/devfreq/17000000.gpu/min_freq": "306000000\n"})
    board = record_device(machine, told).jetson
    assert board is not None
    assert board.pinned is False


def test_thor(tmp_path: Path) -> None:
    record = record_device(devices.thor(tmp_path), told)
    assert record.jetson is not None
    assert record.processor.kinds == {"Neoverse-V3AE": 14}
    # The clock of its video engines is none of a benchmark's.
    assert [clock.name for clock in record.jetson.frequencies] == ["bwmgr", "gpu-gpc-0"]
    assert record.jetson.pinned is False
    assert record.power[0].rails[-1] == "ina/VIN"


def test_sensors_that_a_container_hides(tmp_path: Path) -> None:
    machine = devices.orin_nano(tmp_path)
    (tmp_path / "sys/class/hwmon/hwmon1/name").unlink()
    assert [source.name for source in record_device(machine, told).power] == ["tegrastats"]
    (tmp_path / "usr/bin/tegrastats").unlink()
    assert record_device(machine, told).power == ()


def test_big_and_little_cores(tmp_path: Path) -> None:
    cpuinfo = cores_of_arm(4, "0x41", "0xd05") + cores_of_arm(4, "0x41", "0xd0b", first=4)
    machine = devices.RecordedMachine(tmp_path, {"/proc/cpuinfo": cpuinfo})
    assert record_device(machine, told).processor.kinds == {"Cortex-A55": 4, "Cortex-A76": 4}
    strange = cores_of_arm(1, "0x48", "0xd01")
    machine = devices.RecordedMachine(tmp_path, {"/proc/cpuinfo": strange})
    kinds = record_device(machine, told).processor.kinds
    assert kinds == {"part 0xd01 of implementer 0x48": 1}


def test_container_in_a_virtual_machine(tmp_path: Path) -> None:
    record = record_device(devices.container(tmp_path), told)
    assert (record.processor.hypervisor, record.processor.quota) == ("kvm", 1.5)
    assert record.throttling.quota_events == 12
    assert record.power == ()
    assert any("may not read" in reason for reason in record.no_power)


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a\n", {"cpu.max": "max 100000\n"}, None),
        (
            "4:cpu,cpuacct:/docker/x\n",
            {
                "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "200000\n",
                "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
        (
            "2:cpuset:/\n1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
    ],
    ids=["tighter above", "only above", "unlimited", "version 1", "version 1, unlimited"],
)
def test_quota(tmp_path: Path, group: str, files: dict[str, str], quota: float | None) -> None:
    places = {f"/sys/fs/cgroup/{path}": text for path, text in files.items()}
    machine = devices.RecordedMachine(tmp_path, {"/proc/self/cgroup": group, **places})
    assert record_device(machine, told).processor.quota == quota


def test_hypervisor_that_only_the_processor_betrays(tmp_path: Path) -> None:
    machine = devices.RecordedMachine(tmp_path, {"/proc/cpuinfo": core_of_x86(0, "hypervisor")})
    assert record_device(machine, told).processor.hypervisor == "unknown"
    machine = devices.RecordedMachine(tmp_path, {"/proc/cpuinfo": core_of_x86(0)})
    assert record_device(machine, told).processor.hypervisor == ""


def test_driver_too_old_for_a_field(tmp_path: Path) -> None:
    machine = devices.desktop(tmp_path)
    # Four fields less than are asked for; the doctor's query has exactly these.
    machine.tools["nvidia-smi"] = "390.157, GeForce GTX 1060, 6.1, 6078, 45, 139, 1911\n"
    nvidia = record_device(machine, told).nvidia
    assert (nvidia.driver, nvidia.gpus[0].name) == ("390.157", "GeForce GTX 1060")
    assert (nvidia.gpus[0].celsius, nvidia.gpus[0].watts) == (45, None)


def test_built_in_gpu_tells_little(tmp_path: Path) -> None:
    machine = devices.orin_nano(tmp_path)
    machine.tools["nvidia-smi"] = GPU_TABLE_JETSON
    record = record_device(machine, told)
    (gpu,) = record.nvidia.gpus
    assert (gpu.name, gpu.memory, gpu.watts, gpu.limits) == ("Orin (nvgpu)", 0, None, ())
    assert "GPU: nvidia-smi tells no power here" in record.no_power


def test_nothing_at_all(tmp_path: Path) -> None:
    record = record_device(devices.RecordedMachine(tmp_path, {}), dict)
    assert record.failed == ()
    assert (record.power, record.temperatures, record.jetson) == ((), (), None)
    rows = dict(describe(record))
    assert rows["energy"].startswith("not available: ")
    assert rows["temperature"].startswith("not available: ")
    assert rows["throttling"].startswith("not available: ")


def test_a_look_that_fails_spoils_no_other(tmp_path: Path) -> None:
    class Trapped(devices.RecordedMachine):
        def text(self, path: str) -> str:
            if path == "/proc/meminfo":
                raise RuntimeError("a strange\nmachine")
            return super().text(path)

    def nobody() -> Answers:
        raise OSError("no process")

    record = record_device(Trapped(tmp_path, {"/proc/cpuinfo": core_of_x86(0)}), nobody)
    assert record.processor.model == "Intel(R) Core(TM) i5-14400"
    assert [fault.partition(":")[0] for fault in record.failed] == ["libraries", "memory"]
    assert "\n" not in "".join(record.failed)


@pytest.mark.parametrize("make", [devices.desktop, devices.orin_nano, devices.thor])
def test_record_survives_json(
    tmp_path: Path, make: Callable[[Path], devices.RecordedMachine]
) -> None:
    record = record_device(make(tmp_path), told)
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
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'h5py', 'onnx', 'pynvml')));"
        "from ifmmin.benchmarks.device import record_device, describe;"
        "sys.exit(not describe(record_device()) or 'openvino' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
