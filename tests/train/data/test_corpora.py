"""The synthetic corpus against its own generator, the released layout against files made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
import yaml
from run_command import Ran, call
from scipy.stats import multivariate_normal

from ifmmin.runtime.errors import CorpusError, RecipeError
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Pattern
from ifmmin.train.cli import main
from ifmmin.train.data import AdapterLayout, load_corpus
from ifmmin.train.data.corpus import Utterance
from ifmmin.train.data.released import FeatureFile, ReleasedLayout
from ifmmin.train.data.synthetic import (
    SyntheticLayout,
    SyntheticModality,
    bayes_posterior,
    build_sources,
    draw_synthetic,
    envelope,
)
from ifmmin.train.evaluate import evaluate
from ifmmin.train.recipe import load_recipe
from ifmmin.train.trainer import train

TINY = SyntheticLayout(
    modalities=dict.fromkeys(
        MODALITIES, SyntheticModality(dim=4, frames=(1, 4), gain=1.0, missing_length=9)
    ),
    train=40, validation=8, test=200,
)  # fmt: skip


def _whole_sequence_posterior(
    utterance: Utterance, pattern: Pattern, layout: SyntheticLayout
) -> np.ndarray:
    """From the multivariate normal of every raw value at once, no sufficient statistic."""
    sources = build_sources(layout)
    maps, observed, means, noise = [], [], [], []
    for index, m in enumerate(pattern):
        source, x = sources[m], utterance.features[m].astype(float)
        # Independent latents: two of all modalities, then two and one of each modality's own.
        latents = np.zeros((3, 2 + 3 * len(pattern)))
        latents[:2, :2] = np.sqrt(layout.coupling) * np.eye(2)
        own = slice(2 + 3 * index, 5 + 3 * index)
        latents[:, own] = np.diag([*[np.sqrt(1 - layout.coupling)] * 2, 1.0])
        for frame, weight in zip(x, envelope(len(x)), strict=True):
            seen = np.diag(source.scale) @ (source.gain * weight * source.A)
            maps.append(seen @ latents)
            means.append(seen @ source.means.T)
            noise.append(source.scale**2)
            observed.append(frame - source.offset)
    matrix = np.vstack(maps)
    covariance = matrix @ matrix.T + np.diag(np.concatenate(noise))
    densities = [
        multivariate_normal(mean, covariance).logpdf(np.concatenate(observed))
        for mean in np.vstack(means).T
    ]
    posterior = np.exp(np.array(densities) - max(densities))
    return np.asarray(posterior / posterior.sum())


@pytest.mark.parametrize("coupling", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_bayes_rule_equals_the_density_of_the_whole_sequence(
    pattern: Pattern, coupling: float
) -> None:
    layout = msgspec.structs.replace(TINY, coupling=coupling)
    utterances = draw_synthetic(layout, fold=1).parts["test"][:12]
    found = bayes_posterior(build_sources(layout), utterances, pattern)
    truth = [_whole_sequence_posterior(u, pattern, layout) for u in utterances]
    np.testing.assert_allclose(found, truth, atol=1e-9)


@pytest.mark.parametrize("coupling", [1.0, 0.5, 0.0])
def test_modalities_agree_within_a_class_as_much_as_they_are_coupled(coupling: float) -> None:
    loud = SyntheticModality(dim=4, frames=(4, 4), gain=30.0)
    layout = SyntheticLayout(modalities=dict.fromkeys(MODALITIES, loud), coupling=coupling)
    sources, some = build_sources(layout), draw_synthetic(layout, fold=1).parts["train"]
    a, v = (
        np.array(
            [sources[m].statistic(u.features[m].astype(float))[0] - sources[m].means[u.label]
             for u in some]
        )
        for m in MODALITIES[:2]
    )  # fmt: skip
    for latent, expected in ((0, coupling), (1, coupling), (2, 0.0)):
        assert np.corrcoef(a[:, latent], v[:, latent])[0, 1] == pytest.approx(expected, abs=0.1)


def test_label_noise_spares_the_test_part_and_all_features() -> None:
    clean, noisy = (
        draw_synthetic(msgspec.structs.replace(TINY, label_noise=share, train=2000), fold=1)
        for share in (0.0, 0.3)
    )
    for part, expected in (("train", 0.3), ("test", 0.0)):
        pairs = list(zip(clean.parts[part], noisy.parts[part], strict=True))
        wrong = np.mean([before.label != after.label for before, after in pairs])
        assert wrong == pytest.approx(expected, abs=0.05)
        assert all(
            np.array_equal(before.features[m], after.features[m])
            for before, after in pairs
            for m in MODALITIES
        )
    assert clean.possible == noisy.possible
    for wrong_value in ("coupling=1.5", "coupling=-1", "label_noise=1"):
        with pytest.raises(RecipeError, match=wrong_value.split("=")[0]):
            load_recipe("synthetic", [f"corpus.{wrong_value}"])
    # Without any signal there is no statistic to go by; so small a gain squares to zero.
    for gain in ("0", "-0.0", "1e-200"):
        with pytest.raises(RecipeError, match=r"gain must be 1e-06 or more, or negative, got "):
            load_recipe("synthetic", [f"corpus.modalities.a.gain={float(gain)}"])


def test_more_modalities_make_more_possible_and_folds_are_different_draws() -> None:
    possible = draw_synthetic(TINY, fold=1).possible
    singles = [possible[p] for p in ALL_PATTERNS[:3]]
    assert min(singles) > 0.3
    assert possible[ALL_PATTERNS[-1]] > max(singles)
    first, again, second = (draw_synthetic(TINY, fold=f).parts["train"][0] for f in (1, 1, 2))
    assert all(np.array_equal(first.features[m], again.features[m]) for m in MODALITIES)
    assert any(not np.array_equal(first.features[m], second.features[m]) for m in MODALITIES)


def _poison(x: np.ndarray) -> np.ndarray:
    x[1, 2] = np.nan
    return x


BREAKS: dict[str, tuple[str, Callable[[np.ndarray], Any]]] = {
    "nan": ("V/utt1", _poison), "width": ("L/utt2", lambda x: x[:, :-1]),
    "type": ("A/utt3", lambda x: x.astype(np.int32)), "empty": ("V/utt0", lambda x: x[:0]),
    "lacking": ("V/utt0", lambda x: None),
}  # fmt: skip


def _write_released(root: Path, break_it: str = "") -> ReleasedLayout:
    rng = np.random.default_rng(0)
    names = [f"utt{i}" for i in range(6)]
    place, change = BREAKS.get(break_it, ("", None))
    for letter, dim in (("A", 3), ("V", 4), ("L", 5)):
        (root / "features" / letter).mkdir(parents=True)
        with h5py.File(root / "features" / letter / "x.h5", "w") as file:
            for index, name in enumerate(names):
                x: Any = rng.standard_normal((index + 1, dim))
                if change is not None and place == f"{letter}/{name}":
                    x = change(x)
                if x is not None:
                    file[name] = x
    with h5py.File(root / "features" / "A" / "stats.h5", "w") as file:
        file["1/mean"], file["1/std"] = np.arange(3.0), np.array([1.0, 0.0, 2.0])
    folder = root / "targets" / "1"
    folder.mkdir(parents=True)
    last = [4, 1] if break_it == "twice" else [4, 5]
    for part, chosen in (("trn", [0, 1]), ("val", [2, 3]), ("tst", last)):
        labels = np.eye(2)[[i % 2 for i in chosen]]
        if break_it == "two-hot" and part == "val":
            labels[1] = 1
        if (break_it, part) in (("label", "trn"), ("twice", "tst")):
            labels[1] = labels[0]
        np.save(folder / f"{part}_label.npy", labels)
        np.save(folder / f"{part}_int2name.npy", np.array([[names[i].encode()] for i in chosen]))
    files = (
        FeatureFile(file="A/x.h5", standardise="A/stats.h5"),
        FeatureFile(file="V/x.h5", standardise="train"), FeatureFile(file="L/x.h5"),
    )  # fmt: skip
    return ReleasedLayout(
        name="made", labels=("no", "yes"), folds=2, files=dict(zip(MODALITIES, files, strict=True))
    )


def _load(root: Path, layout: ReleasedLayout, fold: int = 1) -> Any:
    return load_corpus(layout, fold=fold, features=root / "features", targets=root / "targets")


def test_released_layout_is_read(tmp_path: Path) -> None:
    corpus = _load(tmp_path, _write_released(tmp_path))
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0, "a file stays open"
    assert [u.name for u in corpus.parts["validation"]] == ["utt2", "utt3"]
    assert [u.label for u in corpus.parts["test"]] == [0, 1]
    assert corpus.statistics["a"].std.tolist() == [1.0, 1.0, 2.0]
    frames = np.vstack([u.features[MODALITIES[1]] for u in corpus.parts["train"]])
    np.testing.assert_allclose(corpus.statistics["v"].mean, frames.mean(0))
    np.testing.assert_allclose(corpus.statistics["v"].std, frames.std(0))
    assert "t" not in corpus.statistics
    # Stored as float64, they are kept compact.
    kept = {x.dtype for u in corpus.parts["train"] for x in u.features.values()}
    assert kept == {np.dtype(np.float32)}


@pytest.mark.parametrize("how", ["lacking", "empty"])
def test_a_modality_that_a_file_lacks_is_missing(tmp_path: Path, how: str) -> None:
    corpus = _load(tmp_path, _write_released(tmp_path, how))
    assert set(corpus.parts["train"][0].features) == {"a", "t"}


@pytest.mark.parametrize(
    ("break_it", "fold", "message"),
    [
        ("nan", 1, "utterance utt1, modality v: nan at frame 1, column 2"),
        ("width", 1, r"utterance utt2, modality t: got shape \(3, 4\), wanted \(frames, 5\)"),
        ("type", 1, "utterance utt3, modality a: got int32, wanted a floating type"),
        ("twice", 1, "utterance utt1 is in train and again in test; and 1 more"),
        ("two-hot", 1, r"val_label.npy: utterance utt3: got label '\[1.0, 1.0\]'.* a single 1"),
        ("label", 1, "no training utterance is of class yes"),
        ("", 2, "fold 2 has no directory .* is --targets right"),
        ("", 3, "has folds 1 to 2, got fold 3"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, break_it: str, fold: int, message: str) -> None:
    layout = _write_released(tmp_path, break_it)
    with pytest.raises(CorpusError, match=message):
        _load(tmp_path, layout, fold)


def _inspect(root: Path, layout: ReleasedLayout, *more: object) -> Ran:
    recipe = {
        "name": "made", "description": "", "network": {"model": "fusion"},
        "corpus": {"layout": "released", **msgspec.to_builtins(layout)},
        "stage1": {"epochs": 1, "decay_epochs": 0, "batch_size": 2, "learning_rate": 0.1,
                   "dropout": 0.0, "clip": 1.0},
    }  # fmt: skip
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    roots = ["--features", root / "features", "--targets", root / "targets"]
    return call(main, "inspect", "--recipe", root / "recipe.yaml", *roots, *more)


def test_inspect_prints_what_is_there(tmp_path: Path) -> None:
    ran = _inspect(tmp_path, _write_released(tmp_path, "lacking"), "--fold", 1)
    assert ran.code == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ran.out.splitlines()]
    assert ["v", "4", "float32", "0.0", "2-6", "4", "-", "1 of 6"] in rows
    assert ["train", "2", "1 (50%)", "1 (50%)", "0", "1", "0"] in rows


def test_inspect_lists_every_problem_and_fails(tmp_path: Path) -> None:
    ran = _inspect(tmp_path, _write_released(tmp_path, "nan"))
    assert ran.code == 2
    for said in (
        "problem: fold 1: utterance utt1, modality v: nan at frame 1, column 2",
        "problem: fold 2: fold 2 has no directory",
        "error: 2 problems",
    ):
        assert said in ran.err


ADAPTER = """
import numpy as np
from ifmmin.train import Corpus, FeatureConfig, Utterance
from ifmmin.runtime.modality import MODALITIES
from ifmmin.train.data import draw_synthetic
from ifmmin.train.data.synthetic import SyntheticLayout, SyntheticModality
def load(*, fold, features, targets, frames=4, give="corpus"):
    if give != "corpus":
        return give
    modality = SyntheticModality(dim=4, frames=(2, frames))
    layout = SyntheticLayout(modalities=dict.fromkeys(MODALITIES, modality), train=12, test=8)
    return draw_synthetic(layout, fold=fold)
