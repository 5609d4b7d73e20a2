"""Count of the multiply-adds and bytes of one call of a graph, per part of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends.onnxruntime import CPU, load_onnxruntime, make_session
from ifmmin.runtime.bundle import GraphEntry
from ifmmin.runtime.errors import InputError, one_line

if TYPE_CHECKING:
    import onnx

HEAD = "head"
_FIRST_LAYERS = frozenset({"invariant", "entry"})
"""The head's first layers, in graphs that keep them apart per modality: `/a/entry/...`."""


def load_onnx() -> Any:
    """The package. Raises InputError with the cure where it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise InputError(
            f"limits and splits are read off the graphs with the package onnx, which does not load "
            f"here ({one_line(error)}); run pip install onnx, or do without them"
        ) from error
    return onnx


def axis_sizes(lengths: dict[str, int], batch: int = 1) -> dict[str, int]:
    """Sizes of the free axes of a latency or throughput graph.

    lengths: frames per modality letter, of the longest utterance of a batch.
    """
    return {"B": batch, **{f"T_{letter}": frames for letter, frames in lengths.items()}}


def input_owners(entry: GraphEntry) -> dict[str, str]:
    """Per input of a graph the letter of the modality that it belongs to."""
    if entry.modality is not None:
        return {spec.name: str(entry.modality) for spec in entry.inputs}
    # `a`, and `a_lengths` beside it in a throughput graph.
    return {spec.name: spec.name.partition("_")[0] for spec in entry.inputs}


def node_parts(graph: onnx.GraphProto, owners: Mapping[str, str]) -> dict[str, str]:
    """The part of every node that depends on an input, by the name of its first output.

    An encoder is what reaches from the input of one modality to its embedding. All that depends on
    several modalities, is named as the head's, or follows such a node, is the head; so a graph of
    one modality has two parts as well. owners: per input the letter of its modality.
    """
    reached = {value.name: owners[value.name] for value in graph.input}
    parts = {}
    for node in graph.node:
        read = {reached[name] for name in node.input if name in reached}
        if not read:
            continue  # a constant
        # `/head/rest/chain/Add`, or `/a/entry/Add`; ONNX Runtime puts `fused ` before some names.
        scope, *rest = node.name.removeprefix("fused ").strip("/").split("/")
        in_head = rest and (scope == HEAD or rest[0] in _FIRST_LAYERS)
        part = HEAD if len(read) > 1 or in_head else read.pop()
        parts[node.output[0]] = part
        reached.update(dict.fromkeys(node.output, part))
    return parts


_CURE = "run pip install 'ifmmin[cpu]'"
INT8 = "int8"


Values = Mapping[str, NDArray[Any]]
"""Arrays of a graph by name. Of inputs and initializers no more than shape and type is right."""


def _blank(shape: Sequence[int], code: int) -> NDArray[Any]:
    """Zeros that take no memory. code: ONNX's of their type."""
    dtype = load_onnx().helper.tensor_dtype_to_np_dtype(code)
    return np.broadcast_to(np.zeros((), dtype), tuple(shape))


def input_values(graph: onnx.GraphProto, sizes: Mapping[str, int]) -> Values:
    """The inputs of a graph with `sizes` for its free axes; InputError for an axis without one."""
    found = {}
    for value in graph.input:
        tensor = value.type.tensor_type
        for axis in tensor.shape.dim:
            if axis.dim_param and axis.dim_param not in sizes:
                raise InputError(
                    f"input {value.name} has a free axis {axis.dim_param}, sizes were given for "
                    f"{', '.join(sizes) or 'none'}; give the size of {axis.dim_param} too"
                )
        shape = [sizes.get(axis.dim_param, axis.dim_value) for axis in tensor.shape.dim]
        found[value.name] = _blank(shape, tensor.elem_type)
    return found


