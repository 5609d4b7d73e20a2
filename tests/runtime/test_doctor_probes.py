from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import recorded_outputs as recorded
from hypothesis import given, settings
from hypothesis import strategies as st
from made_host import MadeHost, orin

from ifmmin.runtime.doctor.collect import (
    collect,
    eight_bits,
    find_cpu,
    integer,
    linked_tensorrt,
    parse_build,
    parse_clocks,
    parse_cpuinfo,
    parse_driver,
    parse_ldconfig,
    parse_meminfo,
    parse_power_mode,
    parse_release,
    parse_smi,
    sees_system,
    version,
)
from ifmmin.runtime.doctor.facts import Cpu, Facts, Gpu
from ifmmin.runtime.doctor.probes import UNREADABLE, Host
from ifmmin.runtime.doctor.report import make_report, to_json


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (recorded.RELEASE_R36, "36.4.3"),
        (recorded.RELEASE_R38, "38.2.0"),
        (recorded.RELEASE_R39, "39.2.0"),
        ("", ""),
    ],
)
def test_release_of_jetson_linux(text: str, release: str) -> None:
    assert parse_release(text) == release


def test_power_mode() -> None:
    assert parse_power_mode(recorded.NVPMODEL) == "MAXN_SUPER"
    assert parse_power_mode(recorded.NVPMODEL_CAPPED) == "MODE_15W"


def test_clocks() -> None:
    found = {clock.name: clock.pinned for clock in parse_clocks(recorded.CLOCKS_R36)}
    assert found == {"cpu0": False, "cpu1": True, "GPU": False, "EMC": True}
    assert [clock.pinned for clock in parse_clocks(recorded.CLOCKS_R39)] == [True, True]
    assert parse_clocks(recorded.CLOCKS_REFUSED) == ()


def test_gpus_of_nvidia_smi() -> None:
    driver, (gpu,) = parse_smi(recorded.SMI)
    assert driver == "550.54.15"
    assert gpu == Gpu(
        name="NVIDIA GeForce RTX 3090",
        compute_capability="8.6",
        memory=24576 << 20,
        temperature=41,
        clock_mhz=210,
        maximum_clock_mhz=2100,
    )
    assert len(parse_smi(recorded.SMI_TWO)[1]) == 2
    _, (built_in,) = parse_smi(recorded.SMI_JETSON)
    assert (built_in.compute_capability, built_in.memory, built_in.temperature) == ("8.7", 0, None)
    assert parse_smi(recorded.SMI_BROKEN) == ("", ())


def test_driver() -> None:
    assert parse_driver(recorded.DRIVER_CLOSED) == "550.54.15"
    assert parse_driver(recorded.DRIVER_OPEN) == "540.4.0"


def test_processors() -> None:
    model, cores, flags = parse_cpuinfo(recorded.CPUINFO_X86)
    assert (model, cores) == ("Intel(R) Xeon(R) Platinum 8480+", 2)
    assert {"avx512_vnni", "amx_int8"} < set(flags)
    model, cores, flags = parse_cpuinfo(recorded.CPUINFO_ARM)
    assert (model, cores) == ("Cortex-A78AE (Orin)", 1)
    assert flags == ("asimd", "asimdhp", "asimddp")


def test_what_instructions_mean_for_eight_bits() -> None:
    assert "hardware" in eight_bits(Cpu(flags=("avx2", "avx_vnni")))
    assert "no VNNI" in eight_bits(Cpu(flags=("avx2",)))
    assert "asimddp" in eight_bits(Cpu(flags=("asimd",)))
    assert "nothing known" in eight_bits(Cpu())


def test_loader() -> None:
    names = [name for name, _ in parse_ldconfig(recorded.LDCONFIG)]
    assert names == ["libnvinfer.so.10", "libnvinfer.so", "libcudart.so.12", "libcuda.so.1"]


def test_small_parsers() -> None:
    assert parse_build(recorded.BUILD_INFO)["cuda_version"] == "13.0"
    assert linked_tensorrt(b"\x7fELF\0libnvinfer.so.10\0") == 10
    assert linked_tensorrt(b"") is None
    assert parse_meminfo(recorded.MEMINFO).total == 7802456 * 1024
    assert sees_system("home = /usr/bin\ninclude-system-site-packages = true\n")
    assert not sees_system("include-system-site-packages = false\n")
    assert (version("6.2.1+b38"), version("v1"), version("")) == ((6, 2, 1), (), ())
    assert (integer("1410 MHz"), integer("[N/A]")) == (1410, None)


def test_a_whole_jetson() -> None:
    facts = collect(orin(), lambda questions: {"cuda": {"version": "12.6"}})
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


def test_a_jetson_without_a_driver_is_known_by_its_soc() -> None:
    host = orin()
    host.tools.clear()
    facts = collect(host, lambda questions: {})
    assert facts.compute_capabilities == {"8.7"}


def test_the_driver_names_gpus_where_no_tool_does() -> None:
    gpus = [{"name": "RTX", "compute_capability": "8.9", "memory": 1 << 30}]
    facts = collect(MadeHost(), lambda questions: {"cuda": {"version": "13.0", "gpus": gpus}})
    assert facts.nvidia.gpus == (Gpu(name="RTX", compute_capability="8.9", memory=1 << 30),)


class _Broken(Host):
    def text(self, path: str) -> str:
        raise RuntimeError("a host that breaks its promise")

    def run(self, *command: str) -> str:
        raise RuntimeError("and again")


def test_a_look_that_goes_wrong_is_reported() -> None:
    facts = collect(_Broken(), lambda questions: {})
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
    facts = collect(host, lambda questions: {"cuda": answer, "onnxruntime": answer})
    assert facts.failed == ()
    report = make_report(facts)
    assert not any("failed:" in finding.found for finding in report.findings)
    assert msgspec.json.decode(to_json(report))["schema"] == 1


@given(_TEXTS)
def test_numbers_of_garbage(text: str) -> None:
    assert all(part >= 0 for part in version(text))
    integer(text)


def test_the_real_host_never_raises() -> None:
    host = Host()
    assert host.content("/nonexistent\0") == b""
    assert host.run("no-such-tool-here") == ""
    assert host.run("false") == ""
    assert host.package("no-such-package-here") is None
    assert host.find("/nonexistent/*") == []
    assert find_cpu(host).usable >= 1
    assert Facts() == msgspec.json.decode(msgspec.json.encode(Facts()), type=Facts)


def test_a_spoilt_package_is_told_and_not_taken_for_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("spoilt", b"Name: \xff\xfe"), ("sound", b"Name: sound\nVersion: 1.2\n")):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    host = Host()
    assert host.package("spoilt") == (UNREADABLE, ())
    assert host.package("sound") == ("1.2", ())
