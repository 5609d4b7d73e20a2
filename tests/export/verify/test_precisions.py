"""Precisions: typed graphs, what computes in 8 bits; calls that are cut to fit an engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from small_bundles import graph_entry
from small_networks import (
    CASES,
    dynamic_model,
    load,
    load_model,
    probes_of,
    small_network,
    static_model,
)

from ifmmin.export.graph import plan_latency, plan_step, plan_throughput, to_bytes, to_model
from ifmmin.export.quantize.dynamic import DynamicQuantiser, quantiser_files
from ifmmin.export.quantize.groups import DYNAMIC, STATIC, group_name, operator_groups
from ifmmin.export.quantize.static import StaticQuantiser
from ifmmin.export.specialise.encoder import PRECISIONS
from ifmmin.export.verify.missing import measure_missing
from ifmmin.export.verify.parity import Comparison
from ifmmin.export.verify.probes import compare_probes, run_alone, run_batches
from ifmmin.export.writer import modality_specs
from ifmmin.runtime.backends import LoadedGraph, Runner
from ifmmin.runtime.backends.profile import profile_of
from ifmmin.runtime.bundle import ProfileSpec
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.runtime.stream.graphs import ModalityStream, fit_to_profile
from ifmmin.train.config import FeatureConfig, ModelConfig
from ifmmin.train.model.models import build_network

LARGEST = 0.1
"""Of a probability: these networks have large weights; wrong graphs are off by 0.5 and more."""


def _model(network: Any, shape: str, pattern: Pattern, name: str, recurrence: str = "") -> Any:
    precision = PRECISIONS[name]
    plan = plan_latency if shape == "latency" else plan_throughput
    return to_model(plan(network, pattern, precision, recurrence or precision.recurrence))


def _quantised(kind: str, shape: str, pattern: Pattern, name: str) -> Any:
    model = _model(small_network(kind), shape, pattern, name)
    return dynamic_model(model) if name == "int8" else static_model(kind, model, shape, pattern)


def _compared(model: onnx.ModelProto, shape: str, kind: str, pattern: Pattern) -> Comparison:
    probes, run = probes_of(kind).of(pattern), load_model(model, literal=True)
    drive = run_alone if shape == "latency" else run_batches
    return compare_probes(drive(run, probes), probes)


@pytest.mark.parametrize("shape", ["latency", "throughput"])
@pytest.mark.parametrize("recurrence", ["lstm", "scan"])
@pytest.mark.parametrize(("kind", "pattern"), [
    ("if-mmin", "a"), ("if-mmin", "v_t"), ("if-mmin", "a_v_t"), ("attention", "a_v_t"),
    ("statistics", "a_v_t"), ("transforms", "a_v_t"),
])  # fmt: skip
def test_half_precision(pattern: str, kind: str, recurrence: str, shape: str) -> None:
    chosen = Pattern.parse(pattern)
    model = _model(small_network(kind), shape, chosen, "fp16", recurrence)
    found = _compared(model, shape, kind, chosen)
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


def test_half_precision_takes_raw_values_beyond_its_range() -> None:
    network = small_network()
    network.normaliser(Modality.A).mean.fill_(2e5)
    network.normaliser(Modality.A).std.fill_(3e4)
    run = load_model(_model(network, "latency", Pattern.parse("a"), "fp16"))
    rng = np.random.default_rng(0)
    x = (2e5 + 3e4 * rng.standard_normal((20, 5))).astype(np.float32)
    full = load_model(_model(network, "latency", Pattern.parse("a"), "fp32"))
    half, whole = run({"a": x})[0], full({"a": x})[0]
    assert np.isfinite(half).all()
    assert np.abs(half - whole).max() < 0.1


@pytest.mark.parametrize("name", ["int8", "int8-qdq"])
@pytest.mark.parametrize("shape", ["latency", "throughput"])
@pytest.mark.parametrize(("kind", "pattern"), [
    ("if-mmin", "a"), ("if-mmin", "t"), ("if-mmin", "a_v_t"), ("attention", "a_v_t"),
    ("statistics", "a_v_t"),
])  # fmt: skip
def test_eight_bits(pattern: str, kind: str, shape: str, name: str) -> None:
    chosen = Pattern.parse(pattern)
    model = _quantised(kind, shape, chosen, name)
    found = _compared(model, shape, kind, chosen)
    assert found.log_probability_mean < 1.2
    assert found.agreement > 0.8
    content = to_bytes(model, {})
    assert to_bytes(_quantised(kind, shape, chosen, name), {}) == content


def test_what_computes_in_8_bits_on_a_cpu() -> None:
    model = _quantised("if-mmin", "latency", ALL_PATTERNS[-1], "int8")
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["DynamicQuantizeLSTM"] == 2
    assert not {"LSTM", "Gemm", "MatMul", "Conv", "ConvInteger"} & set(kinds)
    tensors = {t.name: t for t in model.graph.initializer}
    quantised = [
        n for n in model.graph.node if n.op_type in ("MatMulInteger", "DynamicQuantizeLSTM")
    ]
    weights = [tensors[name] for node in quantised for name in node.input[1:3] if name in tensors]
    assert len(weights) > len(quantised) > 20
    for tensor in weights:  # unsigned ones have no fast kernel on x86
        assert tensor.data_type == TensorProto.INT8
        levels = onnx.numpy_helper.to_array(tensor).astype(int)
        # Without VNNI two products with bytes are added in 16 bits.
        assert 2 * 255 * np.abs(levels).max() < 2**15


def test_what_computes_in_8_bits_for_tensorrt() -> None:
    """Symmetric, no quantised bias, loops left alone."""
    model = _quantised("if-mmin", "latency", ALL_PATTERNS[-1], "int8-qdq")
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
    plain = _model(small_network(), "latency", ALL_PATTERNS[-1], "int8-qdq", "lstm")
    left = static_model("if-mmin", plain, "latency", ALL_PATTERNS[-1])
    (lstm, _) = [node for node in left.graph.node if node.op_type == "LSTM"]
    assert not any("Dequantize" in name for name in lstm.input)


def test_groups_of_graphs() -> None:
    """To the quantiser an empty list of nodes means all of them."""
    model = _model(small_network(), "latency", Pattern.parse("a"), "int8-qdq")
    feeds = [{"a": probes_of("if-mmin").ordinary_inputs()[0][Modality.A]}]
    for quantiser in (StaticQuantiser, DynamicQuantiser):
        assert quantiser(model, feeds, load_model)(()) == model
    network, whole = small_network(), ALL_PATTERNS[-1]
    shapes = [_model(network, s, whole, "int8") for s in ("latency", "throughput")]
    first, second = ({g: x.weights for g, x in operator_groups(m, DYNAMIC).items()} for m in shapes)
    assert first == second
    step = to_model(plan_step(network, Modality.T, PRECISIONS["int8"]))
    assert set(operator_groups(step, DYNAMIC)) == {"rows"}


@pytest.mark.parametrize("name", ["a", "t"])
def test_static_ranges_are_those_of_all_inputs(name: str) -> None:
    """Seen in one pass of our own, whatever is chosen; the quantiser's own calibration agrees."""
    import onnxruntime.quantization as quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    pattern = Pattern.parse(name)
    model = _model(small_network(), "latency", pattern, "int8-qdq")
    inputs = probes_of("if-mmin").ordinary_inputs()[:12]
    feeds = [{m.value: x[m] for m in pattern} for x in inputs]
    groups = operator_groups(model, STATIC)
    chosen = list(groups)[::2]
    own = StaticQuantiser(model, feeds, load_model)(chosen)
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


