"""`ifmmin-run`: answers, one clear line for every mistake, and docs/run.md."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_command import arrays, line, npz
from small_bundles import ALL, copied, flip

from ifmmin.runtime.bundle import MANIFEST_NAME
from ifmmin.runtime.cli.app import command, entry_point, new_app
from ifmmin.runtime.cli.run import main
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import ALL_PATTERNS
from ifmmin.runtime.predictor import Predictor


@pytest.fixture
def bundle(make_bundle: Any, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return copied(make_bundle(("a", "a_t"), shapes=("latency",)), tmp_path)


def _error(capsys: Any, *arguments: object) -> str:
    assert main(["-b", *map(str, arguments)]) == 2
    text: str = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.startswith("error: ")
    return text


def test_table_json_and_csv_say_the_same(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for index in range(3):
        npz(folder / f"clip{index}.npz", **arrays("at" if index else "a", index))
    predictor = Predictor(bundle)
    truth = [predictor.predict(arrays("at" if index else "a", index)) for index in range(3)]

    assert main(["-b", str(bundle), str(folder), "--format", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["label"] for line in lines] == [t.label for t in truth]
    assert [line["pattern"] for line in lines] == ["a", "a_t", "a_t"]
    np.testing.assert_allclose(lines[1]["logits"], truth[1].logits, atol=1e-6)
    assert main(["-b", str(bundle), str(folder), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["label"] for row in rows] == [t.label for t in truth]
    assert np.isclose(sum(float(rows[0][label]) for label in predictor.labels), 1.0)
    assert main(["-b", str(bundle), str(folder)]) == 0
    table = capsys.readouterr().out
    assert "onnxruntime-cpu" in table
    assert all(t.label in table for t in truth)


def test_many_inputs_show_progress(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    path = npz(tmp_path / "x.npz", **arrays("a"))
    assert main(["-b", str(bundle), *[str(path)] * 60]) == 0
    assert "predict 60/60" in capsys.readouterr().err


def test_a_pattern_can_be_forced(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    path = npz(tmp_path / "x.npz", **arrays("at"))
    assert main(["-b", str(bundle), str(path), "--pattern", "a", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["pattern"] == "a"
    text = _error(capsys, bundle, npz(tmp_path / "t.npz", **arrays("t")), "--pattern", "a_t")
    assert "needs modality a" in text


def test_none_and_empty_are_missing_and_lists_are_taken(bundle: Path) -> None:
    predictor = Predictor(bundle)
    x = arrays("a")["a"]
    truth = predictor.predict({"a": x})
    for same in ({"a": x, "v": None, "t": np.zeros((0, 11))}, {"a": x.astype(np.float64).tolist()}):
        assert predictor.predict(same).pattern == truth.pattern
        np.testing.assert_array_equal(predictor.predict(same).logits, truth.logits)
    huge = np.full((3, 5), 3e38, np.float32)
    assert np.isfinite(predictor.predict({"a": huge}).logits).all()
    with pytest.raises(InputError, match="unknown modality 'x'"):
        predictor.predict({"x": x})


def test_wrong_features(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    text = _error(capsys, bundle, npz(tmp_path / "w.npz", a=np.zeros((4, 6))))
    assert "modality a" in text
    assert "(4, 6)" in text
    assert "(frames, 5)" in text
    for value in (np.nan, np.inf):
        broken = arrays("a")["a"]
        broken[3, 2] = value
        text = _error(capsys, bundle, npz(tmp_path / "n.npz", a=broken))
        assert "frame 3, column 2" in text
    assert "no modality is present" in _error(capsys, bundle, npz(tmp_path / "e.npz"))
    assert "unknown array 'b'" in _error(capsys, bundle, npz(tmp_path / "b.npz", b=np.zeros(3)))
    text = _error(capsys, bundle, npz(tmp_path / "s.npz", a=np.array([["x"]])))
    assert "wanted numbers" in text


def test_a_pattern_that_the_bundle_lacks(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    text = _error(capsys, bundle, npz(tmp_path / "x.npz", **arrays("vt")))
    assert "pattern v_t" in text
    assert "latency a fp32 lstm, latency a_t fp32 lstm" in text


def test_inputs_that_are_not_there(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    assert "no input at" in _error(capsys, bundle, tmp_path / "none.npz")
    (tmp_path / "x.wav").touch()
    assert "wanted .npz" in _error(capsys, bundle, tmp_path / "x.wav")
    (tmp_path / "x.npz").write_bytes(b"not a zip")
    assert "cannot be read" in _error(capsys, bundle, tmp_path / "x.npz")
    (tmp_path / "empty").mkdir()
    assert "holds no .npz" in _error(capsys, bundle, tmp_path / "empty")


def test_one_flipped_bit_is_found_before_the_graph_is_loaded(
    bundle: Path, tmp_path: Path, capsys: Any
) -> None:
    flip(bundle / "a.latency.fp32.onnx")
    text = _error(capsys, bundle, npz(tmp_path / "x.npz", **arrays("a")))
    assert "a.latency.fp32.onnx is damaged" in text


def test_manifests(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    clip = npz(tmp_path / "x.npz", **arrays("a"))
    manifest = bundle / MANIFEST_NAME
    content = json.loads(manifest.read_text())
    for schema, said in ((99, "update ifmmin here"), (1, "export the bundle again")):
        manifest.write_text(json.dumps(content | {"schema": schema}))
        error = _error(capsys, bundle, clip)
        assert f"has schema {schema}" in error
        assert said in error
    outside = content | {"graphs": [content["graphs"][0] | {"file": "../model.safetensors"}]}
    manifest.write_text(json.dumps(outside))
    assert "outside of the bundle" in _error(capsys, bundle, clip)
    manifest.write_text(json.dumps(content | {"labels": 3}))
    assert "is damaged" in _error(capsys, bundle, clip)
    manifest.write_text("{")
    assert "is damaged" in _error(capsys, bundle, clip)
    manifest.unlink()
    assert "no manifest.json" in _error(capsys, bundle, clip)
    assert "no bundle at" in _error(capsys, tmp_path / "nowhere", clip)


def test_our_own_faults_keep_their_traceback() -> None:
    app = new_app()

    @command(app)
    def fail() -> int:
        return 1 // 0

    with pytest.raises(ZeroDivisionError):
        entry_point(app, "fail")([])


def test_every_pattern_is_found_from_what_is_present(make_bundle: Any) -> None:
    predictor = Predictor(make_bundle(ALL, shapes=("latency", "throughput")))
    answers = [predictor.predict(arrays("".join(p))) for p in ALL_PATTERNS]
    assert [a.pattern for a in answers] == list(ALL_PATTERNS)
    assert len({tuple(a.logits.round(4)) for a in answers}) == 7


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs" / "run.md").read_text(encoding="utf-8")


def test_every_command_runs(page: str, bundle: Path, tmp_path: Path) -> None:
    npz(tmp_path / "clip.npz", **arrays("at"))
    (tmp_path / "clips").mkdir()
    npz(tmp_path / "clips" / "one.npz", **arrays("a"))
    (tmp_path / "more.jsonl").write_text(line("a", id="clip1") + "\n")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    commands = [text for block in blocks for text in block.splitlines()]
    commands += re.findall(r"^\$ (.*)$", page, re.MULTILINE)
    assert len(commands) >= 5
    function = f'ifmmin-run() {{ "{sys.executable}" -m ifmmin.runtime.cli.run "$@"; }}'
    script = "\n".join(["set -e", function, *commands])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "answers.csv").read_text().startswith("input,pattern,label,")


def test_every_option_is_described(page: str, capsys: Any) -> None:
    assert main(["--help"]) == 0
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    common = {"--help", "--version"}
    assert {option for option in options - common if f"`{option}" not in page} == set()
