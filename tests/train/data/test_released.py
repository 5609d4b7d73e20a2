"""Damaged and hostile files in the released layout, and adapters: each fault is one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from mutations import Change, bounded, fuzzed, mutated, mutations
from small_recipe import small

from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.data import AdapterLayout, load_corpus
from ifmmin.train.data.corpus import Corpus, Statistics
from ifmmin.train.data.released import FeatureFile, ReleasedLayout, read_statistics

LAYOUT = ReleasedLayout(
    name="made", labels=("no", "yes"), folds=1,
    files={m: FeatureFile(file=f"{m}.h5") for m in MODALITIES},
)  # fmt: skip
LABELS, NAMES = Path("targets/1/trn_label.npy"), Path("targets/1/trn_int2name.npy")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return _write(tmp_path)


def _write(tmp_path: Path) -> Path:
    """Two utterances in each part, in every feature file, and statistics of three columns."""
    (tmp_path / "targets" / "1").mkdir(parents=True)
    names = {prefix: [f"{prefix}0", f"{prefix}1"] for prefix in ("trn", "val", "tst")}
    for m in MODALITIES:
        with h5py.File(tmp_path / f"{m}.h5", "w") as file:
            for name in (name for own in names.values() for name in own):
                file[name] = np.ones((3, 4), np.float32)
    for prefix, own in names.items():
        np.save(tmp_path / "targets" / "1" / f"{prefix}_int2name.npy", np.array(own))
        np.save(tmp_path / "targets" / "1" / f"{prefix}_label.npy", np.array([0, 1]))
    with h5py.File(tmp_path / "stats.h5", "w") as file:
        file["1/mean"], file["1/std"] = np.zeros(3), np.ones(3)
    return tmp_path


def _read(root: Path) -> Corpus:
    return load_corpus(LAYOUT, fold=1, features=root, targets=root / "targets")


def _refused(read: Callable[[], object]) -> str:
    """What a reader says; in one line, soon, and without the memory that a file declares."""
    with bounded(), pytest.raises(CorpusError) as caught:
        read()
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value)


def _npy(header: str, version: bytes = b"\x01\x00") -> bytes:
    size = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + header.encode()


def _declared(kind: str, shape: str) -> bytes:
    return _npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n")


NPY = {
    "empty": b"", "huge": _declared("<f8", "(9999999999,)"), "negative": _declared("<f8", "(-5,)"),
    "more than int64": _declared("<f8", f"({10**30},)"), "of nothing": _declared("|S0", "(10**9,)"),
    "no bytes each": _declared("|V0", "(999999999,)"),
    "no letters": _declared("|S0", "(999999999,)"),
    "objects": _declared("|O", "(2,)"), "unknown type": _declared("zz", "(2,)"),
    "nested": _npy("(" * 9000), "open text": _npy("{'descr': '''\n"), "long": _npy("1" * 60_000),
    "python 2": _npy("{'a': 3L, (\n"), "version 9": _npy("{}\n", b"\x09\x00"),
    "version 3": b"\x93NUMPY\x03\x00\x02\x00\x00\x00\xff\xff",
    "an archive": b"PK\x03\x04" + b"a" * 99,
    "many axes": _declared("<f8", "(" + "1," * 200 + ")"), "no shape": _declared("<f8", "-1"),
}  # fmt: skip


@pytest.mark.parametrize("path", [LABELS, NAMES], ids=["labels", "names"])
@pytest.mark.parametrize("kind", NPY)
def test_headers_of_arrays_that_lie(root: Path, path: Path, kind: str) -> None:
    (root / path).write_bytes(NPY[kind])
    assert path.name in _refused(lambda: _read(root))


@pytest.mark.parametrize(
    "names",
    [np.zeros(0, "S4"), np.array("trn0"), np.zeros((2, 0), "S4"), np.array([0, 1]),
     np.array(["trn0", ""]), np.array([".", "trn1"]), np.array(["/", ".."]),
     np.array([b"\xe9", b""]),
     np.array(["trn0", "\x1b]0;x"]), np.array(["trn0", "a\0b"]), np.array(["trn0", "\ud800"]),
     np.array([np.nan, 1]), np.zeros(2, [("a", "i4")]), np.array(["trn0", "x" * 10_000])],
)  # fmt: skip
def test_names_of_no_utterance(root: Path, names: np.ndarray) -> None:
    np.save(root / NAMES, names)
    _refused(lambda: _read(root))


@pytest.mark.parametrize(
    "labels", [np.array([0, 1], "m8[s]"), np.zeros(2, "V0"), np.array([1, 2**63])]
)
def test_labels_of_odd_types_name_the_utterance(root: Path, labels: np.ndarray) -> None:
    np.save(root / LABELS, labels)
    assert "utterance trn" in _refused(lambda: _read(root))


def test_the_number_of_wrong_labels_is_told(root: Path) -> None:
    np.save(root / LABELS, np.array([0.4, 3.99]))
    assert _refused(lambda: _read(root)).endswith("; and 1 more of 2")


def _gap(path: Path) -> None:
    path.touch()
    os.truncate(path, 30 << 30)


PLACES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo, "directory": os.mkdir, "device": lambda p: p.symlink_to("/dev/zero"),
    "circle": lambda p: p.symlink_to(p), "nothing": lambda p: None,
    "text": lambda p: p.write_text("x"),
    "gap": _gap,
}  # fmt: skip


@pytest.mark.parametrize("name", ["stats.h5", "v.h5", str(LABELS), str(NAMES)])
@pytest.mark.parametrize("kind", PLACES)
def test_places_of_no_file(root: Path, name: str, kind: str) -> None:
    (root / name).unlink()
    PLACES[kind](root / name)
    if name == "stats.h5":
        said = _refused(lambda: read_statistics(root / name, 1, 3))
    else:
        said = _refused(lambda: _read(root))
    assert Path(name).name in said


def _create(name: str, **options: Any) -> Callable[[h5py.File], object]:
    return lambda file: file.create_dataset(name, **options)


def _pipe_of(file: h5py.File) -> str:
    pipe = Path(file.filename).with_name("pipe")
    os.mkfifo(pipe)
    return str(pipe)


def _link(name: str) -> Callable[[h5py.File], object]:
    return lambda file: file.__setitem__(name, h5py.ExternalLink(_pipe_of(file), "/x"))


def _soft(file: h5py.File) -> None:
    file["trn0"] = h5py.SoftLink("/trn0")


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource(_pipe_of(file), "x", (3, 4))
    file.create_virtual_dataset("trn0", layout)


HUGE = {"shape": (10**9, 8), "dtype": "f4", "chunks": (1000, 8)}
DATASETS: dict[str, Callable[[h5py.File], object]] = {
    "huge": _create("trn0", **HUGE), "packed": _create("trn0", **HUGE, compression="gzip"),
    "link to a pipe": _link("trn0"), "circle": _soft, "virtual": _virtual,
    "elsewhere": lambda file: file.create_dataset(
        "trn0", (3, 4), "f4", external=[(_pipe_of(file), 0, 48)]),
    "group": lambda file: file.create_group("trn0"), "scalar": _create("trn0", data=3.0),
    "null": _create("trn0", data=h5py.Empty("f4")), "texts": _create("trn0", data=["a", "b"]),
    "ragged": _create("trn0", shape=(3,), dtype=h5py.vlen_dtype(np.float32)),
    "complex": _create("trn0", data=np.ones((3, 4), complex)),
    "fields": _create("trn0", data=np.ones(3, [("x", "f4")])),
    "beyond float32": _create("trn0", data=np.full((3, 4), 1e300)),
}  # fmt: skip


@pytest.mark.parametrize("kind", DATASETS)
def test_datasets_of_no_features(root: Path, kind: str) -> None:
    with h5py.File(root / "v.h5", "a") as file:
        del file["trn0"]
        DATASETS[kind](file)
    assert "trn0" in _refused(lambda: _read(root))


def test_no_link_on_the_way_is_followed(root: Path) -> None:
    with h5py.File(root / "v.h5", "a") as file:
        _link("inner")(file)
    np.save(root / NAMES, np.array(["inner/trn0", "trn1"]))
    assert "behind a link" in _refused(lambda: _read(root))


def test_names_may_be_paths(root: Path) -> None:
    for m in MODALITIES:
        with h5py.File(root / f"{m}.h5", "a") as file:
            file.move("trn0", "session/trn0")
    np.save(root / NAMES, np.array(["session/trn0", "trn1"]))
    assert set(_read(root).parts["train"][0].features) == set(MODALITIES)


def test_a_small_file_becomes_no_large_corpus(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFMMIN_INPUT_LIMIT", "1")
    with h5py.File(root / "v.h5", "a") as file:
        for name in ("trn0", "trn1"):
            del file[name]
            file.create_dataset(name, (50_000, 4), "f4", chunks=(1000, 4))  # 0.8 MB, of nothing
    assert "most is not on the disk" in _refused(lambda: _read(root))
    opened: Any = h5py.File(root / "v.h5", "a")
    with opened as file:
        for name in ("trn0", "trn1"):
            file[name][:] = 1.0
    assert len(_read(root).parts["train"][0].features[Modality.V]) == 50_000


STATISTICS: list[Any] = [
    np.array(["a", "b", "c"], "S1"), "abc", np.ones((3, 1)), np.ones(2), np.full(3, np.nan),
    np.ones(3, complex), np.full(3, 1e300), np.ones(3, [("x", "f4")]), h5py.Empty("f4"), None,
]  # fmt: skip


@pytest.mark.parametrize("which", ["mean", "std"])
@pytest.mark.parametrize("number", range(len(STATISTICS)))
def test_statistics_of_no_columns(root: Path, which: str, number: int) -> None:
    with h5py.File(root / "stats.h5", "a") as file:
        del file[f"1/{which}"]
        if STATISTICS[number] is not None:
            file[f"1/{which}"] = STATISTICS[number]
    assert "stats.h5" in _refused(lambda: read_statistics(root / "stats.h5", 1, 3))


@pytest.mark.parametrize("kind", ["huge", "link to a pipe", "group"])
def test_statistics_are_not_read_blindly(root: Path, kind: str) -> None:
    with h5py.File(root / "stats.h5", "a") as file:
        del file["1/mean"]
        DATASETS[kind](file)
        file.move("trn0", "1/mean")
    _refused(lambda: read_statistics(root / "stats.h5", 1, 3))


@fuzzed(100)
@given(changes=mutations())
def test_mutated_targets(tmp_path_factory: pytest.TempPathFactory, changes: list[Change]) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    if not folder.exists():
        folder.mkdir()
        _write(folder)
    sound = SOUND.setdefault("labels", (folder / LABELS).read_bytes())
    (folder / LABELS).write_bytes(mutated(sound, changes))
    with bounded():
        try:
            corpus = _read(folder)
            labels = {u.label for u in corpus.parts["train"]}
        except CorpusError as error:
            text = str(error)
        else:
            text = ""
            assert labels == {0, 1}
    assert "\n" not in text


SOUND: dict[str, bytes] = {}


class _Module:
    load: Any = None


def _adapted(monkeypatch: pytest.MonkeyPatch, change: Callable[[Corpus], Any]) -> Corpus:
    corpus = change(small()[1])
    monkeypatch.setattr("ifmmin.train.data.adapter.importlib.import_module", lambda _: _Module)
    monkeypatch.setattr(_Module, "load", staticmethod(lambda **_: corpus))
    return load_corpus(AdapterLayout(function="given:load"), fold=1)


ONES = np.ones(5)
CORPORA: list[dict[str, Any]] = [
    {"parts": None}, {"parts": [1]}, {"parts": {"train": []}}, {"features": None}, {"name": None},
    {"parts": {"train": None, "validation": [], "test": []}}, {"features": dict.fromkeys("avt", 3)},
    {"labels": None}, {"labels": "abcd"}, {"labels": (1, 2, 3, 4)}, {"statistics": None},
    {"statistics": {"a": (0, 1)}}, {"statistics": {"q": Statistics(ONES, ONES)}},
    {"statistics": {"a": Statistics(ONES[:2], ONES[:2])}},
    {"statistics": {"a": Statistics(ONES * np.nan, ONES)}},
    {"statistics": {"a": Statistics(ONES, -ONES)}}, {"possible": {"a": 1.0}}, {"possible": None},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CORPORA)))
def test_corpora_of_an_adapter_are_looked_at_whole(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = _refused(lambda: _adapted(monkeypatch, lambda c: replace(c, **CORPORA[number])))
    assert "given:load" in said


def _first(**fields: Any) -> Callable[[Corpus], Corpus]:
    def change(corpus: Corpus) -> Corpus:
        first, *others = corpus.parts["train"]
        return replace(corpus, parts={**corpus.parts, "train": [replace(first, **fields), *others]})

    return change


@pytest.mark.parametrize(
    "name", ["", "\x1b]0;x", "a\nb", "a\0b", "\ud800", "\u202ea", "x" * 10_000]
)
def test_names_that_do_not_print(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = _refused(lambda: _adapted(monkeypatch, _first(name=name)))
    assert "its name must have 1 to 300 characters" in said


def test_what_is_larger_than_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.broadcast_to(np.float32(1), (10**10, 5))
    said = _refused(lambda: _adapted(monkeypatch, _first(features={"a": wide})))
    assert "modality a: an array (10000000000, 5) takes" in said


def test_what_an_adapter_gives_becomes_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = {"a": Statistics(torch.zeros(5), [0.0, 1, 2, 3, 4])}  # type: ignore[arg-type]

    wanted = small()[1].labels

    def change(corpus: Corpus) -> Corpus:
        given = {"a": np.ones((3, 5)), "v": np.ones((0, 6)), "t": []}
        corpus = _first(features=given, label=torch.tensor(1))(corpus)
        return replace(corpus, labels=list(corpus.labels), statistics=statistics)  # type: ignore[arg-type]

    corpus = _adapted(monkeypatch, change)
    assert set(corpus.parts["train"][0].features) == {Modality.A}  # without frames: missing
    assert corpus.parts["train"][0].label == 1
    assert corpus.statistics[Modality.A].std.tolist() == [1.0, 1.0, 2.0, 3.0, 4.0]
    assert corpus.labels == wanted