@pytest.mark.parametrize(("precision", "most"), [("fp32", 4.3e6), ("int8", 1.2e6)])
def test_size_at_the_dimensions_of_iemocap(precision: str, most: float) -> None:
    dims = {Modality.A: 130, Modality.V: 342, Modality.T: 1024}
    features = {m: FeatureConfig(dim=dim) for m, dim in dims.items()}
    network = build_network(ModelConfig(labels=("a", "h", "n", "s"), features=features)).eval()
    model = _model(network, "latency", Pattern.parse("a"), precision)
    assert len(to_bytes(dynamic_model(model) if precision == "int8" else model, {})) <= most


ROWS, FRAMES = 3, 7
"""Most streams and new frames of a call here."""
GIVEN = (5, 23, 1, 8)
"""New frames of the calls of five streams."""


class _Strict:
    """A runner that takes what is in a profile only."""

    def __init__(self, run: Runner, profile: Mapping[str, ProfileSpec]) -> None:
        self._run, self._profile = run, profile
        self.calls = 0

    def __call__(self, inputs: Mapping[str, Any]) -> list[Any]:
        for name, spec in self._profile.items():
            sizes = zip(spec.minimum, inputs[name].shape, spec.maximum, strict=True)
            assert all(low <= size <= high for low, size, high in sizes), (name, inputs[name].shape)
        self.calls += 1
        return self._run(inputs)


