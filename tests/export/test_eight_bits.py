"""8 bits: what computes in them, what is stored in them, and how weights are rounded to them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from exported import probes_of
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ifmmin.export.compare import Comparison
from ifmmin.export.graph import OPSET, to_model
from ifmmin.export.groups import DYNAMIC, Group, operator_groups
from ifmmin.export.moments import Moments
from ifmmin.export.precision import PRECISIONS
from ifmmin.export.probes import FRESH_SEED, GATE_SEED, Probes
from ifmmin.export.quantise import quantise_dynamic
from ifmmin.export.rounding import DAMPINGS, Grid, Rounding, round_to_grid
from ifmmin.export.select import Choice, Reduction, choose_groups
from ifmmin.export.shapes import plan_latency
from ifmmin.export.weight_only import quantise_for_cpu, quantise_weights
from ifmmin.export.workshop import Workshop
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.modality import Modality, Pattern

SYMMETRIC = Grid(np.ones(1), np.zeros(1, dtype=int), -127, 127)


def _load(model: onnx.ModelProto) -> Any:
    return OnnxRuntimeCpu().load(model.SerializeToString())


def _latency(make: Any, pattern: str, kind: str = "if-mmin") -> onnx.ModelProto:
    return to_model(plan_latency(make(kind), Pattern.parse(pattern), PRECISIONS["int8"], "lstm"))


def _comparison(loss: float) -> Comparison:
    return Comparison(loss, loss, 1.0, loss, loss, loss, 1.0, 64, 4, 1.0, "T=1")


PARTS = st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 30)), min_size=1, max_size=8)


@given(PARTS, st.booleans())
def test_groups_are_chosen_as_far_as_the_limit_allows(
    parts: list[tuple[int, int]], weight_only: bool
) -> None:
    """To compute costs a group's loss, 8-bit weights half of it, 16-bit ones nothing."""
    groups = {str(i): Group([str(i)], weights) for i, (weights, _) in enumerate(parts)}
    loss = {str(i): loss for i, (_, loss) in enumerate(parts)}

    def lost(reduction: Reduction) -> float:
        stored = sum(loss[n] / 2 for n, bits in reduction.weight_only.items() if bits == 8)
        return stored + sum(loss[name] for name in reduction.computed)

    def build(reduction: Reduction) -> Choice:
        assert not set(reduction.computed) & set(reduction.weight_only)
        assert weight_only or not reduction.weight_only
        return Choice(onnx.ModelProto(), _comparison(lost(reduction)), None, reduction)

    choice = choose_groups(
        groups, build, lambda c: c.comparison.probability_max <= 20,
        computable=groups, weight_only=weight_only,
    )  # fmt: skip
    found = choice.reduction
    if lost(found) > 20:  # nothing passes, not even alone
        assert not weight_only
        assert all(value > 20 for value in loss.values())
        assert set(found.computed) == set(groups)
        return
    for name in set(groups) - set(found.computed):  # none more could compute
        gain = loss[name] / 2 if found.weight_only.get(name) == 8 else 0
        assert lost(found) - gain + loss[name] > 20
    if weight_only:
        assert set(found.computed) | set(found.weight_only) == set(groups)


@given(PARTS)
def test_what_may_not_compute_in_eight_bits_does_not(parts: list[tuple[int, int]]) -> None:
    groups = {str(i): Group([str(i)], weights) for i, (weights, _) in enumerate(parts)}

    def build(reduction: Reduction) -> Choice:
        assert "0" not in reduction.computed
        return Choice(onnx.ModelProto(), _comparison(0.0), None, reduction)

    found = choose_groups(
        groups, build, lambda _: True, computable=set(groups) - {"0"}, weight_only=True
    ).reduction
    assert found == Reduction(tuple(name for name in groups if name != "0"), {"0": 8})


