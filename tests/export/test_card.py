"""The model card says what the manifest says, and nothing that it does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from ifmmin.export.bundle_cli import main
from ifmmin.export.card import model_card, provenance
from ifmmin.export.verify.parity import Evaluation
from ifmmin.runtime.bundle import PRECISIONS, Bundle, EngineEntry, Manifest, Origin
from ifmmin.runtime.console import escaped
from ifmmin.runtime.modality import Modality


@pytest.fixture
def bundle(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle()


@pytest.fixture
def manifest(bundle: Path) -> Manifest:
    return Bundle(bundle).manifest


_with = msgspec.structs.replace


def _trained(manifest: Manifest, training: Any) -> Manifest:
    return _with(manifest, checkpoint=_with(manifest.checkpoint, training=training))


def _front(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    content: dict[str, Any] = yaml.safe_load(front)
    return content


def test_the_bundle_has_it_and_it_is_the_same_every_time(bundle: Path, manifest: Manifest) -> None:
    assert (bundle / "README.md").read_text() == model_card(manifest)
    again = msgspec.json.decode(manifest.to_json(), type=Manifest)
    assert model_card(again) == model_card(manifest)


def test_it_names_every_graph_class_modality_and_figure(manifest: Manifest) -> None:
    card = model_card(manifest)
    for entry in manifest.graphs:
        assert f"`{entry.file}`" in card
        if entry.pattern is not None:
            assert f"{entry.parity['max_difference']:.1e}" in card
    for text in (
        *manifest.labels, "(a, t, a_t)", "recipe: small", "The recipe says: Made for tests.",
        "corpus: made", "fold: 2", "seed: 7", "epochs: 3", "0.625", "| a       | 0.500 |",
        manifest.checkpoint.sha256, "not run on a GPU", "Not for decisions about people",
        "ifmmin-bundle verify", "from voice and words",
    ):  # fmt: skip
        assert text in card, text


def test_the_front_matter_is_yaml(manifest: Manifest) -> None:
    front = _front(model_card(manifest))
    assert front["library_name"] == "ifmmin"
    assert front["pipeline_tag"] == "audio-classification"
    assert {"emotion-recognition", "onnx", "if-mmin"} <= set(front["tags"])
    assert "license" not in front
    assert "Not stated: it follows the terms of the corpus" in model_card(manifest)


@pytest.mark.parametrize(
    ("licence", "wanted"),
    [
        ("MIT", {"license": "mit"}),
        ("CC BY-NC-SA 4.0", {"license": "cc-by-nc-sa-4.0"}),
        ('Ask "us": yes/no\n', {"license": "other", "license_name": "ask-us-yes-no"}),
        ("許可", {"license": "other", "license_name": "own"}),
    ],
)
def test_licences(manifest: Manifest, licence: str, wanted: dict[str, str]) -> None:
    card = model_card(_with(manifest, licence=licence))
    assert {k: v for k, v in _front(card).items() if k.startswith("license")} == wanted
    assert escaped(" ".join(licence.split())) in card
    assert "Not stated" not in card


def test_its_example_runs(
    bundle: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(bundle.parent)
    assert bundle.name == "bundle"
    code = model_card(manifest).split("```python\n")[1].split("```")[0]
    exec(compile(code, "card", "exec"), {})
    assert "a_t" in capsys.readouterr().out


def test_its_verification_runs(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    lines = [x for x in model_card(Bundle(bundle).manifest).splitlines() if "ifmmin-bundle" in x]
    words = lines[0].split()
    assert words[0] == "ifmmin-bundle"
    assert main(words[1:]) == 0


def test_what_is_not_known_is_left_out(manifest: Manifest) -> None:
    card = model_card(manifest)
    for text in ("WA, UA and ECE on", "in 8 bits", "8-bit", "scan", "F1", "### Engines"):
        assert text not in card, text
    for training in ({}, {"recipe": "x", "metrics": [1], "fold": "one", "corpus": None}):
        bare = model_card(_trained(manifest, training))
        assert "## Training" not in bare
        assert "None" not in bare.replace("`None`", "")
        assert "Accuracy was measured" not in bare


def test_accuracy_stands_beside_that_of_the_network(manifest: Manifest) -> None:
    figures = Evaluation("iemo|cap", 3, 40, 0.61, 0.62, 0.1, 0.63, 0.64, 0.11, 0.9)
    found = dataclasses.asdict(figures)
    evaluated = _with(manifest.graphs[0], evaluation=found, quantised=("rnn", "entry"))
    card = model_card(_with(manifest, graphs=(evaluated, *manifest.graphs[1:])))
    assert "test part of iemo\\|cap, fold 3 (40 utterances)" in card
    (row,) = [line for line in card.splitlines() if line.startswith(f"| `{evaluated.file}`")]
    for cell in ("0.610 (0.630)", "0.620 (0.640)", "0.100 (0.110)", "rnn, entry"):
        assert cell in row


def test_every_row_of_a_table_has_its_columns(manifest: Manifest) -> None:
    spec = manifest.modalities[Modality.A]
    odd = _with(spec, features="mean | deviation\nof frames", normalised=True)
    card = model_card(_with(manifest, modalities={**manifest.modalities, Modality.A: odd}))
    assert "mean \\| deviation of frames" in card
    assert "by the caller" in card
    for block in card.split("\n\n"):
        if block.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_few_bits_loops_and_engines_are_explained(make_bundle: Any) -> None:
    manifest = Bundle(make_bundle(("a_t",), PRECISIONS)).manifest
    engine = EngineEntry(
        engine="tensorrt-rtx", version="1.7", targets=("SM86", "SM89"), graph="a_t.onnx",
        graph_sha256="", file="a_t.rtx.engine", sha256="", bytes=3_000_000, profile={},
    )  # fmt: skip
    card = model_card(_with(manifest, engines=(engine,)))
    for text in (
        "8-bit graphs may differ", "for GPUs", "for TensorRT", "`scan`:", "in 8 bits",
        "`a_t.rtx.engine`", "SM86 SM89", "voice and words, as",
    ):  # fmt: skip
        assert text in card, text


def test_a_bundle_without_graphs_of_utterances_shows_a_stream(manifest: Manifest) -> None:
    heads = tuple(e for e in manifest.graphs if e.shape in ("step", "summary", "head"))
    card = model_card(_with(manifest, graphs=heads))
    assert "stream.push(features)" in card
    assert "ifmmin-run -b bundle --stream -" in card
    assert "clip.npz" not in card
    steps = tuple(e for e in heads if e.shape != "head")
    assert "## Use" not in model_card(_with(manifest, graphs=steps))
    assert "(`head`)" in card
    assert "(`latency`)" not in card


def test_records_of_imports_and_of_nobody() -> None:
    def facts(training: Any) -> dict[str, str]:
        return provenance(Origin(sha256="", model="if-mmin", training=training)).facts

    options = {"name": "CAP_IF_MMIN", "lr": 0.1}
    imported = {"imported": {"options": options, "epoch": "47", "stage": 2}, "fold": 1}
    assert facts(imported) == {"fold": "1", "imported": "CAP_IF_MMIN, epoch 47, stage 2"}
    assert facts({"imported": {"epoch": "9"}})["imported"].endswith("research code, epoch 9")
    stages = {"stage1": {"epochs": 10, "decay_epochs": 5}, "stage2": {"epochs": 0}}
    assert facts({"recipe": {"name": "x", **stages}}) == {"recipe": "x", "epochs": "15"}
    assert facts({"recipe": {"corpus": {"name": "made"}}, "seed": True}) == {"corpus": "made"}


HOSTILE = "<b>x</b> ![i](http://h) `c` a|b\x1b]0;t\x07\u202e"
NAME = "<b>x ![i](h) `c` a|b"
"""What names of files and classes may be at most."""


def _of_all_texts(manifest: Manifest) -> Manifest:
    """A manifest in which everybody who may write something wrote that."""
    training = {
        "recipe": {"name": HOSTILE, "description": HOSTILE}, "corpus": HOSTILE,
        "imported": {"options": {"name": HOSTILE}, "epoch": HOSTILE},
        "metrics": {"test": {HOSTILE: {"wa": 0.5, "confusion": [[1]]}}},
    }  # fmt: skip
    evaluation = {"corpus": HOSTILE, "fold": HOSTILE, "utterances": HOSTILE}
    engine = EngineEntry(
        engine=HOSTILE, version=HOSTILE, targets=(HOSTILE,), graph=HOSTILE, graph_sha256="",
        file=NAME, sha256="", bytes=1, profile={},
    )  # fmt: skip
    graphs = [
        _with(e, file=NAME, quantised=(HOSTILE,), evaluation=evaluation) for e in manifest.graphs
    ]
    return _with(
        manifest,
        labels=(NAME, "other"),
        licence=HOSTILE,
        tools={HOSTILE: HOSTILE},
        graphs=tuple(graphs),
        engines=(engine,),
        modalities={m: _with(s, features=HOSTILE) for m, s in manifest.modalities.items()},
        checkpoint=_with(manifest.checkpoint, model=HOSTILE, sha256=HOSTILE, training=training),
    )


def test_nothing_that_somebody_wrote_is_markup(manifest: Manifest) -> None:
    body = model_card(_of_all_texts(manifest)).split("---\n", 2)[2]
    assert body.count("&lt;b&gt;x") > 15
    for raw in ("<b>", "![i]", "`c`", "a|b", "\x1b", "\x07", "\u202e"):
        assert raw not in body.replace("\\|", ""), raw


def test_the_front_matter_is_yaml_whatever_the_model_is_called(manifest: Manifest) -> None:
    front = _front(model_card(_of_all_texts(manifest)))
    assert HOSTILE in front["tags"]
    assert front["license"] == "other"
