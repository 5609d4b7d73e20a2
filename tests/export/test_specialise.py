"""A specialised network says what the network says, in float64 and as a graph."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifmmin.export.graph import to_onnx, trace
from ifmmin.export.probes import draw_probes
from ifmmin.export.specialise import specialise
from ifmmin.export.verify import compare
from ifmmin.runtime.backends.onnx_runtime import OnnxRuntimeCpu
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.train.corpus import Utterance
from ifmmin.train.network import EmotionNetwork

DIMS = {Modality.A: 5, Modality.V: 7, Modality.T: 11}
ALLOWED = {
    "Add",
    "Concat",
    "Constant",
    "Conv",
    "Flatten",
    "Gemm",
    "Identity",
    "LSTM",
    "LeakyRelu",
    "MatMul",
    "ReduceMax",
    "Relu",
    "Reshape",
    "Split",
    "Squeeze",
    "Unsqueeze",
}
MORE = {
    "sigmoid-s": {"Sigmoid"},
    "attention": {"Tanh", "Softmax", "ReduceSum", "Mul"},
    "sum": {"ReduceSum"},
    "transforms": {"Abs", "Clip", "Div", "Mul", "Pow", "ReduceL2", "Sign", "Expand", "Shape"},
}
_STATISTICS = {
    "Abs", "Clip", "Div", "Mul", "Pow", "ReduceL2", "ReduceMean", "ReduceMin", "ReduceSum",
    "Sign", "Slice", "Sqrt", "Sub", "Tanh", "Transpose",
}  # fmt: skip


def _difference(network: EmotionNetwork, pattern: Pattern, small: nn.Module, alone: Any) -> float:
    rng, worst = np.random.default_rng(5), 0.0
    for frames in (5, 6, 17, 60):
        x = {m: rng.standard_normal((frames, DIMS[m])).astype(np.float32) for m in pattern}
        truth = alone(network, Utterance("x", dict(x), 0))
        with torch.no_grad():
            found = small(*(torch.from_numpy(x[m]).double() for m in pattern)).numpy()
        worst = max(worst, float(np.abs(found - truth).max()))
    return worst


@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_equal_in_float64_and_not_when_nudged(
    make_network: Any, alone: Any, pattern: Pattern, kind: str
) -> None:
    network = make_network(kind).double()
    small = specialise(network, pattern)
    assert _difference(network, pattern, small, alone) < 1e-12
    nudged = copy.deepcopy(small)
    with torch.no_grad():
        last = "head.linear.bias" if kind == "linear" else "head.classifier.linears.2.bias"
        nudged.get_parameter(last)[1] += 1e-6
    assert _difference(network, pattern, nudged, alone) > 1e-9


def test_nothing_of_absent_modalities_is_left(make_network: Any) -> None:
    network = make_network()
    small = specialise(network, Pattern.parse("a"))
    assert list(small.encoders) == ["a"]
    assert not any(
        "transition" in name or "dropout" in name for name, _ in small.named_parameters()
    )
    count = sum(p.numel() for p in small.parameters())
    assert count < 0.7 * sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_graph_equals_the_network_from_shortest_to_2000_frames(
    make_network: Any, pattern: Pattern, kind: str
) -> None:
    network = make_network(kind)
    content = to_onnx(specialise(network, pattern), DIMS, {"pattern": str(pattern)})
    probes = draw_probes(copy.deepcopy(network).double(), pattern)
    for modality in pattern:
        lengths = {len(probe.features[modality]) for probe in probes}
        assert {network.config.minimum_length(modality), 2000} <= lengths
    found = compare(OnnxRuntimeCpu().load(content), pattern, probes)
    # A sum over 2,000 frames, and statistics that meet weights at once, round more in float32.
    assert found or (kind in ("sum", "linear") and found.excess < 3), str(found)
    assert found.spread > 1000 * found.max_difference
    assert found.classes > 1 or len(pattern) < 3
    graph = onnx.load_from_string(content).graph
    allowed = _STATISTICS if kind.startswith(("statistics", "linear")) else MORE.get(kind, set())
    assert {node.op_type for node in graph.node} <= ALLOWED | allowed
    assert [i.name for i in graph.input] == [m.value for m in pattern]
    assert to_onnx(specialise(network, pattern), DIMS, {"pattern": str(pattern)}) == content


def test_controls_that_must_fail(make_network: Any) -> None:
    network, pattern = make_network(), Pattern.parse("a_v_t")
    probes = draw_probes(copy.deepcopy(network).double(), pattern)
    nudged = specialise(network, pattern)
    with torch.no_grad():
        nudged.encoders["a"].rnn.weight_hh_l0[3, 2] += 0.05  # type: ignore[union-attr,index,operator]
    found = compare(OnnxRuntimeCpu().load(to_onnx(nudged, DIMS, {})), pattern, probes)
    assert not found
    with pytest.raises(ParityError, match="largest difference"):
        found.require()


class _Naive(nn.Module):
    """As the research code does it: a max-pool whose kernel is the length seen while tracing."""

    def __init__(self, small: nn.Module) -> None:
        super().__init__()
        self.small = small

    def forward(self, x: Tensor) -> Tensor:
        encoder: Any = self.small.encoders["a"]  # type: ignore[index]
        outputs = encoder.rnn(x.unsqueeze(1), (encoder.start, encoder.start))[0]
        pooled = F.max_pool1d(outputs.permute(1, 2, 0), kernel_size=outputs.shape[0]).squeeze(2)
        logits: Tensor = self.small.head([pooled])  # type: ignore[operator]
        return logits.squeeze(0)


def test_the_naive_export_is_caught(make_network: Any) -> None:
    network, pattern = make_network(), Pattern.parse("a")
    small = specialise(network, pattern)
    content = trace(_Naive(small), (torch.zeros(12, 5),), ["a"]).SerializeToString()
    probes = draw_probes(copy.deepcopy(network).double(), pattern)
    with pytest.raises(ParityError):
        compare(OnnxRuntimeCpu().load(content), pattern, probes).require()


def test_a_frozen_axis_is_caught(make_network: Any) -> None:
    from ifmmin.export.graph import check_dynamic_time

    model = trace(specialise(make_network(), Pattern.parse("v")), (torch.zeros(7, 7),), ["v"])
    check_dynamic_time(model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7
    with pytest.raises(ParityError, match="exactly 7 frames of v"):
        check_dynamic_time(model)
