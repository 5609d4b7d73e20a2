"""Recipes, runs, checkpoints, plots and evaluations."""

from __future__ import annotations

import ast
import csv
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_command import call, mistake, run_python
from safetensors.torch import save_file
from small_networks import small_network, small_utterance
from small_recipe import fit_small

from ifmmin.runtime.errors import CheckpointError, RecipeError
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Modality, Pattern
from ifmmin.train.checkpoint import SCHEMA_VERSION, load_checkpoint, save_checkpoint
from ifmmin.train.cli import main
from ifmmin.train.config import MODELS
from ifmmin.train.data.corpus import Utterance
from ifmmin.train.evaluate import (
    Point,
    Scores,
    embed,
    principal_components,
    project,
    read_projection,
    write_predictions,
)
from ifmmin.train.plots import confusion, losses, projection, save
from ifmmin.train.recipe import dump_recipe, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_reads_back_and_resolves_for_every_model(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "r.yaml")) == recipe
    for model in MODELS:
        if model == "cif-mmin" and recipe.network.statistics is not None:
            with pytest.raises(RecipeError, match="wants sequence encoders"):
                load_recipe(name, model=model)
            continue
        resolved = load_recipe(name, model=model)
        assert resolved.network.model == model
        assert (resolved.stage2 is None) <= (model in ("fusion", "linear"))


@pytest.mark.parametrize("module", ["recipe", "config", "data/released", "data/synthetic"])
def test_every_field_of_a_recipe_is_documented(root: Path, module: str) -> None:
    tree = ast.parse((root / "train" / f"{module}.py").read_text())
    bare = []
    for structure in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        if not {ast.unparse(base) for base in structure.bases} & {"msgspec.Struct", "Schedule"}:
            continue
        for node, after in pairwise([*structure.body, ast.Pass()]):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(node, ast.AnnAssign) and not said:
                bare.append(f"{structure.name}.{ast.unparse(node.target)}")
    assert bare in ([], ["Stage1.patterns", "Stage2.patterns"])  # documented in Schedule


def test_iemocap_holds_the_reference_hyper_parameters() -> None:
    recipe = load_recipe("iemocap")
    assert recipe.stage2 is not None
    assert (recipe.stage1.cmd, recipe.stage2.imagination, recipe.stage2.invariance) == (1, 1, 100)
    assert (recipe.stage1.beta1, recipe.stage2.beta1) == (0.9, 0.5)
    assert (recipe.stage1.clip, recipe.stage2.clip) == (0.5, 1.0)
    steps = 70
    assert recipe.stage1.rate_at(10 * steps - 1, steps) == 2e-4
    assert recipe.stage1.rate_at(20 * steps - 1, steps) == pytest.approx(2e-4 / 11)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage1.epochz=3", "unknown field `epochz`"),
        ("stage1.epochs=many", "Expected `int`, got `str`"),
        ("stage9.epochs=3", "no section 'stage9'"),
        ("stage1.dropout=1.5", "dropout must be in"),
        ("network.imagination=tree", "cascade, parallel"),
        ("nonsense", "wanted key=value"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("synthetic", [override])


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", "1.e-3"])
def test_a_number_may_be_written_as_people_do(text: str) -> None:
    assert load_recipe("synthetic", [f"stage1.learning_rate={text}"]).stage1.learning_rate == 1e-3


def test_a_run_is_complete_and_reproducible(tmp_path: Path) -> None:
    fitted, again = (fit_small(tmp_path / name) for name in ("one", "two"))
    assert (fitted.code, again.code) == (0, 0)
    assert {p.name for p in (tmp_path / "one").iterdir()} >= {
        "model.safetensors", "recipe.yaml", "metrics.json", "history.csv", "predictions.csv"
    }  # fmt: skip
    checkpoints = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("one", "two")]
    assert checkpoints[0] == checkpoints[1]
    metrics = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert set(metrics["test"]) == set(metrics["possible"])
    evaluated = call(main, "evaluate", tmp_path / "one" / "model.safetensors")
    assert evaluated.code == 0
    assert evaluated.out.split("| pattern")[-1] == fitted.out.split("| pattern")[-1]