def all_values(model: onnx.ModelProto, inputs: Values) -> Values:
    """Inputs, initializers and outputs of every node, by name.

    Runs the model on zeros, unoptimised and with every value as an output. inputs: of the same
    names as the model's own.
    """
    onnx, ort = load_onnx(), load_onnxruntime(_CURE)
    told = onnx.ModelProto()
    told.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del told.graph.output[:]
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = make_session(ort, told.SerializeToString(), options, [CPU])
    feed = {name: np.zeros_like(value) for name, value in inputs.items()}
    constants = {t.name: _blank(t.dims, t.data_type) for t in model.graph.initializer}
    return {**inputs, **constants, **dict(zip(names, session.run(names, feed), strict=True))}


def body_of(
    model: onnx.ModelProto, node: onnx.NodeProto, values: Values
) -> tuple[onnx.ModelProto, Values, int, tuple[str, ...]]:
    """What a Scan of a model does in every step, and how many it has.

    values: of the graph around it. Returns a model of one step, its values, the number of steps,
    and which inputs of the model are values of the graph around it.
    """
    helper = load_onnx().helper
    attributes = _attributes(node)
    graph, sequences = attributes["body"], attributes["num_scan_inputs"]
    states = len(node.input) - sequences
    axes = attributes.get("scan_input_axes") or [0] * sequences
    inputs, trips = {}, 0
    for index, (own, name) in enumerate(zip(graph.input, node.input, strict=True)):
        value = values[name]
        if index >= states:
            trips = value.shape[axes[index - states]]
            value = value.take(0, axes[index - states])
        inputs[own.name] = value
    made = {value.name for value in (*graph.input, *graph.initializer)}
    made |= {name for inner in graph.node for name in inner.output}
    read = [name for inner in graph.node for name in inner.input if name and name not in made]
    outer = tuple(dict.fromkeys(read))
    inputs.update({name: values[name] for name in outer})
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    for name in outer:
        kind = helper.np_dtype_to_tensor_dtype(values[name].dtype)
        alone.graph.input.append(helper.make_tensor_value_info(name, kind, values[name].shape))
    return alone, all_values(alone, inputs), trips, outer


def find_constants(
    graph: onnx.GraphProto, values: Values, prefix: str = ""
) -> dict[str, dict[str, int]]:
    """Per constant value the bytes of the weights it is made of; none for indices and the like.

    What nodes compute from constants alone is computed when a graph is loaded. Their result takes
    the bytes of what it is made of, or its own where these are fewer: an engine may keep either.
    prefix: of the names of weights, of which two loops may have the same.
    """
    found = {
        tensor.name: _own(prefix + tensor.name, values[tensor.name]) for tensor in graph.initializer
    }
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = _own(prefix + node.output[0], values[node.output[0]])
        elif node.input and all(name in found for name in node.input if name):
            sources = {k: n for name in node.input if name for k, n in found[name].items()}
            for name in node.output:
                own = _own(prefix + name, values[name]) if name else {}
                found[name] = min(own, sources, key=lambda weights: sum(weights.values()))
    return found


def _own(name: str, value: NDArray[Any]) -> dict[str, int]:
    """Bytes of what may be weights: floating-point numbers or 8-bit integers, no indices."""
    kind, size = value.dtype.kind, value.dtype.itemsize
    return {name: value.nbytes} if kind == "f" or (kind in "iu" and size == 1) else {}


@dataclass(frozen=True)
class Phase:
    """A piece of an operator's work, done `repeats` times, one after the other."""

    arithmetic: int = 0
    """Multiply-adds of one repeat."""
    reads: tuple[int, ...] | None = None
    """Inputs that every repeat reads whole; None for all."""
    repeats: int = 1


Inputs = Sequence[NDArray[Any]]
"""Of an operator; empty arrays stand for those that are left out."""
Rule = Callable[[Inputs, NDArray[Any], Mapping[str, Any]], list[Phase]]
"""Work of an operator by its inputs, its first output and its attributes."""


