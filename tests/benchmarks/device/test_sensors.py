"""What sensors of a machine and its GPUs say."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest
import recorded_devices as devices
from hypothesis import given
from hypothesis import strategies as st

from ifmmin.benchmarks.device.gpu import REASONS, Nvml, find_gpus, load_nvml
from ifmmin.benchmarks.device.machine import Machine, ProbeUnavailable, in_order
from ifmmin.benchmarks.device.monitor import read_state
from ifmmin.benchmarks.device.sensors import Counter, Ina, Rapl, Tegrastats, parse_line

SPAN = 1000


@pytest.mark.parametrize(
    ("line", "watts", "celsius", "mhz"),
    [
        (devices.TEGRASTATS_AGX_ORIN,
         {"VDD_GPU_SOC": 2.401, "VDD_CPU_CV": 0.8, "VIN_SYS_5V0": 4.032, "VDDQ_VDD2_1V8AO": 0.604},
         {"CPU": 49.531, "Tboard": 38.0, "SOC2": 45.5, "Tdiode": 39.0, "SOC0": 45.218}
         | {"tj": 49.531, "SOC1": 46.312}, 306),
        (devices.TEGRASTATS_ORIN_NANO,
         {"VDD_IN": 4.712, "VDD_CPU_GPU_CV": 0.523, "VDD_SOC": 1.411},
         {"cpu": 48.125, "soc2": 47.5, "soc0": 47.625, "gpu": 49.187, "tj": 49.187}
         | {"soc1": 47.906}, 611),
        (devices.TEGRASTATS_NO_ROOT,
         {"VDD_IN": 4.59, "VDD_CPU_GPU_CV": 0.48, "VDD_SOC": 1.4},
         {"cpu": 48.125, "tj": 48.125}, None),
        (devices.TEGRASTATS_THOR,
         {"VDD_GPU": 1.962, "VDD_CPU_SOC_MSS": 5.887, "VIN_SYS_5V0": 5.635, "VIN": 19.78},
         {"cpu": 37.343, "tj": 38.875, "soc012": 37.468, "gpu": 38.875, "soc345": 37.406}, 1575),
        (devices.TEGRASTATS_OLD, {}, {"PLL": 42.5, "MCPU": 42.5, "PMIC": 100.0}, None),
        ("", {}, {}, None),
    ],
    ids=["JetPack 5", "JetPack 6", "JetPack 6 without root", "JetPack 7", "JetPack 4", "nothing"],
)  # fmt: skip
def test_tegrastats_lines(
    line: str, watts: dict[str, float], celsius: dict[str, float], mhz: int | None
) -> None:
    found = parse_line(line)
    assert found.watts == {f"tegrastats/{rail}": value for rail, value in watts.items()}
    assert found.mhz == ({} if mhz is None else {"GR3D": mhz})
    # What JetPack 7 prints behind a slash is the highest since the tool began, not the value.
    assert found.celsius == celsius


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    parse_line(text)


def test_tegrastats_is_followed(tmp_path: Path) -> None:
    with closing(Tegrastats(devices.orin_nano(tmp_path), period=0.1)) as tool:
        assert "tegrastats/VDD_IN" in tool.rails
        assert tool.read().watts["tegrastats/VDD_IN"] == 4.712
    silent = devices.RecordedMachine(
        tmp_path, {"/usr/bin/tegrastats": ""}, followed={"/usr/bin/tegrastats": "RAM 1/2MB"}
    )
    with pytest.raises(ProbeUnavailable, match="prints no power"):
        Tegrastats(silent, period=0.1)


def test_counter_that_goes_back_in_the_middle_is_given_up() -> None:
    counter = Counter(SPAN)
    assert [counter.advance(now) for now in (600, 500, 700)] == [0, None, None]


@given(st.lists(st.integers(0, SPAN // 2 - 1), max_size=50), st.integers(0, SPAN - 1))
def test_counter_adds_up_whatever_its_beginning(steps: list[int], first: int) -> None:
    counter, now = Counter(SPAN), first
    total = counter.advance(now)
    for step in steps:
        now = (now + step) % SPAN
        total = counter.advance(now)
    assert total == sum(steps)


def test_rapl(tmp_path: Path) -> None:
    rapl = Rapl(devices.desktop(tmp_path))
    assert set(rapl.read().joules.values()) == {0.0}
    devices.write_files(tmp_path, devices.rapl("0", "package-0", 121_500_000))
    assert rapl.read().joules["rapl/package-0"] == pytest.approx(1.5)
    # A counter that goes away while it runs is no longer told, rather than standing still.
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    assert "rapl/package-0" not in rapl.read().joules
    machine = devices.desktop(tmp_path)
    # The same package by memory-mapped registers.
    folder = "/sys/class/powercap/intel-rapl-mmio:0"
    again = {"name": "package-0\n", "energy_uj": "5\n", "max_energy_range_uj": "9\n"}
    devices.write_files(tmp_path, {f"{folder}/{name}": text for name, text in again.items()})
    assert Rapl(machine).rails == (
        "rapl/package-0", "rapl/package-0/core", "rapl/package-0/dram",
    )  # fmt: skip


def test_rapl_that_is_not_there_or_not_readable(tmp_path: Path) -> None:
    with pytest.raises(ProbeUnavailable, match="may not read"):
        Rapl(devices.container(tmp_path / "refused"))
    with pytest.raises(ProbeUnavailable, match="shows no counters"):
        Rapl(devices.RecordedMachine(tmp_path / "absent", {}))


def test_rails_of_a_jetson(tmp_path: Path) -> None:
    watts = Ina(devices.orin_nano(tmp_path / "nano")).read().watts
    assert watts["ina/VDD_IN"] == pytest.approx(5.008 * 1.2)
    # A channel that is not connected is no rail, nor is the sum of shunt voltages.
    assert Ina(devices.agx_orin(tmp_path / "agx")).rails == (
        "ina/VDD_GPU_SOC", "ina/VDD_CPU_CV", "ina/VIN_SYS_5V0", "ina/VDDQ_VDD2_1V8AO",
    )  # fmt: skip
    watts = Ina(devices.thor(tmp_path / "thor")).read().watts
    assert watts["ina/VIN"] == pytest.approx(21.75)
    assert watts["ina/VDD_GPU"] == 0.0, "a GPU that is switched off takes nothing"
    with pytest.raises(ProbeUnavailable, match="there are none"):
        Ina(devices.desktop(tmp_path / "desktop"))


def test_state_of_a_jetson(tmp_path: Path) -> None:
    machine = devices.orin_nano(tmp_path)
    found = read_state(machine)
    assert found.mhz == {"cpu": 1728, "17000000.gpu": 1020}
    assert found.celsius == {"cpu-thermal": 50.812, "tj-thermal": 51.343}
    assert found.counts == {"over-current oc1": 0, "over-current oc3": 41}
    assert found.limits == {"gpu-throttle-alert"}


def test_sensor_in_a_processor_of_amd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensors = [SimpleNamespace(label=label, current=61.125) for label in ("Tctl", "Tccd1")]
    found = {"k10temp": sensors, "nvme": sensors}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: found)
    assert read_state(devices.RecordedMachine(tmp_path, {})).celsius == {"k10temp Tctl": 61.125}


def test_files_below_a_root(tmp_path: Path) -> None:
    root = tmp_path / "a[b]"  # no pattern, though it looks like one
    devices.write_files(root, {"/sys/x2": "2", "/sys/x10": "10", "/etc/y": ""})
    machine = Machine(str(root))
    assert machine.find("/sys/x*") == ["/sys/x2", "/sys/x10"]
    assert machine.text("/sys/x10") == "10"
    assert machine.resolve("/sys/../etc/y") == "/etc/y"
    assert in_order(["cpu10/a", "cpu2/a", "cpu2/b1", "b"]) == ["b", "cpu2/a", "cpu2/b1", "cpu10/a"]


def test_what_a_gpu_is() -> None:
    gpus = devices.rtx()
    (gpu,) = gpus.describe()
    assert gpus.driver() == "570.133.20"
    assert (gpu.name, gpu.compute_capability) == ("NVIDIA GeForce RTX 4090", "8.9")
    assert (gpu.memory, gpu.memory_used) == (24564 << 20, 1093 << 20)
    assert (gpu.sm_mhz, gpu.sm_mhz_maximum, gpu.watts, gpu.watts_limit) == (210, 3105, 21.37, 450.0)
    assert (gpu.memory_mhz, gpu.memory_mhz_maximum) == (405, 10501)
    assert (gpu.state, gpu.persistent, gpu.mig, gpu.pcie) == ("P8", False, "", "gen 4 x16")
    assert gpu.limits == (), "idling holds nothing back"
    (gpu,) = Nvml(devices.nvml(MigMode=[1, 1], CurrentClocksThrottleReasons=0x24)).describe()
    assert gpu.mig == "Enabled"
    assert gpu.limits == ("power cap", "thermal slowdown by software")


def test_a_gpu_that_tells_little() -> None:
    """As that of a Jetson does."""
    gpus = Nvml(devices.nvml(Name="Orin (nvgpu)"))
    (gpu,) = gpus.describe()
    assert (gpu.name, gpu.compute_capability, gpu.memory, gpu.watts) == (
        "Orin (nvgpu)", "", 0, None,
    )  # fmt: skip
    assert (gpu.state, gpu.persistent, gpu.mig, gpu.pcie, gpu.limits) == ("", None, "", "", ())
    found = gpus.read()
    assert (found.joules, found.watts, found.celsius, found.mhz) == ({}, {}, {}, {})


def test_readings() -> None:
    energy = iter((5_000_000, 5_002_500))
    gpus = Nvml(
        devices.nvml(
            TotalEnergyConsumption=lambda gpu: next(energy), PowerUsage=71_520, Temperature=44,
            ClockInfo=1980, CurrentClocksThrottleReasons=0x44,
        )
    )  # fmt: skip
    assert gpus.read().joules == {"gpu0": 0.0}
    found = gpus.read()
    assert found.joules == {"gpu0": 2.5}
    assert (found.watts, found.celsius, found.mhz) == (
        {"gpu0": 71.52}, {"gpu0": 44.0}, {"gpu0": 1980},
    )  # fmt: skip
    assert found.limits == {"gpu0: power cap", "gpu0: thermal slowdown by hardware"}
    gpus.close()


def test_two_gpus_have_rails_of_their_own() -> None:
    module = devices.nvml(PowerUsage=lambda gpu: {"handle 0": 90_000, "handle 1": 95_000}[gpu])
    module.nvmlDeviceGetCount = lambda: 2
    assert Nvml(module).read().watts == {"gpu0": 90.0, "gpu1": 95.0}
    module.nvmlDeviceGetCount = lambda: 0
    with pytest.raises(ProbeUnavailable, match="knows none"):
        Nvml(module)


def test_reasons_are_those_of_the_library() -> None:
    names = [name for name in dir(pynvml) if name.startswith("nvmlClocksThrottleReason")]
    assert set(REASONS) <= {getattr(pynvml, name) for name in names}


def test_without_the_library_a_gpu_is_a_line_with_the_cure(tmp_path: Path) -> None:
    tools = {"nvidia-smi": "580.65.06, GeForce RTX, 8.9, 24564, 45, 139, 1911\n"}
    machine, why = devices.RecordedMachine(tmp_path, {}, tools), "run pip install '.[bench]'"
    found = find_gpus(machine, None, why, {"version": "12.8"})
    assert (found.driver, found.cuda, found.error) == ("580.65.06", "12.8", why)
    assert [(gpu.name, gpu.memory) for gpu in found.gpus] == [("GeForce RTX", 24564 << 20)]
    nothing = devices.RecordedMachine(tmp_path, {})
    assert find_gpus(nothing, None, why, {}).error == "", "there is no GPU to say anything of"


_START = "class NVMLError(Exception): pass\ndef nvmlInit(): raise {}\n"


def _put(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "pynvml.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (_START.format("NVMLError('no driver')"), r"does not start here \(no driver\)"),
        (_START.format("OSError('no such library')"), r"does not start here \(no such library\)"),
        ("import no_such_module_of_anybody\n", "pip install"),
        ("", "pip install"),
    ],
    ids=["another driver", "no library", "half installed", "another package of the name"],
)
def test_nvml_that_does_not_load(
    source: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _put(source, tmp_path, monkeypatch)
    with pytest.raises(ProbeUnavailable, match=reason):
        load_nvml()


def test_a_fault_in_loading_nvml_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _put(_START.format("RuntimeError('no driver')"), tmp_path, monkeypatch)
    with pytest.raises(RuntimeError, match="no driver"):
        load_nvml()
