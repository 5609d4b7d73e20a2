"""The probe: that it measures, and that each failure has its reason."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from ifmmin.benchmarks.device.machine import Machine
from ifmmin.benchmarks.limits import ProbeFailed, Rates, measure_rates, probe
from ifmmin.benchmarks.limits.probe import (
    Span,
    compile_probe,
    find_compiler,
    run_compiled,
    run_probe,
    working_sets,
)
from ifmmin.benchmarks.scenarios.bench import Bounds
from ifmmin.runtime.device import usable_cores
from ifmmin.runtime.errors import InputError

SMALL = Span(smallest=16 << 10, largest=4 << 20)
NOTHING = {"float32": 0, "int8": None, "int8_kernel": "", "busy": 1, "read": [[1, 1, 1]]}
compiler = pytest.mark.skipif(find_compiler() is None, reason="there is no C compiler")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the C probe lies once it was used."""
    return tmp_path_factory.mktemp("kept")


def _script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)
    return path


def _require_sound(rates: Rates, threads: int) -> None:
    assert rates.threads == threads
    assert 1e8 < rates.float32 < 1e14
    sizes = [reading.size for reading in rates.read]
    assert sizes == sorted(set(sizes))
    assert SMALL.smallest * 0.9 < sizes[0] <= SMALL.smallest
    assert SMALL.largest / 2 < sizes[-1] <= SMALL.largest
    assert all(1e8 < reading.rate < 1e14 for reading in rates.read)
    assert all(0.0 <= reading.busy < 1.2 for reading in rates.read)


@compiler
@pytest.mark.parametrize("threads", sorted({1, usable_cores()}))
def test_c_probe(kept: Path, threads: int) -> None:
    rates = run_compiled(threads, SMALL, kept)
    _require_sound(rates, threads)
    assert rates.probe.startswith("C, by ")
    assert rates.int8 is None or rates.int8 > rates.float32 / 4
    assert rates.int8_kernel.startswith("not timed") == (rates.int8 is None)
    # Two sizes per doubling, and the first cache is not slower than the last.
    assert len(rates.read) == 17
    assert rates.read[0].rate > 0.5 * rates.read[-1].rate


@compiler
def test_the_program_is_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_compiled(1, SMALL, kept)
    monkeypatch.setattr(probe, "compile_probe", lambda *_: pytest.fail("compiled again"))
    run_compiled(1, SMALL, kept)
    (folder,) = (kept / "probes").iterdir()
    assert [path.name for path in folder.iterdir()] == ["probe"]


@compiler
def test_another_compiler_or_processor_has_a_program_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = probe._key(["cc"])
    assert probe._key(["cc"]) == key
    assert probe._key(["clang"]) != key
    monkeypatch.setattr(probe, "device_name", lambda: "another")
    assert probe._key(["cc"]) != key


@compiler
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    _require_sound(run_compiled(1, SMALL, in_the_way), 1)


@compiler
@pytest.mark.parametrize(
    "words", [["0", "16384", "32768"], ["1", "100", "32768"], ["1", "32768", "16384"], []]
)
def test_the_program_refuses_nonsense(tmp_path: Path, words: list[str]) -> None:
    found = find_compiler()
    assert found is not None
    compile_probe(found, tmp_path / "probe")
    done = subprocess.run([tmp_path / "probe", *words], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1


def test_the_compiler_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = _script(tmp_path / "my-cc", "exit 0")
    monkeypatch.setenv("CC", f"{own} -m64")
    assert find_compiler() == [str(own), "-m64"]
    monkeypatch.setenv("CC", str(tmp_path / "absent"))
    assert find_compiler() != [str(tmp_path / "absent")]
    monkeypatch.setenv("CC", "")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert find_compiler() is None


def test_a_compiler_without_march_is_given_mcpu(tmp_path: Path) -> None:
    told = tmp_path / "told"
    own = _script(
        tmp_path / "cc",
        f'echo "$@" >> {told}',
        'case "$*" in *-march=native*) echo "error: unknown value native" >&2; exit 1;; esac',
        'for last; do :; done; echo made > "$last"',
    )
    compile_probe([str(own)], tmp_path / "probe")
    assert (tmp_path / "probe").read_text() == "made\n"
    assert [("-mcpu=native" in line) for line in told.read_text().splitlines()] == [False, True]


def test_a_compiler_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _script(tmp_path / "cc", 'echo "probe.c:1: error: no headers" >&2', "exit 1")
    monkeypatch.setenv("CC", str(own))
    with pytest.raises(ProbeFailed, match=r"does not compile .*error: no headers"):
        run_compiled(1, SMALL, tmp_path / "kept")
    assert [path for path in (tmp_path / "kept").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("kill -ILL $$", "it ended with status -4"),
        ("echo out of memory >&2; exit 1", "out of memory"),
        ("echo '{\"float32\": 1}'", "printed something else than rates"),
        (f"echo '{json.dumps(NOTHING)}'", "measured nothing"),
    ],
)
def test_a_program_that_fails_says_why(tmp_path: Path, line: str, reason: str) -> None:
    program = _script(tmp_path / "probe", line)
    with pytest.raises(ProbeFailed, match=reason):
        run_probe(program, 1, SMALL, "made")
    with pytest.raises(ProbeFailed, match="cannot be started"):
        run_probe(tmp_path / "absent", 1, SMALL, "made")


def test_without_a_compiler_there_is_one_line_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "find_compiler", lambda: None)
    with pytest.raises(
        ProbeFailed, match=r"no C compiler \(cc, gcc, clang\); install one"
    ) as caught:
        measure_rates()
    assert "\n" not in str(caught.value)
    refused: list[tuple[str, int, str]] = []
    bounds = Bounds(object(), lambda *told: refused.append((*told[:2], str(told[2]))))  # type: ignore[arg-type]
    assert bounds.rates(1) is bounds.rates(1) is None
    assert refused == [("bound", 1, str(caught.value))]


def test_more_threads_than_cores() -> None:
    most = usable_cores()
    with pytest.raises(InputError, match=f"limits of {most + 1} threads .* ask for 1 to {most}"):
        measure_rates(most + 1)
    with pytest.raises(InputError):
        measure_rates(0)


def test_working_sets_reach_beyond_the_last_cache(tmp_path: Path) -> None:
    _cache(tmp_path, level=1, kib=32, kind="Data")
    _cache(tmp_path, level=3, kib=32 << 10, kind="Unified")
    _memory(tmp_path, gib=64)
    machine = Machine(str(tmp_path))
    assert working_sets(machine, 1) == Span(smallest=16 << 10, largest=128 << 20)
    # A share must hold whole groups of vectors, however many threads there are.
    assert working_sets(machine, 64).smallest == 256 << 10
    _memory(tmp_path, gib=0.25)
    assert working_sets(machine, 1).largest == 64 << 20
    assert working_sets(Machine(str(tmp_path / "nothing")), 1).largest == 16 << 20


def _cache(root: Path, level: int, kib: int, kind: str) -> None:
    folder = root / f"sys/devices/system/cpu/cpu0/cache/index{level}"
    folder.mkdir(parents=True)
    facts = {"level": level, "size": f"{kib}K", "type": kind, "shared_cpu_list": "0"}
    for name, fact in facts.items():
        (folder / name).write_text(f"{fact}\n")


def _memory(root: Path, gib: float) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/meminfo").write_text(f"MemAvailable: {int(gib * (1 << 20))} kB\n")
