"""Front-ends of words, made of small encoders that transformers has saved."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper
from run_command import call, mistake, run_python

from ifmmin.export.bundle_cli import main
from ifmmin.export.frontends import words as made_words
from ifmmin.export.frontends.words import Encoder, four_bits, make_words
from ifmmin.runtime.errors import InputError, ParityError
from ifmmin.runtime.frontends.base import open_frontend
from ifmmin.runtime.frontends.spec import read_folder

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SAID = {"happy": ("glad", "joy", "fine"), "sad": ("tears", "loss", "alone")}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PIECES = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SAID["happy"], *SAID["sad"],
    "so", "very", *LETTERS, *(f"##{letter}" for letter in LETTERS), *"!?.,'$\u2026\u6211\u9ad8",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained BERT of three layers, as `save_pretrained` leaves one."""
    import torch

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(PIECES), hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=96, initializer_range=0.3,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": True, "tokenizer_class": "BertTokenizer"}), encoding="utf-8"
    )
    return folder


@pytest.fixture
def comments(tmp_path: Path) -> Path:
    """Comments that a word tells apart."""
    path, chance = tmp_path / "comments.csv", np.random.default_rng(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "text"])
        for number in range(80):
            label = ("happy", "sad")[number % 2]
            said = " ".join(chance.choice(SAID[label], chance.integers(1, 4)))
            writer.writerow([number, label, f"so {said}!" if number % 3 else f"{said} very {said}"])
    return path


def _copy(model: Path, folder: Path) -> Path:
    return Path(shutil.copytree(model, folder / "copy"))


