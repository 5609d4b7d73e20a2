"""ONNX graphs from modules: what is traced for each shape, and loops expanded into ONNX Scan."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx.parser
import onnx_ir as ir
import torch
from onnx import numpy_helper
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from ifmmin.runtime.bundle import StateSpec
from ifmmin.runtime.bundle.graph_file import TensorSpec, read_graph_file
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.train.model.network import EmotionNetwork

from .specialise import ExportEncoder
from .specialise.encoder import Precision
from .specialise.network import (
    SpecialisedNetwork,
    specialise,
    stream_encoder,
    stream_head,
    stream_summary,
)
from .specialise.sequence import DOMAIN, OPERATOR, RUNNING_POOLINGS

LOGITS = "logits"
_SIZES = {"B": 2, "N": 6, "S": 3}
"""Sizes of free axes while tracing; time takes _FRAMES. None may be 1, which could be frozen."""
_FRAMES = 7


@dataclass(frozen=True)
class Plan:
    """A module to be traced, and what its graph will be."""

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...] = ()

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace with."""
        return tuple(_example(spec) for spec in self.inputs)


class _Throughput(nn.Module):
    def __init__(self, network: SpecialisedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        count = len(self.network.pattern)
        return self.network.batch(inputs[:count], inputs[count:])


class _Step(nn.Module):
    """States cross the border in float32, whatever the graph computes in."""

    def __init__(self, encoder: ExportEncoder, precision: Precision) -> None:
        super().__init__()
        self.encoder = encoder
        self.halves = precision.half and encoder.states_follow_weights

    def forward(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        own = [s.half() for s in states] if self.halves else list(states)
        pooled, following = self.encoder.step(frames, own)
        kept = zip(self.encoder.states, following, strict=True)
        outputs = [pooled, *(value for state, value in kept if not state.pools)]
        return tuple(_as_float(x) for x in outputs)


class _Summary(nn.Module):
    def __init__(self, summary: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.summary = summary
        self.halves = precision.half

    def forward(self, pooled: Tensor) -> Tensor:
        return _as_float(self.summary(pooled.half() if self.halves else pooled))


class _Head(nn.Module):
    def __init__(self, head: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.head = head
        self.halves = precision.half

    def forward(self, *summaries: Tensor) -> Tensor:
        return _as_float(self.head([s.half() if self.halves else s for s in summaries]))


def plan_latency(
    network: EmotionNetwork, pattern: Pattern, precision: Precision, recurrence: str
) -> Plan:
    """One utterance: (T, D) per present modality -> logits (C,)."""
    module = specialise(network, pattern, precision=precision, recurrence=recurrence)
    inputs = tuple(_frames(network, m, (f"T_{m}",)) for m in pattern)
    return Plan(
        module, inputs, (TensorSpec(name=LOGITS, dtype="float32", shape=_classes(network)),)
    )


def plan_throughput(
    network: EmotionNetwork, pattern: Pattern, precision: Precision, recurrence: str
) -> Plan:
    """A batch: (B, T, D) and lengths (B,) per present modality -> logits (B, C)."""
    module = specialise(network, pattern, precision=precision, recurrence=recurrence)
    frames = tuple(_frames(network, m, ("B", f"T_{m}")) for m in pattern)
    lengths = tuple(TensorSpec(name=f"{m}_lengths", dtype="int64", shape=("B",)) for m in pattern)
    return Plan(_Throughput(module), frames + lengths, (_logits(network),))


def plan_step(network: EmotionNetwork, modality: Modality, precision: Precision) -> Plan:
    """New frames (B, N, D) of streams and their states -> pooled (B, P) and the next states."""
    encoder = stream_encoder(network, modality, precision=precision)
    dim = network.config.features[modality].dim
    inputs = [TensorSpec(name="frames", dtype="float32", shape=("B", "N", dim))]
    outputs = [TensorSpec(name="pooled", dtype="float32", shape=("B", encoder.pooled_size))]
    states = []
    for state in encoder.states:
        free: tuple[int | str, ...] = state.size
        if state.initial_size is not None:
            free = ("S", *state.size[1:])
        inputs.append(TensorSpec(name=state.name, dtype="float32", shape=("B", *free)))
        output = "pooled" if state.pools else f"next_{state.name}"
        if not state.pools:
            outputs.append(TensorSpec(name=output, dtype="float32", shape=("B", *state.size)))
        first = state.initial_size or state.size
        states.append(
            StateSpec(
                name=state.name, output=output, initial=state.initial, initial_shape=("B", *first)
            )
        )
    return Plan(_Step(encoder, precision), tuple(inputs), tuple(outputs), tuple(states))


def plan_summary(network: EmotionNetwork, modality: Modality, precision: Precision) -> Plan:
    """What was pooled (B, P) -> the summary (B, S)."""
    summary = stream_summary(network, modality, precision=precision)
    size = network.encoder(modality).pooled_size
    given = TensorSpec(name="pooled", dtype="float32", shape=("B", size))
    said = TensorSpec(name="summary", dtype="float32", shape=("B", summary.size))
    return Plan(_Summary(summary, precision), (given,), (said,))


def plan_head(network: EmotionNetwork, pattern: Pattern, precision: Precision) -> Plan:
    """Summaries (B, S) of the present modalities -> logits (B, C)."""
    head = stream_head(network, pattern, precision=precision)
    shape = ("B", len(head.bias))
    inputs = tuple(TensorSpec(name=m.value, dtype="float32", shape=shape) for m in pattern)
    return Plan(_Head(head, precision), inputs, (_logits(network),))


def _example(spec: TensorSpec) -> Tensor:
    sizes = [_SIZES.get(n, _FRAMES) if isinstance(n, str) else n for n in spec.shape]
    if spec.dtype == "int64":
        return torch.full(sizes, _FRAMES, dtype=torch.int64)
    return torch.zeros(sizes)


def _frames(network: EmotionNetwork, modality: Modality, axes: tuple[str, ...]) -> TensorSpec:
    dim = network.config.features[modality].dim
    return TensorSpec(name=modality.value, dtype="float32", shape=(*axes, dim))


def _classes(network: EmotionNetwork) -> tuple[int]:
    return (len(network.config.labels),)


def _logits(network: EmotionNetwork) -> TensorSpec:
    return TensorSpec(name=LOGITS, dtype="float32", shape=("B", *_classes(network)))


def _as_float(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.float16 else x


def expand_loops(graph: ir.Graph) -> None:
    """Replace every `ifmmin::PooledLstm` of a graph by a Scan, in place."""
    for node in graph:
        if node.domain == DOMAIN and node.op_type == OPERATOR:
            scan, result = _scan(node)
            ir.convenience.replace_nodes_and_values(
                graph, node, [node], [scan], node.outputs, [result]
            )


def _scan(node: ir.Node) -> tuple[ir.Node, ir.Value]:
    """One Scan with hidden state, cell and, where it runs along, what is pooled as states; and
    which of its outputs is the node's."""
    products, recurrent, start, floor, inside = node.inputs
    assert recurrent is not None
    assert inside is not None
    pooling = node.attributes["pooling"].as_string()
    mask = ir.convenience.get_const_tensor(inside)
    masked = mask is None or mask.size > 0
    running = pooling in RUNNING_POOLINGS and pooling != "last"
    # Time is the second axis. With a Transpose in front ONNX Runtime 1.32 crashes while it
    # optimises a float16 graph.
    attributes: dict[str, Any] = {
        "body": _body(f"{node.name}", recurrent, pooling, masked),
        "num_scan_inputs": 1 + masked,
        "scan_input_axes": [1] * (1 + masked),
    }
    if pooling not in RUNNING_POOLINGS:
        attributes["scan_output_axes"] = [1]
    scan = ir.node(
        "Scan",
        [start, start, *([floor] if running else []), products, *([inside] if masked else [])],
        attributes,
        # The states at the end, then sequences.
        num_outputs=2 if pooling == "last" else 3,
        name=node.name,
    )
    return scan, scan.outputs[0 if pooling == "last" else 2]


_STEP = """
recurred = MatMul(hidden, recurrent)
gates = Add(product, recurred)
i, f, g, o = Split <axis = 1, num_outputs = 4> (gates)
input_gate = Sigmoid(i)
forget_gate = Sigmoid(f)
output_gate = Sigmoid(o)
candidate = Tanh(g)
kept = Mul(forget_gate, cell)
added = Mul(input_gate, candidate)
next_cell = Add(kept, added)
shown = Tanh(next_cell)
new = Mul(output_gate, shown)
"""
"""Gates in order i, f, g, o of a product (B, 4H) and the last hidden state."""
_HIDDEN = {False: "next_hidden = Identity(new)", True: "next_hidden = Where(inside, new, hidden)"}
_POOLINGS = {
    ("maximum", False): "next_pooled = Max(pooled, next_hidden)",
    ("maximum", True): "next_pooled = Max(pooled, next_hidden)",
    ("sum", False): "next_pooled = Add(pooled, new)",
    ("sum", True): "more = Add(pooled, new)\nnext_pooled = Where(inside, more, pooled)",
    ("last", False): "",
    ("last", True): "",
}
"""By pooling and whether frames may be outside; others are given the whole sequence."""


def _body(name: str, recurrent: ir.Value, pooling: str, masked: bool) -> ir.Graph:
    """One step of the loop."""
    weights = ir.convenience.get_const_tensor(recurrent)
    assert weights is not None
    kind = f"{weights.dtype.name.lower()}[?, ?]"
    states = ["hidden", "cell", *(["pooled"] if pooling in ("maximum", "sum") else [])]
    inputs = [f"{kind} {state}" for state in [*states, "product"]]
    outputs = [f"{kind} next_{state}" for state in states]
    if masked:
        inputs.append("bool[?, ?] inside")
    pooled = _POOLINGS.get((pooling, masked))
    if pooled is None:
        pooled = "output = Identity(next_hidden)"
        outputs.append(f"{kind} output")
    lines = "\n".join([_STEP, _HIDDEN[masked], pooled])
    body = onnx.parser.parse_graph(
        f"body ({', '.join(inputs)}) => ({', '.join(outputs)}) {{{lines}}}"
    )
    body.name = f"{name}_body"
    body.initializer.append(numpy_helper.from_array(weights.numpy(), recurrent.name))
    body.node[0].input[1] = f"{recurrent.name}"
    for node in body.node:  # a second loop must not have nodes of the same names
        node.name = f"{name}/{node.output[0]}"
    return ir.serde.deserialize_graph(body)


OPSET = 18


def trace(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> onnx.ModelProto:
    """The stock exporter's graph of a module; `axes` names the free axes of inputs and outputs."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated, and the other one silently freezes time axes.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # nn.LSTM asks for sizes in Python; whatever tracing froze, the comparison would find.
        warnings.filterwarnings("ignore", category=TracerWarning)
        # It warns that an LSTM may not fit other batch sizes: it does, its states are explicit.
        warnings.filterwarnings("ignore", message="Exporting a model to ONNX with a batch_size")
        # Constants that it cannot fold stay nodes, which is right.
        warnings.filterwarnings("ignore", message="Constant folding")
        # The loop's node has no shape until it is expanded.
        warnings.filterwarnings("ignore", message="The shape inference of ifmmin::")
        torch.onnx.export(
            module.eval(),
            inputs,
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=list(names),
            output_names=list(outputs),
            dynamic_axes={name: dict(free) for name, free in axes.items() if free},
            custom_opsets={DOMAIN: 1} if _has_loop(module) else {},
        )
    module.eval()  # the exporter may have switched it to training
    return onnx.load_from_string(buffer.getvalue())


def to_model(plan: Plan) -> onnx.ModelProto:
    """The checked graph of a plan, the same for the same module.

    Raises ParityError if the exporter froze a free axis or freed a fixed one.
    """
    specs = (*plan.inputs, *plan.outputs)
    axes = {spec.name: _free(spec) for spec in specs}
    names, outputs = [s.name for s in plan.inputs], [s.name for s in plan.outputs]
    model = ir.from_proto(trace(plan.module, plan.example(), names, outputs, axes))
    share_weights(model.graph)
    expand_loops(model.graph)
    # Batches compute masks of the same lengths many times over.
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)
    made = ir.to_proto(model)
    del made.graph.value_info[:]  # shapes of weights, which have them
    check_axes(made, specs)
    onnx.checker.check_model(made, full_check=True)
    return made


def to_bytes(model: onnx.ModelProto, metadata: Mapping[str, str]) -> bytes:
    """The content of the file; the same model and metadata give the same bytes.

    metadata: strings stored inside the graph. Raises ParityError for what no bundle may hold.
    """
    model.producer_name = "ifmmin"
    model.producer_version = ""
    model.ClearField("doc_string")
    onnx.helper.set_model_props(model, dict(metadata))
    content: bytes = model.SerializeToString(deterministic=True)
    if refused := read_graph_file(content).refused:
        raise ParityError(f"the graph has {', '.join(refused)}; this is a fault of ours")
    return content


def share_weights(graph: ir.Graph) -> None:
    """Let nodes read shared weights themselves, in place: the exporter draws an Identity between
    the weights and every reader but the first, which hides them from the quantisers.

    (onnx-ir's own pass also empties the branches of an If, which then is not valid.)
    """
    for node in graph:
        if node.op_type == "Identity" and not node.outputs[0].is_graph_output():
            assert node.inputs[0] is not None
            node.outputs[0].replace_all_uses_with(node.inputs[0])


def check_axes(model: onnx.ModelProto, specs: Sequence[TensorSpec]) -> None:
    """ParityError unless every axis of every input and output is as free as its spec says."""
    values = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    for spec in specs:
        dims = values[spec.name].type.tensor_type.shape.dim
        for wanted, found in zip(spec.shape, dims, strict=True):
            if isinstance(wanted, str) and not found.dim_param:
                raise ParityError(
                    f"the graph takes exactly {found.dim_value} along axis {wanted} of "
                    f"{spec.name}, any number was wanted; this is a fault of the exporter"
                )
            if isinstance(wanted, int) and found.dim_value not in (wanted, 0):
                raise ParityError(
                    f"the graph has {found.dim_value} values in {spec.name}, wanted {wanted}"
                )


def _has_loop(module: nn.Module) -> bool:
    return any(getattr(part, "recurrence", "") == "scan" for part in module.modules())


def _free(spec: TensorSpec) -> dict[int, str]:
    return {axis: name for axis, name in enumerate(spec.shape) if isinstance(name, str)}
