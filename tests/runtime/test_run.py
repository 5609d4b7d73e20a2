"""`ifmmin-run`: answers, and one clear line for every mistake."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundles import ALL, copied, small_bundle

from ifmmin.runtime.cli import main
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.manifest import MANIFEST_NAME
from ifmmin.runtime.modality import ALL_PATTERNS
from ifmmin.runtime.predictor import Predictor

GOOD = {"a": (9, 5), "v": (4, 7), "t": (2, 11)}


@pytest.fixture
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    made = small_bundle(make_network, tmp_path_factory, ("a", "a_t"), shapes=("latency",))
    return copied(made, tmp_path)


def _npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def _arrays(letters: str, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {m: rng.standard_normal(GOOD[m]).astype(np.float32) for m in letters}


def _error(capsys: Any, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    text: str = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.startswith("error: ")
    return text


def test_table_json_and_csv_say_the_same(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for index in range(3):
        _npz(folder / f"clip{index}.npz", **_arrays("at" if index else "a", index))
    predictor = Predictor(bundle)
    truth = [predictor.predict(_arrays("at" if index else "a", index)) for index in range(3)]

    assert main([str(bundle), str(folder), "--format", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["label"] for line in lines] == [t.label for t in truth]
    assert [line["pattern"] for line in lines] == ["a", "a_t", "a_t"]
    np.testing.assert_allclose(lines[1]["logits"], truth[1].logits, atol=1e-6)
    assert main([str(bundle), str(folder), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["label"] for row in rows] == [t.label for t in truth]
    assert np.isclose(sum(float(rows[0][label]) for label in predictor.labels), 1.0)
    assert main([str(bundle), str(folder)]) == 0
    table = capsys.readouterr().out
    assert "onnxruntime-cpu" in table
    assert all(t.label in table for t in truth)


def test_many_inputs_show_progress(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    path = _npz(tmp_path / "x.npz", **_arrays("a"))
    assert main([str(bundle), *[str(path)] * 60]) == 0
    assert "predict 60/60" in capsys.readouterr().err


def test_a_pattern_can_be_forced(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    path = _npz(tmp_path / "x.npz", **_arrays("at"))
    assert main([str(bundle), str(path), "--pattern", "a", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["pattern"] == "a"
    text = _error(capsys, bundle, _npz(tmp_path / "t.npz", **_arrays("t")), "--pattern", "a_t")
    assert "needs modality a" in text


def test_none_and_empty_are_missing_and_lists_are_taken(bundle: Path) -> None:
    predictor = Predictor(bundle)
    x = _arrays("a")["a"]
    truth = predictor.predict({"a": x})
    for same in ({"a": x, "v": None, "t": np.zeros((0, 11))}, {"a": x.astype(np.float64).tolist()}):
        assert predictor.predict(same).pattern == truth.pattern
        np.testing.assert_array_equal(predictor.predict(same).logits, truth.logits)
    huge = np.full((3, 5), 3e38, np.float32)
    assert np.isfinite(predictor.predict({"a": huge}).logits).all()
    with pytest.raises(InputError, match="unknown modality 'x'"):
        predictor.predict({"x": x})


def test_wrong_features(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    text = _error(capsys, bundle, _npz(tmp_path / "w.npz", a=np.zeros((4, 6))))
    assert "modality a" in text
    assert "(4, 6)" in text
    assert "(frames, 5)" in text
    for value in (np.nan, np.inf):
        broken = _arrays("a")["a"]
        broken[3, 2] = value
        text = _error(capsys, bundle, _npz(tmp_path / "n.npz", a=broken))
        assert "frame 3, column 2" in text
    assert "no modality is present" in _error(capsys, bundle, _npz(tmp_path / "e.npz"))
    assert "unknown array 'b'" in _error(capsys, bundle, _npz(tmp_path / "b.npz", b=np.zeros(3)))
    text = _error(capsys, bundle, _npz(tmp_path / "s.npz", a=np.array([["x"]])))
    assert "wanted numbers" in text


def test_a_pattern_that_the_bundle_lacks(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    text = _error(capsys, bundle, _npz(tmp_path / "x.npz", **_arrays("vt")))
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
    path = bundle / "a.latency.fp32.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    text = _error(capsys, bundle, _npz(tmp_path / "x.npz", **_arrays("a")))
    assert "a.latency.fp32.onnx is damaged" in text


def test_manifests(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    clip = _npz(tmp_path / "x.npz", **_arrays("a"))
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


def test_unknown_backend_and_threads(bundle: Path) -> None:
    with pytest.raises(InputError, match="onnxruntime-cpu"):
        Predictor(bundle, backend="abacus")
    with pytest.raises(InputError, match="at least 1"):
        Predictor(bundle, threads=0)


def test_our_own_faults_keep_their_traceback() -> None:
    from ifmmin.runtime.command import command

    with pytest.raises(ZeroDivisionError):
        command(lambda arguments: 1 // 0)()


def test_every_pattern_is_found_from_what_is_present(
    make_network: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shapes = ("latency", "throughput")
    predictor = Predictor(small_bundle(make_network, tmp_path_factory, ALL, shapes=shapes))
    answers = [predictor.predict(_arrays("".join(p))) for p in ALL_PATTERNS]
    assert [a.pattern for a in answers] == list(ALL_PATTERNS)
    assert len({tuple(a.logits.round(4)) for a in answers}) == 7
