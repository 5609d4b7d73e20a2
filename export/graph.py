"""From a specialised network to the bytes of an ONNX graph."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence

import onnx
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from ifmmin.export.specialise import SpecialisedNetwork
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.modality import Modality

OPSET = 18
OUTPUT = "logits"
_TRACE_FRAMES = 7


def trace(module: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str]) -> onnx.ModelProto:
    """The stock exporter's graph of a module that takes (T, D) inputs of any T and gives logits."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated, and the other one silently freezes time axes.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # nn.LSTM asks for sizes in Python; whatever tracing froze, the comparison would find.
        warnings.filterwarnings("ignore", category=TracerWarning)
        # It warns that an LSTM graph may not fit other batch sizes; the batch here is always 1.
        warnings.filterwarnings("ignore", message="Exporting a model to ONNX with a batch_size")
        torch.onnx.export(
            module.eval(),
            inputs,
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=list(names),
            output_names=[OUTPUT],
            dynamic_axes={name: {0: f"T_{name}"} for name in names},
        )
    module.eval()  # the exporter may have switched it to training
    return onnx.load_from_string(buffer.getvalue())


def to_onnx(
    module: SpecialisedNetwork, dims: Mapping[Modality, int], metadata: Mapping[str, str]
) -> bytes:
    """Export with dynamic time axes `T_a`, `T_v`, `T_t`; the same module gives the same bytes.

    dims: features per frame of each modality. metadata: strings stored inside the graph. Raises
    ParityError if the exporter froze an axis.
    """
    names = [m.value for m in module.pattern]
    dtype = next(module.parameters()).dtype
    inputs = tuple(torch.zeros(_TRACE_FRAMES, dims[m], dtype=dtype) for m in module.pattern)
    model = trace(module, inputs, names)
    check_dynamic_time(model)
    model.producer_name = "ifmmin"
    model.producer_version = ""
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def check_dynamic_time(model: onnx.ModelProto) -> None:
    """ParityError unless the first axis of every input is symbolic."""
    for value in model.graph.input:
        first = value.type.tensor_type.shape.dim[0]
        if not first.dim_param:
            raise ParityError(
                f"the graph takes exactly {first.dim_value} frames of {value.name}, any number was "
                "wanted; this is a fault of the exporter"
            )
