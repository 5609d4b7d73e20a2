"""Slim bundles: what stays answers as before and is proven; what the bundle lacks is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from run_command import call
from small_bundles import ALL

from ifmmin.export.bundle_cli import main
from ifmmin.runtime import Predictor
from ifmmin.runtime.bundle import Bundle, shipped
from ifmmin.runtime.bundle.verify import check_bundle
from ifmmin.runtime.recognizer import Recognizer

CPU = "onnxruntime-cpu"


@pytest.fixture(scope="module")
def whole(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(ALL)


def test_what_stays_answers_as_before(whole: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    ran = call(main, "slim", "-b", whole, "--pattern", "a_t", "--pattern", "t", "-o", small)
    assert ran.code == 0, ran.err
    bundle = Bundle(small)
    assert {str(p) for p in bundle.patterns} == {"a_t", "t"}
    assert {e.shape for e in bundle.manifest.graphs} == {"latency", "step", "summary", "head"}
    assert {e.subject for e in bundle.manifest.graphs} == {"a", "t", "a_t"}
    assert all(check.passed for check in check_bundle(bundle))
    names = {entry.file for entry in bundle.manifest.graphs}
    assert {p.name for p in small.iterdir()} - names == {
        "manifest.json", "golden.safetensors", "README.md"
    }  # fmt: skip
    assert all((small / n).read_bytes() == (whole / n).read_bytes() for n in names)
    rng = np.random.default_rng(0)
    dims = {m.value: spec.dim for m, spec in bundle.manifest.modalities.items()}
    features = {m: rng.standard_normal((9, dim)).astype(np.float32) for m, dim in dims.items()}
    answers, streams = [], []
    for directory in (whole, small):
        predictor = Predictor(directory, backend=CPU)
        answers.append(predictor.predict(features).logits)
        stream = predictor.stream()
        stream.push(features)
        streams.append(stream.predict().logits)
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(streams[0], streams[1])


def test_one_precision_and_shape(whole: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    ran = call(main, "slim", "-b", whole, "--pattern", "v", "--shape", "throughput", "-o", small)
    assert ran.code == 0, ran.err
    (entry,) = Bundle(small).manifest.graphs
    assert (entry.shape, entry.subject, entry.precision) == ("throughput", "v", "fp32")


def test_voice_alone_of_what_ships(tmp_path: Path, root: Path) -> None:
    small = tmp_path / "voice"
    ran = call(main, "slim", "--pattern", "a", "-o", small)
    assert "4 graphs" in ran.err
    assert sum(p.stat().st_size for p in small.iterdir()) < 8_000_000
    sound = root / "examples" / "recordings" / "angry.wav"
    found, wanted = (Recognizer(b, backend=CPU).recognize(sound=sound) for b in (small, shipped()))
    np.testing.assert_array_equal(found.logits, wanted.logits)
    assert call(main, "verify", "-b", small).code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--pattern", "v_t", "--precision", "int8"), "no int8 graph of v_t (latency, stream); it"),
        (("--pattern", "a", "--precision", "fp32", "--shape", "x"), "--shape: got 'x', wanted lat"),
        (("--pattern", "q"), "q"),
        ((), "--pattern"),
    ],
)
def test_what_it_lacks_is_one_line(
    whole: Path, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    ran = call(main, "slim", "-b", whole, *words, "-o", tmp_path / "small")
    assert ran.code == 2
    (line,) = ran.err.splitlines()
    assert told in line
    assert not (tmp_path / "small").exists()


def test_a_place_in_use_is_left_alone(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    ran = call(main, "slim", "-b", whole, "--pattern", "a", "-o", tmp_path)
    assert ran.code == 2
    assert "is in use; name a new directory" in ran.err
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]
