"""What others give to training: right, or one line; nothing that was trained is lost."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from mutations import bounded
from run_command import mistake
from safetensors.torch import load, save
from small_networks import small_network
from small_recipe import fit_small, small, small_options

from ifmmin.runtime.errors import CheckpointError, CorpusError, OutputError, RecipeError
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Modality
from ifmmin.train import trainer
from ifmmin.train.checkpoint import load_checkpoint, save_checkpoint
from ifmmin.train.cli import main
from ifmmin.train.data import AdapterLayout, load_corpus, read_corpus
from ifmmin.train.data.corpus import Corpus, Statistics, Utterance, remarks
from ifmmin.train.data.labels import read_label
from ifmmin.train.data.released import FeatureFile, ReleasedLayout
from ifmmin.train.metrics import measure

CLASSES = ("no", "yes", "maybe")
LABELS: list[tuple[Any, int]] = [
    (0, 0), (2.0, 2), (np.float64(1.0), 1), (np.int8(2), 2), (np.uint64(1), 1), ("yes", 1),
    (np.str_("maybe"), 2), (b"no", 0), (np.bytes_(b"yes"), 1), (np.array([0, 1, 0]), 1),
    (np.array([0.0, 0.0, 1.0]), 2), (np.array([True, False, False]), 0),
]  # fmt: skip
NO_LABELS: list[Any] = [
    3, -1, 0.5, 1.7, 3.99, -0.1, float("nan"), float("inf"), 10**30, True, np.True_, None, "",
    "Yes",
    "sad", b"\xe9", [], [1, 0, 0], {}, (0,), 1j, np.array([1, 1, 0]), np.array([0, 0, 0]),
    np.array([0.5, 0.5, 0.0]), np.array([2, 0, 0]), np.array([-1, 1, 1]), np.array([1, 0]),
    np.array(["no", "no", "no"]), np.array([np.nan, 1.0, 0.0]), torch.tensor([1.0, 2.0]), "0",
]  # fmt: skip


@pytest.mark.parametrize(("given_label", "wanted"), LABELS)
def test_whole_numbers_names_and_single_ones_are_classes(given_label: Any, wanted: int) -> None:
    assert read_label(given_label, CLASSES) == wanted


@pytest.mark.parametrize("number", range(len(NO_LABELS)))
def test_nothing_else_is_a_class(number: int) -> None:
    with pytest.raises(CorpusError, match=r"got label .* wanted a whole number from 0 to 2"):
        read_label(NO_LABELS[number], CLASSES)


LAYOUT = ReleasedLayout(
    name="made", labels=("no", "yes"), folds=1,
    files={m: FeatureFile(file=f"{m}.h5") for m in MODALITIES},
)  # fmt: skip
NAMES = [f"u{i}" for i in range(4)]


def _released(root: Path, labels: Any = (0, 1, 0, 1), names: Any = NAMES) -> Path:
    """A corpus in the released layout of four utterances in each part."""
    (root / "targets" / "1").mkdir(parents=True)
    for m in MODALITIES:
        with h5py.File(root / f"{m}.h5", "w") as file:
            for prefix in ("trn", "val", "tst"):
                for name in NAMES:
                    file[f"{prefix}{name}"] = np.ones((3, 4), np.float32)
    for prefix in ("trn", "val", "tst"):
        own = [f"{prefix}{name}" if isinstance(name, str) else name for name in names]
        np.save(root / "targets" / "1" / f"{prefix}_int2name.npy", np.array(own))
        np.save(root / "targets" / "1" / f"{prefix}_label.npy", np.array(labels))
    return root


def _read(root: Path) -> Corpus:
    return load_corpus(LAYOUT, fold=1, features=root, targets=root / "targets")


@pytest.mark.parametrize(
    "labels", [(0, 1, 0, 1), (0.0, 1.0, 0.0, 1.0), ("no", "yes", "no", "yes"),
               (b"no", b"yes", b"no", b"yes"), [[1, 0], [0, 1], [1, 0], [0, 1]]]
)  # fmt: skip
def test_targets_of_every_kind_are_read(tmp_path: Path, labels: Any) -> None:
    assert [u.label for u in _read(_released(tmp_path, labels)).parts["train"]] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "labels",
    [(0.2, 1.7, 0.0, 1.0), (0, 1, 0, 2), (0, 1, 0, -1), ("no", "yes", "no", "sad"),
     (0, 1, 0, float("nan")), (True, False, True, False), [[1, 1], [0, 1], [1, 0], [0, 1]],
     [[0, 0], [0, 1], [1, 0], [0, 1]], (1j, 0, 0, 0)],
)  # fmt: skip
def test_targets_that_are_none_name_the_utterance(tmp_path: Path, labels: Any) -> None:
    with pytest.raises(CorpusError, match=r"trn_label.npy: utterance trnu\d: got label"):
        _read(_released(tmp_path, labels))


@pytest.mark.parametrize(("labels", "names"), [
    ((0, 1), NAMES), (0, NAMES), ([[[0]]] * 4, NAMES), ((0, 1, 0, 1), [b"\xe9", b"b", b"c", b"d"]),
])  # fmt: skip
def test_targets_of_another_form_are_told(tmp_path: Path, labels: Any, names: Any) -> None:
    with pytest.raises(CorpusError, match="1"):
        _read(_released(tmp_path, labels, names))


def _link(root: Path) -> None:
    with h5py.File(root / "a.h5", "a") as file:
        del file["trnu0"]
        file["trnu0"] = h5py.ExternalLink("v.h5", "/trnu0")


def _huge(root: Path) -> None:
    with h5py.File(root / "a.h5", "a") as file:
        del file["trnu0"]
        file.create_dataset("trnu0", (10**9, 8), "f4", chunks=(1000, 8))


def _many(root: Path) -> None:
    with h5py.File(root / "a.h5", "a") as file:
        for prefix in ("trn", "val", "tst"):
            for name in NAMES:
                del file[prefix + name]
                file.create_dataset(prefix + name, (60_000_000, 4), "f4", chunks=(1000, 4))


def _pipe(root: Path) -> None:
    (root / "a.h5").unlink()
    os.mkfifo(root / "a.h5")


def _cut(root: Path) -> None:
    (root / "a.h5").write_bytes((root / "a.h5").read_bytes()[:3000])


def _group(root: Path) -> None:
    with h5py.File(root / "a.h5", "a") as file:
        del file["trnu0"]
        file.create_group("trnu0")


def _scalar(root: Path) -> None:
    with h5py.File(root / "a.h5", "a") as file:
        del file["trnu0"]
        file["trnu0"] = 3.0


def _header(root: Path) -> None:
    path = root / "targets" / "1" / "trn_label.npy"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(4,)", b"(9**9,)".ljust(4)))


def _long_header(root: Path) -> None:
    path = root / "targets" / "1" / "trn_label.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype="f8", shape=(4,)).flush()
    content = path.read_bytes().replace(
        b"(4,), }" + b" " * 12, b"(999999999999,), }"[:19].ljust(19)
    )
    path.write_bytes(content)


def _targets_pipe(root: Path) -> None:
    (root / "targets" / "1" / "trn_label.npy").unlink()
    os.mkfifo(root / "targets" / "1" / "trn_label.npy")


SPOILT = (
    _link, _huge, _many, _pipe, _cut, _group, _scalar, _header, _long_header, _targets_pipe,
)  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__.strip("_"))
def test_files_that_lie_are_told_before_they_are_read(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(_released(tmp_path))
    with bounded(), pytest.raises(CorpusError) as caught:
        _read(tmp_path)
    assert "\n" not in str(caught.value)


def _adapted(monkeypatch: pytest.MonkeyPatch, change: Callable[[Corpus], Any]) -> Corpus:
    """The corpus of a user's function, which gives a changed synthetic one."""
    corpus = change(small()[1])
    monkeypatch.setitem(sys.modules, "given", _Given)
    monkeypatch.setattr(_Given, "load", lambda **_: corpus, raising=False)
    return load_corpus(AdapterLayout(function="given:load"), fold=1)


