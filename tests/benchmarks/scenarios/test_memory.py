"""Memory of fresh processes and bytes of files; what such processes tell, and how they fail."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import numpy as np
import pytest
from child_processes import children_left
from made_bench import made_bench
from small_bundles import copied, nudge

from ifmmin.benchmarks.record import CONTROL, OURS, Row
from ifmmin.benchmarks.scenarios.memory import Job, bundle_sizes, find_contenders, make_jobs, memory
from ifmmin.benchmarks.scenarios.plan import MONOLITH, alone_and_fullest
from ifmmin.benchmarks.scenarios.worker_memory import PEAK, PSS, RSS, USS
from ifmmin.benchmarks.scenarios.workers import EAGER, ChildFailed, ChildResult, run_child
from ifmmin.runtime import Pattern

MIB = 1 << 20
A, A_T = Pattern.parse("a"), Pattern.parse("a_t")
MEASURES = ("peak", "RSS", "PSS", "USS")

pytestmark = [
    pytest.mark.usefixtures("nothing_is_left"),
    pytest.mark.skipif(
        not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone tells these measures"
    ),
]


def _bytes(rows: list[Row], contender: str) -> dict[tuple[str, str, int], float]:
    return {
        (row.pattern, row.part, row.streams): row.samples[0]
        for row in rows
        if row.contender == contender
    }


def test_every_stage_of_our_own(bundle: Path) -> None:
    bench = made_bench(bundle)
    rows = memory(bench)
    assert len({row.key for row in rows}) == len(rows)
    assert {row.unit for row in rows} == {"bytes"}
    assert all(len(row.samples) == 1 and row.note for row in rows)
    found = _bytes(rows, OURS)
    stages = {
        ("", "imports", 1), ("a", "one pattern", 1), ("a_t", "one pattern", 1),
        ("", "all patterns", 1), ("", "all patterns preloaded", 1),
        ("a_t", "streams", 1), ("a_t", "streams", 64),
    }  # fmt: skip
    files = {("a", "bundle", 1), ("t", "bundle", 1), ("a_t", "bundle", 1), ("", "bundle", 1)}
    wanted = {(p, f"{stage}, {m}", n) for p, stage, n in stages for m in MEASURES} | files
    assert set(found) == wanted
    for pattern, stage, count in stages:
        peak, rss, pss, uss = (found[pattern, f"{stage}, {m}", count] for m in MEASURES)
        assert 10 * MIB < uss <= pss <= rss <= peak
    for measure in MEASURES:
        first, then = (
            found[p, f"{s}, {measure}", 1] for p, s in (("", "imports"), ("a_t", "one pattern"))
        )
        assert first < then
    assert {(row.pattern, row.part) for row in rows if row.contender == CONTROL} == {
        (pattern, f"{stage}, {m}")
        for pattern, stage in (("", "imports"), ("a_t", "one pattern"))
        for m in MEASURES
    }


def test_bytes_of_a_bundle_are_those_of_its_files(bundle: Path, tmp_path: Path) -> None:
    bench = made_bench(bundle)
    sizes = {str(p): (bundle / bench.bundle.entry(p).file).stat().st_size for p in bench.patterns}
    rows = bundle_sizes(bench, find_contenders(bench, tmp_path))
    assert {row.contender for row in rows} == {OURS}
    found = {row.pattern: row.samples[0] for row in rows}
    assert found == {**sizes, "": sum(sizes.values())}


def test_peers_are_read_in_the_same_way(bundle: Path) -> None:
    checkpoint = bundle.parent / "model.safetensors"
    bench = made_bench(bundle, patterns=(A_T,), checkpoint=checkpoint)
    rows = memory(bench)
    assert not bench.refused
    ours, monolith, eager = (_bytes(rows, name) for name in (OURS, MONOLITH, EAGER))
    assert set(monolith) == set(eager) < set(ours)
    assert eager["a_t", "one pattern, USS", 1] > 1.5 * ours["a_t", "one pattern, USS", 1]
    assert eager["a_t", "bundle", 1] == checkpoint.stat().st_size
    groups = {row.group for row in rows if row.contender == OURS}
    assert {row.group for row in rows if row.contender == MONOLITH} < groups


def _first_job(bundle: Path, folder: Path) -> Job:
    bench = made_bench(bundle, patterns=(A,))
    return make_jobs(bench, find_contenders(bench, folder)[0], folder)[0]


def test_streams_in_8_bits_are_held_against_streams(make_bundle: Any, tmp_path: Path) -> None:
    """Their graphs round otherwise than that of an utterance, which must not count as wrong."""
    own = make_bundle(("a",), ("fp32", "int8"), shapes=("latency", "stream"))
    bench = made_bench(own, patterns=(A,), precisions=("int8",))
    rows = memory(bench)
    assert [row.note for row in rows if not row.samples] == []
    assert any(row.part.startswith("streams") for row in rows)


def test_50_megabytes_show(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _first_job(bundle, tmp_path)
    plain.run()
    (tmp_path / "heavier_child.py").write_text(
        "block = b'x' * (50 << 20)\nfrom ifmmin.benchmarks.scenarios.worker_memory import main\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("ifmmin.benchmarks.scenarios.memory.CHILD", "heavier_child")
    heavy = _first_job(bundle, tmp_path)
    heavy.run()
    assert set(heavy.samples) == set(plain.samples)
    for key in plain.samples:
        assert heavy.samples[key][0] - plain.samples[key][0] > 40 * MIB, key


def test_who_answers_otherwise_is_left_out(bundle: Path, tmp_path: Path) -> None:
    bench = made_bench(copied(bundle, tmp_path), patterns=(A,))
    assert len(bench.ours(A, 1)) == 2  # loaded here before the graph is another one
    nudge(bench.bundle.directory, bench.bundle.entry(A).file)
    rows = memory(bench)
    read = {row.part for row in rows if row.samples}
    left_out = {row.part: row.note for row in rows if not row.samples}
    assert "lazy" in left_out
    assert "its answer is wrong: a logit is off by" in left_out["lazy"]
    assert not any(part.startswith("one pattern") for part in read)
    assert "streams, RSS" in read, "streams have graphs of their own, which are right"


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that a child finds; `write` gives it a body."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "made_up_child"


def write(folder: Path, body: str) -> None:
    main = "import json, os, sys, time\n\ndef main(began):\n" + indent(dedent(body), "    ")
    (folder / "made_up_child.py").write_text(main)


def test_words_go_in_and_the_last_line_comes_out(tmp_path: Path, child: str) -> None:
    write(tmp_path, "print('noise')\nprint(json.dumps([began, time.monotonic(), sys.argv[1:]]))")
    before = time.monotonic()
    told: ChildResult[tuple[float, float, list[str]]] = run_child(
        child, {"key": "a=b", "other": ""}, tuple[float, float, list[str]]
    )
    began, ended, words = told.output
    assert words == ["key=a=b", "other="]
    assert before <= told.started < began <= ended <= time.monotonic()
    assert not children_left()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("from ifmmin.runtime.errors import BundleError\nraise BundleError('no graph')",
         r"^BundleError: no graph$"),
        ("os.kill(os.getpid(), 9)", "^signal 9 ended it$"),
        ("sys.exit(3)", "^it ended with status 3$"),
        ("print('hello')", "^it printed something else"),
        ("pass", "^it printed something else"),
        ("time.sleep(60)", "^it was not done in 2 seconds$"),
    ],
)  # fmt: skip
def test_a_failure_is_one_line(tmp_path: Path, child: str, body: str, reason: str) -> None:
    write(tmp_path, body)
    with pytest.raises(ChildFailed, match=reason) as caught:
        run_child(child, {}, list[int], patience=2.0 if "sleep" in body else 60.0)
    assert "\n" not in str(caught.value)
    assert not children_left()


def test_fifty_more_megabytes_show_in_every_measure(tmp_path: Path, child: str) -> None:
    write(
        tmp_path,
        """
        from ifmmin.benchmarks.scenarios.worker_memory import resident_bytes
        found = [resident_bytes()]
        block = b"x" * (50 << 20)
        found.append(resident_bytes())
        del block
        found.append(resident_bytes())
        print(json.dumps(found))
        """,
    )
    before, held, after = run_child(child, {}, list[dict[str, int]]).output
    for measure in (PEAK, RSS, PSS, USS):
        assert 49 * MIB < held[measure] - before[measure] < 60 * MIB, measure
    assert after[PEAK] > held[PEAK] - MIB
    assert after[RSS] < held[RSS] - 49 * MIB
    assert held[USS] <= held[PSS] <= held[RSS] <= held[PEAK]


def test_the_peak_of_a_child_is_its_own(tmp_path: Path, child: str) -> None:
    """Linux counts the parent's memory in the `ru_maxrss` of a child."""
    held = np.ones(200 * MIB // 8)
    write(
        tmp_path,
        """
        import resource
        from ifmmin.benchmarks.scenarios.worker_memory import resident_bytes
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps([resident_bytes()["peak"], most]))
        """,
    )
    peak, most = run_child(child, {}, list[int]).output
    assert peak < 100 * MIB
    assert most > held.nbytes, "if the kernel has mended this, resident.py need not go round it"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("a v t a_v_t", "a a_v_t"), ("v t v_t", "v v_t"), ("a_t a", "a a_t"), ("v", "v"),
    ],
)  # fmt: skip
def test_the_patterns_that_stand_for_all(given: str, wanted: str) -> None:
    patterns = [Pattern.parse(text) for text in given.split()]
    assert [str(pattern) for pattern in alone_and_fullest(patterns)] == wanted.split()


def test_a_child_that_stays_would_be_seen() -> None:
    program = "import sys, time; time.sleep(60)  # import main; main(began)"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            assert len(children_left()) == 1
        finally:
            process.kill()
    assert not children_left()
