"""Graphs of streams: held against the golden vectors, also in bundles that have no others."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_command import event, frames, line, noise, npz, refused, run
from small_bundles import ALL, copied, edit, with_backends

from ifmmin.runtime import BackendUnavailable, BundleError, Predictor
from ifmmin.runtime.backends import Backend, BackendOptions, LoadedGraph
from ifmmin.runtime.backends import base as backends
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.bundle import Bundle, GraphEntry
from ifmmin.runtime.modality import Pattern
from ifmmin.runtime.stream.graphs import StreamGraphs

STREAMED = ("step", "summary", "head")
FULLEST = Pattern.parse("a_t")


class _Watching(Backend):
    """Right; notes the calls of steps, and how many graphs run at once."""

    name = "watching"

    def __init__(self) -> None:
        self.new_frames: list[int] = []
        self.most = self._running = 0
        self._count = threading.Lock()

    def open(self, bundle: Bundle, entry: GraphEntry) -> LoadedGraph:
        real = OnnxRuntimeCpu().open(bundle, entry)

        def run(inputs: Mapping[str, Any]) -> list[Any]:
            self._enter(1)
            try:
                if entry.shape == "step":
                    self.new_frames.append(inputs["frames"].shape[1])
                time.sleep(5e-4)  # lets the other threads in
                return self.changed(entry, real.run(inputs))
            finally:
                self._enter(-1)

        return dataclasses.replace(real, run=run)

    def changed(self, entry: GraphEntry, outputs: list[Any]) -> list[Any]:
        return outputs

    def _enter(self, step: int) -> None:
        with self._count:
            self._running += step
            self.most = max(self.most, self._running)


class _Forgetful(_Watching):
    """Right in a first call, and in none that needs what was before."""

    name = "forgetful"

    def changed(self, entry: GraphEntry, outputs: list[Any]) -> list[Any]:
        names = [spec.name for spec in entry.outputs]
        return [
            np.zeros_like(x) if name.startswith("next_") else x
            for name, x in zip(names, outputs, strict=True)
        ]


@pytest.fixture
def made() -> dict[str, Backend]:
    """The backends of a bundle."""
    cpu = OnnxRuntimeCpu()
    return {"watching": _Watching(), "forgetful": _Forgetful(), "onnxruntime-cpu": cpu}


@pytest.fixture
def bundle(
    make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: dict[str, Backend]
) -> Path:
    """A bundle whose manifest names a backend that is watched and one that forgets."""
    known: dict[str, Callable[..., Backend]] = {
        name: (lambda _, backend=backend: backend) for name, backend in made.items()
    }
    return with_backends(make_bundle(), tmp_path, monkeypatch, known)


def _predictor(bundle: Path, tmp_path: Path, backend: str = "auto", **more: Any) -> Predictor:
    options = BackendOptions(cache=tmp_path / "cache")
    return Predictor(bundle, backend=backend, options=options, **more)


def test_what_forgets_is_refused(bundle: Path, tmp_path: Path, made: dict[str, Backend]) -> None:
    """Though it answers whole utterances rightly, which is one call from the beginning."""
    predictor = _predictor(bundle, tmp_path, "forgetful")
    given = {"a": noise("a", 9), "t": noise("t", 9)}
    right = _predictor(bundle, tmp_path, "onnxruntime-cpu").predict(given)
    np.testing.assert_allclose(predictor.predict(given).logits, right.logits, atol=1e-5)
    opened = Bundle(bundle)
    graphs = StreamGraphs(
        lambda shape, subject: made["forgetful"].open(opened, opened.entry(subject, shape=shape))
    )
    whole = graphs.whole(FULLEST).run({"a": given["a"], "t": given["t"]})[0]
    np.testing.assert_allclose(whole, right.logits, atol=1e-4)
    with pytest.raises(BackendUnavailable) as caught:
        predictor.stream()
    message = str(caught.value)
    assert message.startswith("forgetful fp32 does not answer the golden vectors of a_t")
    assert "in chunks: largest difference of a logit" in message
    assert "take another backend" in message
    assert "\n" not in message


def test_what_forgets_is_not_chosen(bundle: Path, tmp_path: Path) -> None:
    predictor = _predictor(bundle, tmp_path)
    predictor.stream()
    outcomes = {trial.candidate.backend: trial.outcome for trial in predictor.history}
    assert outcomes["forgetful"] == "refused"
    assert sorted(outcomes.values()) == ["refused", "slower", "taken"]


def test_a_lone_way_is_tried_at_first(bundle: Path, tmp_path: Path, made: dict[str, Any]) -> None:
    """Frames one by one, several at once, and whole."""
    predictor = _predictor(bundle, tmp_path, "watching")
    stream = predictor.stream()
    assert {1, 2, 5} < set(made["watching"].new_frames)
    assert max(made["watching"].new_frames) > 13
    assert stream.pattern is None
    stream.push(a=noise("a", 1))
    assert stream.predict().backend == "watching"


def test_what_was_remembered_is_tried_anew(
    bundle: Path, tmp_path: Path, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver may have changed since."""
    predictor = _predictor(bundle, tmp_path)
    predictor.stream()
    taken = next(t for t in predictor.history if t.outcome == "taken").candidate.backend
    assert taken == "onnxruntime-cpu"
    damaged = _Forgetful()
    monkeypatch.setitem(backends.BACKENDS, taken, lambda _: damaged)
    again = _predictor(bundle, tmp_path)
    stream = again.stream()
    assert again.history[0].outcome == "unavailable"
    assert again.history[0].detail.startswith("it ran here before: onnxruntime-cpu fp32 does not")
    stream.push(a=noise("a", 1))
    assert stream.predict().backend == "watching"


