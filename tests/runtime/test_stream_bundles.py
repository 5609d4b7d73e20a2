"""Bundles that hold graphs for streams and none for whole utterances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_command import line, npz, run
from small_bundles import ALL, copied, edit, small_bundle
from stream_process import event, frames

from ifmmin.runtime import BundleError, Pattern, Predictor
from ifmmin.runtime.bundle import Bundle

CPU = "onnxruntime-cpu"
CLIP = {"a": frames("a", 9), "t": frames("t", 6)}


@pytest.fixture(scope="module")
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(make_network, tmp_path_factory, ALL, shapes=("stream",))


@pytest.fixture(scope="module")
def wanted(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the same network says of the clip whole."""
    whole = small_bundle(make_network, tmp_path_factory, ALL, shapes=("latency", "stream"))
    return Predictor(whole, backend=CPU).predict(CLIP).logits


@pytest.mark.parametrize("backend", [CPU, "auto"])
def test_streams_need_no_other_graphs(bundle: Path, wanted: Any, backend: str) -> None:
    assert {entry.shape for entry in Bundle(bundle).manifest.graphs} == {"step", "summary", "head"}
    predictor = Predictor(bundle, backend=backend)
    assert [str(pattern) for pattern in predictor.stream_patterns] == list(ALL)
    stream, group = predictor.stream(), predictor.streams(2)
    for listening in (stream, group[1]):
        listening.push(CLIP)
    np.testing.assert_allclose(stream.predict().logits, wanted, atol=1e-4, rtol=1e-4)
    nothing, said = group.update()
    assert nothing is None
    assert said is not None
    np.testing.assert_allclose(said.logits, wanted, atol=1e-4, rtol=1e-4)


def test_the_command_streams(bundle: Path, wanted: Any) -> None:
    ran = run(bundle, "--stream", "-", stdin=[event("push", **CLIP)])
    assert (ran.code, ran.err) == (0, "")
    np.testing.assert_allclose(ran.answers[0]["logits"], wanted, atol=1e-4, rtol=1e-4)


def test_whole_utterances_are_refused(bundle: Path) -> None:
    for backend in (CPU, "auto"):
        predictor = Predictor(bundle, backend=backend)
        assert predictor.patterns == ()
        said = r"has no latency graphs.*; it has step, summary, head; use streams.*--shape latency"
        with pytest.raises(BundleError, match=said):
            predictor.predict(CLIP)
        with pytest.raises(BundleError, match="has no latency graphs"):
            predictor.predict_batch([CLIP, CLIP])


def test_the_command_refuses_whole_utterances_once(bundle: Path, tmp_path: Path) -> None:
    """And not once for every one of them."""
    clip = npz(tmp_path / "clip.npz", **{m: np.array(x) for m, x in CLIP.items()})
    for ran in (run(bundle, clip), run(bundle, "-", stdin=[line("a"), line("v"), line("at")])):
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert ran.err.startswith(f"error: the bundle {bundle} has no latency graphs")


def test_what_shares_the_graphs_of_streams_answers_by_them(bundle: Path, wanted: Any) -> None:
    predictor = Predictor(bundle, backend=CPU, preload=True)
    assert [str(pattern) for pattern in predictor.patterns] == list(ALL)
    np.testing.assert_allclose(predictor.predict(CLIP).logits, wanted, atol=1e-4, rtol=1e-4)


def test_explaining_tries_the_graphs_of_streams(bundle: Path) -> None:
    trials = Predictor(bundle, backend=CPU).explain()
    assert [(t.shape, str(t.pattern), t.outcome) for t in trials] == [
        ("stream", pattern, "taken") for pattern in ALL
    ]


def test_streams_may_answer_more_than_whole_utterances(
    make_network: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = small_bundle(make_network, tmp_path_factory, ALL, shapes=("latency", "stream"))
    fewer = copied(whole, tmp_path_factory.mktemp("fewer"))
    kept = [e for e in Bundle(whole).manifest.graphs if e.shape != "latency" or e.subject == "a"]
    names = {entry.file for entry in kept}
    edit(fewer, lambda m: m.update(graphs=[g for g in m["graphs"] if g["file"] in names]))
    predictor = Predictor(fewer, backend=CPU)
    assert predictor.patterns == (Pattern.parse("a"),)
    assert list(map(str, predictor.stream_patterns)) == list(ALL)
    stream = predictor.stream()
    stream.push(CLIP)
    assert str(stream.predict().pattern) == "a_t"
