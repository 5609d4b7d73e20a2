"""Sweeps: what is asked, what is refused, what is written, and its numbers."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml
from filelock import FileLock
from numpy.typing import NDArray
from run_command import Ran, call, mistake
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score
from small_recipe import TINY

from ifmmin.runtime.errors import IfmminError, InputError
from ifmmin.runtime.modality import ALL_PATTERNS
from ifmmin.train.cli import main
from ifmmin.train.evaluate import read_projection
from ifmmin.train.recipe import dump_recipe, load_recipe
from ifmmin.train.sweep.plan import Plan, SweepFolder, Unit, parse_numbers, resolve
from ifmmin.train.sweep.results import (
    Answers,
    Result,
    columns_of,
    differences,
    pairs,
    pooled,
    read_results,
    spreads,
)

MODELS = ("--model", "if-mmin,linear")


def sweep(out: Path, *words: object) -> Ran:
    return call(main, "sweep", *TINY, *words, "--out", out)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep") / "made"
    grid = ["--folds", "1-2", "--seeds", "0-1", "--jobs", "1"]
    assert sweep(out, *MODELS, *grid).code == 0
    return out


@pytest.fixture
def copy(swept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swept, tmp_path / "copy"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without plots, which take their time and are looked at in other tests."""
    monkeypatch.setattr("ifmmin.train.sweep.report.figures", lambda *_: ())


def _refused(out: Path, *words: object) -> str:
    return mistake(main, "sweep", *TINY, *words, "--out", out)


def _units(out: Path) -> dict[str, int]:
    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns
        for path in (out / "units").glob("*/fold-*/seed-?")
    }


@pytest.mark.parametrize(
    ("text", "numbers"), [("1-3", [1, 2, 3]), ("4,2", [2, 4]), ("1-2, 2-3,7", [1, 2, 3, 7])]
)
def test_numbers_are_ranges_and_lists(text: str, numbers: list[int]) -> None:
    assert parse_numbers(text, "--folds", least=1) == numbers
    for wrong in ("", "0-2", "3-1", "a", "1,,2", "-1", "1-2-3"):
        with pytest.raises(InputError, match=r"--folds .* numbers from 1"):
            parse_numbers(wrong, "--folds", least=1)