_Given: Any = ModuleType("given")


def _with_first(**fields: Any) -> Callable[[Corpus], Corpus]:
    """A corpus whose first training utterance is another."""

    def change(corpus: Corpus) -> Corpus:
        first, *others = corpus.parts["train"]
        replaced = dataclasses.replace(first, **fields)
        return dataclasses.replace(corpus, parts={**corpus.parts, "train": [replaced, *others]})

    return change


GOOD = np.arange(15, dtype=np.float64).reshape(3, 5)
FEATURES: list[Any] = [
    GOOD.tolist(), GOOD.astype(">f4"), GOOD.astype(np.float16), GOOD.astype(int),
    torch.tensor(GOOD),
    np.ma.array(GOOD), tuple(map(tuple, GOOD)),
]  # fmt: skip
NO_FEATURES: list[Any] = [
    torch.tensor(GOOD, requires_grad=True), torch.tensor(GOOD).bfloat16(), GOOD.astype(object),
    np.ma.array(GOOD, mask=GOOD > 3), GOOD * 1e300, "words", [[1.0], [1.0, 2.0]],
    GOOD.astype(complex),
    np.broadcast_to(np.float32(1.0), (1 << 27, 5)), np.zeros((3, 5), [("x", "f4")]),
    GOOD.ravel(), GOOD[:, :4], [[None] * 5], 7,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(FEATURES)))
