"""What the doctor reads of a machine, and questions whose libraries may crash, hang or print."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import msgspec
import pytest
import recorded_outputs as recorded
from fake_onnxruntime import fake_driver
from hypothesis import given, settings
from hypothesis import strategies as st

from ifmmin.runtime.doctor import collect as looks
from ifmmin.runtime.doctor.answer import ask_cuda
from ifmmin.runtime.doctor.facts import Cpu, Facts, Gpu
from ifmmin.runtime.doctor.probes import UNREADABLE, Host, ask
from ifmmin.runtime.doctor.report import make_report, to_json

SITE = "/site-packages"
FREQUENCY = "/sys/devices/system/cpu/cpu0/cpufreq"


class MadeHost(Host):
    """Files by path, tools by the first words of their command, packages by name."""

    def __init__(
        self, files: Mapping[str, str] = {}, tools: Mapping[str, str] = {},
        packages: Mapping[str, Any] = {}, environ: Mapping[str, str] = {},
    ) -> None:  # fmt: skip
        self.files, self.tools = dict(files), dict(tools)
        self.packages, self.variables = dict(packages), dict(environ)
        self.environ = self.variables

    def content(self, path: str) -> bytes:
        return self.files.get(path, "").encode(errors="replace")

    def find(self, pattern: str) -> list[str]:
        return sorted(path for path in self.files if fnmatch(path, pattern))

    def resolve(self, path: str) -> str:
        return path

    def run(self, *command: str) -> str:
        return self.tools.get(command[0], "")

    def package(self, name: str) -> tuple[str, tuple[str, ...]] | None:
        return self.packages.get(name)

    def owners(self, folder: str) -> tuple[str, ...]:
        return tuple(name for name in self.packages if name.startswith(folder))

    def site_folders(self) -> list[str]:
        return [SITE]


def orin() -> MadeHost:
    """An Orin NX of 8 GB with JetPack 6.2."""
    libraries = [line.split(" => ")[1] for line in recorded.LDCONFIG.splitlines() if " => " in line]
    return MadeHost(
        files={
            **dict.fromkeys(libraries, "library"), "/etc/nv_tegra_release": recorded.RELEASE_R36,
            "/etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
            "/proc/cpuinfo": recorded.CPUINFO_ARM, "/proc/meminfo": recorded.MEMINFO,
            "/proc/driver/nvidia/version": recorded.DRIVER_OPEN,
            "/proc/device-tree/model": "NVIDIA Jetson Orin NX\0",
            "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0001\0nvidia,tegra234\0",
            "/sys/class/thermal/thermal_zone0": "",
            "/sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "/sys/class/thermal/thermal_zone0/temp": "51250\n",
            f"{FREQUENCY}/scaling_governor": "schedutil\n",
            f"{FREQUENCY}/scaling_min_freq": "729600\n",
            f"{FREQUENCY}/scaling_max_freq": "1984000\n",
            "/usr/lib/python3.10/dist-packages/tensorrt/__init__.py": "",
            f"{SITE}/onnxruntime/capi/build_and_package_info.py": recorded.BUILD_INFO,
            f"{SITE}/onnxruntime/capi/libonnxruntime_providers_tensorrt.so": "\0libnvinfer.so.10\0",
        },
        tools={
            "nvpmodel": recorded.NVPMODEL, "jetson_clocks": recorded.CLOCKS_R36,
            "nvidia-smi": recorded.SMI_JETSON, "ldconfig": recorded.LDCONFIG,
            "dpkg-query": "6.2.1+b38",
        },
        packages={
            "numpy": ("2.2.6", ("cp310-cp310-manylinux_2_17_aarch64",)),
            "onnxruntime-gpu": ("1.31.1", ("cp312-cp312-manylinux_2_34_aarch64",)),
        },
        environ={"LD_LIBRARY_PATH": "/usr/local/cuda-11.4/lib64"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (recorded.RELEASE_R36, "36.4.3"), (recorded.RELEASE_R38, "38.2.0"),
        (recorded.RELEASE_R39, "39.2.0"), ("", ""),
    ],
)  # fmt: skip
def test_release_of_jetson_linux(text: str, release: str) -> None:
    assert looks.parse_release(text) == release


def test_small_parsers() -> None:
    found = {clock.name: clock.pinned for clock in looks.parse_clocks(recorded.CLOCKS_R36)}
    assert found == {"cpu0": False, "cpu1": True, "GPU": False, "EMC": True}
    assert [clock.pinned for clock in looks.parse_clocks(recorded.CLOCKS_R39)] == [True, True]
    assert looks.parse_clocks(recorded.CLOCKS_REFUSED) == ()
    assert looks.parse_build(recorded.BUILD_INFO)["cuda_version"] == "13.0"
    assert looks.linked_tensorrt(b"\x7fELF\0libnvinfer.so.10\0") == 10
    assert looks.linked_tensorrt(b"") is None
    assert looks.parse_meminfo(recorded.MEMINFO).total == 7802456 * 1024
    assert looks.sees_system("home = /usr/bin\ninclude-system-site-packages = true\n")
    assert not looks.sees_system("include-system-site-packages = false\n")
    assert (looks.version("6.2.1+b38"), looks.version("v1"), looks.version("")) == (
        (6, 2, 1), (), (),
    )  # fmt: skip
    assert (looks.integer("1410 MHz"), looks.integer("[N/A]")) == (1410, None)
    assert looks.parse_power_mode(recorded.NVPMODEL) == "MAXN_SUPER"
    assert looks.parse_power_mode(recorded.NVPMODEL_CAPPED) == "MODE_15W"
    assert looks.parse_driver(recorded.DRIVER_CLOSED) == "550.54.15"
    assert looks.parse_driver(recorded.DRIVER_OPEN) == "540.4.0"
    names = [name for name, _ in looks.parse_ldconfig(recorded.LDCONFIG)]
    assert names == ["libnvinfer.so.10", "libnvinfer.so", "libcudart.so.12", "libcuda.so.1"]


def test_gpus_of_nvidia_smi() -> None:
    driver, (gpu,) = looks.parse_smi(recorded.SMI)
    assert driver == "550.54.15"
    assert gpu == Gpu(
        name="NVIDIA GeForce RTX 3090", compute_capability="8.6", memory=24576 << 20,
        temperature=41, clock_mhz=210, maximum_clock_mhz=2100,
    )  # fmt: skip
    assert len(looks.parse_smi(recorded.SMI_TWO)[1]) == 2
    _, (built_in,) = looks.parse_smi(recorded.SMI_JETSON)
    assert (built_in.compute_capability, built_in.memory, built_in.temperature) == ("8.7", 0, None)
    assert looks.parse_smi(recorded.SMI_BROKEN) == ("", ())


def test_processors() -> None:
    model, cores, flags = looks.parse_cpuinfo(recorded.CPUINFO_X86)
    assert (model, cores) == ("Intel(R) Xeon(R) Platinum 8480+", 2)
    assert {"avx512_vnni", "amx_int8"} < set(flags)
    model, cores, flags = looks.parse_cpuinfo(recorded.CPUINFO_ARM)
    assert (model, cores) == ("Cortex-A78AE (Orin)", 1)
    assert flags == ("asimd", "asimdhp", "asimddp")
    assert "hardware" in looks.eight_bits(Cpu(flags=("avx2", "avx_vnni")))
    assert "no VNNI" in looks.eight_bits(Cpu(flags=("avx2",)))
    assert "asimddp" in looks.eight_bits(Cpu(flags=("asimd",)))
    assert "nothing known" in looks.eight_bits(Cpu())


def test_a_whole_jetson() -> None:
    facts = looks.collect(orin(), lambda questions: {"cuda": {"version": "12.6"}})
    assert facts.failed == ()
    assert facts.jetson is not None
    assert facts.jetson.model == "NVIDIA Jetson Orin NX"
    assert (facts.jetson.jetpack, facts.jetson.power_mode) == ("6.2.1+b38", "MAXN_SUPER")
    assert facts.compute_capabilities == {"8.7"}
    assert facts.majors("libnvinfer") == {10}
    assert (facts.cpu.governor, facts.cpu.maximum_mhz) == ("schedutil", 1984)
    assert facts.onnxruntime.tensorrt == 10
    assert [zone.celsius for zone in facts.temperatures] == [51.25]
    assert not facts.backends[0].usable  # nobody answered
    rules = {finding.rule for finding in make_report(facts).findings}
    assert {"onnxruntime-cuda", "jetson-clocks", "library-path", "memory"} <= rules
    # Without a driver it is known by its SoC.
    host = orin()
    host.tools.clear()
    facts = looks.collect(host, lambda questions: {})
    assert facts.compute_capabilities == {"8.7"}


def test_the_driver_names_gpus_where_no_tool_does() -> None:
    gpus = [{"name": "RTX", "compute_capability": "8.9", "memory": 1 << 30}]
    facts = looks.collect(MadeHost(), lambda questions: {"cuda": {"version": "13.0", "gpus": gpus}})
    assert facts.nvidia.gpus == (Gpu(name="RTX", compute_capability="8.9", memory=1 << 30),)


class _Broken(Host):
    def text(self, path: str) -> str:
        raise RuntimeError("a host that breaks its promise")

    def run(self, *command: str) -> str:
        raise RuntimeError("and again")


def test_a_look_that_goes_wrong_is_reported() -> None:
    facts = looks.collect(_Broken(), lambda questions: {})
    assert any(text.startswith("cpu: RuntimeError") for text in facts.failed)
    assert "incomplete" in {finding.rule for finding in make_report(facts).findings}


_TEXTS = st.one_of(
    st.text(max_size=200),
    st.sampled_from([value for value in vars(recorded).values() if isinstance(value, str)]),
    st.from_regex(r"(cpu\d+|GPU|NV Power Mode|R\d+ \(release\), REVISION)[:= ]+[\d.]*\Z"),
)
_ANSWERS: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


@settings(deadline=None)  # other tests run beside it
@given(st.data())
def test_garbage_never_breaks_a_look(data: st.DataObject) -> None:
    host = orin()
    for table in (host.files, host.tools, host.variables):
        for key in table:
            table[key] = data.draw(_TEXTS)
    host.packages["numpy"] = (data.draw(_TEXTS), (data.draw(_TEXTS),))
    answer = {"version": data.draw(_ANSWERS), "gpus": data.draw(_ANSWERS)}
    facts = looks.collect(host, lambda questions: {"cuda": answer, "onnxruntime": answer})
    assert facts.failed == ()
    report = make_report(facts)
    assert not any("failed:" in finding.found for finding in report.findings)
    assert msgspec.json.decode(to_json(report))["schema"] == 1


@given(_TEXTS)
def test_numbers_of_garbage(text: str) -> None:
    assert all(part >= 0 for part in looks.version(text))
    looks.integer(text)


def test_the_real_host_never_raises() -> None:
    host = Host()
    assert host.content("/nonexistent\0") == b""
    assert host.run("no-such-tool-here") == ""
    assert host.run("false") == ""
    assert host.package("no-such-package-here") is None
    assert host.find("/nonexistent/*") == []
    assert looks.find_cpu(host).usable >= 1
    assert Facts() == msgspec.json.decode(msgspec.json.encode(Facts()), type=Facts)


def test_a_damaged_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {"damaged": b"Name: \xff\xfe", "sound": b"Name: sound\nVersion: 1.2\n"}
    for name, content in contents.items():
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    host = Host()
    version, tags = host.package("damaged") or ("", ())
    assert version.startswith(f"{UNREADABLE}: ")
    assert "0xff" in version or "Version" in version
    assert tags == ()
    assert host.package("sound") == ("1.2", ())


def test_who_owns_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    files = {
        first / "engine_gpu-1.0.dist-info": ("Engine_GPU", "engine/__init__.py,,\nx.py,,\n"),
        first / "Nightly.Engine-2.0.dist-info": ("Nightly.Engine", "y.py,,\nengine/capi/a.so,,\n"),
        first / "other-1.0.dist-info": ("other", "other/engine/x.py,,\nengine_of_other.py,,\n"),
        first / "broken-1.0.dist-info": ("broken", None),
        second / "engine-3.0.dist-info": ("engine", "engine/__init__.py,,\n"),
    }
    for folder, (name, record) in files.items():
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
        (folder / "RECORD").write_bytes(b"\xff" if record is None else record.encode())
    for place in (second, first):
        (place / "engine").mkdir()
        monkeypatch.syspath_prepend(str(place))
    # What lies behind it on the path overwrites nothing.
    assert set(Host().owners("engine")) == {"engine-gpu", "nightly-engine"}
    assert Host().owners("nobody") == ()


_TOOLS = {
    "hangs": "exec sleep 60",
    "hangs with a child": "sleep 60 & exec sleep 60",
    "leaves a child": "sleep 60 & echo said; exit 0",
    "hangs after words": "echo said; exec sleep 60",
    "ignores signals": "trap '' TERM INT HUP; sleep 60; sleep 60",
    "prints without end": "exec cat /dev/zero",
    "fails": "echo said; exit 9",
    "crashes": "kill -SEGV $$",
    "is no program": None,
    "prints no text": "printf '\\377\\376\\000'",
}


@pytest.mark.parametrize("name", _TOOLS)
def test_hostile_tools(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, tool = _TOOLS[name], tmp_path / "nvidia-smi"
    tool.write_bytes(b"\x7fELF\0" if text is None else f"#!/bin/sh\n{text}\n".encode())
    tool.chmod(0o755)
    monkeypatch.setattr("ifmmin.runtime.doctor.probes.TOOL_SECONDS", 0.5)
    host = Host()
    host.environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    started = time.monotonic()
    assert host.run("nvidia-smi").strip("\ufffd\0") == ""
    assert time.monotonic() - started < 5
    assert looks.find_nvidia(host, {}).driver == ""


def test_what_is_no_file_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "secret").touch(0o000)
    host = Host()
    for name in ("pipe", "loop", ".", "nothing", "secret", "x" * 5000):
        assert host.text(str(tmp_path / name)) == ""
    assert host.text("/dev/zero") == ""
    assert host.resolve(str(tmp_path / "loop"))


def test_a_frozen_program_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **_: started.append(words))
    for name, value in (("frozen", True), ("executable", ""), ("executable", None)):
        with monkeypatch.context() as patched:
            patched.setattr(sys, name, value, raising=False)
            assert "start again" in ask(["cuda"])["cuda"]["error"]
            facts = looks.collect(MadeHost())
        report = make_report(facts)
        assert not report.broken
        assert "frozen" in {finding.rule for finding in report.findings}
        assert "no-backend" not in {finding.rule for finding in report.findings}
    assert started == []


_SCRIPT = """
import json, os, signal, sys, time
for name in sys.argv[1:]:
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "end":
        os._exit(7)
    if name == "hang":
        time.sleep(60)
    if name == "noise":
        print("*** EP Error ***")
        print("[1]", flush=True)
    print(json.dumps([name, {"said": name}]), flush=True)
