from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_machines import DESKTOP, HEALTHY, JETSON_WHEEL, ORIN, PYPI, THOR, change, library, package

from ifmmin.runtime.doctor import rules
from ifmmin.runtime.doctor.facts import (
    BackendState,
    Clock,
    Facts,
    Folder,
    Nvidia,
    Package,
    Temperature,
)
from ifmmin.runtime.doctor.rules import RULES, SEVERITIES, Finding, find_problems


def _gpu(version: str, tags: tuple[str, ...] = ()) -> tuple[Package, ...]:
    return (package("onnxruntime-gpu", version, tags),)


_LOOSE = Clock(name="GPU", minimum=1, maximum=2, current=1, pinned=False)
_POWERSAVE = {"cpu__governor": "powersave"}
_BUILT_12 = {"onnxruntime__cuda": "12.8", "onnxruntime__version": "1.26.0"}

TRAPPED: list[tuple[str, Facts, set[str]]] = [
    ("cuda 12 driver", change(DESKTOP, nvidia__cuda="12.4", library_path=()), {"onnxruntime-cuda"}),
    ("cuda 12 libraries", change(DESKTOP, libraries=(library("libcublasLt.so.12"),)),
     {"onnxruntime-cuda"}),
    ("cuda 12 wheel on 12", change(DESKTOP, nvidia__cuda="12.8", library_path=(),
     packages=_gpu("1.26.0"), libraries=(library("libcublasLt.so.12"), library("libnvinfer.so.10")),
     **_BUILT_12), set()),
    ("jetpack 6 with a wheel for cuda 13", change(ORIN, packages=_gpu("1.31.1", JETSON_WHEEL)),
     {"onnxruntime-cuda"}),
    ("tensorrt 11 for a provider of 10", change(DESKTOP, libraries=(library("libnvinfer.so.11"),)),
     {"onnxruntime-tensorrt"}),
    ("both tensorrts", change(DESKTOP, libraries=(library("libnvinfer.so.10"),
     library("libnvinfer.so.11"))), set()),
    ("pypi's wheel on thor", change(THOR, packages=_gpu("1.31.1", PYPI)),
     {"onnxruntime-jetson-kernels"}),
    ("jetson's wheel on thor", change(THOR, packages=_gpu("1.31.1", JETSON_WHEEL)), set()),
    ("untagged wheel on thor", change(THOR, packages=_gpu("1.31.1")),
     {"onnxruntime-jetson-kernels"}),
    ("cuda-python of 13 on jetpack 6", change(ORIN, packages=(package("cuda-python", "13.0.1"),)),
     {"cuda-python"}),
    ("cuda-python of 12 on 13", change(THOR, packages=(package("cuda-python", "12.9.0"),)), set()),
    ("two onnxruntimes", change(DESKTOP, onnxruntime__owners=("onnxruntime-gpu", "ort-nightly")),
     {"onnxruntime-twice"}),
    ("a frozen program", change(DESKTOP, python__frozen=True, backends=()), {"frozen"}),
    ("venv that hides tensorrt", change(ORIN, python__system_packages=False, packages=()),
     {"jetson-venv"}),
    ("tensorrt of its own in a venv", change(ORIN, python__system_packages=False), set()),
    ("another python", change(ORIN, python__version="3.11.9"), {"jetson-python"}),
    ("jetpack 6's python on 7", change(THOR, python__version="3.10.12"), {"jetson-python"}),
    ("jetpack 6.0", change(ORIN, jetson__l4t="36.3.0", libraries=()), {"jetpack-old"}),
    ("jetpack 5", change(ORIN, jetson__l4t="35.4.1", python__version="3.8.10",
     libraries=(library("libnvinfer.so.8"),)), {"jetpack-old"}),
    ("jetpack 6.0 with tensorrt 10", change(ORIN, jetson__l4t="36.3.0"), set()),
    ("server's tensorrt on orin", change(ORIN, libraries=(library("libnvinfer.so.10", "10.13.3"),)),
     {"tensorrt-orin-kernels"}),
    ("10.13 on thor", change(THOR, jetson__l4t="38.4", libraries=(library("libnvinfer.so.10",
     "10.13.3"),)), set()),
    ("tensorrt 11 on jetpack 6", change(ORIN, packages=(package("tensorrt", "11.4.1"),)),
     {"tensorrt-11-jetpack"}),
    ("tensorrt 11.2 on jetpack 7", change(THOR, packages=(package("tensorrt", "11.2.1"),)),
     {"tensorrt-11-jetpack"}),
    ("tensorrt 11.4 on jetpack 7", change(THOR, packages=(package("tensorrt", "11.4.1"),)), set()),
    ("no dla compiler", change(THOR, libraries=(library("libnvinfer.so.10", "10.16.2"),)),
     {"jetson-nvdla"}),
    ("old wheel, new numpy", change(DESKTOP, packages=(package("numpy", "2.0.0"),
     package("onnxruntime", "1.18.1"))), {"numpy-2"}),
    ("import complains of numpy", change(ORIN, packages=(package("numpy", "2.2.6"),
     package("onnxruntime", "1.23.0")),
     onnxruntime__error="ImportError: numpy.core.multiarray failed to import"), {"numpy-2"}),
    ("15 W", change(ORIN, jetson__power_mode="15W"), {"jetson-power-mode"}),
    ("loose clocks", change(ORIN, jetson__clocks=(_LOOSE,)), {"jetson-clocks"}),
    ("loose clocks without root", change(ORIN, jetson__clocks=(), cpu__minimum_mhz=7,
     cpu__maximum_mhz=9), {"jetson-clocks"}),
    ("powersave", change(DESKTOP, **_POWERSAVE, cpu__driver="acpi-cpufreq"), {"governor"}),
    ("no vnni", change(DESKTOP, cpu__flags=("avx2",)), {"no-vnni"}),
    ("folders that are gone", change(DESKTOP, library_path=(Folder(path="/opt/trt/lib",
     exists=False),)), {"library-path"}),
    ("another cuda's folder", change(DESKTOP,
     library_path=(Folder(path="/usr/local/cuda-11.8/lib64", exists=True),)), {"library-path"}),
    ("little memory", change(DESKTOP, memory__available=1 << 20), {"memory"}),
    ("small jetson, no swap", change(ORIN, memory__swap=0), {"memory"}),
    ("hot", change(DESKTOP, temperatures=(Temperature(zone="cpu", celsius=96.0),)), {"heat"}),
    ("no backend", change(DESKTOP, backends=(BackendState(name="x", usable=False, reason="y"),)),
     {"no-backend"}),
    ("driver that fails", change(DESKTOP, nvidia__cuda_error="the driver does not start"),
     {"driver"}),
    ("card without driver", change(DESKTOP, nvidia=Nvidia(pci_devices=1), packages=()),
     {"gpu-driver"}),
    ("no gpu", change(DESKTOP, nvidia=Nvidia(), packages=(), libraries=()), {"no-gpu"}),
    ("a look that failed", change(DESKTOP, failed=("cpu: ValueError: x",)), {"incomplete"}),
]  # fmt: skip
"""Name, a healthy machine with a change, and exactly the rules that have something to say."""


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_machine_has_no_findings(name: str) -> None:
    assert find_problems(HEALTHY[name]) == ()