def _edit(folder: Path, name: str = "config.json", **changes: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")
    return folder


def test_states_are_those_of_transformers(model: Path, tmp_path: Path) -> None:
    ran = call(main, "frontend", "bert", model, "--layers", 2, "-o", tmp_path / "made")
    assert ran.code == 0, ran.err
    assert "difference to transformers" in ran.out
    spec, read = read_folder(tmp_path / "made")
    assert spec.identity in ran.err
    assert (spec.kind, spec.dim, spec.settings["layer"], spec.settings["longest"]) == (
        "bert", 32, 2, 96,
    )  # fmt: skip
    text = "So very glad, Joy! Caf\u00e9 \u6211"
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    bert = transformers.AutoModel.from_pretrained(model).eval()
    tokens = tokenizer(text, return_tensors="pt")
    wanted = bert(**tokens, output_hidden_states=True).hidden_states[2][0].detach().numpy()
    np.testing.assert_allclose(open_frontend(spec, read).whole(text), wanted, atol=1e-5)


def test_the_comparison_finds_other_states_and_another_tokeniser(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_words, "TOLERANCE", 1e-12)
    with pytest.raises(ParityError, match="differ from those of transformers"):
        make_words("bert", model, tmp_path / "made")
    monkeypatch.undo()
    other = _copy(model, tmp_path)
    monkeypatch.setattr(made_words, "PROBES", ("A", "CAFE"))
    _edit(other, "tokenizer_config.json", strip_accents=False)
    make_words("bert", other, tmp_path / "made")
    monkeypatch.setattr(made_words, "PROBES", ("Caf\u00e9 so\u00e9",))
    with pytest.raises(ParityError, match="tokeniser"):
        make_words("bert", other, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_old_weights_with_a_head_are_taken(model: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = _copy(model, tmp_path)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    old = {
        f"bert.{name.replace('Norm.weight', 'Norm.gamma').replace('Norm.bias', 'Norm.beta')}": value
        for name, value in load_file(folder / "model.safetensors").items()
    }
    (folder / "model.safetensors").unlink()
    torch.save(old | {"cls.predictions.bias": torch.zeros(3)}, folder / "pytorch_model.bin")
    encoder = Encoder.read(folder)
    wanted = Encoder.read(model)
    assert encoder.licence == "apache-2.0"
    assert wanted.licence is None
    for name, weight in wanted.weights.items():
        np.testing.assert_array_equal(encoder.weights[name], weight)


def test_a_tokenizer_json_and_a_model_that_knows_case_are_taken(
    model: Path, tmp_path: Path
) -> None:
    folder = _edit(_copy(model, tmp_path), "tokenizer_config.json", do_lower_case=False)
    transformers.BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    (folder / "vocab.txt").unlink(missing_ok=True)
    assert (folder / "tokenizer.json").is_file()
    encoder = Encoder.read(folder)
    assert (encoder.pieces, encoder.lower_case) == (PIECES, False)
    make_words("bert", folder, tmp_path / "made")
    spec, read = read_folder(tmp_path / "made")
    assert spec.settings["lower_case"] is False
    assert len(open_frontend(spec, read).whole("Glad")) == 3  # [CLS] [UNK] [SEP]


def test_eight_bits_are_smaller_and_answer_the_same(
    model: Path, comments: Path, tmp_path: Path
) -> None:
    rows = make_words("minilm", model, tmp_path / "exact", 2)
    assert len(rows) == 1
    rows = make_words("minilm", model, tmp_path / "made", 2, comments)
    assert [row[1] for row in rows[1:]] == ["UA lost on the comments", "same answers"]
    (exact, read_exact), (spec, read) = (read_folder(tmp_path / n) for n in ("exact", "made"))
    assert spec.identity != exact.identity
    assert spec.settings["precision"] == "int8"
    assert spec.tolerance > exact.tolerance
    before, after = (open_frontend(s, r).whole("so very glad!") for s, r in
                     ((exact, read_exact), (spec, read)))  # fmt: skip
    off = np.linalg.norm(before - after) / np.linalg.norm(before)
    assert 0.001 < off < 0.3
    graph = onnx.load_from_string(read(spec.files["graph"])).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = [n for n in graph.node if n.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 4 * 2
    # Two products of a byte and a weight fit 16 bits with a sign, wherever they are added.
    assert all(2 * 255 * np.abs(weights[n.input[1]].astype(int)).max() < 1 << 15 for n in products)
    table = next(w for w in weights.values() if w.dtype == np.uint8 and w.ndim == 2)
    assert table.shape == (len(PIECES), 16)


def test_eight_bits_that_lose_answers_are_refused(
    model: Path, comments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_words, "four_bits", lambda table: (
        np.zeros(table.shape, np.uint8), np.zeros((len(table), 1), np.float32)))  # fmt: skip
    with pytest.raises(ParityError, match="loses UA"):
        make_words("minilm", model, tmp_path / "made", 2, comments)
    assert not (tmp_path / "made").exists()


@given(arrays(np.float32, (5, 8), elements=st.floats(-100, 100, width=32)))
def test_no_row_of_a_table_is_off_by_more_than_half_a_step_of_its_range(table: Any) -> None:
    levels, step = four_bits(table)
    assert levels.max() <= 15
    error = np.square((levels - 7.5) * step - table).mean(axis=1)
    reach = np.abs(table).max(axis=1) / 7.5
    # A little more: steps are kept in 16 bits.
    assert (error <= np.square(reach / 2) * 1.02 + 1e-6).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "roberta"}, "got model_type 'roberta', wanted 'bert'"),
        ({"hidden_act": "relu"}, "got hidden_act 'relu'"),
        ({"num_attention_heads": None}, "no usable"),
        ({"max_position_embeddings": "many"}, "no usable"),
    ],
)
def test_another_architecture_is_refused(
    model: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        Encoder.read(_edit(_copy(model, tmp_path), **changes))


def test_what_is_no_model_is_told_in_a_line(model: Path, comments: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "made")
    assert "wanted the folder of a model" in mistake(main, "frontend", "bert", tmp_path, *out)
    assert "has 1 to 3" in mistake(main, "frontend", "bert", model, "--layers", 4, *out)
    wrong = mistake(main, "frontend", "bert", model, "--detector", comments, *out)
    assert "--detector is for ge2e" in wrong
    ge2e = ("frontend", "ge2e", comments)
    assert "ge2e wants --detector" in mistake(main, *ge2e, *out)
    assert "wanted Resemblyzer's" in mistake(main, *ge2e, "--detector", comments, *out)
    latin = tmp_path / "latin.csv"
    latin.write_bytes(b"label,text\nhappy,gl\xe4d\n")
    columns = tmp_path / "columns.csv"
    columns.write_text("emotion,text\nhappy,glad\n", encoding="utf-8")
    few = tmp_path / "few.csv"
    few.write_text("label,text\nhappy,glad\nsad,alone\n", encoding="utf-8")
    for path, said in ((latin, "UTF-8"), (columns, "columns label and text"), (few, "5 comments")):
        assert said in mistake(main, "frontend", "bert", model, "--eight-bits", path, *out)
    folder = _copy(model, tmp_path)
    (folder / "model.safetensors").write_bytes(b"nothing")
    assert "holds no weights" in mistake(main, "frontend", "bert", folder, *out)
    (folder / "model.safetensors").unlink()
    assert "it has no model.safetensors" in mistake(main, "frontend", "bert", folder, *out)
    (folder / "vocab.txt").unlink()
    assert "no readable vocab.txt" in mistake(main, "frontend", "bert", folder, *out)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("lacking", "extra"), [("transformers", "words"), ("onnx", "export")])
def test_a_line_says_what_it_needs(model: Path, tmp_path: Path, lacking: str, extra: str) -> None:
    script = "from ifmmin.export.bundle_cli import main; sys.exit(main(sys.argv[1:]))"
    words = ("frontend", "bert", model, "-o", tmp_path / "made")
    ran = run_python(script, *words, without=(lacking,))
    assert ran.code == 2
    assert f"ifmmin[{extra}]" in ran.err.splitlines()[-1]
