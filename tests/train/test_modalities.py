"""Corpora and networks without one of the modalities, or of which only some are trained."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
import yaml
from run_command import call, mistake
from small_recipe import TINY, fit_small, small

from ifmmin.runtime.errors import CorpusError, RecipeError
from ifmmin.runtime.modality import Modality, Pattern, incomplete_patterns, patterns_of
from ifmmin.train.cli import main
from ifmmin.train.config import FeatureConfig
from ifmmin.train.data import AdapterLayout, load_corpus
from ifmmin.train.data.corpus import PARTS, Corpus, Utterance, training_statistics
from ifmmin.train.data.released import FeatureFile, ReleasedLayout
from ifmmin.train.recipe import load_recipe
from ifmmin.train.trainer import configure, train

A, V, T = Modality
CHOICES = [("a,t", "mean of two"), ("v,t", "mean of two"), ("a", None)]


def _names(letters: str) -> list[str]:
    return [str(pattern) for pattern in patterns_of([Modality(x) for x in letters.split(",")])]


def test_patterns_of_some_modalities_are_those_of_all_that_have_no_other() -> None:
    assert _names("t,a") == ["a", "t", "a_t"]
    assert _names("a,v,t") == ["a", "v", "t", "a_v", "a_t", "v_t", "a_v_t"]
    assert list(map(str, incomplete_patterns([V, T]))) == ["v", "t"]
    assert list(map(str, incomplete_patterns([V]))) == ["v"]


@pytest.mark.parametrize(("letters", "mean"), CHOICES)
def test_a_run_of_some_modalities_knows_no_other(
    letters: str, mean: str | None, tmp_path: Path
) -> None:
    ran = fit_small(tmp_path / "run", "--set", f"modalities=[{letters}]")
    assert ran.code == 0, ran.err
    rows = [line.split("|")[1].strip() for line in ran.out.splitlines()[2:]]
    averages = [mean, mean.replace("mean of", "pooled")] if mean else []
    assert rows == [*_names(letters), *averages]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for part in ("test", "validation", "possible"):
        assert list(metrics[part]) == _names(letters)
    assert set(metrics["health"]) == set(letters.split(","))
    with (tmp_path / "run" / "predictions.csv").open() as file:
        assert {row["pattern"] for row in csv.DictReader(file)} == set(_names(letters))
    plots = {path.name for path in (tmp_path / "run" / "plots").iterdir()}
    assert plots == {"losses.png", "confusion.png", "projection.png"}
    again = call(main, "evaluate", tmp_path / "run" / "model.safetensors")
    assert (again.code, again.out) == (0, ran.out)


@pytest.mark.parametrize("model", ["mmin", "augmented", "fusion", "linear"])
def test_the_other_models_do_without_one_too(model: str) -> None:
    recipe, corpus = small("modalities=[v, t]", model=model)
    trained = train(recipe, corpus.of([V, T]), seed=0)
    assert trained.network.modalities == (V, T)
    assert trained.network.temperatures.shape == (3,)


def test_a_sweep_of_two_has_their_columns(tmp_path: Path) -> None:
    two = ("--set", "modalities=[a, t]", "--model", "if-mmin,linear", "--seeds", "0-1")
    ran = call(main, "sweep", *TINY, *two, "--out", tmp_path / "sweep")
    assert ran.code == 0, ran.err
    columns = [cell.strip() for cell in ran.out.splitlines()[0].split("|")[2:-1]]
    assert columns == ["a", "t", "a_t", "mean of two"]
    report = (tmp_path / "sweep" / "results.md").read_text()
    assert "mean of two: spread" in report
    assert "mean of six" not in report
    assert "a_v" not in report
    with (tmp_path / "sweep" / "differences.csv").open() as file:
        patterns = [row["pattern"] for row in csv.DictReader(file)]
    assert patterns == ["a", "t", "a_t", "mean of two"]


def test_a_sweep_puts_no_corpora_of_different_modalities_side_by_side(tmp_path: Path) -> None:
    for name, letters in (("one", "[a, t]"), ("two", "[v, t]")):
        text = yaml.safe_dump({**_content(), "modalities": letters.strip("[]").split(", ")})
        (tmp_path / f"{name}.yaml").write_text(text)
    entries = [f"{name}={tmp_path / name}.yaml:fusion" for name in ("one", "two")]
    said = mistake(main, "sweep", "--model", ",".join(entries), "--out", tmp_path / "sweep")
    assert "modalities a, t" in said
    assert "modalities v, t" in said


def _content() -> dict[str, object]:
    content: dict[str, object] = msgspec.to_builtins(load_recipe("synthetic"))
    return content


def _write(folder: Path) -> tuple[ReleasedLayout, dict[str, Any]]:
    """Two utterances a part with everything, and one to train on of which there is v alone."""
    layout = ReleasedLayout(
        name="made", labels=("no", "yes"), folds=1,
        files={m: FeatureFile(file=f"{m}.h5") for m in Modality},
    )  # fmt: skip
    roots: dict[str, Any] = {"features": folder, "targets": folder / "targets"}
    (folder / "targets" / "1").mkdir(parents=True)
    names = {prefix: [f"{prefix}0", f"{prefix}1"] for prefix in ("trn", "val", "tst")}
    names["trn"].append("v alone")
    for m in Modality:
        with h5py.File(folder / f"{m}.h5", "w") as file:
            for name in (name for own in names.values() for name in own):
                if m is V or name != "v alone":
                    file[name] = np.ones((3, 4), np.float32)
    for prefix, own in names.items():
        np.save(folder / "targets" / "1" / f"{prefix}_int2name.npy", np.array(own))
        np.save(folder / "targets" / "1" / f"{prefix}_label.npy", np.array([0, 1, 0][: len(own)]))
    return layout, roots


def test_the_file_of_a_modality_that_is_left_out_is_not_read(tmp_path: Path) -> None:
    layout, roots = _write(tmp_path)
    (tmp_path / "v.h5").unlink()
    with pytest.raises(CorpusError, match="cannot be read"):
        load_corpus(layout, fold=1, **roots)
    corpus = load_corpus(layout, fold=1, **roots, modalities=[A, T])
    assert corpus.modalities == (A, T)
    # The utterance that had v alone is left out; the layout without v would be an error of it.
    assert [len(corpus.parts[part]) for part in PARTS] == [2, 2, 2]
    without = msgspec.structs.replace(layout, files={m: layout.files[m] for m in (T, A)})
    with pytest.raises(CorpusError, match="in none of the feature files"):
        load_corpus(without, fold=1, **roots)


def _corpus() -> Corpus:
    return small()[1]


def test_a_corpus_of_some_modalities_has_nothing_of_the_others() -> None:
    whole = _corpus()
    only_v = Utterance("only v", {V: whole.parts["test"][0].features[V]}, 0)
    whole.parts["test"].append(only_v)
    some = whole.of([T, A])
    assert some.modalities == (A, T)
    assert set(some.statistics) == {A, T}
    assert list(map(str, some.possible)) == ["a", "t", "a_t"]
    assert [u.name for u in some.parts["test"]] == [u.name for u in whole.parts["test"][:-1]]
    assert all(set(u.features) == {A, T} for part in PARTS for u in some.parts[part])
    with pytest.raises(CorpusError, match="no features of v, only of a, t; leave v out"):
        some.of([V, T])
    assert some.of([A, T]) is some


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modalities=[]", "one or more of a, v and t"),
        ("modalities=[a, a]", "names one twice"),
        ("modalities=[a, x]", "x"),
        ("modalities=a_t", "array"),
    ],
)
def test_what_are_no_modalities_is_told(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("synthetic", [override])


def test_a_checkpoint_is_not_measured_on_a_corpus_that_lacks_one_of_its_own(tmp_path: Path) -> None:
    assert fit_small(tmp_path / "run", "--set", "modalities=[a, t]").code == 0
    recipe = load_recipe("synthetic", ["modalities=[v]"])
    content = msgspec.to_builtins(recipe)
    content["corpus"]["modalities"].pop("a")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    words = ("evaluate", tmp_path / "run" / "model.safetensors", "--recipe", tmp_path / "r.yaml")
    assert "has no features of a" in mistake(main, *words)


@pytest.mark.parametrize("weighed", [True, False])
def test_what_weighs_frames_is_the_corpus_s_to_say(weighed: bool) -> None:
    recipe, corpus = load_recipe("robust"), _corpus()
    column = 1 if weighed else None
    features = corpus.features | {
        A: msgspec.structs.replace(corpus.features[A], weight_column=column)
    }
    statistics = configure(recipe, replace(corpus, features=features)).architecture.statistics
    assert statistics is not None
    names = set(statistics[A].functionals)
    assert names >= {"mean", "std", "max", "min", "crest"}
    assert names.issuperset({"weighted_mean", "weighted_std"}) == weighed
    with pytest.raises(RecipeError, match="weight_column must be in 0 to 4"):
        FeatureConfig(dim=5, weight_column=5)


@pytest.mark.parametrize(("shift", "powers"), [(0.0, (1.0,)), (1000.0, (0.125, 1.0))])
def test_powers_for_intensities_are_left_out_where_values_are_below_zero(
    shift: float, powers: tuple[float, ...]
) -> None:
    recipe, corpus = load_recipe("robust"), load_corpus(load_recipe("synthetic").corpus, fold=1)
    moved = [
        replace(u, features=u.features | ({V: u.features[V] + shift} if V in u.features else {}))
        for u in corpus.parts["train"]
    ]
    corpus = replace(corpus, parts={**corpus.parts, "train": moved})
    assert configure(recipe, corpus).architecture.transforms[V].powers == powers
    overridden = load_recipe("robust", ["network.transforms.v.intensities=false"])
    assert configure(overridden, corpus).architecture.transforms[V].powers == (0.125, 1.0)


def test_an_adapter_s_corpus_is_standardised_unless_it_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raw_adapter.py").write_text(
        "import numpy as np\n"
        "from ifmmin.train import Corpus, FeatureConfig, Utterance\n"
        "def load(*, fold, features, targets):\n"
        "    def part(n):\n"
        "        rng = np.random.default_rng(n)\n"
        "        return [Utterance(f'{n}-{i}', {m: rng.normal(50, 9, size=(6, 3)) for m in 'at'},\n"
        "                i % 2) for i in range(n)]\n"
        "    inputs = {'a': FeatureConfig(dim=3), 't': FeatureConfig(dim=3, normalised=True)}\n"
        "    parts = {'train': part(30), 'validation': part(8), 'test': part(9)}\n"
        "    return Corpus('mine', ('no', 'yes'), inputs, parts)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    corpus = load_corpus(AdapterLayout(function="raw_adapter:load"), fold=1)
    assert set(corpus.statistics) == {A}
    wanted = training_statistics(corpus.parts["train"], A)
    np.testing.assert_array_equal(corpus.statistics[A].mean, wanted.mean)
    network = train(load_recipe("synthetic", model="fusion"), corpus, seed=0).network
    np.testing.assert_allclose(network.normaliser(A).mean.numpy(), wanted.mean, rtol=1e-6)
    assert (network.normaliser(T).mean == 0).all()
    assert network.config.patterns == patterns_of([A, T])
    assert network.config.patterns[-1] == Pattern.parse("a_t")
