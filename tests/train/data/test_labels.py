"""Classes made of scores, and Acc-2 and Acc-7 of them against the literature's own formulas."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from run_command import call, mistake

from ifmmin.runtime.errors import CorpusError, RecipeError
from ifmmin.train.cli import main
from ifmmin.train.data.labels import check_edges, read_target
from ifmmin.train.metrics import SENTIMENT, Metrics, Scale, measure

SEVEN = (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5)
EIGHT = (*SEVEN[:3], 0.0, *SEVEN[3:])
EDGES = [(0.0,), SEVEN, EIGHT, (-1.0, 0.0, 0.3), (-0.1, 0.1)]
NAMES = tuple("abcdefgh")


@pytest.mark.parametrize(
    ("score", "wanted"), [(-9, 0), (-0.1, 0), (-0.0, 1), (0, 1), (0.2, 1), (0.5, 2), ([[3.0]], 2)]
)
def test_a_score_on_an_edge_is_of_the_class_above(score: Any, wanted: int) -> None:
    label, kept = read_target(np.array(score), NAMES[:3], (0.0, 0.5))
    assert (label, kept) == (wanted, float(np.ravel(score)[0]))


@pytest.mark.parametrize("score", ["1.7", None, math.nan, math.inf, True, [1.0, 2.0], [], b"1"])
def test_what_is_no_score_is_told(score: object) -> None:
    with pytest.raises(CorpusError, match=r"wanted a finite number, as corpus\.bins says"):
        read_target(score, NAMES[:2], (0.0,))


@pytest.mark.parametrize(
    ("edges", "message"),
    [((0.0, 0.0), "each above"), ((1.0, 0.0), "each above"), ((math.nan, 0.0), "each above"),
     ((math.inf,), "finite"), ((0.0, 1.0), "wanted 3 labels")],
)  # fmt: skip
def test_edges_that_make_no_classes_are_told(edges: tuple[float, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_edges(edges, NAMES[:2])


def _literature(truth: np.ndarray, answer: np.ndarray) -> dict[str, float]:
    """The figures of a regression, as papers on CMU-MOSI compute them."""
    some = truth != 0
    seven = [np.round(np.clip(x, -3, 3)) for x in (truth, answer)]
    return {
        "acc2_nonnegative": float(np.mean((truth >= 0) == (answer >= 0))),
        "acc2_positive": float(np.mean((truth[some] > 0) == (answer[some] > 0))),
        "acc7": float(np.mean(seven[0] == seven[1])),
    }


def _measured(truth: np.ndarray, answer: np.ndarray, edges: tuple[float, ...]) -> Metrics:
    """Of classes, where a regression would have given `answer`."""
    made = [np.array([read_target(x, NAMES, edges)[0] for x in xs]) for xs in (truth, answer)]
    logits = np.eye(len(edges) + 1)[made[1]]
    return measure(logits, made[0], Scale(edges, truth))


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from(EDGES))
def test_figures_of_sentiment_are_those_of_the_literature(
    seed: int, count: int, edges: tuple[float, ...]
) -> None:
    draws = np.random.default_rng(seed)
    truth = draws.integers(-14, 15, count) / 4  # with zeros and halves
    answer = draws.uniform(-3.5, 3.5, count)  # never on an edge
    truth[0] = 1.0
    found, wanted = _measured(truth, answer, edges), _literature(truth, answer)
    told = {name for name in SENTIMENT if not math.isnan(found.sentiment[name])}
    assert told == {
        *(("acc2_nonnegative", "acc2_positive") if 0.0 in edges else ()),
        *(("acc7",) if set(SEVEN) <= set(edges) else ()),
    }
    assert set(found.null_because) == SENTIMENT.keys() - told
    for name in told:
        assert found.sentiment[name] == pytest.approx(wanted[name])


def test_where_every_score_is_zero_there_is_no_positive_and_the_reason_is_told() -> None:
    found = _measured(np.zeros(3), np.array([-1.0, 1.0, 2.0]), (0.0,))
    assert found.figure("acc2_nonnegative") == pytest.approx(2 / 3)
    assert math.isnan(found.figure("acc2_positive"))
    assert found.null_because["acc2_positive"] == "every score is 0"


SCORED = """
import numpy as np
from ifmmin.train import Corpus, FeatureConfig, Utterance
def load(*, fold, features, targets, count=24, zeros=()):
    rng = np.random.default_rng(fold)
    def part(name):
        made = []
        for i in range(count):
            score = 0.0 if name in zeros else rng.uniform(-3, 3)
            frames = {m: rng.normal(score, 1, (5, 3)) for m in "at"}
            if name == "validation": del frames["t"]
            made.append(Utterance(f"{name}-{i}", frames, score))
        return made
    parts = {name: part(name) for name in ("train", "validation", "test")}
    labels = ("negative", "positive") if LABELS == 2 else tuple(map(str, range(-3, 4)))
    return Corpus("scored", labels, {m: FeatureConfig(dim=3) for m in "at"}, parts)