def by_hand(*, fold, features, targets):
    def part(count):
        rng = np.random.default_rng(count)
        return [
            Utterance(f"{count}-{i}", {m: rng.normal(size=(6, 3)) for m in "avt"[i % 3 :]}, i % 2)
            for i in range(count)
        ]
    inputs = {m: FeatureConfig(dim=3) for m in "avt"}
    parts = {"train": part(12), "validation": part(6), "test": part(9)}
    return Corpus("mine", ("no", "yes"), inputs, parts)
"""


def test_an_adapter_gives_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_adapter.py").write_text(ADAPTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    layout = AdapterLayout(function="made_adapter:load", folds=2, options={"frames": 9})
    corpus = load_corpus(layout, fold=2)
    assert max(len(u.features[MODALITIES[0]]) for u in corpus.parts["train"]) > 4
    # As the documentation writes it: letters for modalities, and gaps.
    corpus = load_corpus(AdapterLayout(function="made_adapter:by_hand"), fold=1)
    recipe = load_recipe("synthetic", model="fusion")
    trained = train(recipe, corpus, seed=0)
    assert set(evaluate(trained.network, corpus.parts["test"])) == set(ALL_PATTERNS)
    wrong: list[tuple[dict[str, Any], int, str]] = [
        ({"function": "made_adapter:load", "options": {"give": "x"}}, 1, "gave a str, wanted"),
        ({"function": "made_adapter:none"}, 1, "has no function none"),
        ({"function": "no_such_module:load"}, 1, "cannot import no_such_module"),
        ({"function": "load"}, 1, "wanted package.module:function"),
        ({"function": "made_adapter:load"}, 2, "folds 1 to 1, got fold 2"),
    ]
    for options, fold, message in wrong:
        with pytest.raises(CorpusError, match=message):
            load_corpus(AdapterLayout(**options), fold=fold)