def test_another_rounding_is_tried_before_more_bits() -> None:
    groups = {"0": Group(["0"], 5), "1": Group(["1"], 9)}

    def build(reduction: Reduction) -> Choice:
        lost = 0.0 if reduction.rounding == 2 and not reduction.computed else 1.0
        return Choice(onnx.ModelProto(), _comparison(lost), None, reduction)

    found = choose_groups(
        groups, build, lambda c: c.comparison.probability_max < 0.5,
        computable=groups, weight_only=True,
    ).reduction  # fmt: skip
    assert found == Reduction((), {"0": 8, "1": 8}, 2)


@pytest.mark.parametrize("pattern", ["a", "t", "a_v_t"])
@pytest.mark.parametrize(("bits", "most"), [(8, 0.08), (16, 2e-3)])
def test_stored_weights_compute_in_float(
    make_network: Any, pattern: str, bits: int, most: float
) -> None:
    model = _latency(make_network, pattern)
    stored = quantise_weights(model, dict.fromkeys(operator_groups(model, DYNAMIC), bits))
    sizes = Counter[int]()
    for tensor in stored.graph.initializer:
        if len(tensor.dims) > 1 and np.prod(tensor.dims) > 100:
            sizes[tensor.data_type] += 1
    assert set(sizes) == {TensorProto.INT8 if bits == 8 else TensorProto.FLOAT16}
    probes = probes_of(make_network, "if-mmin").of(Pattern.parse(pattern))[:40]
    runs = _load(model), _load(stored)
    feeds = [{m.value: x for m, x in probe.features.items()} for probe in probes]
    said, wanted = (np.stack([run(feed)[0] for feed in feeds]) for run in reversed(runs))
    apart = np.abs(said - wanted).mean() / wanted.std()
    assert 0 < apart < most


def test_stored_weights_cost_nothing_at_a_call(make_network: Any, tmp_path: Path) -> None:
    """ONNX Runtime runs the same operators, on floats again, as of weights that were not stored."""
    model = _latency(make_network, "a_v_t")
    groups = operator_groups(model, DYNAMIC)
    kinds = []
    for made in (model, *(quantise_weights(model, dict.fromkeys(groups, b)) for b in (8, 16))):
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 3
        ort.InferenceSession(made.SerializeToString(), options)
        optimised = onnx.load(options.optimized_model_filepath)
        kinds.append(Counter(node.op_type for node in optimised.graph.node))
    assert kinds[0] == kinds[1] == kinds[2]
    assert "Cast" not in kinds[0]


def _products(weight: np.ndarray, names: list[str]) -> onnx.ModelProto:
    """Products of one weight that they share, one after the other."""
    values = ["x", *(f"y{i}" for i in range(len(names)))]
    nodes = [
        helper.make_node("MatMul", [values[i], "w"], [values[i + 1]], name)
        for i, name in enumerate(names)
    ]
    size = weight.shape[0]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size])
        for name in (values[0], values[-1])
    ]
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])


def test_a_shared_weight_is_stored_once_or_left_whole() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((12, 12)).astype(np.float32)
    model = _products(weight, ["/one/MatMul", "/two/MatMul"])
    both = quantise_weights(model, {"one": 8, "two": 16})
    assert [t.data_type for t in both.graph.initializer] == [TensorProto.FLOAT16]  # the more bits
    alone = quantise_weights(model, {"one": 8})
    assert [t.data_type for t in alone.graph.initializer] == [TensorProto.FLOAT]


def test_weights_beyond_float16_stay_whole() -> None:
    weight = np.full((4, 4), 1e5, np.float32)
    model = quantise_weights(_products(weight, ["/one/MatMul"]), {"one": 16})
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), weight)


