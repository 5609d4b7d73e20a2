"""Pickles of features as the field passes them on: read whole, and never run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from mutations import Change, bounded, fuzzed, mutated, mutations
from run_command import call, mistake

from ifmmin.runtime.errors import CorpusError, RecipeError
from ifmmin.runtime.files import LIMIT_VARIABLE
from ifmmin.runtime.modality import Modality
from ifmmin.train.cli import main
from ifmmin.train.data import PickledLayout, load_corpus, read_corpus
from ifmmin.train.data.corpus import Corpus

A, V, T = Modality
DIMS = {"audio": 3, "vision": 4, "text": 6}
LAYOUT = PickledLayout(
    name="made", labels=("negative", "positive"), file="data.pkl", bins=(0.0,)
)  # fmt: skip


def _part(name: str, count: int) -> dict[str, Any]:
    """A part as MMSA has it without alignment: other lengths of sound, face and words."""
    rng = np.random.default_rng(count)
    made: dict[str, Any] = {}
    for (key, dim), most in zip(DIMS.items(), (9, 7, 5), strict=True):
        array = rng.standard_normal((count, most, dim)).astype(np.float32)
        lengths = [1 + i % most for i in range(count)]
        for row, length in enumerate(lengths):
            array[row, length:] = 0
        made[key] = array
        if key != "text":
            made[f"{key}_lengths"] = lengths
    mask = (made["text"] != 0).any(axis=2)
    made["text"][~mask] = 7.0  # BERT says something of padding too
    made["text_bert"] = np.stack([mask, mask, mask * 0], axis=1).astype(np.float32)
    made["id"] = [f"{name}$_${i}" for i in range(count)]
    made["raw_text"] = np.array(["words"] * count, dtype=object)
    made["regression_labels"] = np.linspace(-3, 3, count).astype(np.float32)
    made["annotations"] = ["negative" if y < 0 else "positive" for y in made["regression_labels"]]
    return made


def _content() -> dict[str, Any]:
    return {name: _part(name, 8 + i) for i, name in enumerate(("train", "valid", "test"))}


def _read(folder: Path, content: Any, layout: PickledLayout = LAYOUT, **more: Any) -> Corpus:
    written = content if isinstance(content, bytes) else pickle.dumps(content, **more)
    (folder / "data.pkl").write_bytes(written)
    return read_corpus(layout, fold=1, features=folder)


def _require_same(corpus: Corpus, content: dict[str, Any]) -> None:
    for part, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        given = content[name]
        found = corpus.parts[part]
        assert [u.name for u in found] == given["id"]
        assert [u.score for u in found] == given["regression_labels"].tolist()
        assert [corpus.labels[u.label] for u in found] == given["annotations"]
        tokens = given["text_bert"][:, 1].sum(axis=1).astype(int)
        for row, one in enumerate(found):
            for m, key in ((A, "audio"), (V, "vision")):
                length = given[f"{key}_lengths"][row]
                np.testing.assert_array_equal(one.features[m], given[key][row, :length])
            np.testing.assert_array_equal(one.features[T], given["text"][row, : tokens[row]])


CORES = {1: b"numpy.core.", 2: b"numpy._core."}


def _named(written: bytes, version: int) -> bytes:
    """The pickle with modules named as a version of NumPy does."""
    for old in CORES.values():
        for name in (b"multiarray", b"numeric"):
            given, wanted = old + name, CORES[version] + name
            written = written.replace(b"c" + given, b"c" + wanted)
            lengths = [b"\x8c" + len(text).to_bytes(1, "little") for text in (given, wanted)]
            written = written.replace(lengths[0] + given, lengths[1] + wanted)
    if written[2:3] != b"\x95":
        return written
    return written[:3] + (len(written) - 11).to_bytes(8, "little") + written[11:]  # its only frame


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("version", CORES)
def test_pickles_of_every_protocol_and_of_numpy_1_and_2_are_read(
    version: int, protocol: int, tmp_path: Path
) -> None:
    content = _content()
    written = _named(pickle.dumps(content, protocol=protocol), version)
    assert CORES[version] in written
    assert CORES[3 - version] not in written
    _require_same(_read(tmp_path, written), content)


def test_aligned_features_without_lengths_lose_their_padding(tmp_path: Path) -> None:
    content = _content()
    for name in content:
        for key in ("audio_lengths", "vision_lengths", "text_bert"):
            del content[name][key]
        content[name]["text"][content[name]["text"] == 7.0] = 0
    # Of old pickles the padding is in front, of one utterance nothing is left, of sound -inf.
    train = content["train"]
    train["vision"][2] = 0
    train["audio"][3] = np.roll(train["audio"][3], 2, axis=0)
    train["audio"][4, 1, 1] = -np.inf
    first = _read(tmp_path, content).parts["train"]
    assert set(first[2].features) == {A, T}
    assert first[3].features[A].shape == (4, 3)
    np.testing.assert_array_equal(first[3].features[A], train["audio"][3, 2:6])
    assert first[4].features[A][1, 1] == 0
    assert all(len(u.features[V]) == 1 + i % 7 for i, u in enumerate(first) if i != 2)


def test_names_in_columns_and_scores_in_a_column_as_older_pickles_have_them(tmp_path: Path) -> None:
    content = _content()
    for name, part in content.items():
        part["labels"] = part.pop("regression_labels").astype(np.float64).reshape(-1, 1, 1)
        part["id"] = np.array([[f"{name}{i}", i, i + 1] for i in range(len(part["id"]))], object)
    corpus = _read(tmp_path, content, protocol=2)
    assert corpus.parts["test"][3].name == "test3_3_4"
    assert corpus.parts["test"][0].score == -3.0
    for part in content.values():
        del part["id"]
    assert _read(tmp_path, content).parts["test"][3].name == "test-4"


def test_classes_are_read_by_their_names_and_two_modalities_are_enough(tmp_path: Path) -> None:
    content = _content()
    for part in content.values():
        del part["vision"]
    plain = PickledLayout(
        name="made", labels=("positive", "negative"), file="data.pkl",
        keys={A: "audio", T: "text"},
    )  # fmt: skip
    corpus = _read(tmp_path, content, plain)
    assert corpus.modalities == (A, T)
    assert corpus.features[T].missing_length == 5
    assert [u.label for u in corpus.parts["train"]][:1] == [1]
    assert corpus.parts["train"][0].score is None
    whole = load_corpus(plain, fold=1, features=tmp_path, modalities=[T])
    assert set(whole.statistics) == {T}


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def _change(part: str, **fields: Any) -> Callable[[dict[str, Any]], Any]:
    def change(content: dict[str, Any]) -> Any:
        content[part] = {
            k: v for k, v in {**content[part], **fields}.items() if v is not None
        }  # fmt: skip
        return content

    return change


RAGGED = np.array([np.ones((2, 3)), *[np.ones((4, 3))] * 7], dtype=object)
BROKEN: dict[str, tuple[Any, str]] = {
    "code": (_change("train", audio=_Evil()), "system, wanted NumPy's arrays"),
    "class": (_change("train", audio=Fraction(1, 2)), "names fractions.Fraction, wanted NumPy's"),
    "no-text": (_change("valid", text=None), "valid has no text, only audio"),
    "no-labels": (
        _change("test", regression_labels=None),
        "test has none of regression_labels, labels, only audio",
    ),
    "ragged": (_change("train", audio=RAGGED), "audio: got arrays of several shapes, wanted one"),
    "list": (_change("train", audio=[np.ones((2, 3))] * 8), "audio: got arrays of several shapes"),
    "flat": (_change("train", audio=np.ones(8)), "got an array (8,) of float64, wanted one array"),
    "text": (_change("train", text=np.array(["a"] * 8)), "got an array (8,) of <U1, wanted one"),
    "count": (_change("train", audio=np.ones((3, 9, 3))), "8 regression_labels, but 3 audio"),
    "width": (_change("test", audio=np.ones((10, 9, 2))), "has 2 numbers a frame, wanted 3"),
    "lengths": (_change("train", audio_lengths=[99] * 8), "audio_lengths: wanted 0 to 9"),
    "shares": (_change("train", audio_lengths=[0.5] * 8), "got float64, wanted whole numbers"),
    "words": (_change("train", audio_lengths=["x"] * 8), "wanted numbers"),
    "score": (
        _change("train", regression_labels=np.full(8, np.nan)),
        "utterance train$_$0: got the score 'nan', wanted a finite number, as corpus.bins says; "
        "and 7 more of 8",
    ),
    "names": (_change("train", id=[{}] * 8), "id: wanted an array or a list with an item"),
    "part": (lambda c: {**c, "valid": 3}, "valid: got no dictionary"),
    "parts": (lambda c: {"train": c["train"]}, "got train, wanted a dictionary of train, valid"),
    "array": (lambda _: np.ones(3), "got no dictionary, wanted a dictionary of train"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("protocol", [2, 5])
def test_what_cannot_be_used_is_one_line(
    name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = BROKEN[name]
    with pytest.raises(CorpusError) as caught:
        _read(tmp_path, change(_content()), protocol=protocol)
    said = str(caught.value)
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "ran").exists()


def _array(state: bytes) -> bytes:
    """A pickle that makes an array of objects' addresses out of bytes, as NumPy itself would."""
    return b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR" + state


