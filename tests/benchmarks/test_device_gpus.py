"""NVIDIA GPUs by tool and by library."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import recorded_devices as devices
import recorded_telemetry as recorded

from ifmmin.benchmarks.device.nvml import Nvml, Smi, load_nvml, watch_gpus
from ifmmin.benchmarks.device.readings import ProbeUnavailable
from ifmmin.benchmarks.device.smi import decode_reasons, parse_gpus, queries


@pytest.mark.parametrize(
    ("mask", "reasons"),
    [
        ("0x0000000000000000", ()),
        ("0x0000000000000001", ()),  # idle
        ("0x0000000000000002", ()),  # clocks that the user set
        ("0x0000000000000004", ("power cap",)),
        ("0x0000000000000060", ("thermal slowdown by software", "thermal slowdown by hardware")),
        ("[N/A]", ()),
    ],
)
def test_reasons_of_low_clocks(mask: str, reasons: tuple[str, ...]) -> None:
    assert decode_reasons(mask) == reasons


def test_gpu_that_is_cut_into_instances() -> None:
    _, (gpu,) = parse_gpus(recorded.GPU_TABLE_MIG)
    assert (gpu.mig, gpu.persistent, gpu.pcie) == ("Enabled", True, "gen 5 x16")
    assert gpu.limits == ("power cap", "thermal slowdown by software")


def test_fields_that_a_driver_does_not_know() -> None:
    assert parse_gpus(recorded.GPU_UNKNOWN_FIELD) == ("", ())
    older, newer = (" ".join(query) for query in queries(("index", "reasons")))
    assert "index,clocks_throttle_reasons.active" in older
    assert "index,clocks_event_reasons.active" in newer


def test_nvidia_smi_is_followed(tmp_path: Path) -> None:
    gpus = watch_gpus(devices.desktop(tmp_path), 0.1, None)
    try:
        found = gpus.read()
        assert isinstance(gpus, Smi)
        assert (found.watts, found.celsius, found.mhz) == (
            {"gpu0": 143.27},
            {"gpu0": 52.0},
            {"gpu0": 1950},
        )
        assert (found.limits, found.joules) == ({"gpu0: power cap"}, {})
    finally:
        gpus.close()


def test_two_gpus_take_turns(tmp_path: Path) -> None:
    lines = "0, 50, 1000, 90.00, 0x0\n1, 60, 1100, 95.00, 0x0\n0, 51, 1200, 99.00, 0x0"
    gpus = Smi(devices.RecordedMachine(tmp_path, {}, followed={"nvidia-smi": lines}), 0.1)
    try:
        # Lines of a pipe come one by one: the last may be a moment behind the first.
        until = time.monotonic() + 10
        while gpus.read().mhz.get("gpu0") != 1200 and time.monotonic() < until:
            time.sleep(0.01)
        assert gpus.read().celsius == {"gpu0": 51.0, "gpu1": 60.0}
    finally:
        gpus.close()


def test_gpus_that_tell_nothing(tmp_path: Path) -> None:
    with pytest.raises(ProbeUnavailable, match="there is no nvidia-smi"):
        Smi(devices.RecordedMachine(tmp_path, {}), 0.1)
    silent = {"nvidia-smi": "0, [N/A], [N/A], [N/A], [N/A]"}
    with pytest.raises(ProbeUnavailable, match="tells no power"):
        Smi(devices.RecordedMachine(tmp_path, {}, followed=silent), 0.1)


class NVMLError(Exception):
    """As the library names it."""


def library(**answers: Any) -> SimpleNamespace:
    """NVML with one GPU; what is not in `answers` it does not support."""

    def refuse(*_: Any) -> int:
        raise NVMLError

    names = ("TotalEnergyConsumption", "PowerUsage", "Temperature", "ClockInfo")
    known = {name: answers.get(name, refuse) for name in (*names, "CurrentClocksThrottleReasons")}
    return SimpleNamespace(
        NVMLError=NVMLError,
        NVML_TEMPERATURE_GPU=0,
        NVML_CLOCK_SM=1,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: f"handle {index}",
        nvmlShutdown=refuse,
        **{f"nvmlDeviceGet{name}": answer for name, answer in known.items()},
    )


def test_nvml(tmp_path: Path) -> None:
    energy = iter((5_000_000, 5_002_500))
    nvml = library(
        TotalEnergyConsumption=lambda gpu: next(energy),
        PowerUsage=lambda gpu: 71_520,
        Temperature=lambda gpu, sensor: 44,
        ClockInfo=lambda gpu, kind: 1980,
        CurrentClocksThrottleReasons=lambda gpu: 0x44,
    )
    gpus = watch_gpus(devices.desktop(tmp_path), 0.1, nvml)
    assert isinstance(gpus, Nvml)
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


def test_gpu_without_an_energy_counter() -> None:
    found = Nvml(library(PowerUsage=lambda gpu: 30_000)).read()
    assert (found.joules, found.watts, found.mhz) == ({}, {"gpu0": 30.0}, {})


_OWN_ERROR = "class NVMLError(Exception): pass\ndef nvmlInit(): raise NVMLError('no driver')\n"


def _put(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "pynvml.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(_OWN_ERROR, id="another driver"),
        pytest.param("def nvmlInit(): raise OSError('no such library')\n", id="no library"),
        pytest.param("import no_such_module_of_anybody\n", id="half installed"),
        pytest.param("", id="another package of the name"),
    ],
)
def test_nvml_that_does_not_load(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _put(source, tmp_path, monkeypatch)
    assert load_nvml() is None


def test_a_fault_in_loading_nvml_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _put(_OWN_ERROR.replace("raise NVMLError", "raise RuntimeError"), tmp_path, monkeypatch)
    with pytest.raises(RuntimeError, match="no driver"):
        load_nvml()