"""


def _recipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, bins: tuple[float, ...],
    zeros: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    module = f"scored_{len(bins) + 1}_{folder.name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(SCORED.replace("LABELS", str(len(bins) + 1)))
    monkeypatch.syspath_prepend(str(folder))
    layout = {"layout": "adapter", "function": f"{module}:load", "folds": 2, "bins": list(bins)}
    layout["options"] = {"zeros": list(zeros)}
    path = folder / "corpus.yaml"
    path.write_text(yaml.safe_dump({"corpus": layout}))
    return path


@pytest.mark.parametrize(
    ("bins", "columns", "note"),
    [((0.0,), ["Acc-2 -/0+", "Acc-2 -/+"], "no Acc-7: corpus.bins lacks the edges -2.5"),
     (SEVEN, ["Acc-7"], "no Acc-2 -/+: corpus.bins has no edge at 0")],
    ids=["two", "seven"],
)  # fmt: skip
def test_two_and_seven_classes_of_scores_go_the_whole_way(
    bins: tuple[float, ...], columns: list[str], note: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    corpus = _recipe(tmp_path, monkeypatch, bins=bins)
    words = ("--recipe", "robust", "--model", "linear", "--corpus", corpus)
    ran = call(main, "fit", *words, "-o", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert note in ran.err
    assert "no validation utterance has modality t" in ran.err
    heads = [cell.strip() for cell in ran.out.splitlines()[0].split("|")[1:-1]]
    assert heads == ["pattern", "WA", "UA", "F1", "ECE", *columns]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    whole = metrics["test"]["a_t"]
    nulls = {name for name, text in SENTIMENT.items() if text not in columns}
    assert (
        {name for name in SENTIMENT if whole[name] is None} == set(whole["null_because"]) == nulls
    )
    told = metrics["validation"]["t"]
    assert told["wa"] is told["acc7"] is None
    assert told["null_because"]["wa"] == "no utterance has anything of the pattern"
    again = call(main, "evaluate", tmp_path / "run" / "model.safetensors")
    assert (again.code, again.out) == (0, ran.out)
    swept = call(
        main, "sweep", "--recipe", "robust", "--model", "linear", "--corpus", corpus,
        "-o", tmp_path / "sweep",
    )  # fmt: skip
    assert swept.code == 0, swept.err
    report = (tmp_path / "sweep" / "results.md").read_text()
    assert [text for text in SENTIMENT.values() if f"## {text}: " in report] == columns
    with (tmp_path / "sweep" / "units.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = set(rows[0]) & SENTIMENT.keys()
    assert measured == SENTIMENT.keys() - nulls
    assert float(rows[2][min(measured)]) == pytest.approx(whole[min(measured)], abs=1e-6)


def test_bins_that_do_not_fit_the_labels_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = _recipe(tmp_path, monkeypatch, bins=(0.0, 1.0))
    words = ("--recipe", "robust", "--corpus", corpus, "-o", tmp_path / "run")
    assert "got 2 edges and 7 labels, wanted 3 labels" in mistake(main, "fit", *words)


def test_a_test_part_of_one_class_has_its_figures_or_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = _recipe(tmp_path, monkeypatch, bins=(0.0,), zeros=("test",))
    words = ("--recipe", "robust", "--model", "linear", "--corpus", corpus)
    ran = call(main, "fit", *words, "-o", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert "the test part has one class alone: its figures say little" in ran.err
    assert "note: no Acc-2 -/+: every score is 0" in ran.err
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["a_t"]
    none, (wrong, right) = found["confusion"]
    assert (none, wrong + right) == ([0, 0], 24)
    assert found["wa"] == found["ua"] == found["acc2_nonnegative"] == right / 24
    answered = 2 if wrong else 1  # classes that occur or are answered
    assert found["f1"] == pytest.approx(2 * right / (24 + right) / answered)
    assert found["acc2_positive"] is None
