"""The words for a device, on machines that are made of recorded texts."""

from __future__ import annotations

from pathlib import Path

import recorded_devices as devices

from ifmmin.benchmarks.device import describe, record_device
from ifmmin.runtime.doctor.probes import Answers


def told() -> Answers:
    return {"cuda": {"version": "12.8"}}


def test_words_for_a_desktop(tmp_path: Path) -> None:
    rows = dict(describe(record_device(devices.desktop(tmp_path), told, devices.rtx)))
    assert rows["processor"].startswith("Intel(R) Core(TM) i5-14400, ")
    assert "4 logical CPUs" in rows["processor"]
    assert rows["caches"] == "L1d 48 KiB x 2, L1i 32 KiB x 2, L2 1280 KiB x 2, L3 24 MiB"
    assert rows["frequency"] == (
        "4 x schedutil, intel_pstate, 800 to 4700 MHz, the hardware can 5200, boost allowed"
    )
    assert "power limit 450 W" in rows["gpu"]
    assert rows["driver"] == "570.133.20, speaks CUDA 12.8"
    assert rows["throttling"].startswith("6 times by cores since boot, 7 times by the package")
    assert rows["energy"].startswith("rapl (counts energy, rapl/package-0")
    assert rows["settings"] == "OMP_NUM_THREADS=1"
    assert all("\n" not in text for text in rows.values())


def test_words_for_a_jetson(tmp_path: Path) -> None:
    rows = dict(describe(record_device(devices.orin_nano(tmp_path), told, devices.no_gpus)))
    assert "6 Cortex-A78AE" in rows["processor"]
    assert "power mode MAXN_SUPER, clocks pinned" in rows["jetson"]
    assert rows["temperature"] == "51 degrees Celsius in the hottest zone (tj-thermal)"
    assert "gpu-throttle-alert 1 of 2" in rows["throttling"]
    assert "41 times by over-current oc3" in rows["throttling"]
