"""Predictor: what is missing, batches of mixed patterns, many threads, prior, no number."""

from __future__ import annotations

import gc
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_command import DIMS, frames, run_bundle
from small_bundles import ALL, copied, edit, edit_all, note_graphs

from ifmmin.runtime import InputError, Pattern, Predictor
from ifmmin.runtime.modality import ALL_PATTERNS, Modality
from ifmmin.runtime.prediction import is_answer, softmax, softmax_of_one
from ifmmin.runtime.validate import Policy, plan_batches, validate


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: Any) -> Path:
    made = make_bundle(ALL, shapes=("latency", "throughput"))
    own = copied(made, tmp_path_factory.mktemp("predictor"))
    edit_all(own, lambda manifest: manifest.__setitem__("prior", [0.4, 0.3, 0.2, 0.1]))
    return own


plain = pytest.fixture(run_bundle)
"""A bundle without throughput graphs that does not know the prior."""


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return Predictor(bundle, backend="onnxruntime-cpu", preload=True)


def _utterance(seed: int, letters: str | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    chosen = letters or str(ALL_PATTERNS[seed % 7]).replace("_", "")
    return {
        letter: rng.standard_normal((int(rng.integers(1, 40)), DIMS[letter])).astype(np.float32)
        for letter in chosen
    }


def test_an_answer_says_how_it_came_about(predictor: Predictor) -> None:
    answer = predictor.predict(_utterance(0, "at"))
    assert answer.pattern == Pattern.parse("a_t")
    assert (answer.backend, answer.requested, answer.precision) == (
        "onnxruntime-cpu", "onnxruntime-cpu", "fp32",
    )  # fmt: skip
    assert answer.probabilities.sum() == pytest.approx(1.0)
    assert answer.label == predictor.labels[int(answer.logits.argmax())]
    assert answer.absent == {Modality.V: "not given"}
    assert answer.seconds > 0


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=40), st.integers(1, 9))
def test_mixed_batches_are_one_by_one(predictor: Predictor, seeds: list[int], size: int) -> None:
    utterances = [_utterance(seed) for seed in seeds]
    answers = predictor.predict_batch(utterances, batch_size=size)
    assert len(answers) == len(utterances)
    for answer, utterance in zip(answers, utterances, strict=True):
        alone = predictor.predict(utterance)
        assert answer.pattern == alone.pattern
        assert np.abs(answer.logits - alone.logits).max() < 1e-4
        assert answer.absent == alone.absent


@given(st.lists(st.integers(0, 500), max_size=40), st.integers(1, 9))
def test_batches_hold_similar_lengths(predictor: Predictor, seeds: list[int], size: int) -> None:
    specs = predictor.bundle.manifest.modalities
    found = [validate(_utterance(seed), specs) for seed in seeds]
    used = [Pattern.of(one.features) for one in found]
    batches = list(plan_batches(found, used, size))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(seeds)))
    longest: dict[Pattern, int] = {}
    for batch in batches:
        assert {used[row] for row in batch.rows} == {batch.pattern}
        assert len(batch.rows) <= size
        frames = [sum(map(len, found[row].features.values())) for row in batch.rows]
        assert min(frames) >= longest.get(batch.pattern, 0)
        longest[batch.pattern] = max(frames)


def test_a_batch_without_graphs_for_it(bundle: Path, plain: Path, tmp_path: Path) -> None:
    """There are none, or they are of another precision."""
    other = copied(bundle, tmp_path)

    def move(manifest: dict[str, Any]) -> None:
        for entry in manifest["graphs"]:
            if entry["shape"] == "throughput":
                entry["precision"] = "fp16"

    edit(other, move)
    for folder, letters in ((plain, "a"), (other, None)):
        predictor = Predictor(folder, backend="onnxruntime-cpu")
        utterances = [_utterance(seed, letters) for seed in range(14)]
        for answer, utterance in zip(predictor.predict_batch(utterances), utterances, strict=True):
            assert answer.precision == "fp32"
            assert np.array_equal(answer.logits, predictor.predict(utterance).logits)


def test_batches_that_cannot_be_meant(predictor: Predictor, bundle: Path) -> None:
    assert predictor.predict_batch([]) == []
    with pytest.raises(InputError, match="batch_size must be at least 1"):
        predictor.predict_batch([_utterance(0)], batch_size=0)
    with pytest.raises(InputError, match="got 1 qualities for 2 utterances"):
        predictor.predict_batch([_utterance(0), _utterance(1)], qualities=[None])
    with pytest.raises(InputError, match=r"utterance 1: modality a .* wanted \(frames, 5\)"):
        predictor.predict_batch([_utterance(0), {"a": np.zeros((3, 4))}])
    wrong = Predictor(bundle, backend="onnxruntime-cpu", precision="fp16")
    with pytest.raises(InputError, match="does not take fp16 graphs; it is for"):
        wrong.predict(_utterance(0))


