"""`ifmmin-bundle` proves and shows bundles, without torch; docs/bundle.md has every field."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx.external_data_helper import set_external_data
from run_command import Ran, call, mistake, run_python
from small_bundles import copied, edit, flip, graph_entry, put, relabel

from ifmmin.export.bundle_cli import main
from ifmmin.export.export import Request, export_bundle
from ifmmin.export.verify.parity import DEFAULTS, Comparison, Evaluation, fresh_limits
from ifmmin.runtime import bundle as manifest
from ifmmin.runtime.bundle import PRECISIONS, SCHEMA_VERSION, Bundle, GraphEntry, Manifest
from ifmmin.runtime.errors import BundleError
from ifmmin.runtime.frontends import openface
from ifmmin.runtime.frontends.base import open_frontend
from ifmmin.runtime.frontends.spec import read_folder
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.predictor import Predictor


@pytest.fixture
def made(make_bundle: Callable[..., Path]) -> Path:
    """A sound bundle of a, t and a_t in float32, not to be changed."""
    return make_bundle()


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return copied(made, tmp_path)


def _run(*words: object) -> Ran:
    return call(main, *words)


def _failed(ran: Ran) -> list[str]:
    return [line for line in ran.err.splitlines() if line.startswith("failed: ")]


def test_a_sound_bundle_is_proven(made: Path) -> None:
    ran = _run("verify", "-b", made)
    for entry in Bundle(made).manifest.graphs:
        (row,) = [line for line in ran.out.splitlines() if line.startswith(f"| {entry.file} ")]
        assert re.search(r"\b(\d+) of \1\b", row)
    assert (ran.code, _failed(ran)) == (0, [])
    assert "checks passed" in ran.err


def test_everything_that_is_wrong_is_listed(bundle: Path) -> None:
    flip(bundle / "a.latency.fp32.onnx")
    (bundle / "t.head.fp32.onnx").unlink()
    (bundle / "notes.txt").touch()
    ran = _run("verify", "-b", bundle)
    assert [line.split(":")[1].strip() for line in _failed(ran)] == [
        "a.latency.fp32.onnx", "t.head.fp32.onnx",
    ]  # fmt: skip
    assert ran.code == 1
    assert "note: notes.txt" in ran.err
    assert "2 of " in ran.err.splitlines()[-1]
    assert "0 of 1" in ran.out


def test_weights_in_another_file_are_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where they are found and right, and the manifest agrees."""
    name, model = "a.latency.fp32.onnx", onnx.load(bundle / "a.latency.fp32.onnx")
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    (bundle / "weights.bin").write_bytes(tensor.raw_data)
    set_external_data(tensor, location="weights.bin")
    tensor.ClearField("raw_data")
    put(bundle, name, model.SerializeToString())
    monkeypatch.chdir(bundle)
    failed = _failed(_run("verify", "-b", bundle))
    (line,) = failed
    assert f"{name}: contents: weights in another file" in line
    with pytest.raises(BundleError, match="weights in another file"):
        Predictor(bundle).predict({"a": np.zeros((3, 5), np.float32)})


def test_what_is_no_bundle_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    for action in ("verify", "inspect"):
        assert "no bundle at" in mistake(main, action, "-b", tmp_path / "nowhere")


def test_the_checkpoint_proves_every_graph_again(made: Path, make_bundle: Any) -> None:
    ran = _run("verify", "-b", made, "--checkpoint", made.parent / "model.safetensors")
    assert ran.code == 0
    assert "compare 9/9" in ran.err
    (row,) = [line for line in ran.out.splitlines() if "a_t.head.fp32.onnx" in line]
    assert re.search(r"\b(\d+) of \1\b", row)
    # Another one is refused.
    words = ("verify", "-b", made, "--checkpoint", make_bundle(("a",), seed=1).parent)
    text = mistake(main, *words[:-1], words[-1] / "model.safetensors")
    assert "is not the checkpoint of" in text
    assert "no checkpoint at" in mistake(main, *words[:-1], words[-1] / "none")


