"""A sound bundle passes; whatever is wrong with one is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_command import run_python
from safetensors.numpy import load_file, save
from small_bundles import copied, edit, exchange, flip, graph_entry, nudge, put, relabel

from ifmmin.runtime.bundle import MANIFEST_NAME, PRECISIONS, Bundle, GraphEntry
from ifmmin.runtime.bundle.verify import CheckResult, check_bundle, check_outputs

Spoil = Callable[[Path], object]


@pytest.fixture
def bundle(make_bundle: Any, tmp_path: Path) -> Path:
    """A copy of a sound bundle of a, t and a_t in float32."""
    return copied(make_bundle(), tmp_path)


def _failed(bundle: Path) -> list[CheckResult]:
    return [check for check in check_bundle(Bundle(bundle)) if not check.passed]


def test_a_sound_bundle_passes_in_every_precision(make_bundle: Any) -> None:
    made = make_bundle(("a_t",), PRECISIONS)
    seen: list[str] = []
    checks = check_bundle(Bundle(made), advance=seen.append)
    assert [str(check) for check in checks if not check.passed or check.note] == []
    graphs = Bundle(made).manifest.graphs
    assert sorted(seen) == sorted(entry.file for entry in graphs)
    assert {entry.precision for entry in graphs} == set(PRECISIONS)
    for entry in graphs:
        golden = [c for c in checks if c.file == entry.file and c.what == "golden vectors"]
        assert len(golden) == 1, entry.file
        if entry.modality is None:
            assert golden[0].difference is not None
            assert golden[0].allowed is not None
            assert 0 < golden[0].difference <= golden[0].allowed


def _add_engine(bundle: Path, sha256: str | None = None) -> None:
    """An engine of a graph; with `sha256` of what the graph was then."""
    (bundle / "a.engine").touch()
    graph = Bundle(bundle).manifest.graphs[0]
    engine = {
        "engine": "tensorrt-rtx", "version": "1.0", "targets": ["SM86"], "graph": graph.file,
        "graph_sha256": sha256 or graph.sha256, "file": "a.engine", "sha256": "", "bytes": 0,
        "profile": {},
    }  # fmt: skip
    edit(bundle, lambda manifest: manifest["engines"].append(engine))
    put(bundle, "a.engine", b"engine")


def _golden_without(bundle: Path, key: str) -> None:
    tensors = load_file(bundle / GOLDEN)
    kept = {name: array for name, array in tensors.items() if not name.startswith(key)}
    put(bundle, GOLDEN, save(kept))


VOICE, GOLDEN = "a.latency.fp32.onnx", "golden.safetensors"
GRAPHS = (
    "a.latency", "t.latency", "a_t.latency", "a.throughput", "t.throughput", "a_t.throughput",
    "a.step", "t.step", "a.summary", "t.summary", "a.head", "t.head", "a_t.head",
)  # fmt: skip
TWO_THINGS = ("inputs", "metadata", "golden vectors")
Found = set[tuple[str, str]]


def _faults(what: str, *names: str) -> Found:
    return {(f"{name}.fp32.onnx", what) for name in names}


def _manifest(change: Callable[[Any], object]) -> Spoil:
    return lambda bundle: edit(bundle, change)


FAULTS: dict[str, tuple[Spoil, Found]] = {
    "a flipped bit in a graph": (lambda b: flip(b / VOICE), {(VOICE, "file")}),
    "a flipped bit in the golden file": (lambda b: flip(b / GOLDEN), {(GOLDEN, "file")}),
    "a missing graph": (lambda b: (b / VOICE).unlink(), {(VOICE, "file")}),
    "no golden file": (lambda b: (b / GOLDEN).unlink(), {(GOLDEN, "file")}),
    "another size": (_manifest(lambda m: m["graphs"][0].__setitem__("bytes", 1)),
                     {(VOICE, "file")}),
    "a graph twice": (_manifest(lambda m: m["graphs"].append(m["graphs"][0])),
                      {(MANIFEST_NAME, "names everything once")}),
    "not a graph": (lambda b: put(b, VOICE, b"no"), {(VOICE, "loads")}),
    "exchanged heads of the same width": (
        lambda b: exchange(b, "a.head.fp32.onnx", "t.head.fp32.onnx"),
        {fault for what in TWO_THINGS for fault in _faults(what, "a.head", "t.head")},
    ),
    "exchanged summaries": (
        lambda b: exchange(b, "a.summary.fp32.onnx", "t.summary.fp32.onnx"),
        {fault for what in TWO_THINGS for fault in _faults(what, "a.summary", "t.summary")}
        | _faults("golden vectors", "a.step", "t.step", "a.head", "t.head", "a_t.head"),
    ),
    "a nudged latency graph": (lambda b: nudge(b, VOICE), {(VOICE, "golden vectors")}),
    "a nudged throughput graph": (lambda b: nudge(b, "a_t.throughput.fp32.onnx"),
                                  _faults("golden vectors", "a_t.throughput")),
    "a nudged head": (lambda b: nudge(b, "a_t.head.fp32.onnx"),
                      _faults("golden vectors", "a_t.head")),
    # Answers cannot tell a wrong step from a wrong summary; t is proven by its own head.
    "a nudged step": (lambda b: nudge(b, "a.step.fp32.onnx"),
                      _faults("golden vectors", "a.step", "a.summary", "a.head", "a_t.head")),
    "a graph that is not a number": (lambda b: nudge(b, VOICE, float("nan")),
                                     {(VOICE, "golden vectors")}),
    "another width of an input": (
        _manifest(lambda m: m["graphs"][0]["inputs"][0]["shape"].__setitem__(-1, 6)),
        {(VOICE, "inputs"), (VOICE, "sizes")},
    ),
    "another width of a modality": (
        _manifest(lambda m: m["modalities"]["a"].__setitem__("dim", 6)),
        _faults("sizes", "a.latency", "a_t.latency", "a.throughput", "a_t.throughput", "a.step")
        | _faults("metadata", *GRAPHS) | {(GOLDEN, "file")},
    ),
    "swapped labels": (_manifest(lambda m: m["labels"].reverse()), _faults("metadata", *GRAPHS)),
    "another minimum": (
        _manifest(lambda m: m["modalities"]["a"].__setitem__("minimum_length", 2)),
        _faults("metadata", *GRAPHS),
    ),
    "another prior": (
        _manifest(lambda m: m.__setitem__("prior", [0.25] * 4)), _faults("metadata", *GRAPHS)
    ),
    "another output": (
        _manifest(lambda m: m["graphs"][0]["outputs"][0].__setitem__("name", "answer")),
        {(VOICE, "outputs"), (VOICE, "sizes")},
    ),
    "an engine of another graph": (lambda b: _add_engine(b, "0" * 64),
                                   {("a.engine", "built from")}),
    "golden answers that are not there": (
        lambda b: _golden_without(b, "logits/a_t/"),
        _faults("golden vectors", "a_t.latency", "a_t.throughput", "a_t.head"),
    ),
    "no golden inputs": (lambda b: _golden_without(b, "inputs/"), {(GOLDEN, "file")}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_found_and_named_and_nothing_else(bundle: Path, fault: str) -> None:
    damage, wanted = FAULTS[fault]
    damage(bundle)
    failed = _failed(bundle)
    assert {(check.file, check.what) for check in failed} == wanted, [str(c) for c in failed]
    assert all(check.detail and "\n" not in check.detail for check in failed)


def test_a_graph_of_another_network_is_known(bundle: Path, make_bundle: Any) -> None:
    file = "a.latency.fp32.onnx"
    other = make_bundle(("a",), seed=1)
    put(bundle, file, (other / file).read_bytes())
    assert [check.what for check in _failed(bundle)] == ["metadata", "golden vectors"]
    own = json.loads((bundle / MANIFEST_NAME).read_text())["checkpoint"]["sha256"]
    relabel(bundle, file, (other / file).read_bytes(), checkpoint_sha256=own)
    (found,) = _failed(bundle)
    assert (found.file, found.what) == (file, "golden vectors")


def test_a_sound_engine_passes_and_a_damaged_one_does_not(bundle: Path) -> None:
    _add_engine(bundle)
    assert _failed(bundle) == []
    flip(bundle / "a.engine")
    (found,) = _failed(bundle)
    assert (found.file, found.what) == ("a.engine", "file")


def test_a_file_that_nothing_reads_is_only_noted(bundle: Path) -> None:
    (bundle / "notes.txt").touch()
    (bundle / ".gitattributes").touch()
    checks = check_bundle(Bundle(bundle))
    assert all(check.passed for check in checks)
    assert [check.file for check in checks if check.note] == ["notes.txt"]


def test_without_an_engine_one_line_says_what_to_install(bundle: Path) -> None:
    script = (
        "from ifmmin.runtime.bundle import Bundle\n"
        "from ifmmin.runtime.cli.app import guarded\n"
        "from ifmmin.runtime.bundle.verify import check_bundle\n"
        "sys.exit(guarded(lambda: check_bundle(Bundle(sys.argv[1])) and 0))"
    )
    ran = run_python(script, bundle, without=["onnxruntime"])
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "ifmmin[cpu]" in ran.err


TRUTH = np.array([[1.0, -1.0, 0.5], [40.0, 0.0, -3.0]], np.float32)


def _judged(precision: str, shape: str = "latency", **parity: Any) -> GraphEntry:
    return graph_entry(shape, precision=precision, parity=parity)


def _passes(entry: GraphEntry, row: int, off: float) -> bool:
    found = TRUTH.copy()
    found[row, 2] += off
    return check_outputs(entry, "answers", found, TRUTH).passed


@pytest.mark.parametrize(
    ("entry", "row", "most"),
    [
        (_judged("fp32"), 0, 1e-4),
        (_judged("fp32"), 1, 40 * 5e-6),
        (_judged("fp32", max_difference=3e-4), 0, 6e-4),
        (_judged("fp32", "head", max_difference=3e-4), 0, 1.2e-3),
        (_judged("fp32", max_difference=None), 0, 1e-4),
        (_judged("fp16"), 1, 0.4),
        (_judged("fp16", max_difference=0.5), 1, 1.0),
    ],
)
def test_logits_may_be_off_by_so_much(entry: GraphEntry, row: int, most: float) -> None:
    assert _passes(entry, row, 0.9 * most)
    assert not _passes(entry, row, 1.2 * most)


@pytest.mark.parametrize("precision", ["int8", "int8-qdq"])
def test_in_8_bits_probabilities_count(precision: str) -> None:
    assert _passes(_judged(precision), 1, 20.0)  # of no weight beside 40
    assert not _passes(_judged(precision), 0, 0.2)
    assert _passes(_judged(precision, probability_max=0.04), 0, 0.2)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_wrong(precision: str, value: float) -> None:
    found = TRUTH.copy()
    found[0] = value
    verdict = check_outputs(_judged(precision, max_difference=9.0), "answers", found, TRUTH)
    assert not verdict.passed
    assert verdict.difference == np.inf


def test_a_verdict_names_shapes_and_the_input_nearest_to_its_limit() -> None:
    verdict = check_outputs(_judged("fp32"), "answers", TRUTH[:1], TRUTH)
    assert not verdict.passed
    assert "(1, 3)" in verdict.detail
    assert "(2, 3)" in verdict.detail
    found = TRUTH + np.array([[9e-5], [1e-4]], np.float32)
    verdict = check_outputs(_judged("fp32"), "answers", found, TRUTH)
    assert verdict.passed
    assert "golden input 0" in verdict.detail
    assert verdict.unit == "logit"