def test_8_threads_of_mixed_calls(predictor: Predictor) -> None:
    """Every answer is right, and memory does not grow."""
    utterances = [_utterance(seed) for seed in range(35)]
    truth = [predictor.predict(utterance).logits for utterance in utterances]

    def work(offset: int) -> bool:
        rows = [(call * 7 + offset) % len(utterances) for call in range(500)]
        found = (predictor.predict(utterances[row]).logits for row in rows)
        return all(np.array_equal(one, truth[row]) for one, row in zip(found, rows, strict=True))

    with ThreadPoolExecutor(8) as threads:
        right = list(threads.map(work, range(8)))
        gc.collect()
        before = _resident()
        right += threads.map(work, range(8))
    gc.collect()
    assert all(right)
    assert _resident() - before < 4e6, "a kilobyte a call"


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_answers_belong_to_the_caller(predictor: Predictor) -> None:
    first = predictor.predict(_utterance(3))
    kept = first.logits.copy()
    predictor.predict(_utterance(10))
    assert np.array_equal(first.logits, kept)


def test_what_counts_as_missing(bundle: Path) -> None:
    policy = Policy(nan_frames="drop", minimum_quality={Modality.V: 0.5})
    strict = Predictor(bundle, backend="onnxruntime-cpu", policy=policy)
    whole = _utterance(6, "avt")
    holes = {**whole, "a": whole["a"].copy(), "t": np.full((6, 11), np.nan, np.float32)}
    holes["a"][0] = np.nan
    answer = strict.predict(holes, quality={"v": 0.2})
    assert answer.pattern == Pattern.parse("a")
    assert set(answer.absent) == {Modality.V, Modality.T}
    assert answer.dropped[Modality.A] == 1
    expected = strict.predict({"a": whole["a"][1:]})
    assert np.array_equal(answer.logits, expected.logits)
    with pytest.raises(InputError, match=r"pattern a_v needs modality v, which is missing \(qual"):
        strict.predict(holes, pattern=Pattern.parse("a_v"), quality={"v": 0.2})