def _correlated(rng: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """Inputs of which few numbers decide most, as of embeddings."""
    return rng.standard_normal((rows, 6)) @ rng.standard_normal((6, size)) + 0.1 * (
        rng.standard_normal((rows, size))
    )


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([3, 40, 128, 150, 300]), st.integers(4, 8))
def test_rounding_loses_less_than_the_nearest_levels(seed: int, size: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    weight, mixing = rng.standard_normal((size, 9)), rng.standard_normal((6, size))
    seen, fresh = (
        rng.standard_normal((200, 6)) @ mixing + 0.1 * rng.standard_normal((200, size))
        for _ in range(2)
    )
    most = 2 ** (bits - 1) - 1
    grid = Grid(np.abs(weight).max(axis=0) / most, np.zeros(9, dtype=int), -most, most)
    levels = round_to_grid(weight, seen.T @ seen / len(seen), grid)
    assert np.array_equal(levels, np.rint(levels))
    assert levels.min() >= -most
    assert levels.max() <= most
    errors = [
        np.square(fresh @ (grid.weights(found) - weight)).mean()
        for found in (levels, grid.nearest(weight))
    ]
    if size >= 40:  # with fewer inputs than numbers behind them nothing can be made up for
        assert errors[0] < 0.5 * errors[1]


def test_inputs_that_do_not_go_together_are_rounded_to_the_nearest() -> None:
    weight = np.random.default_rng(0).uniform(-100, 100, (200, 5))
    for moment in (np.diag(np.arange(1.0, 201.0)), np.zeros((200, 200))):
        found = round_to_grid(weight, moment, SYMMETRIC)
        np.testing.assert_array_equal(found, SYMMETRIC.nearest(weight))


def test_rounding_in_blocks_is_the_rule_of_the_paper() -> None:
    """Frantar et al., algorithm 1, one input after the other with the inverse itself."""
    rng = np.random.default_rng(3)
    weight, seen = rng.uniform(-20, 20, (150, 4)), _correlated(rng, 400, 150)
    moment = seen.T @ seen / 400
    order = np.argsort(-np.diag(moment), kind="stable")
    damped = moment + 0.1 * np.diag(moment).mean() * np.eye(150)
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    rest, wanted = weight[order].copy(), np.empty((150, 4))
    for k in range(150):
        wanted[order[k]] = np.clip(np.rint(rest[k]), -127, 127)
        lost = (rest[k] - wanted[order[k]]) / inverse[k, k]
        rest[k:] -= np.outer(inverse[k:, k], lost)
        inverse -= np.outer(inverse[:, k], inverse[k]) / inverse[k, k]
    np.testing.assert_array_equal(round_to_grid(weight, moment, SYMMETRIC), wanted)


def _of(moments: Moments, weight: str) -> Any:
    return moments.of(weight)


def test_moments_are_of_what_weights_multiply() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 5)).astype(np.float32)
    model = _products(weight, ["/one/MatMul", "/two/MatMul"])
    moments, calls = Moments(model, _load), [rng.standard_normal((n, 5)) for n in (3, 4)]
    for call in calls:
        outputs = moments({"x": call.astype(np.float32)})
        assert len(outputs) == 1
        np.testing.assert_allclose(outputs[0], call @ weight @ weight, rtol=1e-4, atol=1e-4)
    x = np.concatenate(calls)
    rows = np.concatenate([x, x @ weight])  # it is shared
    np.testing.assert_allclose(_of(moments, "w"), rows.T @ rows / len(rows), rtol=1e-4, atol=1e-4)
    assert moments.of("b") is None