@pytest.mark.parametrize("model", ["fusion", "if-mmin"])
def test_models_and_seeds_differ(tmp_path: Path, model: str) -> None:
    weights = []
    for seed in (1, 2):
        out = tmp_path / str(seed)
        assert fit_small(out, "--seed", seed, model=model).code == 0
        network, header = load_checkpoint(out / "model.safetensors")
        assert network.config.architecture.model == model
        assert header.training["seed"] == seed
        weights.append(network.state_dict()["classifier.linears.0.weight"])
    assert not torch.equal(weights[0], weights[1])


def test_an_existing_run_is_not_lost(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert fit_small(out).code == 0
    before = (out / "model.safetensors").read_bytes()
    again = fit_small(out, "--seed", 5)
    assert again.code == 2
    assert "--overwrite" in again.err
    assert (out / "model.safetensors").read_bytes() == before
    assert fit_small(out, "--seed", 5, "--overwrite").code == 0
    assert (out / "model.safetensors").read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("where", ["trainer._run_epoch", "trainer.write_run"])
def test_interrupted_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def interrupt(folder: object, *_: object, **__: object) -> None:
        if isinstance(folder, Path):
            (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(f"ifmmin.train.{where}", interrupt)
    ran = fit_small(tmp_path / "run")
    assert ran.code == 130
    assert "interrupted" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_bad_outputs_are_told_before_training_and_divergence_after(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = fit_small(tmp_path / "file" / "run")
    assert ran.code == 2
    assert "cannot write" in ran.err
    assert "stage 1" not in ran.err
    ran = fit_small(tmp_path / "run", "--set", "stage1.learning_rate=1.0e+30")
    assert ran.code == 2
    assert "lower the learning rate" in ran.err


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    network = small_network()
    save_checkpoint(tmp_path / "m.safetensors", network, {"fold": 3})
    again, header = load_checkpoint(tmp_path / "m.safetensors")
    assert header.training == {"fold": 3}
    assert again.config == network.config
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


@pytest.mark.parametrize(
    ("schema", "cure"),
    [(SCHEMA_VERSION - 1, "train it again with ifmmin-train fit"), (99, "update ifmmin")],
)
def test_a_checkpoint_of_another_schema(tmp_path: Path, schema: int, cure: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(2)}, path, {"ifmmin": json.dumps({"schema": schema})})
    error = mistake(main, "evaluate", path)
    assert f"has schema {schema}" in error
    assert f" {SCHEMA_VERSION}; " in error
    assert cure in error


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    foreign, text = tmp_path / "foreign.safetensors", tmp_path / "text.safetensors"
    save_file({"x": torch.zeros(2)}, foreign)
    text.write_text("hello, this is no checkpoint at all")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(checkpoint.read_bytes()[:-100])
    for path, message in (
        (foreign, "not a checkpoint of ifmmin"),
        (text, "not a checkpoint"),
        (torn, "is damaged: its content is not what its checksum says"),
        (tmp_path / "none.safetensors", "no checkpoint at"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)


LABELS = ("angry", "happy", "neutral", "sad")
HISTORY = [
    {"stage": 1, "epoch": 1, "rate": 0.1, "cross_entropy": 2.0, "cmd": 9.0, "validation": 0.3},
    {"stage": 1, "epoch": 2, "rate": 0.1, "cross_entropy": 1.5, "cmd": 4.0, "validation": 0.4,
     "active_a": 1.0},
    {"stage": 2, "epoch": 1, "rate": 0.1, "cross_entropy": 1.0, "imagination": 3.0,
     "validation": 0.5},
]  # fmt: skip


def _shown(figure: Any) -> list[tuple[str, list[float]]]:
    axes = [axis for axis in figure.axes if axis.get_visible()]
    return [(axis.get_title(), axis.lines[0].get_ydata().tolist()) for axis in axes]


def test_every_loss_has_an_axis_of_its_own_per_stage() -> None:
    higher = [row | {"cross_entropy": row["cross_entropy"] + 1.0} for row in HISTORY]
    assert _shown(losses([HISTORY, higher], "both")) == [
        ("cross-entropy", [2.5, 2.0]), ("CMD", [9.0, 4.0]), ("validation figure", [0.3, 0.4]),
        ("cross-entropy", [1.5]), ("imagination", [3.0]), ("validation figure", [0.5]),
    ]  # fmt: skip


def test_confusion_has_a_panel_per_pattern_in_percent_of_the_true_class() -> None:
    counts = np.array([[3, 1, 0, 0], [0, 8, 0, 0], [0, 0, 0, 0], [2, 2, 2, 2]])
    figure = confusion({str(p): counts for p in ALL_PATTERNS}, LABELS, "all")
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert titles[:7] == [str(p) for p in ALL_PATTERNS]
    shares = [int(text.get_text()) for text in figure.axes[0].texts]
    assert shares == [75, 25, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 25, 25, 25, 25]


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    points = [Point(f"u{i}", "avt"[i % 3], LABELS[i % 4], i * 0.1, -i * 0.2) for i in range(24)]
    for name in ("one.png", "two.png"):
        save(projection(points, LABELS, "some"), tmp_path / name)
    content = (tmp_path / "one.png").read_bytes()
    assert content == (tmp_path / "two.png").read_bytes()
    assert b"Software" not in content
    save(projection(points[1:], LABELS, "some"), tmp_path / "other.png")
    assert content != (tmp_path / "other.png").read_bytes()


def test_principal_components_are_those_of_the_covariance() -> None:
    x = np.random.default_rng(0).standard_normal((40, 5)) * [3.0, 1.0, 2.0, 0.1, 0.5] + 4.0
    found = principal_components(x)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    for column, vector in ((0, vectors[:, -1]), (1, vectors[:, -2])):
        vector = vector * np.sign(vector[np.abs(vector).argmax()])
        np.testing.assert_allclose(found[:, column], (x - x.mean(axis=0)) @ vector, atol=1e-9)
    np.testing.assert_allclose(found.var(axis=0, ddof=1), values[[-1, -2]])
    np.testing.assert_allclose(principal_components(x[:, :1])[:, 1], 0.0)


@pytest.mark.parametrize("model", ["if-mmin", "mmin"])
def test_only_present_modalities_of_networks_with_s_are_projected(model: str) -> None:
    frames = [{"a": 4, "v": 3, "t": 6}, {"a": 5}, {"v": 2, "t": 7}]
    some = [small_utterance(np.random.default_rng(i), f, i) for i, f in enumerate(frames)]
    network = small_network(model)
    points = project(network, embed(network, some), some, LABELS)
    wanted = [(m.value, LABELS[i]) for i, f in enumerate(frames) for m in MODALITIES if m in f]
    assert [(p.modality, p.label) for p in points] == (wanted if model == "if-mmin" else [])


@pytest.mark.parametrize(
    ("model", "plots", "points"),
    [
        ("if-mmin", {"confusion.png", "losses.png", "projection.png"}, 3 * 40),
        ("linear", {"confusion.png"}, 0),
    ],
)
def test_a_run_holds_its_plots(tmp_path: Path, model: str, plots: set[str], points: int) -> None:
    out = tmp_path / "run"
    assert fit_small(out, model=model).code == 0
    assert {path.name for path in (out / "plots").iterdir()} == plots
    found = read_projection(out / "projection.csv")
    assert len(found) == points
    assert np.isfinite([(p.x, p.y) for p in found]).all()


def test_nothing_is_imported_before_something_is_drawn() -> None:
    modules = "ifmmin.train, ifmmin.train.sweep.run"
    assert run_python(f"import {modules}; assert 'matplotlib' not in sys.modules").code == 0


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run."""
    out = tmp_path_factory.mktemp("fitted") / "run"
    assert fit_small(out).code == 0
    return out


def _read(path: Path) -> list[dict[str, Any]]:
    """Answers of either format, with `probabilities` by class."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    header, *rows = csv.reader(text.splitlines(keepends=True))
    assert header[:4] == ["utterance", "pattern", "true", "predicted"]
    return [
        {**dict(zip(header[:4], row, strict=False)),
         "probabilities": dict(zip(header[4:], map(float, row[4:]), strict=True))}
        for row in rows
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_figures_of_the_file_are_the_commands(fitted: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "new" / f"answers{suffix}"
    ran = call(main, "evaluate", fitted / "model.safetensors", "--save", out)
    assert ran.code == 0
    rows = re.findall(r"^\| (\w+) +\| +(0\.\d+) \| +(0\.\d+) \|", ran.out, re.M)
    shown = {pattern: (wa, ua) for pattern, wa, ua in rows}
    metrics = json.loads((fitted / "metrics.json").read_text())["test"]
    answers = _read(out)
    assert len(answers) == 40 * len(ALL_PATTERNS)
    assert answers == _read(fitted / "predictions.csv")
    for pattern in map(str, ALL_PATTERNS):
        some = [answer for answer in answers if answer["pattern"] == pattern]
        true = np.array([answer["true"] for answer in some])
        right = true == np.array([answer["predicted"] for answer in some])
        wa, ua = right.mean(), np.mean([right[true == label].mean() for label in np.unique(true)])
        assert (wa, ua) == pytest.approx((metrics[pattern]["wa"], metrics[pattern]["ua"]))
        assert (f"{wa:.3f}", f"{ua:.3f}") == shown[pattern]
        probabilities = np.array([list(answer["probabilities"].values()) for answer in some])
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
        # The calibrated ones: how sure the network is on average stands in metrics.json.
        sure = probabilities.max(axis=1).mean()
        assert sure == pytest.approx(metrics[pattern]["confidence"], abs=1e-6)
        best = [max(answer["probabilities"], key=answer["probabilities"].get) for answer in some]
        assert best == [answer["predicted"] for answer in some]


def test_the_part_that_was_asked_for_is_saved(fitted: Path, tmp_path: Path) -> None:
    names = []
    for part in ("test", "validation"):
        out = tmp_path / f"{part}.csv"
        words = [fitted / "model.safetensors", "--part", part, "--save", out]
        assert call(main, "evaluate", *words).code == 0
        names.append({answer["utterance"] for answer in _read(out)})
    assert not names[0] & names[1]


@pytest.mark.parametrize("name", ["answers", "answers.txt", "taken.csv", "file/answers.csv"])
def test_a_place_that_will_not_do_is_named_before_the_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "taken.csv").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    # There is no such checkpoint: who reads it first says so.
    text = mistake(main, "evaluate", "none.safetensors", "--save", tmp_path / name)
    assert str(tmp_path / name) in text
    assert "wanted .csv or .jsonl" in text or "cannot write" in text
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_names_come_back_and_no_row_lacks_its_pattern(tmp_path: Path, suffix: str) -> None:
    frames: dict[Modality, np.ndarray] = {Modality.A: np.ones((2, 5))}
    names = ["=1+1", "@clip", '-émile, "b"\nc']
    utterances = [Utterance(name, frames, index % 2) for index, name in enumerate(names)]
    logits = np.log(np.array([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]]))
    scores = {
        Pattern.parse("a"): Scores(np.arange(3), logits, logits),
        Pattern.parse("v"): Scores(np.array([1]), logits[1:2], logits[1:2]),
    }
    path = tmp_path / f"answers{suffix}"
    write_predictions(path, scores, utterances, ("no", "yes"))
    answers = _read(path)
    safe = ["'=1+1", "'@clip", r"""'-émile, "b"\nc"""]
    """What a spreadsheet would compute, and what would break a line, is disarmed in CSV."""
    shown = safe if suffix == ".csv" else names
    assert [(a["utterance"], a["pattern"]) for a in answers] == [
        *((name, "a") for name in shown), (shown[1], "v")
    ]  # fmt: skip
    assert [a["true"] for a in answers] == ["no", "yes", "no", "yes"]
    assert [a["predicted"] for a in answers[:1] + answers[2:3]] == ["yes", "no"]
    assert answers[0]["probabilities"] == pytest.approx({"no": 0.25, "yes": 0.75})
