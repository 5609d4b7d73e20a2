"""Graphs say what the network says: one utterance, any batch, after every chunk of a stream."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.external_data_helper import set_external_data
from small_networks import CASES, load, probes_of, small_network, stream_logits
from torch import Tensor, nn
from torch.nn import functional as F

from ifmmin.export.export import Request, export_bundle
from ifmmin.export.graph import check_axes, plan_latency, plan_throughput, to_bytes, to_model, trace
from ifmmin.export.specialise.encoder import FP32
from ifmmin.export.verify.parity import Comparison
from ifmmin.export.verify.probes import StreamProbes, compare_probes, run_alone, run_batches
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.modality import Pattern

ALLOWED = {
    "Add", "Concat", "Constant", "Conv", "Flatten", "Gemm", "Identity", "LSTM", "LeakyRelu",
    "MatMul", "ReduceMax", "Relu", "Reshape", "Scan", "Split", "Squeeze", "Unsqueeze",
}  # fmt: skip
CLUTTER = {"Shape", "Gather", "Loop", "Range", "Where", "Expand", "ConstantOfShape", "If", "Cast"}
_TRANSFORMS = {"Abs", "Clip", "Div", "Mul", "Pow", "ReduceSum", "Sign", "Sqrt"}
_STATISTICS = {*_TRANSFORMS, "ReduceMean", "ReduceMin", "Slice", "Sub", "Tanh"}
MORE = {
    "sigmoid-s": {"Sigmoid"}, "attention": {"Tanh", "Softmax", "ReduceSum", "Mul"},
    "sum": {"ReduceSum"}, "transforms": _TRANSFORMS, "statistics": _STATISTICS,
    "two-statistics": _STATISTICS,
}  # fmt: skip
MOST_NODES = {"if-mmin": {"a": 43, "v": 43, "t": 54, "a_v": 50, "a_t": 61, "v_t": 61, "a_v_t": 65}}
"""Constants not counted; three blocks of imagination."""


ROUNDS_MORE = ("sum", "last", "statistics", "two-statistics")
"""A sum over 2,000 frames, a last state that has seen them all, and statistics that meet weights at
once round more in float32."""


def _passes(found: Comparison) -> bool:
    return found.excess <= 1


@pytest.mark.parametrize(("kind", "pattern"), CASES, ids=str)
def test_latency_graphs_from_shortest_to_2000_frames(pattern: Pattern, kind: str) -> None:
    network, probes = small_network(kind), probes_of(kind).of(pattern)
    for modality in pattern:
        lengths = {len(probe.features[modality]) for probe in probes}
        assert {network.config.minimum_length(modality), 2000} <= lengths
    plan = plan_latency(network, pattern, FP32, "lstm")
    content = to_bytes(to_model(plan), {})
    found = compare_probes(run_alone(OnnxRuntimeCpu().load(content), probes), probes)
    assert _passes(found), str(found)
    assert found.probes >= 64
    assert found.spread > 1000 * found.max_difference
    assert found.classes > 1 or len(pattern) < 3
    graph = onnx.load_from_string(content).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert set(kinds) <= ALLOWED | MORE.get(kind, set())
    assert not set(kinds) & CLUTTER
    assert kinds.total() - kinds["Constant"] <= MOST_NODES.get(kind, {}).get(str(pattern), 150)
    assert [i.name for i in graph.input] == [m.value for m in pattern]
    again = to_bytes(to_model(plan_latency(network, pattern, FP32, "lstm")), {})
    assert again == content


@pytest.mark.parametrize(("kind", "pattern"), CASES, ids=str)
def test_throughput_graphs_in_mixed_batches_and_alone(pattern: Pattern, kind: str) -> None:
    network, probes = small_network(kind), probes_of(kind).of(pattern)
    run = load(plan_throughput(network, pattern, FP32, "lstm"))
    mixed, alone = run_batches(run, probes), run_batches(run, probes, sizes=[1])
    assert _passes(compare_probes(mixed, probes))
    apart = np.abs(mixed.logits - alone.logits).max()
    apart /= max(1.0, 0.05 * float(np.abs(alone.logits).max()))
    assert apart <= (3e-4 if kind in ROUNDS_MORE else 1e-4)


@pytest.mark.parametrize("kind", ["if-mmin", "last", "attention", "sum", "fusion"])
@pytest.mark.parametrize("pattern", ["a", "a_t", "a_v_t"])
def test_the_loop_form_says_the_same(pattern: str, kind: str) -> None:
    network, chosen = small_network(kind), Pattern.parse(pattern)
    probes = probes_of(kind).of(chosen)
    for plan, drive in ((plan_latency, run_alone), (plan_throughput, run_batches)):
        made = plan(network, chosen, FP32, "scan")
        model = to_model(made)
        assert "LSTM" not in {node.op_type for node in model.graph.node}
        assert sum(node.op_type == "Scan" for node in model.graph.node) == 1 + (pattern == "a_v_t")
        assert {opset.domain for opset in model.opset_import} == {""}
        assert _passes(compare_probes(drive(load(made), probes), probes))


def test_weights_are_read_directly_and_nothing_is_computed_twice() -> None:
    for plan in (plan_latency, plan_throughput):
        graph = to_model(plan(small_network(), Pattern.parse("a_v_t"), FP32, "lstm")).graph
        assert "Identity" not in {node.op_type for node in graph.node}
        computed = Counter(
            (node.op_type, *node.input, *map(str, node.attribute)) for node in graph.node
        )
        assert max(computed.values()) == 1, computed.most_common(3)
        read = {name for node in graph.node for name in node.input}
        assert {tensor.name for tensor in graph.initializer} <= read


def test_the_loop_multiplies_its_input_once() -> None:
    """The projection of the input, and the sequence of outputs, are outside of the loop."""
    network = small_network()
    model = to_model(plan_latency(network, Pattern.parse("a"), FP32, "scan"))
    (scan,) = [node for node in model.graph.node if node.op_type == "Scan"]
    (body,) = [a.g for a in scan.attribute if a.name == "body"]
    (product,) = [node for node in body.node if node.op_type == "MatMul"]
    weights = {tensor.name: tuple(tensor.dims) for tensor in body.initializer}
    assert weights[product.input[1]] == (8, 32)
    assert len(scan.output) == 3  # states only: hidden, cell, maximum


@pytest.mark.parametrize(("kind", "pattern"), CASES, ids=str)
def test_streams_after_every_chunk(pattern: Pattern, kind: str) -> None:
    network, every = small_network(kind), probes_of(kind)
    streams = StreamProbes(every.truth, every.stream_inputs(6, 700))
    probes = streams.of(pattern)
    assert len(probes) >= 64
    found = compare_probes(stream_logits(network, streams, pattern, FP32), probes)
    assert _passes(found), str(found)


def test_controls_that_must_fail() -> None:
    network, pattern = small_network(), Pattern.parse("a_v_t")
    probes = probes_of("if-mmin").of(pattern)
    nudged = plan_latency(network, pattern, FP32, "lstm")
    with torch.no_grad():
        nudged.module.encoders["a"].rnn.weight_hh_l0[3, 2] += 0.05  # type: ignore[union-attr,index]
    assert compare_probes(run_alone(load(nudged), probes), probes).excess > 10
    plan = plan_latency(network, pattern, FP32, "lstm")
    entry: Any = plan.module.get_submodule("head.entry.of_h")
    with torch.no_grad():  # h = [a, t, v] as if it were [a, v, t]
        a, t, v = entry.weight.clone().chunk(3, dim=1)
        entry.weight.copy_(torch.cat([a, v, t], dim=1))
    assert compare_probes(run_alone(load(plan), probes), probes).excess > 10


class _Naive(nn.Module):
    """As the research code does it: a max-pool whose kernel is the length seen while tracing."""

    def __init__(self, small: Any) -> None:
        super().__init__()
        self.small = small

    def forward(self, x: Tensor) -> Tensor:
        encoder: Any = self.small.encoders["a"]
        outputs = encoder.rnn(x.unsqueeze(1), (encoder.start, encoder.start))[0]
        pooled = F.max_pool1d(outputs.permute(1, 2, 0), kernel_size=outputs.shape[0]).squeeze(2)
        logits: Tensor = self.small.head([pooled])
        return logits.squeeze(0)


def test_the_naive_export_is_caught() -> None:
    network, pattern = small_network(), Pattern.parse("a")
    naive = _Naive(plan_latency(network, pattern, FP32, "lstm").module)
    axes = {"a": {0: "T_a"}}
    content = trace(naive, (torch.zeros(12, 5),), ["a"], ["logits"], axes).SerializeToString()
    probes = probes_of("if-mmin").of(pattern)
    assert compare_probes(run_alone(OnnxRuntimeCpu().load(content), probes), probes).excess > 10


@pytest.mark.parametrize(("name", "axis"), [("v", 0), ("v", 1), ("v_lengths", 0), ("logits", 0)])
def test_a_frozen_axis_is_caught(name: str, axis: int) -> None:
    plan = plan_throughput(small_network(), Pattern.parse("v"), FP32, "lstm")
    model = to_model(plan)
    values = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    values[name].type.tensor_type.shape.dim[axis].dim_value = 7
    with pytest.raises(ParityError, match=f"exactly 7 along axis .* of {name}"):
        check_axes(model, (*plan.inputs, *plan.outputs))


@pytest.mark.parametrize("inside", ["graph", "loop"])
def test_weights_outside_of_the_file_are_refused(inside: str) -> None:
    model = to_model(plan_latency(small_network(), Pattern.parse("a"), FP32, "scan"))
    to_bytes(model, {})
    (scan,) = [node for node in model.graph.node if node.op_type == "Scan"]
    (body,) = [a.g for a in scan.attribute if a.name == "body"]
    tensor = (model.graph if inside == "graph" else body).initializer[0]
    set_external_data(tensor, location="weights.bin")
    with pytest.raises(ParityError, match="weights in another file"):
        to_bytes(model, {})


OLDEST = Path(sys.prefix) / "onnxruntime-oldest"
SCRIPT = """
import sys
import onnxruntime
from pathlib import Path
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.predictor import Predictor