@pytest.mark.parametrize("kind", ["if-mmin", "last", "attention"])
def test_moments_of_a_recurrence(make_network: Any, kind: str) -> None:
    """Of what its recurrent weights multiply: the states before each frame but the first."""
    import torch

    network, pattern = make_network(kind), Pattern.parse("a")
    model = _latency(make_network, "a", kind)
    moments = Moments(model, _load)
    probe = next(p for p in probes_of(make_network, kind).of(pattern) if len(p.features["a"]) == 8)  # type: ignore[index]
    frames = next(iter(probe.features.values()))
    moments({"a": frames})
    (lstm,) = [node for node in model.graph.node if node.op_type == "LSTM"]
    encoder = network.encoder(Modality.A)
    with torch.no_grad():
        standard = network.normaliser(Modality.A)(torch.from_numpy(frames)[None])
        states = encoder.rnn(standard)[0][0].numpy()
    for name, rows in ((lstm.input[1], standard[0].numpy()), (lstm.input[2], states[:-1])):
        np.testing.assert_allclose(
            _of(moments, name), rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("pattern", ["a", "t", "a_v_t"])
def test_rounded_weights_stay_on_the_grids_of_the_quantiser(
    make_network: Any, pattern: str
) -> None:
    """Same nodes and scales, other levels, each at most a few steps from the nearest one."""
    model = _latency(make_network, pattern)
    groups = list(operator_groups(model, DYNAMIC))
    shop = _shop(make_network)
    feeds = [
        {m.value: x[m] for m in Pattern.parse(pattern)} for x in shop.calibration_inputs
    ]  # fmt: skip
    plain, rounded = (
        quantise_dynamic(model, groups, rounding)
        for rounding in (None, shop.rounding(model, feeds))
    )
    assert list(plain.graph.node) == list(rounded.graph.node)
    moved = 0
    for before, after in zip(plain.graph.initializer, rounded.graph.initializer, strict=True):
        first, second = numpy_helper.to_array(before), numpy_helper.to_array(after)
        assert (before.name, first.dtype, first.shape) == (after.name, second.dtype, second.shape)
        if not before.name.endswith("_quantized"):
            np.testing.assert_array_equal(first, second)
            continue
        steps = np.abs(first.astype(int) - second.astype(int))
        assert steps.max() < 40
        assert np.mean(steps > 3) < 0.1
        moved += int((steps > 0).sum())
    assert moved > 50


def test_every_damping_is_a_rounding_of_its_own(make_network: Any) -> None:
    model = _latency(make_network, "a")
    shop = _shop(make_network)
    rounding = shop.rounding(model, [{"a": x[Modality.A]} for x in shop.calibration_inputs[:60]])
    bits = dict.fromkeys(operator_groups(model, DYNAMIC), 8)
    made = [
        quantise_for_cpu(model, Reduction((), bits, number), rounding).SerializeToString()
        for number in (*range(len(DAMPINGS)), 1)
    ]
    assert len(set(made)) == len(DAMPINGS)
    assert made[-1] == made[1]
    assert rounding.other(3).other(0) is rounding


def _shop(make: Any, kind: str = "if-mmin") -> Workshop:
    return Workshop(network=make(kind), probes=Probes(make(kind)), metadata={}, limits={})


def test_rounding_by_moments_brings_answers_nearer(make_network: Any) -> None:
    """On inputs that the moments never saw, over all patterns together."""
    errors: dict[str, list[float]] = {"nearest": [], "rounded": []}
    shop = _shop(make_network)
    for name in ("a", "v", "t", "a_v_t"):
        pattern = Pattern.parse(name)
        model = _latency(make_network, name)
        feeds = [{m.value: x[m] for m in pattern} for x in shop.calibration_inputs]
        every = Reduction((), dict.fromkeys(operator_groups(model, DYNAMIC), 8))
        roundings: dict[str, Rounding | None] = {
            "nearest": None, "rounded": shop.rounding(model, feeds)
        }  # fmt: skip
        probes = shop.probes.of(pattern)[1:]
        for kind, rounding in roundings.items():
            run = _load(quantise_for_cpu(model, every, rounding))
            for probe in probes:
                said = run({m.value: x for m, x in probe.features.items()})[0]
                errors[kind].append(float(np.abs(said - probe.logits).mean()))
    assert np.mean(errors["rounded"]) < 0.8 * np.mean(errors["nearest"])


def test_no_probe_is_a_calibration_input(make_network: Any) -> None:
    """Neither of the gate nor of `ifmmin-bundle verify`."""
    shop = _shop(make_network)
    every = [*shop.probes.draw(GATE_SEED), *shop.probes.draw(FRESH_SEED)]
    probes = {x.tobytes() for features in every for x in features.values()}
    of_gate = shop.probes.of(Pattern.parse("a"))
    assert {x.tobytes() for p in of_gate for x in p.features.values()} < probes
    assert not probes & {x.tobytes() for f in shop.calibration_inputs for x in f.values()}