def test_nothing_present(bundle: Path, plain: Path, predictor: Predictor) -> None:
    with pytest.raises(InputError, match="no modality is present"):
        predictor.predict({"a": None})
    lenient = Predictor(bundle, backend="onnxruntime-cpu", on_empty="prior")
    answer = lenient.predict({"a": np.zeros((0, 5))})
    assert answer.pattern is None
    assert (answer.label, answer.backend) == ("angry", "prior")
    assert answer.probabilities == pytest.approx([0.4, 0.3, 0.2, 0.1])
    both = lenient.predict_batch([{}, _utterance(0)])
    assert [one.backend for one in both] == ["prior", "onnxruntime-cpu"]
    with pytest.raises(InputError, match="does not know how often classes occur"):
        Predictor(plain, on_empty="prior")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cpu"}, "unknown backend 'cpu'; use auto or one of onnxruntime-cpu"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"threads": 0}, "threads: got 0, wanted a whole number from 1"),
        ({"on_empty": "guess"}, "on_empty must be one of error, prior"),
    ],
)
def test_wishes_that_cannot_be_meant(bundle: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Predictor(bundle, **options)


def test_patterns_share_their_encoders(make_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(ALL, shapes=("latency", "stream"))
    apart = Predictor(bundle, backend="onnxruntime-cpu", share=False)
    noted = note_graphs(monkeypatch)
    shared = Predictor(bundle, backend="onnxruntime-cpu", preload=True)
    assert len(noted.opened) == 2 * 3 + 7
    for seed in range(60):
        utterance = _utterance(seed)
        one, other = apart.predict(utterance), shared.predict(utterance)
        assert one.pattern == other.pattern
        assert np.abs(one.logits - other.logits).max() < 1e-4
    assert len(noted.opened) == 2 * 3 + 7 + 7


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "row", [[NAN, 1, 2], [1, NAN, 2], [1, 2, NAN], [1, 2, INF], [-INF] * 3, [INF, -INF, NAN]]
)
def test_of_logits_that_are_not_finite_nothing_is_left(row: list[float]) -> None:
    logits = np.array(row, np.float32)
    assert not is_answer(softmax_of_one(logits)[1])
    assert not is_answer(softmax(logits[None])[0])


@pytest.mark.parametrize("row", [[-INF, 0, 1], [3e38, -3e38, 0], [0, 0, 0], [-1e4, 1e4, 5.0]])
def test_of_far_apart_logits_something_is(row: list[float]) -> None:
    logits = np.array(row, np.float32)
    winner, alone = softmax_of_one(logits)
    assert is_answer(alone)
    np.testing.assert_allclose(softmax(logits[None])[0], alone, atol=1e-6)
    assert winner == int(logits.argmax())
    assert alone.sum() == pytest.approx(1.0)


def test_an_answer_that_is_no_number_is_refused(make_bundle: Any) -> None:
    """Finite features may overflow inside a graph; no emotion shall be named for that."""
    predictor = Predictor(make_bundle(), backend="onnxruntime-cpu")
    good, huge = {"t": frames("t", 9)}, {"t": np.full((9, 11), 3e38, np.float32)}
    with pytest.raises(InputError, match=r"the answer is not a number.*too large for fp32 graphs"):
        predictor.predict(huge)
    with pytest.raises(InputError, match="utterance 1: the answer is not a number"):
        predictor.predict_batch([good, huge])
    assert is_answer(predictor.predict(good).probabilities)


def test_an_answer_is_plain_json(bundle: Path) -> None:
    predictor = Predictor(bundle, backend="onnxruntime-cpu", on_empty="prior")
    for answer in (predictor.predict(_utterance(3)), predictor.predict({})):
        told = answer.to_dict()
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert list(told["probabilities"]) == list(predictor.labels) == list(answer.labels)
        assert told["probabilities"][told["label"]] == max(told["probabilities"].values())
        assert told["pattern"] == (str(answer.pattern) if answer.pattern else None)
        assert sum(told["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
    assert answer._replace(logits=np.array([-INF, 0, 1], np.float32)).to_dict()["logits"][0] is None


def test_a_pattern_may_be_its_name(predictor: Predictor) -> None:
    utterance = _utterance(0, "at")
    by_name, by_pattern = (
        predictor.predict(utterance, pattern=pattern) for pattern in ("t_a", Pattern.of("at"))
    )
    assert by_name.pattern == by_pattern.pattern
    assert np.array_equal(by_name.logits, by_pattern.logits)
    (alone,) = predictor.predict_batch([utterance], pattern="a_t")
    assert alone.pattern == by_name.pattern


def _id(value: Any) -> str:
    return type(value).__name__ + (repr(value) if isinstance(value, str) else "")


WRONG: tuple[Any, ...] = (None, 5, "a", b"a", (1, 2), [1], {1}, object(), 3.5)


@pytest.mark.parametrize("utterance", WRONG, ids=_id)
def test_what_is_no_utterance_is_told(predictor: Predictor, utterance: Any) -> None:
    with pytest.raises(InputError, match="wanted arrays per modality"):
        predictor.predict(utterance)
    with pytest.raises(InputError, match="utterance 1: got"):
        predictor.predict_batch([_utterance(0, "at"), utterance])


@pytest.mark.parametrize("value", [*WRONG[1:], "", "a_a", "x", "a__t", " ", "a_t\x1b"], ids=_id)
def test_what_is_no_option_is_told(predictor: Predictor, value: Any) -> None:
    utterance = _utterance(0, "at")
    if not ["a"].count(value):  # which is a pattern
        with pytest.raises(InputError):
            predictor.predict(utterance, pattern=value)
        with pytest.raises(InputError):
            predictor.predict_batch([utterance], pattern=value)
    with pytest.raises(InputError):
        predictor.predict(utterance, quality=value)
    with pytest.raises(InputError):
        predictor.predict(utterance, quality={"a": "good"})  # type: ignore[dict-item]
    if type(value) not in (list, tuple):
        with pytest.raises(InputError):
            predictor.predict_batch(value)
    if not [5].count(value):
        with pytest.raises(InputError):
            predictor.predict_batch([utterance], batch_size=value)
    with pytest.raises(InputError):
        Policy(minimum_quality=value)
    for option in ("backend", "precision", "threads", "on_empty"):
        options: dict[str, Any] = {option: value}
        if options != {"threads": 5}:
            with pytest.raises(InputError):
                Predictor(predictor.bundle.directory, **options)
