"""Fresh processes: what they tell, how they fail, and how much memory they say they hold."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent, indent

import numpy as np
import pytest
from child_processes import children_left

from ifmmin.benchmarks.scenarios.child_memory import PEAK, PSS, RSS, USS
from ifmmin.benchmarks.scenarios.choice import alone_and_fullest
from ifmmin.benchmarks.scenarios.fresh import ChildFailed, Told, run_child
from ifmmin.runtime import Pattern

MIB = 1 << 20
HAS_PROC = Path("/proc/self/smaps_rollup").exists()


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
    told: Told[tuple[float, float, list[str]]] = run_child(
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


@pytest.mark.skipif(not HAS_PROC, reason="Linux alone tells these measures")
def test_fifty_more_megabytes_show_in_every_measure(tmp_path: Path, child: str) -> None:
    write(
        tmp_path,
        """
        from ifmmin.benchmarks.scenarios.child_memory import resident_bytes
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


@pytest.mark.skipif(not HAS_PROC, reason="elsewhere the peak has the parent's memory in it")
def test_the_peak_of_a_child_is_its_own(tmp_path: Path, child: str) -> None:
    """Linux counts the parent's memory in the `ru_maxrss` of a child."""
    held = np.ones(200 * MIB // 8)
    write(
        tmp_path,
        """
        import resource
        from ifmmin.benchmarks.scenarios.child_memory import resident_bytes
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
        ("a v t a_v_t", "a a_v_t"),
        ("v t v_t", "v v_t"),
        ("a_t a", "a a_t"),
        ("v", "v"),
    ],
)
def test_the_patterns_that_stand_for_all(given: str, wanted: str) -> None:
    patterns = [Pattern.parse(text) for text in given.split()]
    assert [str(pattern) for pattern in alone_and_fullest(patterns)] == wanted.split()


@pytest.mark.skipif(not HAS_PROC, reason="processes are looked for in /proc")
def test_a_child_that_stays_would_be_seen() -> None:
    program = "import sys, time; time.sleep(60)  # import main; main(began)"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            assert len(children_left()) == 1
        finally:
            process.kill()
    assert not children_left()