class _Case:
    """A step graph with its profile for few streams and frames."""

    def __init__(self, network: Any, modality: Modality, precision: str) -> None:
        plan = plan_step(network, modality, PRECISIONS[precision])
        specs = modality_specs(network, measure_missing(network))
        self.entry = graph_entry(
            "step", modality.value, precision, inputs=plan.inputs, outputs=plan.outputs,
            states=plan.states,
        )  # fmt: skip
        self.run = load(plan)
        self.profile = profile_of(self.entry, specs, batch=(1, 1, ROWS))
        frames = self.profile["frames"]
        few = (ROWS, FRAMES, frames.maximum[2])
        self.profile["frames"] = ProfileSpec(
            minimum=frames.minimum, optimum=frames.optimum, maximum=few
        )
        self.strict = _Strict(self.run, self.profile)
        self.dim = few[2]

    def cut(self) -> Runner:
        return fit_to_profile(LoadedGraph(self.strict, self.entry), self.profile).run

    def frames(self, count: int, streams: int = 5) -> Any:
        rng = np.random.default_rng(count)
        return rng.normal(0.5, 2.0, (streams, count, self.dim)).astype(np.float32)


@pytest.mark.parametrize("kind", dict.fromkeys(kind for kind, _ in CASES))
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-qdq"])
def test_cut_calls_say_what_one_call_says(kind: str, precision: str) -> None:
    network = small_network(kind)
    for modality in network.config.modalities:
        case = _Case(network, modality, precision)
        cut = ModalityStream(case.entry, case.cut(), streams=5)
        whole = ModalityStream(case.entry, case.run, streams=5)
        for count in GIVEN:
            found, wanted = cut.push(case.frames(count)), whole.push(case.frames(count))
            _require_close(found, wanted, precision)
            for name, value in cut.states.items():
                _require_close(value, whole.states[name], precision)
        # Two blocks of streams; and 23 frames are four calls of each.
        assert case.strict.calls >= 2 * (1 + 4 + 1 + 2)


def _require_close(found: Any, wanted: Any, precision: str) -> None:
    """Sums may be added up in another order."""
    assert found.shape == wanted.shape
    tolerance = 2e-6 if precision == "fp32" else 2e-2
    scale = max(1.0, float(np.abs(wanted).max()))
    assert np.abs(found - wanted).max() <= tolerance * scale


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", ["if-mmin", "transforms"])
def test_text_is_the_same_to_the_last_bit(kind: str, precision: str) -> None:
    """The graph makes of the first frames what it would have kept of them."""
    case = _Case(small_network(kind), Modality.T, precision)
    for count in (5, 6, 11):
        cut = ModalityStream(case.entry, case.cut())
        whole = ModalityStream(case.entry, case.run)
        frames = case.frames(count, streams=1)
        np.testing.assert_array_equal(cut.push(frames), whole.push(frames))
        np.testing.assert_array_equal(cut.states["tail"], whole.states["tail"])
    assert case.strict.calls == 2 + 2 + 2


@pytest.mark.parametrize(
    ("kind", "precision", "raw"),
    [("if-mmin", "fp32", True), ("transforms", "fp32", False), ("if-mmin", "fp16", False)],
)
def test_frames_themselves_are_not_what_is_kept(kind: str, precision: str, raw: bool) -> None:
    """The control: to begin with the first frames as they are is wrong behind most fronts."""
    case = _Case(small_network(kind), Modality.T, precision)
    frames = case.frames(9, streams=1)
    wanted = ModalityStream(case.entry, case.run)
    wanted.push(frames)
    naive = ModalityStream(case.entry, case.run)
    naive.states["tail"] = frames[:, :4]
    naive.push(frames[:, 4:])
    same = [np.array_equal(naive.states[n], value) for n, value in wanted.states.items()]
    assert all(same) == raw


def test_too_few_frames_to_begin_with_are_refused_as_ever() -> None:
    case = _Case(small_network(), Modality.T, "fp32")
    stream = ModalityStream(case.entry, case.cut())
    with pytest.raises(AssertionError, match="tail"):
        stream.push(case.frames(4, streams=1))
    frames = case.frames(9, streams=1)
    wanted = ModalityStream(case.entry, case.run).push(frames)
    np.testing.assert_array_equal(stream.push(frames), wanted)
