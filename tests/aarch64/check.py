"""The runtime on an emulated aarch64, beside this machine; run by `make test-aarch64`.

    check.py FOLDER            everything; writes record.json, and its table in docs
    check.py FOLDER --table    the table of that record

FOLDER keeps what was fetched. Exit code 1 where an answer is wrong; where there can be no such
machine it ends well, with the reason.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "support"))

from debian import UnavailableError  # noqa: E402
from machine import CPU, ROOT, Machine, prepare  # noqa: E402

RECORD, PAGE = HERE / "record.json", ROOT / "docs" / "jetson.md"
BEGIN, END = "<!-- what ran where: begin -->\n", "<!-- what ran where: end -->"
LOGIT = 1e-4
"""What a logit of an answer may differ by between the two processors."""
FEATURES = 1e-3
"""What features may, of their largest."""
COMPARED = {
    "predict/bundle": ("answers, tiny bundle of all patterns", LOGIT),
    "predict/speech": ("answers, bundle that ships", LOGIT),
    "features/": ("features of recordings and words", FEATURES),
    "recognize/": ("from recordings and words to answers", LOGIT),
    "stream/features": ("stream of features, after every piece", LOGIT),
    "stream/signals": ("stream of sound, after every piece", LOGIT),
}  # fmt: skip
"""What is compared, by how its names begin, with what it may differ by."""
VERSIONS = ("qemu-user-static", "libc6", "python3.11-minimal", "onnxruntime", "numpy", "soundfile")
Row = dict[str, Any]


class Here:
    """This processor, asked as the other one is."""

    python, env = Path(sys.executable), None


def answer(machine: Machine | type[Here], *words: str | Path) -> str:
    """What answer.py prints on a processor."""
    script: list[str | Path] = [machine.python, HERE / "answer.py", *words]
    ran = subprocess.run(script, env=machine.env, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"error: {machine.python}: {ran.stderr.strip()[-2000:]}")
    return ran.stdout


def compare(what: str, allowed: float, found: Iterable[Any], wanted: Iterable[Any]) -> Row:
    """The largest difference; features are compared by their largest value."""
    pairs = list(zip(found, wanted, strict=True))
    same = bool(pairs) and all(a.shape == b.shape for a, b in pairs)
    scale = 1.0 if allowed == LOGIT else max(float(np.abs(b).max()) for _, b in pairs)
    difference = max(float(np.abs(a - b).max()) for a, b in pairs) / scale if same else np.inf
    return {
        "what": what, "checks": len(pairs), "difference": difference, "allowed": allowed,
        "passed": bool(difference <= allowed),
    }  # fmt: skip


def compared(here: Path, there: Path) -> list[Row]:
    """Answers of the two processors."""
    wanted, found = np.load(here / "answers.npz"), np.load(there / "answers.npz")
    rows = []
    for prefix, (what, allowed) in COMPARED.items():
        names = [name for name in wanted.files if name.startswith(prefix)]
        rows.append(compare(what, allowed, [found[n] for n in names], [wanted[n] for n in names]))
    return rows


def resumed(what: str, whole: Path, part: Path) -> Row:
    """The rest of streams, from a snapshot of the other processor, beside those never stopped."""
    wanted, found = np.load(whole / "answers.npz"), np.load(part / "answers.npz")
    return compare(what, LOGIT, [found[n] for n in found.files], [wanted[n] for n in found.files])


def golden(folder: Path) -> list[Row]:
    """Golden vectors by bundle, shape and precision of graphs."""
    rows: dict[str, Row] = {}
    for one in json.loads((folder / "checks.json").read_text()):
        which = "bundle that ships" if one["bundle"] == "speech" else "tiny bundle"
        what = f"golden vectors, {which}: {one['group']}"
        row = rows.setdefault(what, {"what": what, "checks": 0, "passed": True, "wrong": []})
        row["checks"] += 1
        row["passed"] &= one["passed"]
        if not one["passed"]:
            row["wrong"].append(one["told"])
        if one["difference"] is not None and one["difference"] >= row.get("difference", 0.0):
            row.update(difference=one["difference"], allowed=one["allowed"], unit=one["unit"])
    return list(rows.values())


def doctor(machine: Machine, bundle: Path) -> Row:
    """Its facts: the processor's kind and packages, and that backends in other processes answer."""
    words: list[str | Path] = [
        machine.python,
        "-m",
        "ifmmin.runtime.doctor.cli",
        "-b",
        bundle,
        "--json",
    ]
    ran = subprocess.run(words, env=machine.env, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(ran.stdout) if ran.stdout else {}
    facts, tests = report.get("facts", {}), report.get("selftests", [])
    right = [test for test in tests if test.get("passed")]
    kind = facts.get("system", {}).get("machine")
    return {
        "what": "ifmmin-doctor", "checks": len(right), "passed": ran.returncode == 0 and
        kind == "aarch64" and len(right) > 0, "wrong": [] if ran.returncode == 0 else [ran.stderr],
    }  # fmt: skip


def controls(machine: Machine, bundle: Path, folder: Path) -> list[Row]:
    """Damage that only golden vectors can find there: hashes and interfaces agree with it."""
    import onnx
    from small_bundles import copied, nudge, relabel

    shutil.rmtree(folder, ignore_errors=True)
    own = copied(bundle, folder)
    nudge(own, "a_t.latency.fp32.onnx")
    a, v = "a.summary.fp32.onnx", "v.summary.fp32.onnx"
    said = {one.key: one.value for one in onnx.load(own / a).metadata_props}
    relabel(own, a, (bundle / v).read_bytes(), **said)
    wrong = answer(machine, "--control", own).splitlines()
    rows = []
    for what, damaged in (("a wrong weight", "a_t.latency.fp32"), ("v in place of a", a)):
        told = [line for line in wrong if line.startswith(damaged)]
        passed = bool(told) and all("golden vectors" in line for line in told)
        rows.append({"what": f"control: {what}", "checks": 1, "passed": passed, "wrong": told})
    return rows


def make_bundle(folder: Path) -> Path:
    """All patterns, precisions and shapes of a tiny network, exported in a process of its own."""
    script = (
        "import sys; from pathlib import Path; from types import SimpleNamespace as N;"
        "from small_bundles import ALL, small_bundle; from ifmmin.runtime.bundle.manifest import "
        "PRECISIONS; folder = Path(sys.argv[1]); folder.mkdir(parents=True);"
        "small_bundle(N(mktemp=lambda name: folder), ALL, PRECISIONS, seed=3)"
    )
    shutil.rmtree(folder, ignore_errors=True)
    words: list[str | Path] = [sys.executable, "-c", script, folder.resolve()]
    subprocess.run(words, check=True, cwd=ROOT / "tests" / "support", stderr=subprocess.DEVNULL)
    return folder / "bundle"


def run(folder: Path) -> dict[str, Any]:
    """Everything; the record."""
    began = time.monotonic()
    machine = prepare(folder / "machine")
    say(f"fetched after {time.monotonic() - began:.0f} s")
    bundle = make_bundle(folder / "made")
    say(f"exported after {time.monotonic() - began:.0f} s")
    here, there = folder / "x86-64", folder / "aarch64"
    answer(Here, bundle, here)
    answer(machine, bundle, there)
    answer(machine, bundle, folder / "moved-there", here)
    answer(Here, bundle, folder / "moved-here", there)
    say(f"answered after {time.monotonic() - began:.0f} s")
    rows = [
        *golden(there),
        *compared(here, there),
        resumed("streams from x86-64, on with aarch64", here, folder / "moved-there"),
        resumed("streams from aarch64, on with x86-64", there, folder / "moved-here"),
        doctor(machine, bundle),
        *controls(machine, bundle, folder / "control"),
    ]
    x86 = {"python3.11-minimal": platform.python_version(), "libc6": platform.libc_ver()[1]}
    x86 |= {name: version(name) for name in ("onnxruntime", "numpy", "soundfile")}
    return {
        "cpu": CPU,
        "seconds": round(time.monotonic() - began),
        "aarch64": {name: machine.versions[name] for name in VERSIONS},
        "x86-64": x86,
        "rows": rows,
    }


def table(record: dict[str, Any]) -> str:
    """The record as a section of a page."""
    emulated, native = record["aarch64"], record["x86-64"]
    lines = [
        f"aarch64: qemu {emulated['qemu-user-static'].split('+')[0].split(':')[-1]} as a "
        f"{record['cpu']}, Python {emulated['python3.11-minimal'].split('-')[0]}, ONNX Runtime "
        f"{emulated['onnxruntime']}, numpy {emulated['numpy']}, glibc "
        f"{emulated['libc6'].split('-')[0]}. x86-64, beside which answers are compared: Python "
        f"{native['python3.11-minimal']}, ONNX Runtime {native['onnxruntime']}, numpy "
        f"{native['numpy']}. {record['seconds']} s, fetching and export included where they were "
        "needed.",
        "",
        "| what | checks | largest difference | allowed | on emulated aarch64 |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in record["rows"]:
        figures = [
            f"{row[name]:.1e}" if row.get(name) is not None else ""
            for name in ("difference", "allowed")
        ]
        caught = row["what"].startswith("control")
        verdict = ("caught" if caught else "right") if row["passed"] else "WRONG"
        lines.append(f"| {row['what']} | {row['checks']} | {' | '.join(figures)} | {verdict} |")
    lines.append("| any of it on a real ARM board | 0 | | | not run |")
    return "\n".join(lines) + "\n"


def publish(record: dict[str, Any]) -> None:
    """Write the record, and its table in docs."""
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}{table(record)}{END}{rest.partition(END)[2]}")


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main(arguments: Sequence[str]) -> int:
    """Exit code 1 where something is wrong on aarch64."""
    folder = Path(arguments[0])
    if "--table" in arguments:
        sys.stdout.write(table(json.loads(RECORD.read_text())))
        return 0
    try:
        record = run(folder)
    except UnavailableError as error:
        say(f"skipped: {error}")
        return 0
    sys.stdout.write(table(record))
    wrong = [row for row in record["rows"] if not row["passed"]]
    for row in wrong:
        say(f"failed: {row['what']}: {row}")
    if not wrong:
        publish(record)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