def _product(inputs: Inputs, output: NDArray[Any], attributes: Mapping[str, Any]) -> list[Phase]:
    """(..., M, K) by (..., K, N): M N K."""
    inner = -2 if attributes.get("transA") else -1
    return [Phase(output.size * inputs[0].shape[inner])]


def _convolution(weight: int) -> Rule:
    """Every number of the output takes the weights of one output channel."""

    def rule(inputs: Inputs, output: NDArray[Any], attributes: Mapping[str, Any]) -> list[Phase]:
        return [Phase(output.size * (inputs[weight].size // inputs[weight].shape[0]))]

    return rule


def _lstm(inputs: Inputs, output: NDArray[Any], attributes: Mapping[str, Any]) -> list[Phase]:
    """4 H D T B for the inputs, at once; then T times 4 H H B for the state, step by step.

    X is (T, B, D), or (B, T, D) with layout 1; W and R hold 4 H D and 4 H H per direction.
    """
    first, second = inputs[0].shape[:2]
    steps, batch = (second, first) if attributes.get("layout") else (first, second)
    rest = tuple(index for index in range(3, len(inputs)) if index not in _LSTM_RECURRENT)
    return [
        Phase(inputs[1].size * steps * batch, reads=(1, *rest)),
        Phase(inputs[2].size * batch, reads=(2, *_LSTM_RECURRENT), repeats=steps),
    ]


_LSTM_RECURRENT = (10, 11)
"""Scale and zero point of R, in an LSTM of 8 bits."""


def _nothing(inputs: Inputs, output: NDArray[Any], attributes: Mapping[str, Any]) -> list[Phase]:
    """Elementwise: its weights are read, its arithmetic is not counted."""
    return [Phase()]


PRODUCTS: dict[str, Rule] = {
    "MatMul": _product, "Gemm": _product, "Conv": _convolution(1), "LSTM": _lstm
}  # fmt: skip
"""Operators that compute in the type of their first input."""
INTEGER_PRODUCTS: dict[str, Rule] = {
    "MatMulInteger": _product, "QLinearMatMul": _product, "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    # Of com.microsoft:
    "DynamicQuantizeMatMul": _product, "MatMulIntegerToFloat": _product, "QGemm": _product,
    "DynamicQuantizeLSTM": _lstm,
}  # fmt: skip
"""Operators that compute in 8 bits."""
ELEMENTWISE: dict[str, Rule] = dict.fromkeys(
    ("Add", "Sub", "Mul", "Div", "Max", "Min", "Where", "Concat"), _nothing
)
FREE = frozenset(
    {
        "Abs", "Cast", "Clip", "Constant", "ConstantOfShape", "DequantizeLinear",
        "DynamicQuantizeLinear", "Equal", "Exp", "Flatten", "Gather", "Greater", "Identity",
        "LeakyRelu", "Less", "Not", "Pow", "QuantizeLinear", "Range", "ReduceMax", "ReduceMean",
        "ReduceMin", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid", "Sign", "Slice",
        "Softmax", "Split", "Sqrt", "Squeeze", "Tanh", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators without multiply-adds and without weights that they must read whole."""


@dataclass(frozen=True)
class Work:
    """What a node, or a phase of it, does in one call of the graph."""

    node: str
    operator: str
    part: str
    """`a`, `v`, `t` or `head`."""
    kind: str
    """The arithmetic: `float32`, `float16` or `int8`."""
    arithmetic: int
    """Multiply-adds of one repeat."""
    weights: Mapping[str, int]
    """Bytes of every weight that each repeat reads."""
    repeats: int = 1
    """Steps of a recurrence, each of which needs the one before; 1 elsewhere."""


_RULES = {**PRODUCTS, **INTEGER_PRODUCTS, **ELEMENTWISE}


@dataclass(frozen=True)
class Count:
    """One call of a graph."""

    works: tuple[Work, ...]
    """In the order of the graph."""
    uncounted: tuple[str, ...]
    """Operators that are not known here, so that the graph does more than is counted."""

    @property
    def arithmetic(self) -> int:
        """Multiply-adds."""
        return sum(work.arithmetic * work.repeats for work in self.works)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, each once."""
        return sum({name: n for work in self.works for name, n in work.weights.items()}.values())


def count_graph(content: bytes, sizes: Mapping[str, int], owners: Mapping[str, str]) -> Count:
    """Count one call of the graph in the bytes of an ONNX file.

    sizes: of its free axes, see `axis_sizes`. owners: see `input_owners`. Raises InputError without
    the package onnx, or for a free axis without a size.
    """
    model: onnx.ModelProto = load_onnx().load_from_string(content)
    values = all_values(model, input_values(model.graph, sizes))
    counter = _Counter(model, values, {}, "")
    counter.run(node_parts(model.graph, owners))
    return Count(tuple(counter.works), tuple(sorted(counter.uncounted)))


class _Counter:
    """Walks through the nodes of a graph, and of the loops in it.

    outer: weights of the graph around it. prefix: of the names of its own.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        values: Values,
        outer: Mapping[str, Mapping[str, int]],
        prefix: str,
    ) -> None:
        self.works: list[Work] = []
        self.uncounted: set[str] = set()
        self._model, self._values, self._prefix = model, values, prefix
        self._constants = {**outer, **find_constants(model.graph, values, prefix)}
        self._maker = {name: node.op_type for node in model.graph.node for name in node.output}

    def run(self, parts: Mapping[str, str], *, repeats: int = 1, part: str = "") -> None:
        """Count every node that is not constant.

        parts: of the nodes by their first output; `part` where all nodes are of the same.
        """
        for node in self._model.graph.node:
            if node.output[0] in self._constants:
                continue  # computed once, when the graph is loaded
            where = part or parts.get(node.output[0], "")
            if node.op_type == "Scan":
                self._loop(node, where, repeats)
            elif node.op_type in _RULES:
                self._count(node, where, repeats)
            elif node.op_type not in FREE:
                self.uncounted.add(node.op_type)

    def _count(self, node: onnx.NodeProto, part: str, repeats: int) -> None:
        given = [self._values.get(name, np.empty(0)) for name in node.input]
        rule, output = _RULES[node.op_type], self._values[node.output[0]]
        for phase in rule(given, output, _attributes(node)):
            reads = range(len(given)) if phase.reads is None else phase.reads
            weights: dict[str, int] = {}
            for index in reads:
                if index < len(given):
                    weights.update(self._constants.get(node.input[index], {}))
            if phase.arithmetic or weights:
                work = Work(
                    node=self._prefix + node.name,
                    operator=node.op_type,
                    part=part,
                    kind=self._kind(node),
                    arithmetic=phase.arithmetic,
                    weights=weights,
                    repeats=phase.repeats * repeats,
                )
                self.works.append(work)

    def _kind(self, node: onnx.NodeProto) -> str:
        """8 bits also between Q/DQ pairs: an engine may take them as one operator."""
        pairs = {self._maker.get(name) for name in node.input[:2]} == {"DequantizeLinear"}
        if node.op_type in INTEGER_PRODUCTS or (node.op_type in PRODUCTS and pairs):
            return INT8
        return self._values[node.output[0]].dtype.name

    def _loop(self, node: onnx.NodeProto, part: str, repeats: int) -> None:
        model, values, trips, read = body_of(self._model, node, self._values)
        outer = {name: self._constants[name] for name in read if name in self._constants}
        counter = _Counter(model, values, outer, f"{self._prefix}{node.name}/")
        counter.run({}, repeats=repeats * trips, part=part)
        self.works += counter.works
        self.uncounted |= counter.uncounted


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    helper = load_onnx().helper
    return {given.name: helper.get_attribute_value(given) for given in node.attribute}
