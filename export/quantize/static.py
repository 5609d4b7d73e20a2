"""8 bits for TensorRT, by ONNX Runtime's own quantiser: Q/DQ pairs, ranges seen beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx

from .dynamic import quantiser_files
from .groups import STATIC, Inputs, Load, WithIntermediates, operator_groups


class StaticQuantiser:
    """Puts Q/DQ pairs at inputs and weights of some groups of a model's operators.

    Symmetric, since TensorRT knows no zero points; biases stay as they are, since it refuses
    them in 32-bit integers; LSTMs are left alone, since it has none in 8 bits. feeds: inputs that
    show the ranges of activations: all of them are run once, however many groups are tried.
    """

    def __init__(self, model: onnx.ModelProto, feeds: Sequence[Inputs], load: Load) -> None:
        self._model = model
        self._feeds = feeds
        self.groups = operator_groups(model, STATIC)
        self._nodes = {node.name: node for node in model.graph.node}
        self._largest = self._ranges(load)

    def __call__(self, groups: Sequence[str]) -> onnx.ModelProto:
        """The model with those groups in 8 bits."""
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
        from onnxruntime.quantization import quantize_static as quantize

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            """The quantiser wants to see an input, though all ranges are given."""

            def __init__(self, feeds: Sequence[Inputs]) -> None:
                self._feeds: Iterator[Inputs] = iter(feeds)

            def get_next(self) -> Any:
                return next(self._feeds, None)

        chosen = [name for group in groups for name in self.groups[group].nodes]
        if not chosen:  # to the quantiser no names are all of them
            whole = onnx.ModelProto()
            whole.CopyFrom(self._model)
            return whole
        ranges = {
            name: [{
                "quant_type": QuantType.QInt8, "symmetric": True,
                "rmin": -self._largest[name], "rmax": self._largest[name],
            }]
            for name in self._activations(chosen)
        }  # fmt: skip
        with quantiser_files(self._model) as (source, target):
            quantize(
                source,
                target,
                Reader(self._feeds[:1]),
                nodes_to_quantize=chosen,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(STATIC),
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "TensorQuantOverrides": ranges,
                    # An output that is not multiplied again would lose bits for nothing.
                    "OpTypesToExcludeOutputQuantization": list(STATIC),
                },
            )
            return onnx.load(target)

    def _activations(self, nodes: Sequence[str]) -> list[str]:
        """What some operators are given, beside their weights."""
        return sorted({self._nodes[name].input[0] for name in nodes})

    def _ranges(self, load: Load) -> dict[str, np.float32]:
        """The largest magnitude of what each operator that can have 8 bits is given."""
        every = [name for group in self.groups.values() for name in group.nodes]
        names = self._activations(every)
        run = WithIntermediates(self._model, names, load)
        largest = dict.fromkeys(names, np.float32(0))
        for feed in self._feeds:
            seen = run(feed)
            for name in names:
                largest[name] = max(largest[name], np.abs(seen[name]).max())
        return largest
