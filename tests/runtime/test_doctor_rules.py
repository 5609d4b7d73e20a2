from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_machines import HEALTHY, change
from trapped_machines import TRAPPED

from ifmmin.runtime.doctor import rules
from ifmmin.runtime.doctor.facts import Facts
from ifmmin.runtime.doctor.rules import RULES, SEVERITIES, Finding, judge_machine


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_machine_has_no_findings(name: str) -> None:
    assert judge_machine(HEALTHY[name]) == ()


@pytest.mark.parametrize(
    ("facts", "expected"), [t[1:] for t in TRAPPED], ids=[t[0] for t in TRAPPED]
)
def test_every_trap_is_found_and_nothing_else(facts: Facts, expected: set[str]) -> None:
    found = judge_machine(facts)
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


def test_a_machine_of_which_nothing_is_known() -> None:
    assert {finding.rule for finding in judge_machine(Facts())} == {"no-gpu"}


def test_worst_first() -> None:
    facts = change(
        HEALTHY["desktop"], nvidia__cuda="12.4", cpu__flags=("avx2",), memory__available=1
    )
    severities = [SEVERITIES.index(finding.severity) for finding in judge_machine(facts)]
    assert severities == sorted(severities)
    assert len(set(severities)) == 3


def test_a_rule_that_breaks_does_not_silence_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(facts: Facts) -> Finding | None:
        raise ZeroDivisionError("strange")

    monkeypatch.setattr(rules, "RULES", (broken, *RULES))
    (first,) = judge_machine(HEALTHY["orin"])
    assert "ZeroDivisionError" in first.found


def test_own_governors_are_only_noted() -> None:
    facts = change(HEALTHY["desktop"], cpu__governor="powersave", cpu__driver="intel_pstate")
    assert [finding.severity for finding in judge_machine(facts)] == ["note"]