assert onnxruntime.__version__.startswith("1.20."), onnxruntime.__version__
bundle = Bundle(sys.argv[1])
for entry in bundle.manifest.graphs:
    OnnxRuntimeCpu().load(bundle.graph(entry), literal=entry.precision not in ("fp32", "int8"))
predictor = Predictor(sys.argv[1])
worst = max(abs(predictor.predict(c.features).logits - c.logits).max() for c in bundle.golden())
print(len(bundle.manifest.graphs), worst)
"""


@pytest.mark.skipif(
    not OLDEST.is_dir(), reason="ONNX Runtime 1.20 is not there; make test installs it"
)
def test_every_graph_loads_in_the_oldest(checkpoint: Path, tmp_path: Path) -> None:
    request = Request(
        precisions=("fp32", "fp16", "int8", "int8-qdq"),
        losses={"probabilities": 0.5, "agreement": 0.5},
    )
    patterns = [Pattern.parse("v"), Pattern.parse("a_v_t")]
    export_bundle(checkpoint, patterns, tmp_path / "bundle", request=request)
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "bundle")],
        env={**os.environ, "PYTHONPATH": str(OLDEST)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    count, worst = found.stdout.split()
    assert int(count) == len(Bundle(tmp_path / "bundle").manifest.graphs)
    assert float(worst) < 1e-4