@pytest.mark.parametrize(
    ("facts", "expected"), [t[1:] for t in TRAPPED], ids=[t[0] for t in TRAPPED]
)
def test_every_trap_is_found_and_nothing_else(facts: Facts, expected: set[str]) -> None:
    found = find_problems(facts)
    assert {finding.rule for finding in found} == expected
    for finding in found:
        assert finding.found
        assert finding.cure
        assert "\n" not in finding.found + finding.cure


def test_the_table_has_every_rule(root: Path) -> None:
    expected = {rule for _, _, names in TRAPPED for rule in names}
    text = (root / "runtime" / "doctor" / "rules.py").read_text()
    written = set(re.findall(r"finding\(\s*\"([a-z0-9-]+)\"", text))
    assert expected == written
    assert len(RULES) == len(written)


def test_what_is_not_known_is_no_problem_and_own_governors_are_only_noted() -> None:
    assert {finding.rule for finding in find_problems(Facts())} == {"no-gpu"}
    facts = change(HEALTHY["desktop"], cpu__governor="powersave", cpu__driver="intel_pstate")
    assert [finding.severity for finding in find_problems(facts)] == ["note"]


def test_worst_first() -> None:
    facts = change(
        HEALTHY["desktop"], nvidia__cuda="12.4", cpu__flags=("avx2",), memory__available=1
    )
    severities = [SEVERITIES.index(finding.severity) for finding in find_problems(facts)]
    assert severities == sorted(severities)
    assert len(set(severities)) == 3


def test_a_rule_that_breaks_does_not_silence_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(facts: Facts) -> Finding | None:
        raise ZeroDivisionError("strange")

    monkeypatch.setattr(rules, "RULES", (broken, *RULES))
    (first,) = find_problems(HEALTHY["orin"])
    assert "ZeroDivisionError" in first.found