def test_entries_are_models_recipes_and_names(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(dump_recipe(load_recipe("synthetic", ["stage1.epochs=9"])))
    entries = resolve(["if-mmin,mmin", f"longer={other}:if-mmin"], "synthetic")
    assert [recipe.network.model for recipe in entries.values()] == ["if-mmin", "mmin", "if-mmin"]
    assert list(entries) == ["if-mmin", "mmin", "longer"]
    assert entries["longer"].stage1.epochs == 9
    assert entries["if-mmin"].stage1.epochs == 4


def test_an_override_concerns_the_entries_that_have_the_section(capsys: Any) -> None:
    entries = resolve(
        ["if-mmin", "linear"], "synthetic", overrides=["stage2.epochs=7", "corpus.test=50"]
    )
    assert entries["if-mmin"].stage2 is not None
    assert entries["if-mmin"].stage2.epochs == 7
    assert entries["linear"] == resolve(
        ["linear"], "synthetic", overrides=["corpus.test=50"]
    )["linear"]  # fmt: skip
    assert entries["linear"].corpus.test == 50  # type: ignore[union-attr]
    assert capsys.readouterr().err == ""
    resolve(["linear"], "synthetic", overrides=["stage2.epochs=7"])
    assert "stage2.epochs=7 concerns none of linear" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("models", "overrides", "message"),
    [
        (["mmin", "lstm"], [], "'lstm'.*wanted MODEL .*if-mmin, mmin"),
        (["mmin", "none.yaml:mmin"], [], "--model none.yaml:mmin: no recipe"),
        (["mmin", "mmin"], [], "no name of its own.*NAME=mmin"),
        (["x:=mmin", "x=mmin"], [], "no name of its own"),
        (["=mmin"], [], "no name of its own"),
        (["if-mmin", "mmin"], ["stage2.epochz=1"], "--model if-mmin: .*epochz"),
        (["mmin", "iemocap:mmin"], [], "synthetic, iemocap:mmin on iemocap .*give --corpus"),
    ],
)
def test_senseless_entries_are_named(models: list[str], overrides: list[str], message: str) -> None:
    with pytest.raises(IfmminError, match=message):
        resolve(models, "synthetic", overrides=overrides)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "lstm"], "wanted MODEL"),
        (["--model", "mmin", "--folds", "x"], "--folds"),
        (["--model", "mmin", "--jobs", "0"], "--jobs must be 1 to 1024"),
        (["--model", "mmin", "--threads", "0"], "--threads must be 1 to 1024"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    assert message in _refused(tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_sweep_is_complete(swept: Path) -> None:
    assert {path.name for path in swept.iterdir()} == {
        ".lock", "sweep.json", "units", "plots", "results.md", "results.csv", "units.csv",
        "differences.csv",
    }  # fmt: skip
    assert {path.name for path in (swept / "plots").iterdir()} == {
        "bars.png", "calibration.png", "losses-if-mmin.png", "confusion-if-mmin.png",
        "confusion-linear.png", "projection-if-mmin.png",
    }  # fmt: skip
    text = (swept / "results.md").read_text()
    assert text.count("| 4 of 4 |") == 2
    for name in ("bars", "losses-if-mmin", "projection-if-mmin"):
        assert f"[{name}](plots/{name}.png)" in text
    assert str(swept.parent) not in text + (swept / "sweep.json").read_text()
    with (swept / "units.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 8 * 7


def test_the_tables_equal_scikit_learn_on_the_predictions(swept: Path) -> None:
    with (swept / "results.csv").open() as file:
        written = {
            (row["entry"], row["pattern"], row["figure"]): float(row["mean"])
            for row in csv.DictReader(file)
        }
    for entry in ("if-mmin", "linear"):
        figures: dict[tuple[str, str], list[float]] = {}
        for path in (swept / "units" / entry).glob("*/*/predictions.csv"):
            rows = list(csv.DictReader(path.read_text().splitlines()))
            for pattern in dict.fromkeys(row["pattern"] for row in rows):
                some = [row for row in rows if row["pattern"] == pattern]
                true, answered = ([row[c] for row in some] for c in ("true", "predicted"))
                for figure, value in (
                    ("ua", balanced_accuracy_score(true, answered)),
                    ("wa", accuracy_score(true, answered)),
                    ("f1", f1_score(true, answered, average="macro")),
                ):
                    figures.setdefault((pattern, figure), []).append(value)
        assert len(figures) == 7 * 3
        for (pattern, figure), values in figures.items():
            assert len(values) == 4
            mean = sum(values) / 4
            assert written[entry, pattern, figure] == pytest.approx(mean, abs=1e-6)


def test_pooled_averages_are_those_of_all_predictions_with_something_missing(swept: Path) -> None:
    found = read_results(
        SweepFolder(swept), [Unit("linear", fold, seed) for fold in (1, 2) for seed in (0, 1)]
    )
    expected = []
    for path in (swept / "units" / "linear").glob("*/*/predictions.csv"):
        rows = list(csv.DictReader(path.read_text().splitlines()))
        some = [row for row in rows if row["pattern"] != "a_v_t"]
        true, answered = ([row[c] for row in some] for c in ("true", "predicted"))
        expected.append(
            (
                accuracy_score(true, answered),
                balanced_accuracy_score(true, answered),
                f1_score(true, answered, average="macro"),
            )
        )
    means = dict(zip(("wa", "ua", "f1"), np.mean(expected, axis=0), strict=True))
    assert pooled(found) == pytest.approx(means)
    assert pooled(found)["f1"] != pytest.approx(spreads(found, "f1")["mean of six"].mean, abs=1e-3)
    section = (swept / "results.md").read_text().split("## Averages")[1].split("## ")[0]
    assert f" {means['f1']:.3f} |" in section


@pytest.mark.usefixtures("undrawn")
def test_folds_seeds_and_entries_are_added_and_the_rest_stays(copy: Path) -> None:
    before = _units(copy)
    (copy / "units" / "if-mmin" / "fold-1" / ".seed-0.abc.part").mkdir()
    (copy / "units" / "if-mmin" / "fold-1" / ".seed-0.abc.part" / "metrics.json").write_text("{tor")
    (copy / ".results.md.xyz.part").write_text("torn")
    more = ["--model", "linear,ours=linear", "--folds", "2-3", "--jobs", "1"]
    assert sweep(copy, *more).code == 0
    after = _units(copy)
    assert before.items() <= after.items()
    new = {"units/ours/fold-2/seed-0", "units/ours/fold-3/seed-0", "units/linear/fold-3/seed-0"}
    assert after.keys() - before.keys() == new
    assert list(copy.rglob("*.part")) == []
    plan = json.loads((copy / "sweep.json").read_text())
    assert (list(plan["entries"]), plan["folds"], plan["seeds"]) == (
        ["if-mmin", "linear", "ours"], [1, 2, 3], [0, 1],
    )  # fmt: skip
    text = (copy / "results.md").read_text()
    for units in ("4 of 6", "5 of 6", "2 of 6"):
        assert units in text


def test_the_report_of_finished_units_is_made_again_the_same(copy: Path, swept: Path) -> None:
    made = [p for p in swept.rglob("*") if p.is_file() and "units" not in p.parts]
    for path in made:
        if path.suffix in (".md", ".csv", ".png"):
            (copy / path.relative_to(swept)).unlink()
    assert sweep(copy, *MODELS, "--folds", "1-2", "--seeds", "0-1").code == 0
    for path in made:
        assert (copy / path.relative_to(swept)).read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--set", "stage1.epochs=9"], "if-mmin is another recipe .*stage1.epochs was 2, now 9"),
        (["--set", "corpus.test=41"], "corpus.test was 40, now 41"),
        (["--threads", "2"], "ran with --threads 1, got 2"),
    ],
)
def test_a_changed_recipe_is_refused(copy: Path, change: list[str], message: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    assert re.search(message, _refused(copy, *MODELS, *change))
    before.pop(copy / ".lock")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_two_sweeps_never_share_a_directory_and_a_damaged_run_is_named(copy: Path) -> None:
    with FileLock(copy / ".lock"):
        assert "another sweep is at work" in _refused(copy, *MODELS)
    (copy / "units" / "linear" / "fold-2" / "seed-1" / "metrics.json").unlink()
    error = _refused(copy, *MODELS)
    assert "the run of linear, fold 2, seed 1 is damaged" in error
    assert "remove" in error


DAMAGE = [
    ("metrics.json", content)
    for content in ("", "null", "[]", "{", '{"test": {}, "health": {}}', "\xff", "[" * 200_000)
] + [
    ("predictions.csv", content)
    for content in ("", "null", "a,b\n1", "a,b,c,d,no\nu,zz,no,no", "\xff", '"' + "x" * 200_000)
] + [
    (name, content) for name in ("history.csv", "projection.csv") for content in ("x,y\n1", "\xff")
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), DAMAGE, ids=lambda text: str(text)[:20])
def test_whatever_is_damaged_in_a_run_is_told(copy: Path, name: str, content: str) -> None:
    path = copy / "units" / "linear" / "fold-2" / "seed-1" / name
    path.write_bytes(content.encode("latin-1"))
    assert "the run of linear, fold 2, seed 1 is damaged" in _refused(copy, *MODELS)


@pytest.mark.parametrize("name", ["metrics.json", "predictions.csv", "history.csv"])
def test_no_pipe_of_a_run_is_waited_for(copy: Path, name: str) -> None:
    path = copy / "units" / "linear" / "fold-2" / "seed-1" / name
    path.unlink()
    os.mkfifo(path)
    assert f"{name} is a pipe, wanted a file" in _refused(copy, *MODELS)


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "in use by something else" in _refused(tmp_path, *MODELS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


ADAPTER = """
import os, signal
from ifmmin.train.data.synthetic import SyntheticLayout, draw_synthetic
import msgspec

def read(fold, features, targets, **options):
    if fold == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
    if fold == 2:
        raise ZeroDivisionError("a fault in the adapter")
    return draw_synthetic(msgspec.convert(options | {"layout": "synthetic"}, SyntheticLayout),
                          fold=fold)
"""


@pytest.mark.usefixtures("undrawn")
def test_units_that_fail_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_adapter.py").write_text(ADAPTER)
    monkeypatch.syspath_prepend(tmp_path)
    recipe = load_recipe("synthetic", [text for text in TINY[2:] if text != "--set"])
    content = json.loads(msgspec.json.encode(recipe))
    options = {k: v for k, v in content["corpus"].items() if k != "layout"}
    content["corpus"] = {"layout": "adapter", "function": "some_adapter:read", "folds": 3,
                         "options": options}  # fmt: skip
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump(content))
    content["stage1"]["learning_rate"] = 1e30
    bad.write_text(yaml.safe_dump(content))
    out = tmp_path / "out"
    entries = ["--model", f"good={good}:augmented", "--model", f"bad={bad}:mmin"]
    arguments = ["--folds", "1-3", "--jobs", "1", "--out", out]
    ran = call(main, "sweep", *entries, *arguments)
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert "5 of 6 units failed" in ran.err
    text = (out / "results.md").read_text()
    for line in (
        "- good, fold 1, seed 0: its process was killed, likely for want of memory",
        "- good, fold 2, seed 0: ZeroDivisionError: a fault in the adapter",
        "- bad, fold 3, seed 0: the loss became",
    ):
        assert line in text
    assert set(_units(out)) == {"units/good/fold-3/seed-0"}
    trace = (out / "units" / "good" / "fold-2" / "seed-0.error.txt").read_text()
    assert "Traceback" in trace
    # Mended, they run and are no longer listed.
    (tmp_path / "some_adapter.py").write_text(ADAPTER.replace("fold == ", "fold == 90"))
    assert call(main, "sweep", *entries[:2], *arguments).code == 0
    text = (out / "results.md").read_text()
    assert "- good" not in text
    assert "3 of 3" in text


SHORT = ["--model", "augmented,linear", "--folds", "1", "--seeds", "0"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_gives_the_same_report_as_local(tmp_path: Path) -> None:
    local, on_ray = tmp_path / "local", tmp_path / "ray"
    assert sweep(local, *SHORT, "--jobs", 1).code == 0
    command = [sys.executable, "-m", "ifmmin.train.cli", "sweep", *TINY, *SHORT]
    done = subprocess.run(
        [*command, "--executor", "ray", "--jobs", "2", "--out", str(on_ray)],
        capture_output=True, text=True, timeout=300,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "sweep 2/2" in done.stderr
    for name in ("results.md", "results.csv", "units.csv", "differences.csv"):
        assert (on_ray / name).read_bytes() == (local / name).read_bytes(), name


def test_without_ray_a_line_has_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    error = _refused(tmp_path / "out", *SHORT, "--executor", "ray")
    assert "pip install 'ifmmin[ray]'" in error


LABELS = ("angry", "happy", "neutral", "sad")
Integers = NDArray[np.int64]


def _made_result(entry: str, fold: int, seed: int, size: int = 30, skill: float = 0.5) -> Result:
    corpus = np.random.default_rng(fold)
    true = corpus.integers(4, size=size)
    absent = corpus.random((size, 7)) < 0.1
    absent[:, -1] = False
    draws = np.random.default_rng([ord(entry[0]), fold, seed])
    answered = draws.integers(4, size=(size, 7))
    answered = np.where(draws.random((size, 7)) < skill, true[:, None], answered)
    answered = np.where(absent, -1, answered)
    test = {str(p): {"ua": float(draws.random())} for p in ALL_PATTERNS}
    names = tuple(f"u{i}" for i in range(size))
    return Result(
        Unit(entry, fold, seed), {"test": test}, [], LABELS, Answers(names, true, answered), []
    )


def _recall(true: Integers, answered: Integers) -> float:
    some = answered >= 0
    labels = np.unique(true[some])
    return float(recall_score(true[some], answered[some], average="macro", labels=labels))


def _plain(results: list[Result], rows: Integers) -> list[float]:
    """UA by column when the pooled utterances are `rows`, one seed after the other."""
    by_seed = []
    for seed in sorted({r.unit.seed for r in results}):
        units = sorted((r for r in results if r.unit.seed == seed), key=lambda r: r.unit.fold)
        true = np.concatenate([r.answers.true for r in units])[rows]
        answered = np.concatenate([r.answers.answered for r in units])[rows]
        figures = [_recall(true, answered[:, column]) for column in range(7)]
        by_seed.append([*figures, statistics.fmean(figures[:6])])
    return [statistics.fmean(column) for column in zip(*by_seed, strict=True)]


def test_differences_and_their_errors_equal_a_plain_loop() -> None:
    grid = [(fold, seed) for fold in (1, 2) for seed in (0, 1)]
    first = [_made_result("first", *unit, skill=0.6) for unit in grid]
    second = [_made_result("second", *unit) for unit in grid]
    (found,) = differences({"first": first, "second": second}, resamples=25, seed=3)
    every = np.arange(60)
    value = np.subtract(_plain(first, every), _plain(second, every))
    drawn = [
        np.subtract(_plain(first, rows), _plain(second, rows))
        for rows in np.random.default_rng(3).integers(60, size=(25, 60))
    ]
    error = np.std(drawn, axis=0, ddof=1)
    assert (error > 0.01).all()
    for column, one, other in zip(columns_of(ALL_PATTERNS), value, error, strict=True):
        assert found.value[column] == pytest.approx(one, abs=1e-12)
        assert found.error[column] == pytest.approx(other, abs=1e-12)
        assert found.stands_out(column) == (abs(one) > 2 * other)
    assert found.units == 4


def test_the_same_entry_differs_by_nothing_and_a_better_one_stands_out() -> None:
    some = [_made_result("same", 1, seed, 200) for seed in (0, 1)]
    better = [_made_result("better", 1, seed, 200, skill=0.9) for seed in (0, 1)]
    same, less, _ = differences({"same": some, "again": some, "better": better}, resamples=200)
    for column in columns_of(ALL_PATTERNS):
        assert same.value[column] == same.error[column] == 0
        assert not same.stands_out(column)
        assert less.value[column] < 0
        assert less.stands_out(column)


def test_only_common_units_are_compared() -> None:
    first = [_made_result("first", fold, seed) for fold in (1, 2) for seed in (0, 1)]
    second = [_made_result("second", fold, 1) for fold in (1, 2, 3)]
    elsewhere = [_made_result("third", 9, 0)]
    other = [_made_result("fourth", 1, 0, size=31)]
    (found,) = differences({"f": first, "s": second, "e": elsewhere, "o": other}, resamples=50)
    assert (found.first, found.second, found.units) == ("f", "s", 2)
    common = [r for r in first if r.unit.seed == 1]
    value = np.subtract(_plain(common, np.arange(60)), _plain(second[:2], np.arange(60)))
    assert list(found.value.values()) == pytest.approx(value.tolist())


def test_many_entries_are_compared_with_the_first() -> None:
    assert len(pairs("abcd")) == 6
    assert pairs("abcde") == [("a", other) for other in "bcde"]
    assert pairs("a") == []
    plan = Plan(entries=resolve(["mmin", "linear"], "synthetic"), folds=[1, 2], seeds=[0, 1],
                threads=1)  # fmt: skip
    units = plan.units()
    assert len(units) == len(set(units)) == 8
    assert [unit.fold for unit in units] == [1] * 4 + [2] * 4


def test_spreads_are_over_seeds_and_over_units() -> None:
    results = [_made_result("one", fold, seed) for fold in (1, 2, 3) for seed in (0, 1)]
    torn = [*results, _made_result("one", 1, 2)]  # seed 2 has one fold of three
    for units, count in ((results, 6), (torn, 7)):
        found = spreads(units, "ua")
        for column, name in enumerate([str(p) for p in ALL_PATTERNS]):
            figures = [r.metrics["test"][name]["ua"] for r in units]
            by_seed = [
                statistics.fmean(r.metrics["test"][name]["ua"] for r in units if r.unit.seed == s)
                for s in (0, 1)
            ]
            spread = found[columns_of(ALL_PATTERNS)[column]]
            assert spread.mean == pytest.approx(statistics.fmean(figures))
            assert spread.over_units == pytest.approx(statistics.stdev(figures))
            assert spread.over_seeds == spread.shown == pytest.approx(statistics.stdev(by_seed))
            assert spread.units == count
        six = [statistics.fmean(r.metrics["test"][str(p)]["ua"] for p in ALL_PATTERNS[:6])
               for r in units]  # fmt: skip
        assert found["mean of six"].mean == pytest.approx(statistics.fmean(six))
    single = spreads(results[:1], "ua")["a"]
    assert math.isnan(single.over_seeds)
    assert math.isnan(single.over_units)


def test_what_no_unit_has_is_left_out() -> None:
    results = {name: [_made_result(name, fold, 0) for fold in (1, 2)] for name in ("one", "two")}
    for result in (r for some in results.values() for r in some):
        result.test(ALL_PATTERNS[1])["ua"] = None
        result.answers.answered[:, 1] = -1
    results["one"][0].test(ALL_PATTERNS[0])["ua"] = None
    found = spreads(results["one"], "ua")
    assert (found["v"].units, found["a"].units, found["t"].units) == (0, 1, 2)
    assert math.isnan(found["v"].mean)
    assert found["a"].mean == results["one"][1].test(ALL_PATTERNS[0])["ua"]
    assert 0 < found["mean of six"].mean < 1
    (difference,) = differences(results, resamples=50)
    assert math.isnan(difference.value["v"])
    assert not difference.stands_out("v")
    others = [difference.value[str(p)] for p in (*ALL_PATTERNS[:1], *ALL_PATTERNS[2:6])]
    assert difference.value["mean of six"] == pytest.approx(statistics.fmean(others))
    assert difference.error["mean of six"] > 0


HOSTILE = """
import numpy as np
from ifmmin.train import Corpus, FeatureConfig, Utterance
def load(*, fold, features, targets):
    def part(name, count, letters):
        rng = np.random.default_rng(count)
        return [
            Utterance(f"{c}{name}{i}$|'=", {m: rng.random((6, 3)) for m in letters}, i % 3)
            for i, c in enumerate(("=+-@" * 9)[:count])
        ]
    parts = {"train": part("x", 24, "avt")}
    parts |= {"validation": part("y", 9, "at"), "test": part("z", 9, "at")}
    inputs = {m: FeatureConfig(dim=3) for m in "avt"}
    return Corpus("$_$", ("=cmd", "$x_$", "'-y"), inputs, parts)
"""


def test_names_of_every_kind_and_no_modality_v(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hostile_corpus.py").write_text(HOSTILE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--set", "corpus={layout: adapter, function: 'hostile_corpus:load'}"]
    out = tmp_path / "out"
    options = ["--recipe", "synthetic", *words, "--model", "fusion,linear", "--jobs", "1"]
    ran = call(main, "sweep", *options, "--set", "stage1.epochs=1", "--out", out)
    assert ran.code == 0, ran.err
    unit = Unit("fusion", 1, 0)
    (result,) = read_results(SweepFolder(out), [unit])
    assert result.labels == ("=cmd", "$x_$", "'-y")
    assert result.answers.names[:2] == ("=z0$|'=", "+z1$|'=")
    with (out / "differences.csv").open(newline="") as file:
        rows = {row["pattern"]: row["difference"] for row in csv.DictReader(file)}
    assert rows.pop("v") == ""
    assert all(-1 <= float(text) <= 1 for text in rows.values())
    for path in [*out.glob("*.csv"), *out.glob("units/*/*/*/*.json"), *out.glob("*.md")]:
        assert "nan" not in path.read_text().lower()
    shown = [p.label for p in read_projection(SweepFolder(out).path(unit) / "projection.csv")]
    assert set(shown) == set(result.labels)
    assert (out / "plots" / "confusion-fusion.png").is_file()


def test_a_corpus_of_the_size_of_iemocap_takes_seconds() -> None:
    entries = {
        name: [_made_result(name, fold, seed, 553) for fold in range(1, 11) for seed in (0, 1)]
        for name in "abcdefghij"
    }
    start = time.process_time()
    found = differences(entries)
    assert len(found) == 9
    assert time.process_time() - start < 60