def test_the_checkpoint_knows_a_forgery(made: Path, make_bundle: Any, tmp_path: Path) -> None:
    """All of another network, golden vectors too, under the name of this checkpoint."""
    checkpoint = made.parent / "model.safetensors"
    own = Bundle(made).manifest.checkpoint.sha256
    bundle = copied(make_bundle(("a",), seed=1), tmp_path)
    edit(bundle, lambda manifest: manifest["checkpoint"].__setitem__("sha256", own))
    for entry in Bundle(bundle).manifest.graphs:
        content = (bundle / entry.file).read_bytes()
        relabel(bundle, entry.file, content, checkpoint_sha256=own)
    assert _run("verify", "-b", bundle).code == 0
    ran = _run("verify", "-b", bundle, "--checkpoint", checkpoint)
    assert ran.code == 1
    for shape in ("latency", "throughput", "head"):
        assert f"failed: a.{shape}.fp32.onnx: fresh probes: logits" in ran.err


def test_a_damaged_bundle_is_not_compared(bundle: Path, made: Path) -> None:
    flip(bundle / "a.step.fp32.onnx")
    ran = _run("verify", "-b", bundle, "--checkpoint", made.parent / "model.safetensors")
    assert ran.code == 1
    assert "not compared with the checkpoint" in ran.err
    assert "compare" not in ran.err.splitlines()[0]


def test_other_lengths_of_the_missing_are_compared_as_exported(made: Path, tmp_path: Path) -> None:
    checkpoint = made.parent / "model.safetensors"
    request = Request(shapes=("latency",), missing_frames={Modality.V: 2})
    export_bundle(checkpoint, [Pattern.parse("a")], tmp_path / "other", request=request)
    one, two = (Bundle(at).graph(Bundle(at).entry(Pattern.parse("a")))
                for at in (made, tmp_path / "other"))  # fmt: skip
    assert one != two
    assert _run("verify", "-b", tmp_path / "other", "--checkpoint", checkpoint).code == 0


@pytest.mark.parametrize("action", [["verify"], ["inspect"], ["inspect", "--format", "json"]])
def test_it_runs_where_torch_and_onnx_are_not_installed(made: Path, action: list[str]) -> None:
    ran = _without_torch(*action, "-b", made)
    assert ran.code == 0, ran.err
    assert "a_t" in ran.out


def test_without_torch_one_line_says_what_the_comparison_needs(made: Path) -> None:
    ran = _without_torch("verify", "-b", made, "--checkpoint", "model.safetensors")
    assert ran.code == 2
    assert "ifmmin[export]" in ran.err.splitlines()[-1]


def _without_torch(*words: object) -> Ran:
    script = "from ifmmin.export.bundle_cli import main; sys.exit(main(sys.argv[1:]))"
    return run_python(script, *words, without=("torch", "onnx", "h5py", "yaml"))


def test_tables_show_what_is_in_the_bundle(bundle: Path) -> None:
    figures = Evaluation("made", 2, 40, 0.61, 0.62, 0.1, 0.63, 0.64, 0.11, 0.9)

    def evaluate(manifest: dict[str, Any]) -> None:
        manifest["graphs"][0] |= {"evaluation": dataclasses.asdict(figures), "quantised": ["rnn"]}
        manifest["licence"] = "CC BY 4.0"

    plain = _run("inspect", "-b", bundle).out
    assert "not stated" in plain
    assert " UA " not in plain
    assert "in 8 bits" not in plain
    edit(bundle, evaluate)
    out = _run("inspect", "-b", bundle).out
    for text in (
        "angry, happy, neutral, sad", "a, t, a_t", "if-mmin", "small", "made", "CC BY 4.0",
        "0.620 (0.640)", "rnn", "onnxruntime-cpu", "tensorrt-rtx", "megabytes", "settled",
    ):  # fmt: skip
        assert text in out, text


def test_json_holds_the_manifest_and_what_follows_from_it(make_bundle: Any) -> None:
    made = make_bundle(("a_t",), PRECISIONS)
    content = json.loads(_run("inspect", "-b", made, "--format", "json").out)
    sizes = {entry["file"]: entry["bytes"] for entry in content["graphs"]}
    counted = sum(size for shapes in content["total_bytes"].values() for size in shapes.values())
    assert counted == sum(sizes.values()) == sum((made / f).stat().st_size for f in sizes)
    first = content["takes_first"]
    assert first["onnxruntime-cpu"]["latency"] == {"a_t": "a_t.latency.fp32.onnx"}
    assert first["tensorrt"]["throughput"] == {"a_t": "a_t.throughput.fp16.scan.onnx"}
    assert first["tensorrt"]["step"]["t"] == "t.step.fp16.onnx"


