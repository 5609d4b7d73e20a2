"""All rules, applied to what was found."""

from __future__ import annotations

from ifmmin.runtime.check import one_line
from ifmmin.runtime.doctor import rules_jetson, rules_machine, rules_onnxruntime
from ifmmin.runtime.doctor.facts import Facts
from ifmmin.runtime.doctor.finding import SEVERITIES, Finding, finding

RULES = (*rules_machine.RULES, *rules_onnxruntime.RULES, *rules_jetson.RULES)


def judge_machine(facts: Facts) -> tuple[Finding, ...]:
    """The findings, worst first."""
    found: list[Finding] = []
    for rule in RULES:
        try:
            verdict = rule(facts)
        # One rule that a strange machine breaks must not keep the others silent.
        except Exception as error:
            what = f"rule {rule.__name__} failed: {type(error).__name__}: {one_line(error)}"
            verdict = finding("incomplete", "note", what, "report it with ifmmin-doctor --json")
        if verdict is not None:
            found.append(verdict)
    return tuple(sorted(found, key=lambda found: SEVERITIES.index(found.severity)))
