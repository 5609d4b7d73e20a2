"""From a module to the bytes of an ONNX graph."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence

import onnx
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from ifmmin.export.encoders.loop import DOMAIN
from ifmmin.export.scan import expand_loops
from ifmmin.export.shapes import Plan
from ifmmin.export.single_file import points_outside
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.manifest import TensorSpec

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
    model = trace(plan.module, plan.example(), names, outputs, axes)
    expand_loops(model)
    share_weights(model)
    check_axes(model, specs)
    onnx.checker.check_model(model, full_check=True)
    return model


def to_bytes(model: onnx.ModelProto, metadata: Mapping[str, str]) -> bytes:
    """The content of the file; the same model and metadata give the same bytes.

    metadata: strings stored inside the graph. Raises ParityError for weights outside of the file.
    """
    model.producer_name = "ifmmin"
    model.producer_version = ""
    model.ClearField("doc_string")
    onnx.helper.set_model_props(model, dict(metadata))
    content: bytes = model.SerializeToString(deterministic=True)
    marked = any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer)
    if marked or points_outside(content):
        raise ParityError("the graph keeps weights outside of its file; this is a fault of ours")
    return content


def share_weights(model: onnx.ModelProto) -> None:
    """Let nodes read shared weights themselves, in place: the exporter draws an Identity between
    the weights and every reader but the first, which hides them from the quantisers."""
    weights = {tensor.name for tensor in model.graph.initializer}
    sources: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Identity" and node.input[0] in weights:
            sources[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = sources.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(kept)


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
