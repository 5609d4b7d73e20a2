"""Commands where there is no home, nothing can be written, no /proc, or little can be printed."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from run_command import Ran, arrays, event, frames, npz, run_bundle, run_python
from small_bundles import ALL

bundle = pytest.fixture(run_bundle)

_NO_HOME = """
import os, pwd
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
for name in ("HOME", "XDG_CACHE_HOME", "LOGNAME", "USER", "IFMMIN_CACHE"):
    os.environ.pop(name, None)
"""
_READ_ONLY = """
import os, tempfile
tempfile._candidate_tempdir_list = lambda: ["/proc"]  # where nobody writes, root neither
os.environ.update(HOME="/proc/home", TMPDIR="/proc", IFMMIN_CACHE="/proc/cache")
os.chdir("/proc")
"""
_NO_PROC = """
import builtins, io, os
def without(real):
    def found(path, *words, **options):
        if str(path).startswith(("/proc", "/sys", "/etc")):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path, *words, **options)
    return found
builtins.open = io.open = without(io.open)
os.open = without(os.open)
del os.sched_getaffinity
"""
_SURROUNDINGS = {
    "no home": _NO_HOME, "read-only": _READ_ONLY, "no home, read-only": _READ_ONLY + _NO_HOME,
    "no /proc": _NO_PROC,
}  # fmt: skip
_CALL = """
import sys
from importlib import import_module
sys.exit(import_module(sys.argv[1]).main(sys.argv[2:]))
"""


@pytest.mark.parametrize("name", _SURROUNDINGS)
@pytest.mark.parametrize("backend", ["auto", "onnxruntime-cpu"])
def test_utterances_are_answered(name: str, backend: str, bundle: Path, tmp_path: Path) -> None:
    words = ("-b", bundle, npz(tmp_path / "x.npz", **arrays("av")), "--backend", backend)
    ran = _run(name, "cli.run", *words, "--format", "json", folder=tmp_path)
    assert json.loads(ran.out)["pattern"] == "a_v"
    assert ran.err.count("\n") <= 1
    # Nothing was made by the name of a home that nobody has.
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("name", _SURROUNDINGS)
def test_streams_choices_and_the_doctor(name: str, make_bundle: object, tmp_path: Path) -> None:
    made = make_bundle(ALL, shapes=("latency", "stream"))  # type: ignore[operator]
    session = tmp_path / "session.jsonl"
    session.write_text(event("push", a=frames("a", 9)) + "\n")
    assert "label" in _run(name, "cli.run", "-b", made, "--stream", session, folder=tmp_path).out
    explained = _run(name, "cli.run", "-b", made, "--explain", "--threads", "auto", folder=tmp_path)
    assert "taken" in explained.out
    report = json.loads(_run(name, "doctor.cli", "-b", made, "--json", folder=tmp_path).out)
    assert report["facts"]["failed"] == []
    assert report["facts"]["cpu"]["usable"] >= 1
    assert not report["broken"]


def _run(name: str, module: str, *words: object, folder: Path) -> Ran:
    script = _SURROUNDINGS[name] + _CALL
    ran = run_python(script, f"ifmmin.runtime.{module}", *words, cwd=folder)
    assert ran.code == 0, ran.err
    return ran


def test_without_a_temporary_directory_one_line(bundle: Path, tmp_path: Path) -> None:
    script = f"{_READ_ONLY}\nimport ifmmin.runtime.cli.run as run, tempfile\n" + (
        "run.find_inputs = lambda *_: tempfile.mkdtemp()\n"
        "sys.exit(run.main(['-b', sys.argv[1], 'x.npz']))"
    )
    ran = run_python(script, bundle, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: there is no place for temporary files; let TMPDIR")
    assert ran.err.count("\n") == 1


_NAMES = ("会话01", "\U0001f600", "élève", "z")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("kind", ["json", "csv", "table"])
def test_no_answer_is_lost_for_its_name(
    encoding: str, kind: str, bundle: Path, tmp_path: Path
) -> None:
    for name in _NAMES:
        npz(tmp_path / f"{name}.npz", **arrays("a"))
    (tmp_path / "\u6c49.npz").write_bytes(b"no archive")
    kept = tmp_path / "kept" / f"x.{'csv' if kind == 'csv' else 'jsonl'}"
    script = "from ifmmin.runtime.cli.run import main; sys.exit(main(sys.argv[1:]))"
    words = ("-b", bundle, tmp_path, "--format", kind, "-o", kept, "--backend", "onnxruntime-cpu")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    ran = run_python(script, *words, env=environment, encoding=encoding)
    assert ran.code == 1, ran.err  # of the one that is no archive
    assert "Traceback" not in ran.err
    shown = [json.dumps(n)[1:-1] if not _encodes(n, encoding) else n for n in _NAMES]
    if kind == "json":
        found = {answer["input"] for answer in ran.answers if "label" in answer}
        assert found == set(_NAMES)
    elif kind == "csv":
        assert {row["input"] for row in csv.DictReader(ran.out.splitlines())} >= {"z", shown[2]}
    else:
        assert "| z " in ran.out
    assert all(name in kept.read_text(encoding="utf-8") for name in _NAMES)


def _encodes(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
