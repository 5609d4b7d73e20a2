"""The report as data: what `ifmmin-doctor --json` prints, and `--schema` describes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ifmmin.runtime.console import say
from ifmmin.runtime.doctor.ask import Answers, ask
from ifmmin.runtime.doctor.facts import Facts
from ifmmin.runtime.doctor.finding import Finding
from ifmmin.runtime.doctor.rules import judge_machine
from ifmmin.runtime.manifest import read_manifest
from ifmmin.runtime.version import package_version

SCHEMA = 1
"""Fields may be added within a version; removing one, or a change of meaning, makes a new one."""


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """Golden inputs of the bundle by one backend."""

    backend: str
    passed: bool
    graphs: int = 0
    """Graphs whose answers were compared."""
    difference: float | None = None
    """From the right answers: the one that is the largest share of what it may be."""
    unit: str = ""
    """What differs: `logit` or `probability`."""
    allowed: float | None = None
    seconds: float = 0.0
    """With the making of engines."""
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the command has to say."""

    schema: int
    ifmmin: str
    broken: bool
    """No backend runs, or a self-test failed: exit code 1."""
    findings: tuple[Finding, ...]
    selftests: tuple[SelfTest, ...]
    facts: Facts


def make_report(facts: Facts, selftests: Sequence[SelfTest] = ()) -> Report:
    """Judge what was found."""
    broken = not any(state.usable for state in facts.backends)
    return Report(
        schema=SCHEMA,
        ifmmin=package_version(),
        broken=broken or not all(test.passed for test in selftests),
        findings=judge_machine(facts),
        selftests=tuple(selftests),
        facts=facts,
    )


def run_selftests(
    facts: Facts, bundle: Path, ask: Callable[..., Answers] = ask
) -> tuple[SelfTest, ...]:
    """Prove a bundle by every backend that runs here. Raises BundleError where there is none."""
    read_manifest(bundle)
    tests = []
    for state in facts.backends:
        if not state.usable:
            continue
        say(f"self-test by {state.name}...")
        question = f"bundle:{state.name}:{bundle}"
        # An engine may take minutes to build; Ctrl-C ends it.
        answer = ask([question], patience=None)[question]
        tests.append(_selftest(state.name, answer))
    return tuple(tests)


def _selftest(name: str, answer: dict[str, Any]) -> SelfTest:
    if "error" in answer:
        return SelfTest(backend=name, passed=False, failures=(str(answer["error"]),))
    return msgspec.convert({"backend": name, **answer}, SelfTest)


def to_json(report: Report) -> str:
    """The report as JSON. What is not a number in it is null."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