"""
_CHILD = (sys.executable, "-S", "-c", _SCRIPT)


def test_answers() -> None:
    assert ask(["a", "noise"], command=_CHILD) == {"a": {"said": "a"}, "noise": {"said": "noise"}}
    assert ask([]) == {}


def test_hangs_and_crashes_spoil_no_other() -> None:
    answers = ask(["a", "hang", "b"], command=_CHILD, patience=3.0)
    assert "within 3 s" in answers["hang"]["error"]
    assert answers["b"] == {"said": "b"}
    answers = ask(["a", "crash", "b", "end", "c"], command=_CHILD)
    assert [answers[name].get("said") for name in "abc"] == ["a", "b", "c"]
    assert "SIGSEGV" in answers["crash"]["error"]
    assert "code 7" in answers["end"]["error"]
    assert "no process" in ask(["a"], command=("/nonexistent/python",))["a"]["error"]


def test_the_real_questions() -> None:
    questions = [
        "onnxruntime", "backend:onnxruntime-cpu", "backend:none", "bundle:onnxruntime-cpu:/x",
    ]  # fmt: skip
    answers = ask(questions)
    assert "CPUExecutionProvider" in answers["onnxruntime"]["providers"]
    assert answers["backend:onnxruntime-cpu"] == {}
    assert "unknown backend" in answers["backend:none"]["error"]
    assert "no bundle at /x" in answers["bundle:onnxruntime-cpu:/x"]["error"]


def _ask_cuda(monkeypatch: pytest.MonkeyPatch, start: int) -> dict[str, Any]:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: fake_driver(12060, start))
    return ask_cuda()


def test_a_driver_with_a_gpu_and_one_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"name": "Orin", "compute_capability": "8.7", "memory": 1 << 33}
    assert _ask_cuda(monkeypatch, 0) == {"version": "12.6", "gpus": [gpu]}
    found = _ask_cuda(monkeypatch, 803)
    assert found["version"] == "12.6"
    assert "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)" in found["error"]


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert ask_cuda() == {}
