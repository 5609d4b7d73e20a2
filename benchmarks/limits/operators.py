"""What every operator of our graphs computes and reads, by the shapes of its inputs and outputs.

Notation: B batch, T steps, D features, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ifmmin.benchmarks.limits.values import Value


@dataclass(frozen=True)
class Call:
    """An operator with what it is given."""

    inputs: tuple[Value | None, ...]
    """None for one that is left out."""
    output: Value
    """The first one."""
    attributes: Mapping[str, Any]

    def given(self, index: int) -> Value:
        """An input that the operator cannot do without."""
        value = self.inputs[index]
        assert value is not None, "checked by ONNX Runtime"
        return value


@dataclass(frozen=True)
class Phase:
    """A piece of an operator's work, done `repeats` times, one after the other."""

    arithmetic: int = 0
    """Multiply-adds of one repeat."""
    reads: tuple[int, ...] | None = None
    """Inputs that every repeat reads whole; None for all."""
    repeats: int = 1


Rule = Callable[[Call], list[Phase]]


def _product(call: Call) -> list[Phase]:
    """(..., M, K) by (..., K, N): M N K."""
    inner = -2 if call.attributes.get("transA") else -1
    return [Phase(call.output.size * call.given(0).shape[inner])]


def _convolution(weight: int) -> Rule:
    """Every number of the output takes the weights of one output channel."""

    def rule(call: Call) -> list[Phase]:
        kernel = call.given(weight)
        return [Phase(call.output.size * (kernel.size // kernel.shape[0]))]

    return rule


def _lstm(call: Call) -> list[Phase]:
    """4 H D T B for the inputs, at once; then T times 4 H H B for the state, step by step.

    X is (T, B, D), or (B, T, D) with layout 1; W and R hold 4 H D and 4 H H per direction.
    """
    first, second = call.given(0).shape[:2]
    steps, batch = (second, first) if call.attributes.get("layout") else (first, second)
    rest = tuple(index for index in range(3, len(call.inputs)) if index not in _LSTM_RECURRENT)
    return [
        Phase(call.given(1).size * steps * batch, reads=(1, *rest)),
        Phase(call.given(2).size * batch, reads=(2, *_LSTM_RECURRENT), repeats=steps),
    ]


_LSTM_RECURRENT = (10, 11)
"""Scale and zero point of R, in an LSTM of 8 bits."""


def _nothing(call: Call) -> list[Phase]:
    """Elementwise: its weights are read, its arithmetic is not counted."""
    return [Phase()]


PRODUCTS: dict[str, Rule] = {
    "MatMul": _product,
    "Gemm": _product,
    "Conv": _convolution(1),
    "LSTM": _lstm,
}
"""Operators that compute in the type of their first input."""
INTEGER_PRODUCTS: dict[str, Rule] = {
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    # Of com.microsoft:
    "DynamicQuantizeMatMul": _product,
    "MatMulIntegerToFloat": _product,
    "QGemm": _product,
    "DynamicQuantizeLSTM": _lstm,
}
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
