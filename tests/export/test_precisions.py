"""Precisions: typed graphs, what computes in 8 bits, and what is left alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from exported import probes_of
from onnx import TensorProto

from ifmmin.export.drive import run_alone, run_batches
from ifmmin.export.graph import to_bytes, to_model
from ifmmin.export.groups import (
    DYNAMIC,
    STATIC,
    group_name,
    operator_groups,
)
from ifmmin.export.precision import PRECISIONS
from ifmmin.export.probes import compare_probes
from ifmmin.export.quantise import DynamicQuantiser, quantiser_files
from ifmmin.export.shapes import plan_latency, plan_step, plan_throughput
from ifmmin.export.static import StaticQuantiser
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.batch import pad_batch
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.train.config import FeatureConfig, ModelConfig
from ifmmin.train.models import build_network

LARGEST = 0.1
"""Of a probability: these networks have large weights; wrong graphs are off by 0.5 and more."""


def _load(model: onnx.ModelProto, *, literal: bool = True) -> Any:
    return OnnxRuntimeCpu().load(model.SerializeToString(), literal=literal)


def _model(network: Any, shape: str, pattern: Pattern, name: str, recurrence: str = "") -> Any:
    precision = PRECISIONS[name]
    plan = plan_latency if shape == "latency" else plan_throughput
    return to_model(plan(network, pattern, precision, recurrence or precision.recurrence))


def _quantised(make: Any, kind: str, shape: str, pattern: Pattern, name: str) -> Any:
    model = _model(make(kind), shape, pattern, name)
    if name == "int8":
        quantise = DynamicQuantiser(model, [], _load)
        return quantise(list(quantise.groups))
    inputs = probes_of(make, kind).ordinary_inputs()[:40]
    chosen = [{m: x[m] for m in pattern} for x in inputs]
    feeds = [
        {m.value: x for m, x in f.items()} if shape == "latency" else pad_batch([f]) for f in chosen
    ]
    return StaticQuantiser(model, feeds, _load)(list(operator_groups(model, STATIC)))


@pytest.mark.parametrize("shape", ["latency", "throughput"])
@pytest.mark.parametrize("recurrence", ["lstm", "scan"])
@pytest.mark.parametrize("kind", ["if-mmin", "attention", "statistics", "transforms"])
@pytest.mark.parametrize("pattern", ["a", "v_t", "a_v_t"])
def test_half_precision(
    make_network: Any, pattern: str, kind: str, recurrence: str, shape: str
) -> None:
    chosen = Pattern.parse(pattern)
    model = _model(make_network(kind), shape, chosen, "fp16", recurrence)
    probes = probes_of(make_network, kind).of(chosen)
    found = compare_probes(
        (run_alone if shape == "latency" else run_batches)(_load(model), probes), probes
    )
    assert found.probability_max < LARGEST
    assert found.excess > 1  # it is another precision
    weights = [t for t in model.graph.initializer if t.data_type in (1, TensorProto.FLOAT16)]
    half = sum(np.prod(t.dims) for t in weights if t.data_type == TensorProto.FLOAT16)
    # What standardises raw values stays in float32.
    allowed = {"mean", "factor", "offset", "crest_floor"}
    full = [t.name for t in weights if t.data_type == TensorProto.FLOAT]
    assert {name.rsplit(".", 1)[-1] for name in full} <= allowed | {"onnx::" + n for n in allowed}
    assert half > 100
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type != TensorProto.FLOAT16


def test_half_precision_takes_raw_values_beyond_its_range(make_network: Any) -> None:
    network = make_network()
    network.normaliser(Modality.A).mean.fill_(2e5)
    network.normaliser(Modality.A).std.fill_(3e4)
    run = _load(_model(network, "latency", Pattern.parse("a"), "fp16"))
    rng = np.random.default_rng(0)
    x = (2e5 + 3e4 * rng.standard_normal((20, 5))).astype(np.float32)
    full = _load(_model(network, "latency", Pattern.parse("a"), "fp32"))
    half, whole = run({"a": x})[0], full({"a": x})[0]
    assert np.isfinite(half).all()
    assert np.abs(half - whole).max() < 0.1


@pytest.mark.parametrize("name", ["int8", "int8-qdq"])
@pytest.mark.parametrize("shape", ["latency", "throughput"])
@pytest.mark.parametrize("kind", ["if-mmin", "attention", "statistics"])
@pytest.mark.parametrize("pattern", ["a", "t", "a_v_t"])
def test_eight_bits(make_network: Any, pattern: str, kind: str, shape: str, name: str) -> None:
    chosen = Pattern.parse(pattern)
    model = _quantised(make_network, kind, shape, chosen, name)
    probes = probes_of(make_network, kind).of(chosen)
    found = compare_probes(
        (run_alone if shape == "latency" else run_batches)(_load(model), probes), probes
    )
    assert found.log_probability_mean < 1.2
    assert found.agreement > 0.8
    content = to_bytes(model, {})
    assert to_bytes(_quantised(make_network, kind, shape, chosen, name), {}) == content


def test_what_computes_in_8_bits_on_a_cpu(make_network: Any) -> None:
    model = _quantised(make_network, "if-mmin", "latency", ALL_PATTERNS[-1], "int8")
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["DynamicQuantizeLSTM"] == 2
    assert not {"LSTM", "Gemm", "MatMul", "Conv", "ConvInteger"} & set(kinds)
    types = {t.name: t.data_type for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMulInteger":  # unsigned: signed bytes saturate on x86 without VNNI
            assert types[node.input[1]] == TensorProto.UINT8
    for tensor in model.graph.initializer:
        if "LSTM" in tensor.name and tensor.data_type == TensorProto.INT8:
            assert np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max() <= 64


def test_what_computes_in_8_bits_for_tensorrt(make_network: Any) -> None:
    """Symmetric, no quantised bias, loops left alone."""
    model = _quantised(make_network, "if-mmin", "latency", ALL_PATTERNS[-1], "int8-qdq")
    tensors = {t.name: t for t in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) > 20
    for node in pairs:
        zero = onnx.numpy_helper.to_array(tensors[node.input[2]])
        assert zero.dtype == np.int8
        assert not zero.any()
    assert {d.domain for d in model.opset_import} == {""}
    for node in model.graph.node:
        if node.op_type == "Scan":
            (body,) = [a.g for a in node.attribute if a.name == "body"]
            assert not {n.op_type for n in body.node} & {"QuantizeLinear", "DequantizeLinear"}
    plain = _model(make_network(), "latency", ALL_PATTERNS[-1], "int8-qdq", "lstm")
    inputs = probes_of(make_network, "if-mmin").ordinary_inputs()[:5]
    feeds = [{m.value: x for m, x in f.items()} for f in inputs]
    left = StaticQuantiser(plain, feeds, _load)(list(operator_groups(plain, STATIC)))
    (lstm, _) = [node for node in left.graph.node if node.op_type == "LSTM"]
    assert not any("Dequantize" in name for name in lstm.input)


def test_no_groups_leave_a_static_graph_whole(make_network: Any) -> None:
    """To the quantiser an empty list of nodes means all of them."""
    model = _model(make_network(), "latency", Pattern.parse("a"), "int8-qdq")
    feeds = [{"a": probes_of(make_network, "if-mmin").ordinary_inputs()[0][Modality.A]}]
    assert StaticQuantiser(model, feeds, _load)(()) == model


@pytest.mark.parametrize("name", ["a", "t"])
def test_static_ranges_are_those_of_all_inputs(make_network: Any, name: str) -> None:
    """Seen in one pass of our own, whatever is chosen; the quantiser's own calibration agrees."""
    import onnxruntime.quantization as quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    pattern = Pattern.parse(name)
    model = _model(make_network(), "latency", pattern, "int8-qdq")
    inputs = probes_of(make_network, "if-mmin").ordinary_inputs()[:12]
    feeds = [{m.value: x[m] for m in pattern} for x in inputs]
    groups = operator_groups(model, STATIC)
    chosen = list(groups)[::2]
    own = StaticQuantiser(model, feeds, _load)(chosen)
    with quantiser_files(model) as (source, target):
        quantization.quantize_static(
            source, target, Reader(), op_types_to_quantize=list(STATIC), per_channel=True,
            nodes_to_quantize=[node for group in chosen for node in groups[group].nodes],
            extra_options={
                "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": list(STATIC),
            },
        )  # fmt: skip
        wanted = {
            t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer
        }
    found = {t.name: onnx.numpy_helper.to_array(t) for t in own.graph.initializer}
    assert found.keys() == wanted.keys()
    assert sum(key.endswith("_scale") for key in found) > 10
    for key, value in found.items():
        np.testing.assert_allclose(value, wanted[key], rtol=1e-5, err_msg=key)


