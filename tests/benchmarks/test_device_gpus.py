"""NVIDIA GPUs by NVIDIA's library."""

from __future__ import annotations

import sys
from pathlib import Path

import pynvml
import pytest
import recorded_devices as devices

from ifmmin.benchmarks.device.gpu import REASONS, Nvml, find_gpus, load_nvml
from ifmmin.benchmarks.device.machine import ProbeUnavailable


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


def test_a_gpu_that_is_cut_into_instances() -> None:
    (gpu,) = Nvml(devices.nvml(MigMode=[1, 1], CurrentClocksThrottleReasons=0x24)).describe()
    assert gpu.mig == "Enabled"
    assert gpu.limits == ("power cap", "thermal slowdown by software")


def test_a_gpu_that_tells_little() -> None:
    """As that of a Jetson does."""
    gpus = Nvml(devices.nvml(Name="Orin (nvgpu)"))
    (gpu,) = gpus.describe()
    assert (gpu.name, gpu.compute_capability, gpu.memory, gpu.watts) == (
        "Orin (nvgpu)",
        "",
        0,
        None,
    )
    assert (gpu.state, gpu.persistent, gpu.mig, gpu.pcie, gpu.limits) == ("", None, "", "", ())
    found = gpus.read()
    assert (found.joules, found.watts, found.celsius, found.mhz) == ({}, {}, {}, {})


def test_readings() -> None:
    energy = iter((5_000_000, 5_002_500))
    gpus = Nvml(
        devices.nvml(
            TotalEnergyConsumption=lambda gpu: next(energy),
            PowerUsage=71_520,
            Temperature=44,
            ClockInfo=1980,
            CurrentClocksThrottleReasons=0x44,
        )
    )
    assert gpus.read().joules == {"gpu0": 0.0}
    found = gpus.read()
    assert found.joules == {"gpu0": 2.5}
    assert (found.watts, found.celsius, found.mhz) == (
        {"gpu0": 71.52},
        {"gpu0": 44.0},
        {"gpu0": 1980},
    )
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


_OWN_ERROR = "class NVMLError(Exception): pass\ndef nvmlInit(): raise NVMLError('no driver')\n"


def _put(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "pynvml.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param(_OWN_ERROR, r"does not start here \(no driver\)", id="another driver"),
        pytest.param(
            "class NVMLError(Exception): pass\ndef nvmlInit(): raise OSError('no such library')\n",
            r"does not start here \(no such library\)",
            id="no library",
        ),
        pytest.param("import no_such_module_of_anybody\n", "pip install", id="half installed"),
        pytest.param("", "pip install", id="another package of the name"),
    ],
)
def test_nvml_that_does_not_load(
    source: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _put(source, tmp_path, monkeypatch)
    with pytest.raises(ProbeUnavailable, match=reason):
        load_nvml()


def test_a_fault_in_loading_nvml_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _put(_OWN_ERROR.replace("raise NVMLError", "raise RuntimeError"), tmp_path, monkeypatch)
    with pytest.raises(RuntimeError, match="no driver"):
        load_nvml()
