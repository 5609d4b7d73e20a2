"""Streams on a made-up TensorRT, whose contexts refuse what lies outside of their profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import Machine
from run_command import DIMS, noise

from ifmmin.runtime import BackendUnavailable, InputError, Predictor, StreamOptions
from ifmmin.runtime.backends import BackendOptions
from ifmmin.runtime.backends.onnxruntime_gpu import OnnxRuntimeTensorrt
from ifmmin.runtime.backends.profile import PROFILED, STREAMS, profile_of
from ifmmin.runtime.backends.tensorrt import Tensorrt, TensorrtRtx

MINIMUM = 5
"""Frames of text: its largest kernel."""


def _predictor(bundle: Path, tmp_path: Path, backend: str = "tensorrt", **more: Any) -> Predictor:
    options = BackendOptions(cache=tmp_path / "cache")
    return Predictor(bundle, backend=backend, options=options, **more)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize(("kind", "precision"), [
    ("if-mmin", "fp32"), ("if-mmin", "fp16"), ("transforms", "fp32"), ("transforms", "fp16"),
])  # fmt: skip
def test_a_stream_of_text_from_its_first_token(
    gpu: Machine, make_bundle: Any, tmp_path: Path, kind: str, precision: str, backend: str,
) -> None:  # fmt: skip
    """Its graph keeps raw tokens, or standardised, normalised and rounded ones."""
    shapes = ("latency", "stream")
    bundle = make_bundle(("t",), ("fp32", "fp16"), kind=kind, shapes=shapes)
    predictor = _predictor(bundle, tmp_path, backend, precision=precision)
    tokens, stream = noise("t", 40), predictor.stream()
    start = 0
    for end in (1, 2, MINIMUM - 1, MINIMUM, MINIMUM + 1, 9, 40):
        stream.push(t=tokens[start:end])
        wanted = predictor.predict({"t": tokens[:end]}).logits
        found = stream.predict().logits
        np.testing.assert_allclose(found, wanted, atol=1e-4 if precision == "fp32" else 2e-2)
        start = end
    stream.set_text(tokens[:7])
    wanted = predictor.predict({"t": tokens[:7]}).logits
    np.testing.assert_allclose(stream.predict().logits, wanted, atol=2e-2)


def test_a_hundred_streams(gpu: Machine, bundle: Path, tmp_path: Path) -> None:
    """Their steps, summaries and heads are of more rows than an engine takes."""
    predictor = _predictor(bundle, tmp_path)
    group = predictor.streams(100)
    given = [{letter: noise(letter, 6, seed) for letter in DIMS} for seed in range(100)]
    for first, end in ((0, 5), (5, 6)):
        for number, frames in enumerate(given):
            group.push(number, {letter: x[first:end] for letter, x in frames.items()})
        answers = group.update()
        for frames, said in zip(given, answers, strict=True):
            assert said is not None
            wanted = predictor.predict({letter: x[:end] for letter, x in frames.items()})
            np.testing.assert_allclose(said.logits, wanted.logits, atol=1e-4)


def test_a_push_of_three_thousand_frames(gpu: Machine, bundle: Path, tmp_path: Path) -> None:
    """More than was verified, which is what an engine takes."""
    given = {letter: noise(letter, 3000) for letter in DIMS}
    stream = _predictor(bundle, tmp_path).stream()
    stream.push(given)
    wanted = Predictor(bundle, backend="onnxruntime-cpu").predict(given)
    np.testing.assert_allclose(stream.predict().logits, wanted.logits, atol=1e-4)
    stream.push({letter: noise(letter, 2, 1) for letter in DIMS})  # the states are right as well
    longer = {letter: np.concatenate((x, noise(letter, 2, 1))) for letter, x in given.items()}
    wanted = Predictor(bundle, backend="onnxruntime-cpu").predict(longer)
    np.testing.assert_allclose(stream.predict().logits, wanted.logits, atol=1e-4)


def test_snapshots_move_between_cpu_and_engine(gpu: Machine, bundle: Path, tmp_path: Path) -> None:
    """What is kept of the first tokens is the same on both."""
    here, there = _predictor(bundle, tmp_path), Predictor(bundle, backend="onnxruntime-cpu")
    tokens = noise("t", 12)
    for first, second in ((here, there), (there, here)):
        before, after = first.stream(), second.stream()
        before.push(t=tokens[:7])
        after.resume(before.snapshot())
        after.push(t=tokens[7:])
        wanted = there.predict({"t": tokens})
        np.testing.assert_allclose(after.predict().logits, wanted.logits, atol=1e-4)


def test_lanes_of_a_window_begin_one_by_one(gpu: Machine, bundle: Path, tmp_path: Path) -> None:
    options = StreamOptions(window=1.0, hop=0.5)
    both = (_predictor(bundle, tmp_path), Predictor(bundle, backend="onnxruntime-cpu"))
    streams = [predictor.stream(options) for predictor in both]
    for second in range(30):
        said = []
        for stream in streams:
            stream.push(t=noise("t", 2, second), at=second / 10)
            said.append(stream.predict().logits)
        np.testing.assert_allclose(said[0], said[1], atol=1e-4)


def test_without_cuts_all_of_it_is_refused(
    gpu: Machine, make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the made-up engines do refuse what the tests above give."""
    monkeypatch.setattr("ifmmin.runtime.sessions.fit_to_profile", lambda loaded, profile: loaded)
    text = make_bundle(("t",), shapes=("stream",))
    with pytest.raises(BackendUnavailable, match=r"input tail has shape \(1, 0, 11\)"):
        _predictor(text, tmp_path).stream()
    predictor = _predictor(make_bundle(("a",), shapes=("stream",)), tmp_path)
    with pytest.raises(InputError, match=r"input frames has shape \(1, 3000, 5\)"):
        predictor.stream().push(a=noise("a", 3000))
    group = predictor.streams(100)
    for number in range(100):
        group.push(number, a=noise("a", 1, number))
    with pytest.raises(InputError, match=r"input frames has shape \(100, 1, 5\)"):
        group.update()


def test_cuts_are_what_engines_are_built_for(gpu: Machine, bundle: Path, tmp_path: Path) -> None:
    """Sizes are told in two places: where engines are built, and where calls are cut."""
    assert {kind.name for kind in (Tensorrt, TensorrtRtx, OnnxRuntimeTensorrt)} == PROFILED
    predictor = _predictor(bundle, tmp_path)
    backend = Tensorrt(cache=tmp_path / "cache")
    seen = set()
    for entry in predictor.bundle.manifest.graphs:
        if entry.shape in ("step", "summary", "head"):
            loaded: Any = backend.open(predictor.bundle, entry)
            profile = profile_of(entry, predictor.bundle.manifest.modalities)
            for tensor in loaded.run.inputs:
                assert (tensor.minimum, tensor.maximum) == (
                    profile[tensor.name].minimum, profile[tensor.name].maximum,
                )  # fmt: skip
                assert tensor.maximum[0] == STREAMS[2]
            seen.add(entry.shape)
    assert seen == {"step", "summary", "head"}