@pytest.mark.parametrize("locked", [True, False])
def test_trials_take_turns_with_streams(
    bundle: Path, tmp_path: Path, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
    locked: bool,
) -> None:  # fmt: skip
    """The control lets trials run without the lock, and they do overlap."""
    if not locked:
        monkeypatch.setattr(StreamGraphs, "in_turn", lambda parts, loaded: loaded)
    edit(bundle, lambda m: m.update(graphs=[g for g in m["graphs"] if g["shape"] in STREAMED]))
    predictor = _predictor(bundle, tmp_path, "watching")
    stream = predictor.stream()
    ended = threading.Event()

    def talk() -> None:
        while not ended.is_set():
            stream.push(a=noise("a", 3), t=noise("t", 3))
            stream.predict()

    made["watching"].most = 0
    talking = threading.Thread(target=talk)
    talking.start()
    try:
        predictor.explain()  # of a bundle for streams alone: their graphs
    finally:
        ended.set()
        talking.join()
    assert made["watching"].most == (1 if locked else 2)


CPU = "onnxruntime-cpu"
CLIP = {"a": frames("a", 9), "t": frames("t", 6)}


@pytest.fixture(scope="module")
def whole(make_bundle: Any) -> Any:
    return make_bundle(ALL, shapes=("latency", "stream"))


@pytest.fixture(scope="module")
def bare(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _only(whole, tmp_path_factory.mktemp("own"), lambda graph: graph["shape"] != "latency")


@pytest.fixture(scope="module")
def wanted(whole: Path) -> Any:
    """What the same network says of the clip whole."""
    return Predictor(whole, backend=CPU).predict(CLIP).logits


def _only(whole: Path, folder: Path, keeps: Callable[[Any], bool]) -> Path:
    """A copy of a bundle with some of its graphs."""
    own = copied(whole, folder)
    edit(own, lambda m: m.update(graphs=[graph for graph in m["graphs"] if keeps(graph)]))
    return own


@pytest.mark.parametrize("backend", [CPU, "auto"])
def test_streams_need_no_other_graphs(bare: Path, wanted: Any, backend: str) -> None:
    assert {entry.shape for entry in Bundle(bare).manifest.graphs} == {"step", "summary", "head"}
    predictor = Predictor(bare, backend=backend)
    assert [str(pattern) for pattern in predictor.stream_patterns] == list(ALL)
    stream, group = predictor.stream(), predictor.streams(2)
    for listening in (stream, group[1]):
        listening.push(CLIP)
    np.testing.assert_allclose(stream.predict().logits, wanted, atol=1e-4, rtol=1e-4)
    nothing, said = group.update()
    assert nothing is None
    assert said is not None
    np.testing.assert_allclose(said.logits, wanted, atol=1e-4, rtol=1e-4)


def test_the_command_streams(bare: Path, wanted: Any) -> None:
    ran = run(bare, "--stream", "-", stdin=[event("push", **CLIP)])
    assert (ran.code, ran.err) == (0, "")
    np.testing.assert_allclose(ran.answers[0]["logits"], wanted, atol=1e-4, rtol=1e-4)


def test_whole_utterances_are_refused(bare: Path, tmp_path: Path) -> None:
    for backend in (CPU, "auto"):
        predictor = Predictor(bare, backend=backend)
        assert predictor.patterns == ()
        said = r"has no latency graphs.*; it has step, summary, head; use streams.*--shape latency"
        with pytest.raises(BundleError, match=said):
            predictor.predict(CLIP)
        with pytest.raises(BundleError, match="has no latency graphs"):
            predictor.predict_batch([CLIP, CLIP])
    # The command says so once, and not for every one of them.
    clip = npz(tmp_path / "clip.npz", **{m: np.array(x) for m, x in CLIP.items()})
    lines = [line("a"), line("v"), line("at")]
    for said in (refused(bare, clip), refused(bare, "-", stdin=lines)):
        assert said.startswith(f"error: the bundle {bare} has no latency graphs")


def test_what_shares_the_graphs_of_streams_answers_by_them(bare: Path, wanted: Any) -> None:
    predictor = Predictor(bare, backend=CPU, preload=True)
    assert [str(pattern) for pattern in predictor.patterns] == list(ALL)
    np.testing.assert_allclose(predictor.predict(CLIP).logits, wanted, atol=1e-4, rtol=1e-4)
    tuner = Predictor(bare, backend=CPU).explain()
    assert [(t.shape, str(t.pattern), t.outcome) for t in tuner] == [
        ("stream", pattern, "taken") for pattern in ALL
    ]


def test_streams_may_answer_more_than_whole_utterances(whole: Path, tmp_path: Path) -> None:
    fewer = _only(whole, tmp_path, lambda g: g["shape"] != "latency" or g["subject"] == "a")
    predictor = Predictor(fewer, backend=CPU)
    assert predictor.patterns == (Pattern.parse("a"),)
    assert list(map(str, predictor.stream_patterns)) == list(ALL)
    stream = predictor.stream()
    stream.push(CLIP)
    assert str(stream.predict().pattern) == "a_t"
