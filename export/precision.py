"""What a precision asks of the modules from which its graphs are traced."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Precision:
    """How a graph computes; `name` is one of runtime.manifest.PRECISIONS."""

    name: str
    half: bool = False
    """Weights and activations in float16. Raw frames, pooled statistics and the logits stay in
    float32: a raw feature may lie beyond 65504, and sums over time want the bits."""
    folded: bool = False
    """Standardisation is part of the first layer. Where the first layer has few bits, features of
    different size must not share its scale, so there it stays a step of its own, in float32."""
    text_products: bool = False
    """Text convolutions as one matrix product of all tokens, summed along shifted time: ONNX
    Runtime multiplies integer matrices fast and convolves integers slowly."""
    apart: bool = False
    """Modalities meet as late as they can: embeddings side by side would share one scale, which the
    largest of them would set."""
    clears_padding: bool = False
    """Frames past an end are set to the mean first: ranges found while running see them too."""
    recurrence: str = "lstm"
    """The form of recurrence exported unless the caller says otherwise."""


FP32 = Precision("fp32", folded=True)
PRECISIONS: dict[str, Precision] = {
    "fp32": FP32,
    "fp16": Precision("fp16", half=True, recurrence="scan"),
    "int8": Precision("int8", text_products=True, apart=True, clears_padding=True),
    "int8-qdq": Precision("int8-qdq", apart=True, recurrence="scan"),
}


class KeepsFloat(nn.Module):
    """A module whose buffers stay in float32 when the network around it is halved."""


def halve(module: nn.Module) -> nn.Module:
    """Cast everything outside of KeepsFloat modules to float16, in place."""
    for child in module.children():
        if not isinstance(child, KeepsFloat):
            halve(child)
    for name, parameter in module.named_parameters(recurse=False):
        setattr(module, name, nn.Parameter(parameter.detach().half(), requires_grad=False))
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.dtype == torch.float32:
            module.register_buffer(name, buffer.half())
    return module
