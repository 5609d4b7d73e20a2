"""Import of released checkpoints against an independent float64 computation of the reference."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
import torch
from released_reference import (
    MISSING_OPTION,
    VARIANTS,
    Frames,
    Reference,
    read_released,
    run_import,
)
from run_command import call
from small_networks import logits_alone

from ifmmin.export.cli import main as export
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.checkpoint import load_checkpoint
from ifmmin.train.cli import main as train
from ifmmin.train.data.corpus import Utterance
from ifmmin.train.recipe import load_recipe
from ifmmin.train.reference.checkpoint import import_released


def _ours(network: Any, utterance: Frames, pattern: Pattern) -> np.ndarray:
    features = {m: utterance[m.value].astype(np.float32) for m in pattern}
    return np.asarray(logits_alone(network, Utterance("x", features, 0)))


def _check(imported: Any, reference: Reference) -> None:
    """Equal in both precisions, over inputs that make different classes win; else not."""
    utterances = [reference.utterance() for _ in range(3)]
    exact = [(u, p, reference.logits(u, p)) for u in utterances for p in ALL_PATTERNS]
    for u, p, wanted in exact:
        np.testing.assert_allclose(_ours(imported.network, u, p), wanted, rtol=0, atol=1e-4)
    imported.network.double()
    for u, p, wanted in exact:
        np.testing.assert_allclose(_ours(imported.network, u, p), wanted, rtol=0, atol=1e-10)
    answers = np.array([wanted for *_, wanted in exact])
    assert answers.std(axis=0).min() > 0.3
    assert len(set(answers.argmax(axis=1))) > 1
    reference.order = "AVL"
    moved = [abs(reference.logits(u, p) - wanted).max() for u, p, wanted in exact]
    assert min(moved) > 1e-2


@pytest.mark.parametrize("form", ["stage1", "cascade", "parallel"])
@pytest.mark.parametrize(
    ("run_idx", "pooling"),
    [*((name, "maxpool") for name in VARIANTS), (VARIANTS[0], "last"), (VARIANTS[0], "attention")],
)
def test_equals_the_reference(tmp_path: Path, form: str, run_idx: str, pooling: str) -> None:
    reference = Reference(form=form, run_idx=run_idx, pooling=pooling)
    root = reference.save(tmp_path / "made")
    imported = read_released(root, form)
    _check(imported, reference)


@pytest.mark.parametrize("form", ["stage1", "parallel", "mmin"])
@pytest.mark.parametrize(
    ("prefix", "zipped"), [("", True), ("", False), ("module.", True), ("module.module.", False)]
)
def test_however_it_was_saved(tmp_path: Path, form: str, prefix: str, zipped: bool) -> None:
    reference = Reference(form=form, run_idx=6, pooling=("last", "attention"), seed=2)
    root = reference.save(tmp_path / "made", prefix=prefix, zipped=zipped)
    imported = read_released(root, form)
    architecture = imported.network.config.architecture
    assert (architecture.pooling, architecture.pooling_v) == ("last", "sum")
    _check(imported, reference)


def test_the_published_sizes(tmp_path: Path) -> None:
    dims = {"A": 130, "V": 342, "L": 1024}
    reference = Reference(E=128, dims=dims, sizes=(256, 128, 64), form="parallel")
    root = reference.save(tmp_path / "made")
    imported = read_released(root, "parallel")
    _check(imported, reference)


@pytest.mark.parametrize("form", ["cascade", "parallel"])
def test_the_other_form_is_another_network(tmp_path: Path, form: str) -> None:
    reference = Reference(form=form)
    root = reference.save(tmp_path / "made")
    other = {"cascade": "parallel", "parallel": "cascade"}[form]
    imported = read_released(root, other)
    for pattern in ALL_PATTERNS:
        utterance = reference.utterance()
        found = _ours(imported.network, utterance, pattern)
        assert abs(found - reference.logits(utterance, pattern)).max() > 1e-2


def _statistics(path: Path, fold: int = 3, dim: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    mean, std = rng.normal(0, 3, dim), rng.uniform(0.5, 4, dim)
    with h5py.File(path, "w") as file:
        file[f"{fold}/mean"], file[f"{fold}/std"] = mean, std
    return mean, std


def test_statistics_of_the_fold_go_into_the_network(tmp_path: Path) -> None:
    mean, std = _statistics(tmp_path / "stats.h5")
    reference = Reference(pooling="last")
    root = reference.save(tmp_path / "made")
    imported = read_released(root, "cascade", statistics=tmp_path / "stats.h5")
    assert not imported.network.config.features[MODALITIES[0]].normalised
    for pattern in ALL_PATTERNS:
        z = reference.utterance()
        raw = z | {"a": z["a"] * std + mean}
        found = _ours(imported.network, raw, pattern)
        np.testing.assert_allclose(found, reference.logits(z, pattern), rtol=0, atol=1e-4)


@pytest.mark.parametrize("with_statistics", [True, False])
def test_what_features_are_like_is_known_of_a_alone(tmp_path: Path, with_statistics: bool) -> None:
    """By the statistics, or since the caller standardises; no file says anything of v and t."""
    mean, std = _statistics(tmp_path / "stats.h5")
    if not with_statistics:
        mean, std = np.zeros(5), np.ones(5)
    root = Reference().save(tmp_path / "made")
    given = tmp_path / "stats.h5" if with_statistics else None
    network = read_released(root, "cascade", statistics=given).network
    assert [network.knows_scale(m) for m in MODALITIES] == [True, False, False]
    observed = network.observed(MODALITIES[0])
    np.testing.assert_allclose(observed.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(observed.maximum - observed.minimum, 10 * std, rtol=1e-5)


@pytest.mark.parametrize("form", ["stage1", "cascade", "parallel"])
def test_the_whole_way_to_the_device(tmp_path: Path, form: str) -> None:
    reference = Reference(form=form, pooling=("maxpool", "last"))
    root, out = reference.save(tmp_path / "made", prefix="module."), tmp_path / "it.safetensors"
    assert "fold 3" in run_import(root, out, "--missing-frames", MISSING_OPTION, form=form)
    words = ["--pattern", "all", "--shape", "latency", "--out", tmp_path / "bundle"]
    assert call(export, out, *words).code == 0
    predictor = Predictor(tmp_path / "bundle")
    specs = predictor.bundle.manifest.modalities
    assert [specs[m].normalised for m in MODALITIES] == [True, False, False]
    assert (
        "already z-scored with the training statistics of fold 3" in specs[MODALITIES[0]].features
    )
    record = predictor.bundle.manifest.checkpoint.training
    assert record["imported"]["stage"] == (1 if form == "stage1" else 2)
    assert "/private/place" not in json.dumps(record)
    for pattern in ALL_PATTERNS:
        z = reference.utterance()
        found = predictor.predict({m.value: z[m.value].astype(np.float32) for m in pattern})
        np.testing.assert_allclose(found.logits, reference.logits(z, pattern), rtol=0, atol=1e-4)


def test_with_statistics_the_manifest_says_nothing_of_the_caller(tmp_path: Path) -> None:
    _statistics(tmp_path / "stats.h5")
    root, out = Reference().save(tmp_path / "made"), tmp_path / "it.safetensors"
    run_import(root, out, "--statistics", tmp_path / "stats.h5")
    words = ["--pattern", "a", "--shape", "latency", "--out", tmp_path / "bundle"]
    assert call(export, out, *words).code == 0
    spec = Predictor(tmp_path / "bundle").bundle.manifest.modalities[MODALITIES[0]]
    assert not spec.normalised
    assert "z-scored" not in spec.features
    assert spec.frame_rate == 10


def _corpus(root: Path, utterances: dict[str, Frames]) -> list[object]:
    """A fold in the released layout; the words that make `evaluate` read it."""
    for m in "avt":
        with h5py.File(root / f"{m}.h5", "w") as file:
            for name, utterance in utterances.items():
                file[name] = utterance[m]
    (root / "3").mkdir()
    for part, chosen in (("trn", (0, 1, 2, 3)), ("val", (4, 5)), ("tst", (6, 7))):
        np.save(root / "3" / f"{part}_label.npy", np.arange(len(chosen)))
        np.save(root / "3" / f"{part}_int2name.npy", np.array(list(utterances))[list(chosen)])
    recipe = msgspec.to_builtins(load_recipe("iemocap"))
    files = {m: {"file": f"{m}.h5"} for m in "avt"}
    files["a"]["standardise"] = "stats.h5"
    recipe["corpus"]["files"] = files
    (root / "made.yaml").write_text(json.dumps(recipe))
    return ["--recipe", root / "made.yaml", "--features", root, "--targets", root]


@pytest.mark.parametrize("with_statistics", [True, False])
def test_evaluate_standardises_what_is_left_to_it(tmp_path: Path, with_statistics: bool) -> None:
    reference, out = Reference(), tmp_path / "it.safetensors"
    mean, std = _statistics(tmp_path / "stats.h5")
    z = {f"u{i}": reference.utterance() for i in range(8)}
    corpus = _corpus(tmp_path, {n: u | {"a": u["a"] * std + mean} for n, u in z.items()})
    more = ["--statistics", tmp_path / "stats.h5"] if with_statistics else []
    root = reference.save(tmp_path / "made")
    run_import(root, out, "--missing-frames", MISSING_OPTION, *more)
    table = tmp_path / "answers.csv"
    assert call(train, "evaluate", out, *corpus, "--save", table).code == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 2 * len(ALL_PATTERNS)
    for row in rows:
        found = np.log([float(row[label]) for label in ("angry", "happy", "neutral", "sad")])
        wanted = reference.logits(z[row["utterance"]], Pattern.parse(row["pattern"]))
        # Probabilities hold logits up to a constant.
        np.testing.assert_allclose(found - found.mean(), wanted - wanted.mean(), atol=1e-4)


def test_default_missing_frames_are_as_good_as_any(tmp_path: Path) -> None:
    root = Reference().save(tmp_path / "made")
    network = import_released(root, fold=3, imagination="cascade").network
    with torch.no_grad():
        for modality, length in zip(MODALITIES, (100, 50, 5), strict=True):
            assert network.config.features[modality].missing_length == length
            once, more = (network.missing_pooled(modality, n) for n in (length, 7 * length))
            assert float((once - more).abs().max()) < 1e-3


def test_the_epoch_is_chosen(tmp_path: Path) -> None:
    first, second, out = Reference(seed=1), Reference(seed=2), tmp_path / "it.safetensors"
    root = first.save(tmp_path / "made", epoch=9)
    second.save(root, epoch=11)
    assert "has epochs 9, 11; choose one with --epoch" in run_import(root, out, code=2)
    run_import(root, out, "--epoch", 9)
    assert load_checkpoint(out)[1].training["imported"]["epoch"] == "9"
    assert "add --overwrite" in run_import(root, out, "--epoch", 11, code=2)
    run_import(root, out, "--epoch", 11, "--overwrite")
    (root / "3" / "9_net_C.pth").unlink()
    run_import(root, out, "--overwrite")
    assert load_checkpoint(out)[1].training["imported"]["epoch"] == "11"


def test_the_forms_leave_traces(tmp_path: Path) -> None:
    reference, out = Reference(form="parallel"), tmp_path / "it.safetensors"
    for key, value in reference.nets["AE"].items():
        if re.match(r"decoder_[01]\..*bias", key):
            value[:] = 0
    root = reference.save(tmp_path / "made", options={"model": "IFMMIN"})
    assert "warning" not in run_import(root, out, form="parallel")
    trace = "have only zero biases, as the parallel form keeps"
    assert trace in run_import(root, out, "--overwrite", form="cascade")
    assert trace in run_import(root, out, "--overwrite", form=None, code=2)


def test_mmin_leaves_its_cycle_behind(tmp_path: Path) -> None:
    reference, out = Reference(form="mmin"), tmp_path / "it.safetensors"
    reference.nets["AE_cycle"] = reference.nets["AE"]
    root = reference.save(tmp_path / "made", options={"model": "mmin"})
    assert "17_net_AE_cycle.pth has no part in an answer" in run_import(root, out, form=None)
    assert load_checkpoint(out)[0].config.architecture.model == "mmin"