@pytest.mark.parametrize(
    ("node", "group"),
    [
        ("/head/rest/chain/encoders.0/linears.1/Gemm", "chain.encoders"),
        ("/head/entry/of_h/Gemm", "entry.of_h"),
        ("/rnn_1/LSTM", "rnn_1"),
        ("/encoder/rows/MatMul", "rows"),
        ("/Gemm", "Gemm"),
    ],
)
def test_groups_have_names_of_their_part(node: str, group: str) -> None:
    assert group_name(node) == group


def test_all_shapes_have_the_same_groups(make_network: Any) -> None:
    network, whole = make_network(), ALL_PATTERNS[-1]
    shapes = [_model(network, s, whole, "int8") for s in ("latency", "throughput")]
    first, second = ({g: x.weights for g, x in operator_groups(m, DYNAMIC).items()} for m in shapes)
    assert first == second
    step = to_model(plan_step(network, Modality.T, PRECISIONS["int8"]))
    assert set(operator_groups(step, DYNAMIC)) == {"rows"}


@pytest.mark.parametrize(("precision", "most"), [("fp32", 4.3e6), ("int8", 1.2e6)])
def test_size_at_the_dimensions_of_iemocap(precision: str, most: float) -> None:
    dims = {Modality.A: 130, Modality.V: 342, Modality.T: 1024}
    features = {m: FeatureConfig(dim=dim) for m, dim in dims.items()}
    network = build_network(ModelConfig(labels=("a", "h", "n", "s"), features=features)).eval()
    model = _model(network, "latency", Pattern.parse("a"), precision)
    if precision == "int8":
        quantise = DynamicQuantiser(model, [], _load)
        model = quantise(list(quantise.groups))
    assert len(to_bytes(model, {})) <= most
