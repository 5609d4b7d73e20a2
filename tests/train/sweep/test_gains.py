"""A field varied in a sweep: its entries, and gains against computations of their own."""

from __future__ import annotations

import csv
import json
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from run_command import call, mistake
from scipy.stats import ttest_1samp
from small_recipe import TINY

from ifmmin.runtime.errors import IfmminError
from ifmmin.train.cli import main
from ifmmin.train.recipe import Recipe
from ifmmin.train.sweep.executors import EXECUTORS, Job, Outcome, run_job
from ifmmin.train.sweep.gains import gain_table, gains, settings
from ifmmin.train.sweep.plan import Plan, resolve, vary

MODELS = ["if-mmin", "plain=if-mmin+stage2.imagination=0+stage1.cmd=0"]


def _varied(*variations: str, models: list[str] = MODELS) -> tuple[dict[str, Recipe], list[str]]:
    entries = resolve(models, "synthetic")
    every, varied = vary(entries, variations, models, "synthetic")
    assert set(every) == {*entries, *varied}
    return every, [f"{v.entry}, {v.key}, {v.value}" for v in varied.values()]


def test_an_entry_may_differ_in_fields_of_its_own() -> None:
    entries = resolve([*MODELS, "if-mmin+stage2.epochs=1"], "synthetic", overrides=["stage1.cmd=2"])
    assert list(entries) == ["if-mmin", "plain", "if-mmin+stage2.epochs=1"]
    whole, plain, short = entries.values()
    assert whole.stage2 is not None
    assert plain.stage2 is not None
    assert short.stage2 is not None
    assert (whole.stage1.cmd, plain.stage1.cmd, short.stage1.cmd) == (2.0, 0.0, 2.0)
    assert (whole.stage2.imagination, plain.stage2.imagination) == (1.0, 0.0)
    assert (whole.stage2.epochs, short.stage2.epochs) == (12, 1)
    with pytest.raises(IfmminError, match=r"--model x: .*stage9"):
        resolve(["x=if-mmin+stage9.cmd=0"], "synthetic")


def test_one_field_is_varied_at_a_time_and_its_own_value_is_no_variation() -> None:
    every, varied = _varied("corpus.train=100,1200", "corpus.shared=0.6,1")
    assert varied == [
        "if-mmin, corpus.train, 100", "plain, corpus.train, 100",
        "if-mmin, corpus.shared, 1", "plain, corpus.shared, 1",
    ]  # fmt: skip
    sizes = [(r.corpus.train, r.corpus.shared) for r in every.values()]  # type: ignore[union-attr]
    assert sizes == [(1200, 0.6)] * 2 + [(100, 0.6)] * 2 + [(1200, 1.0)] * 2
    assert every["plain at corpus.train=100"].stage1.cmd == 0


@pytest.mark.parametrize(
    ("variation", "message"),
    [
        ("corpus.train", r"--vary 'corpus.train', wanted KEY=VALUE"),
        ("=3", "wanted KEY=VALUE"),
        ("corpus.train=", "wanted KEY=VALUE"),
        ("corpus.trane=3", "trane"),
        ("stage1.epochs=9", "stage1.epochs=9 changes nothing of linear"),
    ],
)
def test_what_cannot_be_varied_is_named(variation: str, message: str) -> None:
    with pytest.raises(IfmminError, match=message):
        _varied(variation, models=["if-mmin", "linear"])


def _here(jobs: Sequence[Job], *, parallel: int, threads: int) -> Generator[Outcome, None, None]:
    """Runs units in this process: these take a fifth of a second, a process of its own seconds."""
    return (run_job(job) for job in jobs)


