"""`ifmmin-run`: answers, one clear line for every mistake, and docs/run.md."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from run_command import arrays, call, line, npz, refused, run, run_documented
from small_bundles import ALL, copied, flip

from ifmmin.runtime.bundle import MANIFEST_NAME
from ifmmin.runtime.cli.app import command, entry_point, new_app
from ifmmin.runtime.cli.run import main
from ifmmin.runtime.modality import ALL_PATTERNS
from ifmmin.runtime.predictor import Predictor


@pytest.fixture
def bundle(make_bundle: Any, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return copied(make_bundle(("a", "a_t"), shapes=("latency",)), tmp_path)


def test_table_json_and_csv_say_the_same(bundle: Path, tmp_path: Path) -> None:
    folder, predictor, truth = tmp_path / "clips", Predictor(bundle), []
    folder.mkdir()
    for index, letters in enumerate(("a", "at", "at")):
        npz(folder / f"clip{index}.npz", **arrays(letters, index))
        truth.append(predictor.predict(arrays(letters, index)))
    lines = run(bundle, folder, "--format", "json").answers
    assert [line["label"] for line in lines] == [t.label for t in truth]
    assert [line["pattern"] for line in lines] == ["a", "a_t", "a_t"]
    np.testing.assert_allclose(lines[1]["logits"], truth[1].logits, atol=1e-6)
    rows = list(csv.DictReader(io.StringIO(run(bundle, folder, "--format", "csv").out)))
    assert [row["label"] for row in rows] == [t.label for t in truth]
    assert np.isclose(sum(float(rows[0][label]) for label in predictor.labels), 1.0)
    table = run(bundle, folder).out
    assert "onnxruntime-cpu" in table
    assert all(t.label in table for t in truth)


def test_progress_is_shown_and_a_pattern_can_be_forced(bundle: Path, tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", **arrays("at"))
    assert "predict 60/60" in run(bundle, *[path] * 60).err
    (answer,) = run(bundle, path, "--pattern", "a", "--format", "json").answers
    assert answer["pattern"] == "a"
    text = refused(bundle, npz(tmp_path / "t.npz", **arrays("t")), "--pattern", "a_t")
    assert "needs modality a" in text


def test_wrong_features(bundle: Path, tmp_path: Path) -> None:
    def said(**features: Any) -> str:
        return refused(bundle, npz(tmp_path / "x.npz", **features))

    assert re.search(r"modality a .*\(4, 6\).*\(frames, 5\)", said(a=np.zeros((4, 6))))
    for value in (np.nan, np.inf):
        broken = arrays("a")["a"]
        broken[3, 2] = value
        assert "frame 3, column 2" in said(a=broken)
    assert "no modality is present" in said()
    assert "unknown array 'b'" in said(b=np.zeros(3))
    assert "wanted numbers" in said(a=np.array([["x"]]))
    lacking = said(**arrays("vt"))
    assert "pattern v_t" in lacking
    assert "latency a fp32 lstm, latency a_t fp32 lstm" in lacking


def test_inputs_that_are_not_there(bundle: Path, tmp_path: Path) -> None:
    assert "no input at" in refused(bundle, tmp_path / "none.npz")
    (tmp_path / "x.mkv").touch()
    assert "got a .mkv file, wanted .wav" in refused(bundle, tmp_path / "x.mkv")
    soundfile.write(tmp_path / "x.wav", np.zeros(100), 16000)
    assert "takes no sound, only features of 5" in refused(bundle, tmp_path / "x.wav")
    (tmp_path / "x.npz").write_bytes(b"not a zip")
    assert "cannot be read" in refused(bundle, tmp_path / "x.npz")
    (tmp_path / "empty").mkdir()
    assert "holds no recording" in refused(bundle, tmp_path / "empty")


def test_bundles_that_cannot_be_used(bundle: Path, tmp_path: Path) -> None:
    clip = npz(tmp_path / "x.npz", **arrays("a"))
    graph, manifest = bundle / "a.latency.fp32.onnx", bundle / MANIFEST_NAME
    flip(graph)
    assert "a.latency.fp32.onnx is damaged" in refused(bundle, clip), "before it is loaded"
    flip(graph)
    content = json.loads(manifest.read_text())
    outside = content["graphs"][0] | {"file": "../model.safetensors"}
    for changed, said in (
        ({"schema": 99}, "has schema 99.*update ifmmin here"),
        ({"schema": 1}, "has schema 1.*export the bundle again"),
        ({"graphs": [outside]}, "wanted one inside of the bundle"),
        ({"labels": 3}, "is damaged"),
    ):
        manifest.write_text(json.dumps(content | changed))
        assert re.search(said, refused(bundle, clip))
    manifest.write_text("{")
    assert "is damaged" in refused(bundle, clip)
    manifest.unlink()
    assert "no manifest.json" in refused(bundle, clip)
    assert "no bundle at" in refused(tmp_path / "nowhere", clip)


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


def test_every_command_of_the_page_runs(root: Path, bundle: Path, tmp_path: Path) -> None:
    recordings = root / "examples" / "recordings"
    shutil.copytree(recordings, tmp_path / "recordings")
    shutil.copy(recordings / "sad.wav", tmp_path / "clip.wav")
    sad, rate = soundfile.read(recordings / "sad.wav")
    soundfile.write(tmp_path / "talk.wav", np.concatenate([sad, 0 * sad] * 3), rate)
    npz(tmp_path / "clip.npz", **arrays("at"))
    (tmp_path / "clips").mkdir()
    npz(tmp_path / "clips" / "one.npz", **arrays("a"))
    (tmp_path / "more.jsonl").write_text(line("a", id="clip1") + "\n")
    done = run_documented(root, tmp_path, "sh")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "answers.csv").read_text().startswith("input,pattern,label,")
    assert (tmp_path / "talk.png").stat().st_size


def test_every_option_is_described(root: Path) -> None:
    page = (root / "docs" / "run.md").read_text(encoding="utf-8")
    options = set(re.findall(r"--[a-z][a-z-]+", call(main, "--help").out))
    common = {"--help", "--version"}
    assert {option for option in options - common if f"`{option}" not in page} == set()
