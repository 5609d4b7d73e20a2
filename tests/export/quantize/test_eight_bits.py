"""8 bits: what computes in them, and how weights are rounded to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from small_networks import dynamic_model, load_model, probes_of, small_network

from ifmmin.export.context import ExportContext
from ifmmin.export.graph import OPSET, plan_latency, to_model
from ifmmin.export.quantize.gptq import DAMPING, Grid, round_to_grid, second_moments
from ifmmin.export.quantize.groups import Group, Inputs
from ifmmin.export.quantize.search import Choice, choose_groups
from ifmmin.export.specialise.encoder import PRECISIONS
from ifmmin.export.verify.parity import Comparison
from ifmmin.export.verify.probes import FRESH_SEED, GATE_SEED, Probes
from ifmmin.runtime.modality import Modality, Pattern

SYMMETRIC = Grid(np.ones(1), np.zeros(1, dtype=int), -127, 127)


def _latency(pattern: str, kind: str = "if-mmin") -> onnx.ModelProto:
    return to_model(
        plan_latency(small_network(kind), Pattern.parse(pattern), PRECISIONS["int8"], "lstm")
    )


def _comparison(loss: float) -> Comparison:
    return Comparison(loss, loss, 1.0, loss, loss, loss, 1.0, 64, 4, 1.0, "T=1")


PARTS = st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 30)), min_size=1, max_size=8)


@given(PARTS)
def test_groups_are_chosen_as_far_as_the_limit_allows(parts: list[tuple[int, int]]) -> None:
    groups = {str(i): Group([str(i)], weights) for i, (weights, _) in enumerate(parts)}
    loss = {str(i): loss for i, (_, loss) in enumerate(parts)}

    def build(names: tuple[str, ...]) -> Choice:
        lost = sum(loss[name] for name in names)
        return Choice(onnx.ModelProto(), _comparison(lost), quantised=names)

    choice = choose_groups(groups, build, lambda c: c.comparison.probability_max <= 20)
    found, lost = choice.quantised, choice.comparison.probability_max
    assert list(found) == [name for name in groups if name in found]
    if lost > 20:  # nothing passes, not even alone
        assert all(value > 20 for value in loss.values())
        assert set(found) == set(groups)
        return
    for name in set(groups) - set(found):  # none more could compute
        assert lost + loss[name] > 20


def test_the_largest_groups_go_first() -> None:
    groups = {str(size): Group([str(size)], size) for size in (3, 9, 5)}
    tried = []

    def build(names: tuple[str, ...]) -> Choice:
        tried.append(names)
        return Choice(onnx.ModelProto(), _comparison(len(names)), quantised=names)

    found = choose_groups(groups, build, lambda c: c.comparison.probability_max <= 1)
    assert found.quantised == ("9",)
    assert tried == [("3", "9", "5"), ("9",), ("9", "5"), ("3", "9")]


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


def test_rounding_in_blocks_is_the_rule_of_the_paper() -> None:
    """Frantar et al., algorithm 1, one input after the other with the inverse itself."""
    rng = np.random.default_rng(3)
    weight, seen = rng.uniform(-20, 20, (150, 4)), _correlated(rng, 400, 150)
    moment = seen.T @ seen / 400
    order = np.argsort(-np.diag(moment), kind="stable")
    damped = moment + DAMPING * np.diag(moment).mean() * np.eye(150)
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    rest, wanted = weight[order].copy(), np.empty((150, 4))
    for k in range(150):
        wanted[order[k]] = np.clip(np.rint(rest[k]), -127, 127)
        lost = (rest[k] - wanted[order[k]]) / inverse[k, k]
        rest[k:] -= np.outer(inverse[k:, k], lost)
        inverse -= np.outer(inverse[:, k], inverse[k]) / inverse[k, k]
    np.testing.assert_array_equal(round_to_grid(weight, moment, SYMMETRIC), wanted)
    # Inputs that do not go together are rounded to the nearest.
    weight = np.random.default_rng(0).uniform(-100, 100, (200, 5))
    for moment in (np.diag(np.arange(1.0, 201.0)), np.zeros((200, 200))):
        found = round_to_grid(weight, moment, SYMMETRIC)
        np.testing.assert_array_equal(found, SYMMETRIC.nearest(weight))


def test_moments_are_of_what_weights_multiply() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 5)).astype(np.float32)
    model = _products(weight, ["/one/MatMul", "/two/MatMul"])
    calls = [rng.standard_normal((n, 5)).astype(np.float32) for n in (3, *[1] * 70, 4)]
    moments = second_moments(model, [{"x": call} for call in calls], load_model)
    x = np.concatenate(calls)
    rows = np.concatenate([x, x @ weight])  # it is shared
    assert moments.keys() == {"w"}
    np.testing.assert_allclose(moments["w"], rows.T @ rows / len(rows), rtol=1e-4, atol=1e-4)
    assert second_moments(model, [], load_model) == {}


@pytest.mark.parametrize("kind", ["if-mmin", "last", "attention"])
def test_moments_of_a_recurrence(kind: str) -> None:
    """Of what its recurrent weights multiply: the states before each frame but the first."""
    import torch

    network, pattern = small_network(kind), Pattern.parse("a")
    model = _latency("a", kind)
    probe = next(p for p in probes_of(kind).of(pattern) if len(p.features["a"]) == 8)  # type: ignore[index]
    frames = next(iter(probe.features.values()))
    moments = second_moments(model, [{"a": frames}], load_model)
    (lstm,) = [node for node in model.graph.node if node.op_type == "LSTM"]
    encoder: Any = network.encoder(Modality.A)
    with torch.no_grad():
        standard = network.normaliser(Modality.A)(torch.from_numpy(frames)[None])
        states = encoder.rnn(standard)[0][0].numpy()
    for name, rows in ((lstm.input[1], standard[0].numpy()), (lstm.input[2], states[:-1])):
        np.testing.assert_allclose(moments[name], rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", ["a", "t", "a_v_t"])
def test_rounded_weights_stay_on_the_grids_of_the_quantiser(pattern: str) -> None:
    """Same nodes and scales, other levels, each at most a few steps from the nearest one."""
    model = _latency(pattern)
    feeds = _feeds(_context(), Pattern.parse(pattern))
    plain, rounded = (dynamic_model(model, given) for given in ([], feeds))
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


def _context(kind: str = "if-mmin") -> ExportContext:
    return ExportContext(
        network=small_network(kind), probes=Probes(small_network(kind)), metadata={}, limits={}
    )


def _feeds(context: ExportContext, pattern: Pattern) -> list[Inputs]:
    return [{m.value: x[m] for m in pattern} for x in context.calibration_inputs]


def test_rounding_by_moments_brings_answers_nearer() -> None:
    """On inputs that the moments never saw, over all patterns together.

    The scales of what is multiplied are found while running: what they lose stays.
    """
    errors: dict[str, list[float]] = {"nearest": [], "rounded": []}
    context = _context()
    for name in ("a", "v", "t", "a_v_t"):
        pattern = Pattern.parse(name)
        model = _latency(name)
        probes = context.probes.of(pattern)[1:]
        for kind, feeds in (("nearest", []), ("rounded", _feeds(context, pattern))):
            run = load_model(dynamic_model(model, feeds))
            for probe in probes:
                said = run({m.value: x for m, x in probe.features.items()})[0]
                errors[kind].append(float(np.abs(said - probe.logits).mean()))
    assert np.mean(errors["rounded"]) < 0.9 * np.mean(errors["nearest"])


def test_no_probe_is_a_calibration_input() -> None:
    """Neither of the gate nor of `ifmmin-bundle verify`."""
    context = _context()
    every = [*context.probes.draw(GATE_SEED), *context.probes.draw(FRESH_SEED)]
    probes = {x.tobytes() for features in every for x in features.values()}
    of_gate = context.probes.of(Pattern.parse("a"))
    assert {x.tobytes() for p in of_gate for x in p.features.values()} < probes
    assert not probes & {x.tobytes() for f in context.calibration_inputs for x in f.values()}


def test_no_sum_of_products_can_saturate() -> None:
    """Without VNNI two products of an unsigned and a signed byte are added in 16 bits."""
    for pattern in ("a", "t"):
        model = _latency(pattern)
        quantised = dynamic_model(model)
        weights = [
            numpy_helper.to_array(tensor)
            for tensor in quantised.graph.initializer
            if tensor.name.endswith("_quantized")
        ]
        assert len(weights) > 2
        assert {weight.dtype for weight in weights} == {np.dtype(np.int8)}
        largest = max(int(np.abs(weight.astype(int)).max()) for weight in weights)
        assert 60 <= largest <= 64
        assert 2 * 255 * largest <= np.iinfo(np.int16).max