SWEEP = [
    "sweep", *TINY, "--model", "linear,again=linear", "--vary", "corpus.private=0,3",
    "--set", "corpus.modalities={a: {dim: 5, frames: [2, 6]}, v: {dim: 6, frames: [2, 6]}}",
    "--set", "corpus.train=200", "--folds", "1-3",
]  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gains") / "made"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXECUTORS, "local", _here)
        ran = call(main, *SWEEP, "--out", out)
    assert ran.code == 0
    assert "private" not in ran.out
    return out


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_gains_are_those_of_a_paired_t_test_over_folds(swept: Path) -> None:
    # Two entries of one recipe would gain nothing: make the second worse, fold by fold.
    rng = np.random.default_rng(0)
    units = swept / "units"
    for path in units.glob("again*/fold-*/seed-0/metrics.json"):
        metrics = json.loads(path.read_text())
        for figures in metrics["test"].values():
            figures["ua"] = max(0.0, figures["ua"] - 0.2 * rng.random())
        path.write_text(json.dumps(metrics))
    assert call(main, *SWEEP, "--out", swept).code == 0
    ua = {
        (row["entry"], row["fold"], row["pattern"]): float(row["ua"])
        for row in _rows(swept / "units.csv")
    }
    rows = _rows(swept / "gains.csv")
    assert {(g["key"], g["value"]) for g in rows} == {
        ("", ""), ("corpus.private", "0"), ("corpus.private", "3"),
    }  # fmt: skip
    for gain in rows:
        assert (gain["first"], gain["second"], gain["folds"]) == ("linear", "again", "3")
        end = f" at {gain['key']}={gain['value']}" if gain["key"] else ""
        patterns = [gain["pattern"]] if gain["pattern"] in ("a", "v", "a_v") else ["a", "v"]
        differences = [
            np.mean([ua["linear" + end, f, p] - ua["again" + end, f, p] for p in patterns])
            for f in "123"
        ]
        interval = ttest_1samp(differences, 0).confidence_interval(0.95)
        mean, half = float(gain["gain"]), float(gain["half_width"])
        assert mean > 0.01
        assert (mean - half, mean + half) == pytest.approx(tuple(interval), abs=1e-5)


def test_settings_are_compared_within_themselves_and_kept_out_of_the_tables(swept: Path) -> None:
    pairs = {(row["first"], row["second"]) for row in _rows(swept / "differences.csv")}
    ends = ("", " at corpus.private=0", " at corpus.private=3")
    assert pairs == {(f"linear{end}", f"again{end}") for end in ends}
    text = (swept / "results.md").read_text()
    before, after = text.split("## One field varied: UA, mean of two")
    assert "corpus.private" not in before
    table = after.split("## ")[0]
    _, _, *rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
    names = ["as it is", "corpus.private=0", "corpus.private=3"]
    assert [row[1].strip() for row in rows] == names
    as_it_is, none, much = (float(row[3]) for row in rows)
    assert none < as_it_is < much
    assert "corpus.private" not in after.split("## ", 1)[1]
    assert {path.name for path in (swept / "plots").iterdir()} == {
        "bars.png", "calibration.png", "confusion-linear.png", "confusion-again.png", "gains.png",
    }  # fmt: skip
    plan = json.loads((swept / "sweep.json").read_text())
    assert plan["varied"]["again at corpus.private=3"] == {
        "entry": "again", "key": "corpus.private", "value": "3",
    }  # fmt: skip


def test_entries_that_are_not_varied_are_left_out_of_the_gains() -> None:
    alone = resolve(["linear"], "synthetic")
    entries, varied = vary(
        resolve(["other=linear"], "synthetic"), ["corpus.train=50"], ["other=linear"], "synthetic"
    )
    plan = Plan(entries=alone | entries, folds=[1], seeds=[0], threads=1, varied=varied)
    assert [(str(s), list(s.entries)) for s in settings(plan)] == [
        ("as it is", ["linear", "other"]), ("corpus.train=50", ["other"]),
    ]  # fmt: skip
    assert gains(plan, {}) == []
    assert gain_table(plan, {}, []).count("\n") == 1


def test_a_wrong_variation_is_one_line(tmp_path: Path) -> None:
    words = ["sweep", *TINY, "--model", "linear", "--vary", "x", "--out", tmp_path / "out"]
    assert "got --vary 'x', wanted KEY=VALUE" in mistake(main, *words)
    assert not (tmp_path / "out").exists()
