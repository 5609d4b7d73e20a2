"""TensorRT-RTX builds every graph ahead of time, without a GPU, by the builder of native TensorRT.

That a graph builds proves that it parses, that its types and shapes hold and that it can be
lowered; nothing runs. What graphs compute is compared in ONNX Runtime.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from run_command import mistake
from small_bundles import graph_entry
from small_networks import small_network, static_model

from ifmmin.export.cli import main
from ifmmin.export.graph import plan_latency, plan_throughput, to_bytes, to_model
from ifmmin.export.specialise.encoder import PRECISIONS
from ifmmin.export.verify.missing import measure_missing
from ifmmin.export.writer import graphs_for, modality_specs
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.modality import ALL_PATTERNS, Pattern

pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT-RTX is not installed; pip install 'ifmmin[rtx]'"
)

from ifmmin.runtime.backends.profile import profile_of
from ifmmin.runtime.backends.tensorrt_build import build_engine

PLANS = {"latency": plan_latency, "throughput": plan_throughput}


_network = cache(small_network)


def _build(kind: str, shape: str, pattern: Pattern, precision: str, form: str) -> Any:
    network = _network(kind)
    plan = PLANS[shape](network, pattern, PRECISIONS[precision], form)
    model = to_model(plan)
    if precision == "int8-qdq":
        model = static_model(kind, model, shape, pattern)
    specs = modality_specs(network, measure_missing(network))
    entry = graph_entry(shape, str(pattern), precision, recurrence=form, inputs=plan.inputs)
    profile = profile_of(entry, specs)
    for modality in pattern:
        minimum = profile[modality.value].minimum[-2]
        assert minimum == specs[modality].minimum_length
    return build_engine(to_bytes(model, {}), profile, flavour="tensorrt-rtx")


@pytest.mark.parametrize("form", ["lstm", "scan"])
@pytest.mark.parametrize("shape", ["latency", "throughput"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-qdq"])
@pytest.mark.parametrize("pattern", ["v", "t", "a_v_t"])
def test_every_graph_builds(pattern: str, precision: str, shape: str, form: str) -> None:
    """With a recurrence, with the convolutions of text, and with all of it."""
    built = _build("if-mmin", shape, Pattern.parse(pattern), precision, form)
    assert len(built.content) > 10_000
    assert not [text for text in built.warnings if "kMIN" in text]


@pytest.mark.parametrize("kind", ["attention", "statistics", "transforms", "mmin"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-qdq"])
def test_other_networks_build(kind: str, precision: str) -> None:
    for shape in PLANS:
        assert _build(kind, shape, ALL_PATTERNS[-1], precision, "scan").content


def test_an_exported_bundle_holds_engines(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    words = [str(checkpoint), "--pattern", "a_t", "--shape", "latency", "--out", str(out)]
    targets = ["--engine", "tensorrt-rtx", "--target", "SM86,SM89"]
    loose = ["--allow-loss", "probabilities=0.2"]
    assert main([*words, "--precision", "fp16", "--precision", "int8", *targets, *loose]) == 0
    bundle = Bundle(out)
    (engine,) = bundle.manifest.engines  # int8 is for ONNX Runtime
    assert engine.graph == "a_t.latency.fp16.scan.onnx"
    assert engine.targets == ("SM86", "SM89")
    assert hashlib.sha256(bundle.graph(engine)).hexdigest() == engine.sha256
    assert engine.profile["t"].minimum == (5, 11)
    # Another precision joins without touching it; a graph that is replaced takes its engine along.
    assert main([*words, "--precision", "fp32"]) == 0
    assert Bundle(out).manifest.engines == (engine,)
    assert main([*words, "--precision", "fp16", *loose]) == 0
    assert Bundle(out).manifest.engines == (engine,)  # the same graph, byte by byte


def test_an_engine_goes_with_its_graph(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    words = [str(checkpoint), "--pattern", "t", "--shape", "latency", "--out", str(out),
             "--precision", "int8-qdq", "--allow-loss", "probabilities=0.99",
             "--allow-loss", "agreement=0.1"]  # fmt: skip
    assert main([*words, "--engine", "tensorrt-rtx", "--target", "SM86"]) == 0
    (engine,) = Bundle(out).manifest.engines
    # Other utterances set other ranges: the same graph by name, another by content.
    monkeypatch.setattr("ifmmin.export.context.CALIBRATION_SEEDS", range(2, 3))
    assert main(words) == 0
    (graph,) = Bundle(out).manifest.graphs
    assert graph.file == engine.graph
    assert graph.sha256 != engine.graph_sha256
    assert not Bundle(out).manifest.engines
    assert not list(out.glob("*.engine"))


def test_an_engine_takes_the_form_it_likes_best(checkpoint: Path, tmp_path: Path) -> None:
    from ifmmin.export.export import Request, export_bundle

    request = Request(shapes=("latency",), recurrences=("lstm", "scan"))
    exported = export_bundle(
        checkpoint, [Pattern.parse("a"), Pattern.parse("t")], tmp_path / "b", request=request
    )
    assert len(exported.graphs) == 3
    chosen = graphs_for("tensorrt-rtx", exported.graphs)
    assert [graph.entry.recurrence for graph in chosen] == ["scan", "none"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "tensorrt-rtx", "--target", "SM12"], "SM12"),
        (["--target", "SM86"], "add --engine tensorrt-rtx"),
    ],
)
def test_wrong_targets(checkpoint: Path, tmp_path: Path, words: list[str], message: str) -> None:
    out = tmp_path / "bundle"
    given = [checkpoint, "--pattern", "a", "--shape", "latency", "--out", out]
    assert message in mistake(main, *given, *words)
    assert not out.exists()
