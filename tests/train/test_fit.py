"""Recipes, runs and checkpoints."""

from __future__ import annotations

import ast
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ifmmin.runtime.errors import CheckpointError, RecipeError
from ifmmin.train.checkpoint import SCHEMA_VERSION, load_checkpoint, save_checkpoint
from ifmmin.train.cli import main
from ifmmin.train.config import MODELS
from ifmmin.train.recipe import dump_recipe, load_recipe, recipe_names

TINY = [
    "--set", "corpus.modalities={a: {dim: 5, frames: [2, 6], missing_length: 9}, "
    "v: {dim: 6, frames: [2, 6], missing_length: 9}, t: {dim: 7, frames: [3, 9], "
    "missing_length: 5}}",
    "--set", "corpus.train=48", "--set", "corpus.validation=16", "--set", "corpus.test=16",
    "--set", "network={embedding: 8, text_channels: 4, blocks: 2, block_sizes: [8, 4]}",
    "--set", "stage1.batch_size=16", "--set", "stage1.epochs=1", "--set", "stage1.decay_epochs=1",
    "--set", "stage2.batch_size=16", "--set", "stage2.epochs=1", "--set", "stage2.decay_epochs=1",
]  # fmt: skip


def _fit(out: Path, *more: str) -> int:
    return main(["fit", "--recipe", "synthetic", *TINY, "--out", str(out), *more])


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_parses_and_its_dump_reads_back(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "r.yaml")) == recipe


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("model", MODELS)
def test_every_recipe_resolves_for_every_model(name: str, model: str) -> None:
    recipe = load_recipe(name, model=model)
    assert recipe.network.model == model
    assert (recipe.stage2 is None) <= (model in ("fusion", "linear"))


@pytest.mark.parametrize(
    "module", ["recipe", "schedule", "config", "corpora/released", "corpora/synthetic",
               "corpora/adapter"],
)  # fmt: skip
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


def test_a_run_is_complete_and_reproducible(tmp_path: Path, capsys: Any) -> None:
    assert _fit(tmp_path / "one") == 0
    assert _fit(tmp_path / "two") == 0
    names = {p.name for p in (tmp_path / "one").iterdir()}
    assert names >= {
        "model.safetensors", "recipe.yaml", "metrics.json", "history.csv", "predictions.csv"
    }  # fmt: skip
    checkpoints = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("one", "two")]
    assert checkpoints[0] == checkpoints[1]
    metrics = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert set(metrics["test"]) == set(metrics["possible"])
    fitted = capsys.readouterr().out.split("| pattern")[-1]
    assert main(["evaluate", str(tmp_path / "one" / "model.safetensors")]) == 0
    assert capsys.readouterr().out.split("| pattern")[-1] == fitted


@pytest.mark.parametrize("model", ["fusion", "if-mmin"])
def test_models_and_seeds_differ(tmp_path: Path, model: str) -> None:
    weights = []
    for seed in (1, 2):
        out = tmp_path / str(seed)
        assert _fit(out, "--model", model, "--seed", str(seed)) == 0
        network, header = load_checkpoint(out / "model.safetensors")
        assert network.config.architecture.model == model
        assert header.training["seed"] == seed
        weights.append(network.state_dict()["classifier.linears.0.weight"])
    assert not torch.equal(weights[0], weights[1])


def test_an_existing_run_is_not_lost(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    assert _fit(out) == 0
    before = (out / "model.safetensors").read_bytes()
    assert _fit(out, "--seed", "5") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == before
    assert _fit(out, "--seed", "5", "--overwrite") == 0
    assert (out / "model.safetensors").read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("where", ["optimise._run_epoch", "run.write_run"])
def test_interrupted_training_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, where: str
) -> None:
    def interrupt(folder: object, *_: object, **__: object) -> None:
        if isinstance(folder, Path):
            (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(f"ifmmin.train.{where}", interrupt)
    assert _fit(tmp_path / "run") == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_told_before_training(
    tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").touch()
    assert _fit(tmp_path / "file" / "run") == 2
    error = capsys.readouterr().err
    assert "cannot write" in error
    assert "stage 1" not in error


def test_divergence_is_told(tmp_path: Path, capsys: Any) -> None:
    assert _fit(tmp_path / "run", "--set", "stage1.learning_rate=1.0e+30") == 2
    assert "lower the learning rate" in capsys.readouterr().err


def test_checkpoint_round_trip(make_network: Any, tmp_path: Path) -> None:
    network = make_network()
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
def test_a_checkpoint_of_another_schema_is_told_in_one_line(
    tmp_path: Path, capsys: Any, schema: int, cure: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(2)}, path, {"ifmmin": json.dumps({"schema": schema})})
    assert main(["evaluate", str(path)]) == 2
    error = capsys.readouterr().err
    assert f"has schema {schema}" in error
    assert f" {SCHEMA_VERSION}; " in error
    assert cure in error
    assert error.count("\n") == 1


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    foreign, text = tmp_path / "foreign.safetensors", tmp_path / "text.safetensors"
    save_file({"x": torch.zeros(2)}, foreign)
    text.write_text("hello, this is no checkpoint at all")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(checkpoint.read_bytes()[:-100])
    for path, message in (
        (foreign, "not a checkpoint of ifmmin"),
        (text, "not a checkpoint"),
        (torn, "does not hold the network"),
        (tmp_path / "none.safetensors", "no checkpoint at"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)