OBJECTS = (
    b"(I1\n(I1\ntcnumpy\ndtype\n(VO8\nI0\nI1\ntR(I3\nV|\nNNNI-1\nI-1\nI0\ntbI00\nV\x01234567\ntb."
)
HOSTILE: dict[str, bytes] = {
    "addresses": _array(OBJECTS),
    "eval": b"cbuiltins\neval\n(Vopen('ran','w')\ntR.",
    "import": b"cos\nsystem\n(Vtouch ran\ntR.",
    "method": b"cnumpy\nndarray.tofile\n.",
    "instance": b"(Vtouch ran\nios\nsystem\n.",
    "changed": b"cnumpy\ndtype\n}Vx\nI1\nsb.",
    "deep": b"\x80\x04}N" + b"\x85" * 1_000_000 + b"Ns.",
    "memo": b"\x80\x04Nr\xff\xff\xff\x7f.",
    "many": b"\x80\x04(c_codecs\nencode\nq\x00X\xa0\x86\x01\x00" + b"x" * 100_000 + b"q\x01"
    + b"h\x00h\x01\x85R" * 40_000 + b"l.",
    "short": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx",
    "outside": b"\x80\x04Vx\nQ.",
    "empty": b"",
    "none": b"no pickle",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_can_run_nothing_and_take_no_more_than_it_holds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(LIMIT_VARIABLE, "32")
    with bounded(), pytest.raises(CorpusError) as caught:
        _read(tmp_path, HOSTILE[name])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@fuzzed(150)
@given(mutations())
def test_damaged_pickles_are_read_or_told(
    tmp_path_factory: pytest.TempPathFactory, changes: list[Change]
) -> None:
    sound = pickle.dumps(_content(), protocol=4)
    said = ""
    with bounded():
        try:
            corpus = _read(tmp_path_factory.getbasetemp(), mutated(sound, changes))
        except CorpusError as error:
            said = str(error)
        else:
            assert corpus.modalities == (A, V, T)
    assert "\n" not in said


def test_what_is_too_large_or_nowhere_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CorpusError, match=r"data\.pkl cannot be read \(No such file.*--features"):
        read_corpus(LAYOUT, fold=1, features=tmp_path)
    with pytest.raises(CorpusError, match="give --features"):
        read_corpus(LAYOUT, fold=1)
    with pytest.raises(CorpusError, match="has one fold, got fold 2"):
        read_corpus(LAYOUT, fold=2, features=tmp_path)
    with pytest.raises(RecipeError, match="got 1 edges and 3 labels"):
        PickledLayout(name="x", labels=("a", "b", "c"), file="x", bins=(0.0,))
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    with pytest.raises(CorpusError, match=f"more than the 1 MiB allowed; .*{LIMIT_VARIABLE}"):
        _read(tmp_path, b"x" * (2 << 20))


def test_a_pickle_is_inspected_and_trained_on(tmp_path: Path) -> None:
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(_content()))
    recipe = tmp_path / "corpus.yaml"
    corpus = {
        "layout": "pickled", "name": "made", "labels": ["negative", "positive"],
        "file": "data.pkl", "bins": [0],
    }  # fmt: skip
    recipe.write_text(yaml.safe_dump({"corpus": corpus}))
    words = ("--recipe", "robust", "--corpus", recipe, "--features", tmp_path)
    looked = call(main, "inspect", *words)
    assert looked.code == 0, looked.err
    assert "0 of 27" in looked.out
    ran = call(main, "fit", *words, "--model", "linear", "-o", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert "Acc-2 -/0+" in ran.out
    assert "wanted a whole number" not in mistake(
        main, "fit", *words, "--fold", 2, "-o", tmp_path / "other"
    )