def test_features_of_every_kind_come_from_an_adapter(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = _adapted(monkeypatch, _with_first(features={"a": FEATURES[number], "v": None}))
    (found,) = corpus.parts["train"][0].features.items()
    assert found[0] is Modality.A
    np.testing.assert_array_equal(found[1], GOOD)


@pytest.mark.parametrize("number", range(len(NO_FEATURES)))
def test_features_of_no_kind_name_utterance_and_modality(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = small()[1].parts["train"][0].name
    with pytest.raises(CorpusError, match=f"utterance {re.escape(name)}, modality a"):
        _adapted(monkeypatch, _with_first(features={"a": NO_FEATURES[number]}))


@pytest.mark.parametrize("fields", [
    {"label": 0.5}, {"label": None}, {"label": "angry!"}, {"features": None},
    {"features": {"x": GOOD}},
    {"name": 5},
])  # fmt: skip
def test_utterances_of_no_kind_are_told(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CorpusError):
        _adapted(monkeypatch, _with_first(**fields))


ZEROS, ONES = np.zeros(5), np.ones(5)
FIELDS: dict[str, dict[str, Any]] = {
    "no name": {"name": None}, "no parts": {"parts": None}, "a list of parts": {"parts": []},
    "parts of other names": {"parts": {1: [], 2: [], 3: []}},
    "a part that is none": {"parts": {"train": None, "validation": [], "test": []}},
    "a part of tuples": {"parts": {"train": [("x", {}, 0)], "validation": [], "test": []}},
    "no features": {"features": None}, "features of a": {"features": {"a": {}}},
    "features of x": {"features": {"x": {}}}, "no widths": {"features": {m: {} for m in "avt"}},
    "no labels": {"labels": None}, "a word of labels": {"labels": "nope"},
    "a set of labels": {"labels": {"no", "yes", "so", "be"}},
    "an array of labels": {"labels": np.array(["no", "yes", "so", "be"])},
    "no statistics": {"statistics": None}, "statistics of x": {"statistics": {"x": None}},
    "a pair": {"statistics": {"a": (ZEROS, ONES)}},
    "another width": {"statistics": {"a": Statistics(ZEROS[1:], ONES)}},
    "a mean of NaN": {"statistics": {"a": Statistics(ZEROS * np.nan, ONES)}},
    "beyond float32": {"statistics": {"a": Statistics(ZEROS + 1e300, ONES)}},
    "a negative deviation": {"statistics": {"a": Statistics(ZEROS, -ONES)}},
    "no accuracies": {"possible": None}, "some accuracies": {"possible": {"a": 0.5}},
}  # fmt: skip


@pytest.mark.parametrize("kind", FIELDS)
def test_a_corpus_of_no_kind_is_told(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusError, match=r"^given:load") as caught:
        _adapted(monkeypatch, lambda corpus: dataclasses.replace(corpus, **FIELDS[kind]))
    assert "\n" not in str(caught.value)


def test_a_corpus_is_made_of_plain_things(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever letters, tensors and generators a function gives in their place."""
    dull = np.array([0.0, 1e-50, 1.0, 1.0, 2.0])

    def change(corpus: Corpus) -> Corpus:
        fields: dict[str, Any] = {
            "labels": list(corpus.labels),
            "features": {m.value: config for m, config in corpus.features.items()},
            "parts": {part: iter(some) for part, some in corpus.parts.items()},
            "statistics": {"a": Statistics(torch.zeros(5), dull)},  # type: ignore[arg-type]
        }
        return dataclasses.replace(corpus, **fields)

    found = _adapted(monkeypatch, change)
    assert isinstance(found.labels, tuple)
    assert set(found.features) == set(MODALITIES)
    assert len(found.parts["train"]) == len(small()[1].parts["train"])
    assert found.statistics[Modality.A].std.tolist() == [1.0, 1.0, 1.0, 1.0, 2.0]


def test_an_array_without_frames_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for nothing in (np.empty((0, 5)), np.empty(0), None):
        features = {"a": nothing, "v": small()[1].parts["train"][0].features[Modality.V]}
        corpus = _adapted(monkeypatch, _with_first(features=features))
        assert list(corpus.parts["train"][0].features) == [Modality.V]


@pytest.mark.parametrize(("given", "message"), [
    (lambda: None, "given:load cannot be called with fold, .*: got an unexpected keyword"),
    (lambda path, **_: None, "given:load cannot be called with fold, .*: missing a required arg"),
    (5, "module given has no function load"),
])  # fmt: skip
def test_what_is_no_adapter_is_told(
    given: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "given", _Given)
    monkeypatch.setattr(_Given, "load", given, raising=False)
    with pytest.raises(CorpusError, match=message):
        load_corpus(AdapterLayout(function="given:load"), fold=1)


@pytest.mark.parametrize("text", ["x = = 1\n", "import nothing_such\n", "1 / 0\n", ""])
def test_a_module_that_fails_is_told(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"given_{len(text)}"
    (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(
        CorpusError, match=f"cannot import {name}|module {name} has no function load"
    ):
        load_corpus(AdapterLayout(function=f"{name}:load"), fold=1)


@pytest.mark.parametrize(
    "labels", [("x", "x", "y", "z"), ("a", "", "c", "d"), ("one",), (1, 2, 3, 4)]
)
def test_classes_of_an_adapter_have_names(
    labels: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CorpusError, match="labels"):
        _adapted(monkeypatch, lambda corpus: dataclasses.replace(corpus, labels=labels))


@pytest.mark.parametrize(
    "text", ["[x, x, y]", "[x, '']", "[x, ' y']", "[x, label]", "[x]", "[x, 5]"]
)
def test_classes_of_a_recipe_have_names(text: str) -> None:
    words = ["inspect", "--recipe", "iemocap", "--set", f"corpus.labels={text}"]
    assert "label" in mistake(main, *words)


def _without(corpus: Corpus, part: str, *letters: str) -> Corpus:
    """A corpus of which a part lacks modalities."""
    cut = [
        Utterance(u.name, {m: x for m, x in u.features.items() if m not in letters}, u.label)
        for u in corpus.parts[part]
    ]
    return dataclasses.replace(corpus, parts={**corpus.parts, part: cut})


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_figure_is_taken_over_what_there_is(keep: str, tmp_path: Path) -> None:
    recipe, corpus = small(f"stage1.keep={keep}", f"stage2.keep={keep}")
    corpus = _without(_without(corpus, "validation", "v"), "test", "v")
    assert any("no validation utterance has modality v" in remark for remark in remarks(corpus))
    trainer.fit(recipe, corpus, fold=1, seed=0, out=tmp_path / "run", plots=False)
    text = (tmp_path / "run" / "metrics.json").read_text()
    assert "NaN" not in text
    metrics = json.loads(text)
    assert metrics["test"]["v"]["ua"] is None
    assert all(
        isinstance(metrics["test"][str(p)]["ua"], float) for p in ALL_PATTERNS if str(p) != "v"
    )
    history = (tmp_path / "run" / "history.csv").read_text()
    assert "nan" not in history
    load_checkpoint(tmp_path / "run" / "model.safetensors")


def test_nothing_to_choose_by_is_told_before_training() -> None:
    recipe, corpus = small()
    with pytest.raises(CorpusError, match="no validation utterance can be answered"):
        trainer.train(recipe, _without(corpus, "validation", "a", "v", "t"), seed=0)


def test_only_what_is_kept_for_being_best_is_called_so(tmp_path: Path) -> None:
    for keep, said in (("best", "best 0."), ("last", "last is kept")):
        ran = fit_small(tmp_path / keep, "--set", f"stage2.keep={keep}")
        assert ran.code == 0
        (line,) = [text for text in ran.err.splitlines() if text.startswith("stage 2")]
        assert said in line


def test_nothing_measured_is_no_number() -> None:
    metrics = measure(np.empty((0, 3), np.float32), np.empty(0, np.int64))
    assert np.isnan([metrics.wa, metrics.ua, metrics.f1, metrics.ece, metrics.confidence]).all()


def test_what_looks_odd_is_said(tmp_path: Path) -> None:
    root = _released(tmp_path)
    opened: Any = h5py.File(root / "v.h5", "a")
    with opened as file:
        for name in file:
            file[name][...] = 0.0
    corpus = read_corpus(LAYOUT, fold=1, features=root, targets=root / "targets")
    assert "modality v is nothing but zeros in 12 of 12 utterances" in " ".join(remarks(corpus))


def test_a_trained_network_outlives_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = Path.write_bytes
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()

    def full(self: Path, content: bytes) -> int:
        if "full" in str(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    recipe, corpus = small()
    with pytest.raises(OutputError, match="the trained network is kept in ") as caught:
        trainer.fit(recipe, corpus, fold=1, seed=0, out=tmp_path / "full", plots=False)
    place = Path(str(caught.value).rsplit(" ", 1)[1])
    kept, _ = load_checkpoint(place / "model.safetensors")
    wanted = trainer.train(recipe, corpus, seed=0).network.state_dict()
    for name, tensor in kept.state_dict().items():
        if "temperature" not in name:
            torch.testing.assert_close(tensor, wanted[name])
    assert not (tmp_path / "full").exists()


def test_room_for_a_run_is_tried_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(trainer, "require_writable", lambda path, size: asked.append(size))
    recipe, corpus = small()
    trainer.fit(recipe, corpus, fold=1, seed=0, out=tmp_path / "run", plots=False)
    assert asked[0] > (tmp_path / "run" / "model.safetensors").stat().st_size


RECIPES: dict[str, bytes] = {
    "empty": b"", "null": b"null", "a list": b"- 1", "text": b"hello", "Latin-1": b"\xe9: 1",
    "a tab": b"\tstage1: 1", "a NUL": b"stage1: \0", "deep": b"a: " + b"[" * 100_000,
    "deep objects": b"stage1: " + b"{a: " * 5000, "too large": b"x" * (2 << 20),
    "a bomb": b"a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nstage1: {}\n",
    "a key twice": b"stage1: {}\nname: x\nname: y\n", "no date": b"stage1: {epochs: 2026-99-99}\n",
    "code": b"stage1: !!python/object/apply:os.system ['true']\n",
    "a key list": b"? [a]\n: 1\nstage1: {}\n",
    "digits": b"stage1: {epochs: " + b"9" * 5000 + b"}\n", "sections": b"stage1: {}\nmodels: 5\n",
    "no network": b"stage1: {}\nnetwork: 5\n", "another model": b"stage1: {}\nmodels: {x: 5}\n",
}  # fmt: skip
SETS = (
    "corpus.modalities={}", "modalities=[a, a]",
    "network=" + "x" * 9999, "corpus.modalities.a.missing_length=1000000",
    "corpus={", "corpus=", "corpus=5", "corpus=[", "=", "=5", "a", "stage1=", "stage1=5",
    "stage1.epochs=",
    "stage1.epochs=-1", "stage1.epochs=1e9", "stage1.epochs=99999999999999999999",
    "stage1.epochs=nan",
    "stage1.epochs=.inf", "stage1.epochs=true", "stage1.batch_size=0", "stage1.learning_rate=-1",
    "stage1.learning_rate=.nan", "network.embedding=1000000000", "network.blocks=1000000000",
    "network.block_sizes=[1000000000]", "network.block_sizes=[]", "network.text_kernels=[0]",
    "network.dropout=&a [*a]", "stage1.x.y.z=1", "network=null", "network=[]", "stage1={a: b: c}",
    "select=x", "corpus.train=1000000000000", "corpus.train=-1", "corpus.shared=.nan",
    "corpus.modalities={}", "corpus.modalities.a.dim=1000000000",
    "corpus.modalities.a.frames=[9, 2]",
    "corpus.modalities.a.gain=.inf", "stage1.epochs=2026-13-45", "name=\x1b]0;x\x07",
    "network.pooling=\udcff",
)  # fmt: skip
OPTIONS = (
    ("fit", "--seed", "-1"), ("fit", "--seed", "9" * 40), ("fit", "--seed", "x"), ("fit",
    "--fold", "0"),
    ("fit", "--threads", "0"), ("inspect", "--fold", "0"), ("inspect", "--fold", "-1"),
    ("inspect", "--fold", "99999999999"), ("sweep", "--folds", "1-99999999999"), ("sweep",
    "--folds", ""),
    ("sweep", "--folds", "0"), ("sweep", "--seeds", "-1"), ("sweep", "--seeds", "0-99999999999"),
    ("sweep", "--seeds", "9" * 5000), ("sweep", "--jobs", "0"), ("sweep", "--jobs", "9" * 9),
    ("fit", "--threads", "9" * 9), ("fit", "--threads", "9" * 30), ("fit", "-o", "x" * 300),
    ("fit", "-o", "/dev/null"), ("sweep", "-o", "/dev/null"), ("sweep", "-o", "x" * 300),
)  # fmt: skip


@pytest.mark.parametrize("kind", RECIPES)
def test_recipes_that_are_none(tmp_path: Path, kind: str) -> None:
    (tmp_path / "recipe.yaml").write_bytes(RECIPES[kind])
    with bounded():
        mistake(main, "inspect", "--recipe", tmp_path / "recipe.yaml")


@pytest.mark.parametrize("text", SETS)
def test_changes_of_a_recipe_that_are_none(text: str) -> None:
    mistake(main, "inspect", "--recipe", "synthetic", "--set", text)


@pytest.mark.parametrize("words", OPTIONS, ids=lambda words: " ".join(words)[:30])
def test_options_that_are_none(words: tuple[str, ...], tmp_path: Path) -> None:
    action, *options = words
    place = [] if action == "inspect" else ["-o", tmp_path / "out"]
    model = ["--model", "if-mmin"] if action == "sweep" else []
    mistake(main, action, "--recipe", "synthetic", *small_options(), *model, *place, *options)
    assert not (tmp_path / "out").exists()


def test_what_is_no_file_hangs_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in (
        tmp_path / "pipe",
        tmp_path / "loop",
        tmp_path,
        "/dev/zero",
        tmp_path / ("x" * 300),
    ):
        mistake(main, "inspect", "--recipe", place)
        mistake(main, "evaluate", place)
        mistake(main, "import-released", place, "--fold", "1", "-o", tmp_path / "out.safetensors")


SIZES: tuple[Any, ...] = (None, -1, 0, 10**9, 10**30, 1.5, "x", [], {}, True, [10**9] * 3)


def test_sizes_of_a_header_take_no_memory(tmp_path: Path) -> None:
    """Every number of the configuration, by a header that was written with other sizes."""
    network = small_network("if-mmin", 0)
    save_checkpoint(tmp_path / "model.safetensors", network, {})
    content = (tmp_path / "model.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    text = json.loads(content[8 : 8 + size])["__metadata__"]["ifmmin"]
    tensors = load(content)
    for path in _leaves(json.loads(text)["config"]):
        for value in SIZES:
            header = json.loads(text)
            place = header["config"]
            for name in path[:-1]:
                place = place[name]
            place[path[-1]] = value
            header.pop("sha256")
            forged = tmp_path / "forged.safetensors"
            forged.write_bytes(save(tensors, {"ifmmin": json.dumps(header)}))
            with bounded(), pytest.raises((CheckpointError, RecipeError)):
                load_checkpoint(forged)


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, one in value.items() for leaf in _leaves(one, (*path, key))]
    return [path]