def _entry(precision: str, **parity: float) -> GraphEntry:
    return graph_entry(precision=precision, parity=parity)


def test_fresh_probes_are_held_to_what_export_allowed() -> None:
    assert fresh_limits(_entry("fp32", excess=0.3, max_difference=3e-5)) == DEFAULTS["fp32"]
    assert fresh_limits(_entry("fp32")) == DEFAULTS["fp32"]
    lossy = fresh_limits(_entry("fp32", excess=20.0, max_difference=2e-3))
    assert lossy.logits == pytest.approx(8e-3)
    tight = fresh_limits(_entry("int8", probability_max=1e-3, agreement=1.0))
    assert tight.probabilities == 2e-2  # not the 0.05 that export allows
    assert tight.agreement == pytest.approx(0.96)
    loose = fresh_limits(_entry("int8", probability_max=0.05, agreement=0.9))
    assert loose.probabilities == pytest.approx(0.2)
    assert loose.agreement == pytest.approx(0.87)


STRUCTS = [
    struct for struct in vars(manifest).values()
    if isinstance(struct, type) and issubclass(struct, msgspec.Struct)
    and not struct.__name__.startswith("_")
]  # fmt: skip
RECORDS = [Comparison, Evaluation]


@pytest.fixture
def section(root: Path) -> str:
    """The part about the manifest."""
    return (root / "docs" / "bundle.md").read_text().split("## manifest.json", 1)[1]


def _documented(section: str) -> set[str]:
    """Every word in code, so also the last part of `graphs[].parity`."""
    return set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", section))))


@pytest.mark.parametrize("struct", [*STRUCTS, *RECORDS], ids=lambda struct: struct.__name__)
def test_every_field_is_described(section: str, struct: Any) -> None:
    fields = (
        [field.name for field in dataclasses.fields(struct)]
        if dataclasses.is_dataclass(struct)
        else msgspec.structs.fields(struct)
    )
    names = {field if isinstance(field, str) else field.name for field in fields}
    assert names
    assert names - _documented(section) == set()
    assert {Manifest, GraphEntry, manifest.MissingSpec} <= set(STRUCTS)
    assert not names <= _documented(section.replace("`", "")), "the control"


def test_the_schema_is_the_one_that_is_written(section: str) -> None:
    assert section.startswith(f", schema {SCHEMA_VERSION}\n")


@pytest.mark.parametrize("per", ["clip", "frame"])
def test_a_front_end_of_what_is_installed_is_a_folder(per: str, tmp_path: Path) -> None:
    ran = _run("frontend", "openface", per, "-o", tmp_path / "face")
    assert (ran.code, ran.out) == (0, "")
    assert re.search(r"openface-1-[0-9a-f]{12}, 35 numbers a frame", ran.err)
    frontend = open_frontend(*read_folder(tmp_path / "face"))
    assert frontend.describe() == openface.specify(per)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("openface", "second"), "per: got 'second', wanted clip or frame"),
        (("openface",), "openface wants a SOURCE"),
        (("opensmile", "clip.wav"), "opensmile wants no SOURCE"),
        (("openface", "clip", "--layers", "3"), "takes none of --detector, --layers"),
        (("blendshapes", "nowhere.task"), "nowhere.task cannot be read: No such file"),
        (("bert", "model", "--detector", "x.onnx"), "--detector is for ge2e, got bert"),
        (("ge2e", "pretrained.pt"), "ge2e wants --detector"),
    ],
)
def test_a_front_end_that_cannot_be_made_is_one_line(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    assert said in mistake(main, "frontend", *words, "-o", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_front_ends_of_the_bundle_that_ships_are_shown() -> None:
    out = _run("inspect").out
    assert re.search(r"a acoustic .* ge2e-\d+-[0-9a-f]{12} .* ge2e.onnx", out), out
    assert re.search(r"t textual .* minilm-\d+-[0-9a-f]{12} .* minilm.onnx", out), out
