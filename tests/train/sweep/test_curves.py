"""Curves over missing rates: answers, figures, intervals and areas against independent ones."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from run_command import call, mistake
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from small_networks import small_network, small_utterance
from small_recipe import TINY, fit_small, small, small_options

from ifmmin.runtime.modality import MODALITIES
from ifmmin.train.cli import main
from ifmmin.train.data.corpus import Utterance, collate
from ifmmin.train.missing import SlotDraws, frames_left, slots_left
from ifmmin.train.model.network import EmotionNetwork
from ifmmin.train.sweep.curves import (
    FIGURES,
    MEAN,
    POOLED,
    Asked,
    Masked,
    answer_masked,
    measure_curves,
)
from ifmmin.train.sweep.executors import EXECUTORS, run_job
from ifmmin.train.trainer import train

ASKED = Asked(rates=(0.0, 0.3, 0.6, 0.9), frames=(0.2, 0.7), seed=3)


@pytest.fixture(scope="module", params=["a,v,t", "a,t"])
def trained(request: pytest.FixtureRequest) -> tuple[EmotionNetwork, list[Utterance]]:
    """A network and a test part of which some utterances lack a modality by nature."""
    recipe, corpus = small(f"modalities=[{request.param}]", "stage1.epochs=4")
    corpus = corpus.of([m for m in MODALITIES if m in request.param.split(",")])
    test = [
        replace(u, features={m: x for m, x in u.features.items() if m != "t"}) if i % 9 == 4 else u
        for i, u in enumerate(corpus.parts["test"])
    ]
    network = train(recipe, corpus, seed=0).network
    return network, test


def _alone(network: EmotionNetwork, one: Utterance) -> int:
    with torch.no_grad():
        return int(network.answer(collate([one], network.config)).argmax())


def test_answers_are_those_of_utterances_that_lack_the_slots(
    trained: tuple[EmotionNetwork, list[Utterance]],
) -> None:
    network, test = trained
    found = answer_masked(network, test, ASKED)["rate"]
    present = np.array([[m in u.features for m in network.modalities] for u in test])
    slots = SlotDraws.of_names([u.name for u in test], network.modalities, seed=3)
    for index, rate in enumerate(ASKED.rates):
        left = slots_left(present, rate, slots)
        alone = [
            replace(
                u,
                features={
                    m: u.features[m] for m, k in zip(network.modalities, row, strict=True) if k
                },
            )
            for u, row in zip(test, left, strict=True)
        ]
        assert found.answered[:, index].tolist() == [_alone(network, u) for u in alone]
        patterns = ["_".join(m for m in MODALITIES if m in u.features) for u in alone]
        assert [found.patterns[i] for i in found.left[:, index]] == patterns
        assert found.gone[index] == (~left).sum()
    limit = 1 - 1 / len(network.modalities)
    assert found.gone[-1] / found.slots == pytest.approx(limit)
    assert found.gone[0] == 4  # what is lacking by nature


def test_answers_are_those_of_utterances_with_zeros_for_frames(
    trained: tuple[EmotionNetwork, list[Utterance]],
) -> None:
    network, test = trained
    found = answer_masked(network, test, ASKED)
    assert list(found) == ["rate", "frames-random", "frames-run"]
    for manner in ("random", "run"):
        masked = found[f"frames-{manner}"]
        for index, rate in enumerate(ASKED.frames):
            gone, expected = 0, []
            for one in test:
                features = {}
                for modality, raw in one.features.items():
                    left = frames_left(
                        len(raw), rate, manner, name=one.name, modality=modality, seed=3
                    )
                    features[modality] = raw * left[:, None]
                    gone += int((~left).sum())
                expected.append(_alone(network, replace(one, features=features)))
            assert masked.answered[:, index].tolist() == expected
            assert masked.gone[index] == gone
        assert masked.slots == sum(len(x) for u in test for x in u.features.values())
    assert (found["frames-random"].answered != found["frames-run"].answered).any()


def test_every_model_and_seed_is_under_the_same_masks() -> None:
    test = small()[1].parts["test"]
    one, other = (
        answer_masked(train(*small(model=model), seed=seed).network, test, ASKED)
        for model, seed in (("linear", 0), ("augmented", 1))
    )
    for protocol in one:
        np.testing.assert_array_equal(one[protocol].left, other[protocol].left)
        np.testing.assert_array_equal(one[protocol].gone, other[protocol].gone)


def _made(seed: int, *, right: float, count: int = 60, masks: int = 0) -> dict[str, Masked]:
    """Answers of which a share is right, and the rest drawn."""
    draws, drawn = np.random.default_rng(seed), np.random.default_rng(masks)
    true = np.arange(count) % 3
    answered = np.where(
        draws.random((count, 3)) < right, true[:, None], draws.integers(3, size=(count, 3))
    )
    left = drawn.integers(2, size=(count, 3))
    names = tuple(f"u{i}" for i in range(count))
    gone = np.array([0, 10, 30])
    return {"rate": Masked(names, true, answered, left, gone, 120, 3, ("a", "t", "a_t"))}


SHORT = Asked(rates=(0.0, 0.1, 0.3))


def test_figures_and_areas_are_those_of_scikit_learn() -> None:
    units = {(fold, 0): _made(fold, right=0.4, count=40 + fold) for fold in (1, 2)}
    curves = measure_curves({"one": units}, SHORT, resamples=10)
    (curve,) = curves.curves
    heights = defaultdict(list)
    for index, point in enumerate(curve.points):
        true = np.concatenate([u["rate"].true for u in units.values()])
        answered = np.concatenate([u["rate"].answered[:, index] for u in units.values()])
        left = np.concatenate([u["rate"].left[:, index] for u in units.values()])
        by_pattern = []
        for row, some in ((POOLED, left >= 0), ("a", left == 0), ("t", left == 1)):
            expected = {
                "ua": balanced_accuracy_score(true[some], answered[some]),
                "wa": accuracy_score(true[some], answered[some]),
                "f1": f1_score(true[some], answered[some], average="macro"),
            }
            values = {name: point.figures[row][name].value for name in FIGURES}
            assert values == pytest.approx(expected)
            assert point.utterances[row] == some.sum()
            by_pattern.append(values)
        for name in FIGURES:
            mean = (by_pattern[1][name] + by_pattern[2][name]) / 2
            assert point.figures[MEAN][name].value == pytest.approx(mean)
            assert np.isnan(point.figures["a_t"][name].value)
            heights[name].append(by_pattern[0][name])
    realised = [0, 20 / 240, 60 / 240]
    assert [point.realised for point in curve.points] == pytest.approx(realised)
    for name in FIGURES:
        area = np.trapezoid(heights[name], realised) / 0.25
        assert curve.areas[name].value == pytest.approx(area)


def test_accuracies_are_means_over_seeds() -> None:
    units = {(1, seed): _made(seed, right=0.5) for seed in range(3)}
    point = measure_curves({"one": units}, SHORT, resamples=10).curves[0].points[1]
    every = [accuracy_score(u["rate"].true, u["rate"].answered[:, 1]) for u in units.values()]
    assert point.figures[POOLED]["wa"].value == pytest.approx(np.mean(every))


def test_intervals_are_as_wide_as_theirs_of_a_share() -> None:
    units = {(1, 0): _made(0, right=0.4, count=400)}
    found = measure_curves({"one": units}, SHORT).curves[0].points[0].figures[POOLED]["wa"]
    half = 1.96 * np.sqrt(found.value * (1 - found.value) / 400)
    assert found.high - found.value == pytest.approx(half, rel=0.12)
    assert found.value - found.low == pytest.approx(half, rel=0.12)


def test_better_answers_stand_out_and_the_same_ones_do_not() -> None:
    good, bad = ({(1, 0): _made(1, right=share)} for share in (0.9, 0.1))
    curves = measure_curves({"good": good, "bad": bad, "again": good}, SHORT, resamples=300)
    found = {(d.first, d.second): d.figures["ua"] for d in curves.differences}
    assert found["good", "bad"].low > 0
    assert found["bad", "again"].high < 0
    same = found["good", "again"]
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_other_masks_or_units_are_not_compared() -> None:
    """The control: figures of other masks would look like a difference of models."""
    one = {(1, 0): _made(0, right=0.5)}
    for other in ({(1, 0): _made(0, right=0.5, masks=1)}, {(1, 1): _made(0, right=0.5)}):
        assert measure_curves({"one": one, "two": other}, SHORT, resamples=10).differences == []


def test_a_blind_network_is_at_chance_at_every_rate() -> None:
    """The control: masks must not tell the class."""
    network = small_network("fusion")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    draws = np.random.default_rng(0)
    utterances = [
        replace(small_utterance(draws, {"a": 3, "v": 4, "t": 6}, i % 4), name=f"u{i}")
        for i in range(40)
    ]
    answers = {(1, 0): answer_masked(network, utterances, ASKED)}
    for curve in measure_curves({"blind": answers}, ASKED, resamples=50).curves:
        assert curve.areas["ua"].value == pytest.approx(0.25)
        assert curve.areas["ua"].low == pytest.approx(0.25)


def test_one_rate_one_class_and_one_modality_have_no_curve_but_figures() -> None:
    recipe, corpus = small("modalities=[a]", model="linear")
    corpus = corpus.of([MODALITIES[0]])
    network = train(recipe, corpus, seed=0).network
    test = [u for u in corpus.parts["test"] if u.label == 1]
    asked = Asked(rates=(0.5, 0.7))
    (curve,) = measure_curves({"x": {(1, 0): answer_masked(network, test, asked)}}, asked).curves
    assert [point.name for point in curve.points] == ["0.5 (runs at 0.000)", "0.7 (runs at 0.000)"]
    assert np.isnan(curve.areas["ua"].value)
    found = curve.points[0].figures[POOLED]
    assert found["ua"].value == found["wa"].value


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "made"
    assert fit_small(out, model="augmented").code == 0
    return out / "model.safetensors"


def test_evaluate_prints_and_writes_curves(run: Path, tmp_path: Path) -> None:
    words = ["--missing-rate", "0:0.8:0.4", "--missing-frames", "0.3", "--curves"]
    ran, again = (call(main, "evaluate", run, *words, tmp_path / x) for x in ("one", "two"))
    assert ran.code == 0, ran.err
    assert "modality slots missing" in ran.out
    assert "| 0.8 (runs at 0.667) |" in ran.out
    assert "frames missing at random" in ran.out
    assert "frames missing in one run" in ran.out
    files = {str(p.relative_to(tmp_path / "one")) for p in (tmp_path / "one").rglob("*.*")}
    plots = {f"plots/missing-{name}.png" for name in ("rate", "frames-random", "frames-run")}
    assert files == {"missing.md", "missing.csv", "areas.csv", *plots}
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert again.out == ran.out
    with (tmp_path / "one" / "missing.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["left"] == POOLED and r["figure"] == "wa"]
    assert [(r["protocol"], r["asked"]) for r in rows] == [
        ("rate", "0.0"), ("rate", "0.4"), ("rate", "0.8"),
        ("frames-random", "0.3"), ("frames-run", "0.3"),
    ]  # fmt: skip
    assert all(float(r["low"]) <= float(r["value"]) <= float(r["high"]) for r in rows)
    page = (tmp_path / "one" / "missing.md").read_text()
    assert "### UA, pooled" in page
    assert "**mean of patterns**" in page
    other = call(main, "evaluate", run, "--missing-rate", "0:0.8:0.4", "--missing-seed", "1")
    assert other.out.splitlines()[12:] != ran.out.splitlines()[12 : len(other.out.splitlines())]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--missing-rate", "2"], "--missing-rate: got '2', wanted 1 to 101 rates"),
        (["--missing-frames", "x"], "--missing-frames: got 'x', wanted"),
        (["--curves", "there"], "--curves wants --missing-rate or --missing-frames"),
        (["--missing-rate", "0.1", "--curves", "{run}"], "missing.md: File exists; choose a place"),
    ],
)
def test_mistakes_are_one_line(run: Path, words: list[str], message: str) -> None:
    assert message in mistake(main, "evaluate", run, *(w.format(run=run) for w in words))


def test_a_sweep_of_two_modalities_has_curves_of_its_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXECUTORS, "local", lambda jobs, **_: (run_job(job) for job in jobs))
    out = tmp_path / "sweep"
    words = ["--model", "augmented,linear", "--seeds", "0-1", "--jobs", "1", "--out", out]
    wide = [*TINY, "--set", "modalities=[a,t]", *words]
    assert call(main, "sweep", *wide).code == 0
    assert not (out / "missing.md").exists()
    units = {path: path.stat().st_mtime_ns for path in out.glob("units/*/*/seed-?")}
    ran = call(main, "sweep", *wide, "--missing-rate", "0,0.25,0.6")
    assert ran.code == 0, ran.err
    assert {path: path.stat().st_mtime_ns for path in out.glob("units/*/*/seed-?")} == units
    assert "0.6 (runs at 0.500)" in ran.out
    with (out / "areas.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["figure"] == "ua"]
    pairs = [("augmented", ""), ("linear", ""), ("augmented", "linear")]
    assert [(r["first"], r["second"]) for r in rows] == pairs
    values = [float(r["value"]) for r in rows]
    assert values[2] == pytest.approx(values[0] - values[1], abs=2e-6)
    assert (out / "plots" / "missing-rate.png").stat().st_size > 1000
    # At rate 0 a curve is at what the units say of the whole pattern, mean over seeds.
    with (out / "results.csv").open() as file:
        known = {
            (r["entry"], r["figure"]): float(r["mean"])
            for r in csv.DictReader(file)
            if r["pattern"] == "a_t"
        }
    with (out / "missing.csv").open() as file:
        found = [r for r in csv.DictReader(file) if r["asked"] == "0.0" and r["left"] == POOLED]
    for row in found:
        if row["figure"] in ("ua", "wa"):
            mean = known[row["entry"], row["figure"]]
            assert float(row["value"]) == pytest.approx(mean, abs=1e-6)


def test_curves_of_varied_entries_are_compared_within_their_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXECUTORS, "local", lambda jobs, **_: (run_job(job) for job in jobs))
    ran = call(
        main, "sweep", "--recipe", "synthetic", *small_options("linear"), "--model",
        "linear,again=linear", "--vary", "corpus.private=3", "--missing-rate", "0,0.3", "--jobs",
        "1", "--out", tmp_path / "sweep",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    with (tmp_path / "sweep" / "areas.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["figure"] == "ua"]
    end = " at corpus.private=3"
    entries = ["linear", "again", "linear" + end, "again" + end]
    assert [r["first"] for r in rows if not r["second"]] == entries
    # Utterances of another corpus have the same names and masks, but are others.
    pairs = [(r["first"], r["second"]) for r in rows if r["second"]]
    assert pairs == [("linear", "again"), ("linear" + end, "again" + end)]
